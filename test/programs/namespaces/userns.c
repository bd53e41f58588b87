/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User namespaces, by word: "self": the first process has left for one with its own id alone; "mapped": a child lives in one
 * with several ranges of ids, as some of them, with few capabilities; "unmapped": a child lives in one without any ids;
 * "nested": a child lives two levels below its parent, with nobody between; "owned": a child has host names and System V objects
 * that belong to its user namespace; "mounts": so do the mounts of the first process. Proof: maps and ids as the process
 * sees them, capabilities, who owns the namespace and which one is above, and that rights inside are what they were.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GROUPS = 8, MAP_BYTES = 512, HOST_BYTES = 16, CAPS = 40, LEVELS = 4 };

/* All that a process can tell of itself. */
struct facts {
	char uid_map[MAP_BYTES], gid_map[MAP_BYTES], setgroups[16];
	uid_t uid[3], owner;
	gid_t gid[3], groups[GROUPS];
	int n_groups, securebits, levels; /* levels: user namespaces above that it may see */
	uint64_t bounding;
	struct __user_cap_data_struct caps[2];
	long clone; /* what making a user namespace gives */
};

struct state {
	struct facts facts;
	bool owned;  /* its host names belong to its namespace */
	bool mounts; /* and so do its mounts */
	pid_t child; /* of the first process, whose namespace is so many levels below */
	int levels;
	const char *folder;
	char host[HOST_BYTES];
};

static void read_text(const char *path, char *text, size_t n)
{
	int fd = must(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t got = must(read(fd, text, n - 1));
	text[got] = '\0';
	close(fd);
}

static void get_caps(struct __user_cap_data_struct caps[2])
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	must(syscall(SYS_capget, &head, caps));
}

static void set_caps(uint64_t permitted, uint64_t effective, uint64_t inheritable)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2];
	for (int i = 0; i < 2; i++)
		caps[i] = (struct __user_cap_data_struct){(uint32_t)(effective >> 32 * i),
							  (uint32_t)(permitted >> 32 * i),
							  (uint32_t)(inheritable >> 32 * i)};
	must(syscall(SYS_capset, &head, caps));
}

static int count_levels(void)
{
	int n = 0, fd = must(open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC));
	while (fd >= 0 && n < LEVELS) {
		int above = ioctl(fd, NS_GET_PARENT);
		close(fd);
		fd = above;
		n++;
	}
	if (fd >= 0)
		close(fd);
	return n;
}

/* Whether a child may begin a user namespace, which takes ids that are known here. */
static long try_clone(void)
{
	pid_t pid = fork();
	int status = 0;
	if (!pid)
		_exit(unshare(CLONE_NEWUSER) < 0 ? errno : 0);
	must(waitpid(pid, &status, 0));
	return status;
}

static void learn(struct facts *f)
{
	memset(f, 0, sizeof(*f));
	read_text("/proc/self/uid_map", f->uid_map, MAP_BYTES);
	read_text("/proc/self/gid_map", f->gid_map, MAP_BYTES);
	read_text("/proc/self/setgroups", f->setgroups, sizeof(f->setgroups));
	must(getresuid(&f->uid[0], &f->uid[1], &f->uid[2]));
	must(getresgid(&f->gid[0], &f->gid[1], &f->gid[2]));
	f->n_groups = must(getgroups(GROUPS, f->groups));
	f->securebits = must(prctl(PR_GET_SECUREBITS));
	for (int cap = 0; cap <= CAPS; cap++)
		f->bounding |= prctl(PR_CAPBSET_READ, cap) == 1 ? 1ull << cap : 0;
	get_caps(f->caps);
	int fd = must(open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC));
	must(ioctl(fd, NS_GET_OWNER_UID, &f->owner));
	close(fd);
	f->levels = count_levels();
	f->clone = try_clone();
}

static void verify_owned(struct program *p, const struct state *s)
{
	struct utsname names;
	must(uname(&names));
	expect(p, !strcmp(names.nodename, s->host), "the host is called '%s', not '%s'", names.nodename,
	       s->host);
	expect_same(p, "naming the host", sethostname(s->host, strlen(s->host)), 0);
}

static void verify_mounts(struct program *p, const struct state *s)
{
	struct stat before, after;
	must(stat(s->folder, &before));
	expect_same(p, "mounting", mount("again", s->folder, "tmpfs", 0, "size=64k"), 0);
	must(stat(s->folder, &after));
	expect(p, before.st_dev != after.st_dev, "nothing was mounted");
	expect_same(p, "unmounting", umount(s->folder), 0);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	const struct facts *was = &s->facts;
	struct facts now;
	learn(&now);
	expect(p, !strcmp(now.uid_map, was->uid_map), "uid_map is '%s', not '%s'", now.uid_map, was->uid_map);
	expect(p, !strcmp(now.gid_map, was->gid_map), "gid_map is '%s', not '%s'", now.gid_map, was->gid_map);
	expect(p, !strcmp(now.setgroups, was->setgroups), "setgroups is '%s'", now.setgroups);
	for (int i = 0; i < 3; i++) {
		expect_same(p, "a user id", now.uid[i], was->uid[i]);
		expect_same(p, "a group id", now.gid[i], was->gid[i]);
	}
	expect_same(p, "the number of groups", now.n_groups, was->n_groups);
	expect(p, !memcmp(now.groups, was->groups, sizeof(now.groups)), "other groups");
	expect_same(p, "securebits", now.securebits, was->securebits);
	expect_same(p, "the bounding set", now.bounding, was->bounding);
	for (int i = 0; i < 2; i++) {
		expect_same(p, "permitted", now.caps[i].permitted, was->caps[i].permitted);
		expect_same(p, "effective", now.caps[i].effective, was->caps[i].effective);
		expect_same(p, "inheritable", now.caps[i].inheritable, was->caps[i].inheritable);
	}
	expect_same(p, "the owner", now.owner, was->owner);
	expect_same(p, "namespaces above", now.levels, was->levels);
	expect_same(p, "making another", now.clone, was->clone);
	if (s->owned)
		verify_owned(p, s);
	if (s->mounts)
		verify_mounts(p, s);
}

static void spoil(void *state)
{
	struct state *s = state;
	s->facts.owner++;
	set_caps(0, 0, 0);
}

static const struct program_ops ops = {.verify = verify, .spoil = spoil};

/* ------------------------------------------------------------------- making */

static void write_text(pid_t pid, const char *name, const char *text)
{
	char path[64];
	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	else
		snprintf(path, sizeof(path), "/proc/self/%s", name);
	int fd = must(open(path, O_WRONLY | O_CLOEXEC));
	must(write(fd, text, strlen(text)));
	close(fd);
}

static void map_self(void)
{
	write_text(0, "setgroups", "deny");
	write_text(0, "uid_map", "0 0 1");
	write_text(0, "gid_map", "0 0 1");
}

static void become_mapped(struct state *s)
{
	const gid_t groups[] = {4, 1000, 1001};
	must(setgroups(3, groups));
	must(setresgid(3, 5, 1002));
	/* With a real id of its own; the effective one stays able to reach the mailbox. */
	must(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS_LOCKED));
	must(setresuid(7, 0, 1003));
	must(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
	must(prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE));
	uint64_t some =
		1ull << CAP_SYS_CHROOT | 1ull << CAP_NET_RAW | 1ull << CAP_SETGID | 1ull << CAP_DAC_OVERRIDE;
	set_caps(some, some & ~(1ull << CAP_NET_RAW), 1ull << CAP_NET_RAW);
	(void)s;
}

static void become_owned(struct state *s)
{
	must(unshare(CLONE_NEWUTS | CLONE_NEWIPC));
	snprintf(s->host, sizeof(s->host), "inside");
	must(sethostname(s->host, strlen(s->host)));
	s->owned = true;
}

/* A child that begins a user namespace, whose maps its parent writes. */
static pid_t child(struct program *p, const char *role, const char *how)
{
	int said[2], told[2];
	char byte = 0;
	must(pipe2(said, O_CLOEXEC));
	must(pipe2(told, O_CLOEXEC));
	pid_t pid = must(fork());
	if (pid) {
		must(read(said[0], &byte, 1));
		if (!strcmp(how, "mapped")) {
			write_text(pid, "uid_map", "0 0 1\n1 100001 999\n1000 200000 5000\n");
			write_text(pid, "gid_map", "0 0 1\n1 300001 999\n1000 400000 5000\n");
		} else if (!strcmp(how, "owned")) {
			write_text(pid, "uid_map", "0 0 10");
			write_text(pid, "gid_map", "0 0 10");
		}
		must(write(told[1], "x", 1));
		program_await(p, role);
		close(said[0]);
		close(said[1]);
		close(told[0]);
		close(told[1]);
		return pid;
	}
	struct program q = program_role(p, role);
	struct state s = {.folder = p->folder};
	if (!strcmp(how, "nested")) {
		must(unshare(CLONE_NEWUSER));
		map_self();
	}
	must(unshare(CLONE_NEWUSER));
	if (!strcmp(how, "nested"))
		map_self();
	must(write(said[1], "x", 1));
	must(read(told[0], &byte, 1));
	close(said[0]);
	close(said[1]);
	close(told[0]);
	close(told[1]);
	if (!strcmp(how, "mapped"))
		become_mapped(&s);
	else if (!strcmp(how, "owned"))
		become_owned(&s);
	prctl(PR_SET_DUMPABLE, 1);
	learn(&s.facts);
	_exit(program_serve(&q, &ops, &s));
}

/* From the child's up to the own one. */
static void verify_levels(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat own, its;
	char path[64];
	int levels = 0;

	snprintf(path, sizeof(path), "/proc/%d/ns/user", s->child);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	must(stat("/proc/self/ns/user", &own));
	while (fd >= 0 && !fstat(fd, &its) && its.st_ino != own.st_ino) {
		int above = ioctl(fd, NS_GET_PARENT);
		close(fd);
		fd = above;
		levels++;
	}
	expect(p, fd >= 0, "the child's namespace is not below the own one");
	expect_same(p, "levels between the namespaces", levels, s->levels);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	static const struct program_ops parent_ops = {.verify = verify_levels};
	static const char *const words[] = {"mapped", "unmapped", "nested", "owned"};
	struct state s = {0};
	struct program p;
	program_start(&p, argc, argv);
	s.folder = p.folder;
	if (program_told(argc, argv, "self") || program_told(argc, argv, "mounts")) {
		must(unshare(CLONE_NEWUSER));
		map_self();
		if (program_told(argc, argv, "mounts")) {
			must(unshare(CLONE_NEWNS));
			must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
			s.mounts = true;
		}
		learn(&s.facts);
		return program_serve(&p, &ops, &s);
	}
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (program_told(argc, argv, words[i])) {
			s.levels = strcmp(words[i], "nested") ? 1 : 2;
			s.child = child(&p, "inside", words[i]);
		}
	return program_serve(&p, &parent_ops, &s);
}
