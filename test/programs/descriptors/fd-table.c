/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A descriptor table with holes: low numbers closed, thousands of descriptors, some of them duplicates of one another also in the
 * child, very high numbers up to the limit, close-on-exec on every other. Proof: which numbers are open, what each
 * refers to and its flag; new descriptors take the lowest hole; at the end the same is true of what a program that was
 * executed has.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST = 100, COUNT = 2000, SOURCES = 40, HOLE = 7, KCMP_FILE = 0 };

struct state {
	int sources[SOURCES];
	int highest;
	pid_t child;
};

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static int number(int i)
{
	return FIRST + i;
}

static bool is_hole(int i)
{
	return i % HOLE == 3;
}

static bool same(pid_t a, int x, pid_t b, int y)
{
	return syscall(SYS_kcmp, a, b, KCMP_FILE, x, y) == 0;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	pid_t self = getpid();

	for (int i = 0; i < COUNT; i++) {
		int fd = number(i), flag = fcntl(fd, F_GETFD);
		expect(p, (flag < 0) == is_hole(i), "number %d: %d", fd, flag);
		if (flag < 0)
			continue;
		expect_same(p, "close-on-exec", flag, i % 2 ? FD_CLOEXEC : 0);
		expect(p, same(self, fd, self, s->sources[i % SOURCES]), "number %d refers to something else",
		       fd);
	}
	expect_same(p, "the highest", fcntl(s->highest, F_GETFD), FD_CLOEXEC);
	expect(p, same(self, s->highest, self, s->sources[1]), "the highest refers to something else");
	expect(p, !is_open(s->highest - 1), "a number below the highest is open");
	int lowest = fcntl(0, F_DUPFD, FIRST), next = fcntl(0, F_DUPFD, FIRST);
	expect_same(p, "lowest hole", lowest, number(3));
	expect_same(p, "next hole", next, number(3 + HOLE));
	close(lowest);
	close(next);
	for (int i = 0; s->child && i < SOURCES; i++)
		expect(p, same(self, s->sources[i], s->child, s->sources[i]), "source %d is not the child's",
		       i);
}

/* What survives exec; a shell counts it. */
static int count_after_exec(void)
{
	int status = -1, kept = 0;
	char command[128];

	for (int i = 0; i < COUNT; i++)
		kept += !is_hole(i) && i % 2 == 0;
	snprintf(command, sizeof(command),
		 "n=0; for f in /proc/self/fd/*; do f=${f##*/}; [ $f -ge %d ] && [ $f -lt %d ] "
		 "&& n=$((n + 1)); done; [ $n = %d ]",
		 FIRST, FIRST + COUNT, kept);
	pid_t pid = fork();
	if (!pid) {
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	return status;
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	uint64_t value = 0;

	verify(p, state);
	must(write(number(0), &(uint64_t){5}, 8));
	expect_same(p, "reading by a duplicate", read(number(SOURCES), &value, 8), 8);
	expect_same(p, "value", value, 5 + 1);
	expect_same(p, "after exec", count_after_exec(), 0);
	(void)s;
}

static void spoil(void *state)
{
	(void)state;
	must(close(number(COUNT - 1)));
}

static void make(struct state *s)
{
	struct rlimit limit;

	must(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	must(setrlimit(RLIMIT_NOFILE, &limit));
	s->highest = (int)MIN(limit.rlim_cur, (rlim_t)15000) - 1;
	for (int i = 0; i < SOURCES; i++)
		s->sources[i] = must(eventfd((unsigned)i + 1, EFD_CLOEXEC | EFD_NONBLOCK));
	for (int i = 0; i < COUNT; i++)
		if (!is_hole(i))
			must(dup3(s->sources[i % SOURCES], number(i), i % 2 ? O_CLOEXEC : 0));
	must(dup3(s->sources[1], s->highest, O_CLOEXEC));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify};
	struct program p;
	struct state s = {.child = 0};

	program_start(&p, argc, argv);
	make(&s);
	pid_t child = must(fork());
	if (!child) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, &s);
	}
	s.child = child;
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
