/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of one process with credentials of their own, set by the raw system calls, as file servers do it: ids, groups,
 * capabilities, secure bits, no_new_privs, bounding set. Proof: each reads back its own, and may do what it may.
 */
#include "program.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GROUPS_MAX = 16, CAPS = 41 };

struct identity {
	uid_t uid[3];
	gid_t gid[3];
	gid_t groups[GROUPS_MAX];
	int n_groups, securebits, no_new_privs;
	struct __user_cap_data_struct caps[2];
	uint64_t bounding;
};

struct thread {
	const char *name;
	void (*enter)(void);
	const struct program *program;
	struct identity identity;
};

static void identity_read(struct identity *ret)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

	memset(ret, 0, sizeof(*ret));
	getresuid(&ret->uid[0], &ret->uid[1], &ret->uid[2]);
	getresgid(&ret->gid[0], &ret->gid[1], &ret->gid[2]);
	ret->n_groups = getgroups(GROUPS_MAX, ret->groups);
	syscall(SYS_capget, &header, ret->caps);
	for (int cap = 0; cap < CAPS; cap++)
		if (prctl(PR_CAPBSET_READ, cap) == 1)
			ret->bounding |= 1ULL << cap;
	ret->securebits = prctl(PR_GET_SECUREBITS);
	ret->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
}

static void verify(struct program *p, void *state)
{
	const struct thread *t = state;
	struct identity now;

	identity_read(&now);
	for (int i = 0; i < 3; i++) {
		expect_same(p, "a uid", now.uid[i], t->identity.uid[i]);
		expect_same(p, "a gid", now.gid[i], t->identity.gid[i]);
	}
	expect_same(p, "secure bits", now.securebits, t->identity.securebits);
	expect_same(p, "no_new_privs", now.no_new_privs, t->identity.no_new_privs);
	expect_same(p, "bounding set", now.bounding, t->identity.bounding);
	expect(p, !memcmp(&now, &t->identity, sizeof(now)), "groups or capabilities differ");
}

static void spoil(void *state)
{
	struct thread *t = state;

	t->identity.uid[2]++;
}

/* The C library would tell every thread; these are for the caller alone. */
static void set_ids(uid_t uid, gid_t gid, const gid_t *groups, size_t n)
{
	must(syscall(SYS_setgroups, n, groups));
	must(syscall(SYS_setresgid, gid, gid + 1, gid + 2));
	must(syscall(SYS_setresuid, uid, uid, uid + 1));
}

static void user_enter(void)
{
	static const gid_t groups[] = {11, 12, 13};

	set_ids(5001, 6001, groups, ARRAY_SIZE(groups));
}

static void other_enter(void)
{
	must(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS));
	set_ids(7001, 8001, NULL, 0);
}

static void confined_enter(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct few[2] = {{1u << CAP_KILL, 1u << CAP_KILL | 1u << CAP_CHOWN, 0},
						      {0, 0, 0}};

	must(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(syscall(SYS_capset, &header, few));
}

static struct thread threads[] = {
	{.name = "user", .enter = user_enter},
	{.name = "other", .enter = other_enter},
	{.name = "confined", .enter = confined_enter},
};

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct thread *t = argument;
	struct program p = program_role(t->program, t->name);

	t->enter();
	identity_read(&t->identity);
	program_serve(&p, &ops, t);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct thread self;
	struct program p;

	program_start(&p, argc, argv);
	must(chmod(p.folder, 0777));
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		pthread_t handle;
		threads[i].program = &p;
		if (pthread_create(&handle, NULL, thread_main, &threads[i]) != 0)
			program_die("pthread_create");
		program_await(&p, threads[i].name);
	}
	identity_read(&self.identity);
	return program_serve(&p, &ops, &self);
}
