/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors of the namespaces that a process lives in, one of them shared with its child. Proof: each leads to the namespace of
 * that kind; at the end the network namespace can be entered by it.
 */
#include "program.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/uapi.h"

#ifndef NS_GET_NSTYPE
#define NS_GET_NSTYPE _IO(0xb7, 0x3)
#endif

static const struct {
	const char *name;
	int type;
} spaces[] = {{"net", CLONE_NEWNET},  {"ipc", CLONE_NEWIPC}, {"uts", CLONE_NEWUTS},
	      {"mnt", CLONE_NEWNS},   {"pid", CLONE_NEWPID}, {"cgroup", CLONE_NEWCGROUP},
	      {"user", CLONE_NEWUSER}};

struct state {
	int fds[ARRAY_SIZE(spaces)];
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	for (size_t i = 0; i < ARRAY_SIZE(spaces); i++) {
		struct stat mine, own;
		char path[64];
		snprintf(path, sizeof(path), "/proc/self/ns/%s", spaces[i].name);
		must(stat(path, &own));
		expect_same(p, "type", ioctl(s->fds[i], NS_GET_NSTYPE), spaces[i].type);
		expect(p, !fstat(s->fds[i], &mine) && mine.st_ino == own.st_ino, "%s: another namespace",
		       spaces[i].name);
		expect_same(p, "flags", fcntl(s->fds[i], F_GETFL) & O_ACCMODE, O_RDONLY);
	}
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	expect_same(p, "entering the network namespace", setns(s->fds[0], CLONE_NEWNET), 0);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(dup3(s->fds[1], s->fds[2], O_CLOEXEC));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(spaces); i++) {
		char path[64];
		snprintf(path, sizeof(path), "/proc/self/ns/%s", spaces[i].name);
		s.fds[i] = must(open(path, O_RDONLY | O_CLOEXEC));
	}
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
