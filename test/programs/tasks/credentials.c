/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four processes with different credentials: root, a plain user, root with few capabilities and secure bits, a user
 * with ambient capabilities. Proof: every identity, group, capability set and bit read back through system calls.
 */
#include "program.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GROUPS_MAX = 40, CAPS = 64 };

struct identity {
	uid_t uid[4]; /* real, effective, saved, file system */
	gid_t gid[4];
	gid_t groups[GROUPS_MAX];
	int n_groups;
	struct __user_cap_data_struct caps[2];
	uint64_t bounding, ambient;
	int securebits, dumpable, no_new_privs;
};

static void identity_read(struct identity *ret)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

	memset(ret, 0, sizeof(*ret));
	getresuid(&ret->uid[0], &ret->uid[1], &ret->uid[2]);
	getresgid(&ret->gid[0], &ret->gid[1], &ret->gid[2]);
	/* An invalid id changes nothing and returns the current one. */
	ret->uid[3] = (uid_t)setfsuid((uid_t)-1);
	ret->gid[3] = (gid_t)setfsgid((gid_t)-1);
	ret->n_groups = getgroups(GROUPS_MAX, ret->groups);
	syscall(SYS_capget, &header, ret->caps);
	for (int cap = 0; cap < CAPS; cap++) {
		if (prctl(PR_CAPBSET_READ, cap) == 1)
			ret->bounding |= 1ULL << cap;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1)
			ret->ambient |= 1ULL << cap;
	}
	ret->securebits = prctl(PR_GET_SECUREBITS);
	ret->dumpable = prctl(PR_GET_DUMPABLE);
	ret->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
}

static void verify(struct program *p, void *state)
{
	const struct identity *want = state;
	struct identity now;

	identity_read(&now);
	for (int i = 0; i < 4; i++) {
		expect_same(p, "a uid", now.uid[i], want->uid[i]);
		expect_same(p, "a gid", now.gid[i], want->gid[i]);
	}
	expect_same(p, "number of groups", now.n_groups, want->n_groups);
	expect(p, !memcmp(now.groups, want->groups, sizeof(now.groups)), "the groups differ");
	for (int i = 0; i < 2; i++) {
		expect_same(p, "effective capabilities", now.caps[i].effective, want->caps[i].effective);
		expect_same(p, "permitted capabilities", now.caps[i].permitted, want->caps[i].permitted);
		expect_same(p, "inheritable capabilities", now.caps[i].inheritable,
			    want->caps[i].inheritable);
	}
	expect_same(p, "bounding set", now.bounding, want->bounding);
	expect_same(p, "ambient set", now.ambient, want->ambient);
	expect_same(p, "secure bits", now.securebits, want->securebits);
	expect_same(p, "dumpable", now.dumpable, want->dumpable);
	expect_same(p, "no_new_privs", now.no_new_privs, want->no_new_privs);
}

static void become(uid_t real, uid_t effective, uid_t saved, gid_t gid)
{
	const gid_t groups[] = {gid, 7, 8, 100000};

	must(setgroups(ARRAY_SIZE(groups), groups));
	must(setresgid(gid, gid + 1, gid + 2));
	must(setresuid(real, effective, saved));
}

static void plain_user(void)
{
	become(1000, 1001, 1002, 2000);
}

static void capset_words(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct data[2] = {
		{(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
		{(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
	};

	must(syscall(SYS_capset, &header, data));
}

static uint64_t bit(int cap)
{
	return 1ULL << cap;
}

static void few_capabilities(void)
{
	const uint64_t kept = bit(CAP_CHOWN) | bit(CAP_NET_ADMIN) | bit(CAP_BPF);

	must(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME));
	must(prctl(PR_CAPBSET_DROP, CAP_MKNOD));
	must(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP));
	capset_words(bit(CAP_CHOWN) | bit(CAP_BPF), kept, bit(CAP_CHOWN));
}

static void ambient_user(void)
{
	const uint64_t caps = bit(CAP_NET_BIND_SERVICE) | bit(CAP_NET_RAW);

	must(prctl(PR_SET_KEEPCAPS, 1));
	become(3000, 3000, 3000, 4000);
	capset_words(caps, caps, caps);
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0));
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void file_system_user(void)
{
	/* Only an fsuid of its own: everything else stays root's. */
	setfsuid(1234);
	setfsgid(1235);
}

static void drop_group(void *state)
{
	(void)state;
	setgroups(0, NULL);
}

static const struct role {
	const char *name;
	void (*enter)(void);
} roles[] = {
	{"user", plain_user},
	{"few-capabilities", few_capabilities},
	{"ambient", ambient_user},
	{"file-system-user", file_system_user},
};

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	static const struct program_ops root_ops = {.verify = verify, .spoil = drop_group};
	struct identity identity;
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
		if (!must(fork())) {
			struct program q = program_role(&p, roles[i].name);
			roles[i].enter();
			identity_read(&identity);
			return program_serve(&q, &ops, &identity);
		}
		program_await(&p, roles[i].name);
	}
	must(setgroups(3, (const gid_t[]){5, 6, 70000}));
	identity_read(&identity);
	return program_serve(&p, &root_ops, &identity);
}
