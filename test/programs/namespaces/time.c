/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time namespaces. With "children" the first process has made one for its children, lives outside of it, and has a child from before
 * and one in it. With "left" whoever made it is gone; a process lives in it, and a child of that has gone back to the first
 * process's. Proof: how far ahead of the first process's clocks those of each are, that none goes back, and where a new child
 * of each would live.
 */
#include "program.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

enum { CLOCKS = 2 };
static const clockid_t clocks[CLOCKS] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};
#define SECOND 1000000000ll
#define NEAR (20 * SECOND) /* the machine may be busy; the namespaces are further apart by far */

/* What the first process's clocks say, as of a moment ago. */
struct shared {
	_Atomic int64_t now[CLOCKS];
};

struct state {
	struct shared *shared;
	bool main;
	int64_t ahead[CLOCKS];          /* of the first process */
	int64_t children_ahead[CLOCKS]; /* of new children */
	int64_t last[CLOCKS];
};

static int64_t now(clockid_t id)
{
	struct timespec t;
	must(clock_gettime(id, &t));
	return t.tv_sec * SECOND + t.tv_nsec;
}

static void step(void *state)
{
	struct state *s = state;
	for (int i = 0; s->main && i < CLOCKS; i++)
		s->shared->now[i] = now(clocks[i]);
}

static void measure(const struct state *s, int64_t ahead[CLOCKS])
{
	for (int i = 0; i < CLOCKS; i++)
		ahead[i] = now(clocks[i]) - s->shared->now[i];
}

/* What a new child of ours measures. */
static void measure_child(const struct state *s, int64_t ahead[CLOCKS])
{
	int ends[2];
	must(pipe(ends));
	pid_t pid = must(fork());
	if (!pid) {
		measure(s, ahead);
		_exit(write(ends[1], ahead, CLOCKS * sizeof(*ahead)) != CLOCKS * sizeof(*ahead));
	}
	must(read(ends[0], ahead, CLOCKS * sizeof(*ahead)));
	must(waitpid(pid, NULL, 0));
	close(ends[0]);
	close(ends[1]);
}

static void compare(struct program *p, const char *what, const int64_t got[CLOCKS],
		    const int64_t want[CLOCKS])
{
	for (int i = 0; i < CLOCKS; i++)
		expect(p, got[i] - want[i] < NEAR && want[i] - got[i] < NEAR,
		       "%s: clock %d is %lld ns ahead, not %lld", what, clocks[i], (long long)got[i],
		       (long long)want[i]);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	int64_t ahead[CLOCKS], children_ahead[CLOCKS];
	step(s);
	measure(s, ahead);
	measure_child(s, children_ahead);
	compare(p, "the clocks", ahead, s->ahead);
	compare(p, "clocks of new children", children_ahead, s->children_ahead);
	for (int i = 0; i < CLOCKS; i++) {
		int64_t then = s->last[i];
		s->last[i] = now(clocks[i]);
		expect(p, s->last[i] >= then && s->last[i] - then < 600 * SECOND,
		       "clock %d went from %lld to %lld", clocks[i], (long long)then, (long long)s->last[i]);
	}
}

static void spoil(void *state)
{
	struct state *s = state;
	s->children_ahead[0] += 100 * SECOND;
}

static const struct program_ops ops = {.verify = verify, .spoil = spoil, .step = step};

static int serve(const struct program *p, struct state *s)
{
	struct program own = *p;
	step(s);
	measure(s, s->ahead);
	measure_child(s, s->children_ahead);
	for (int i = 0; i < CLOCKS; i++)
		s->last[i] = now(clocks[i]);
	return program_serve(&own, &ops, s);
}

static void leave_time(void)
{
	static const char text[] = "monotonic 1000000 7\nboottime 2000000 9\n";
	must(unshare(CLONE_NEWTIME));
	int fd = must(open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC));
	must(write(fd, text, sizeof(text) - 1));
	close(fd);
}

static void child(const struct program *p, const char *role, struct state s)
{
	s.main = false;
	if (!must(fork())) {
		struct program q = program_role(p, role);
		_exit(serve(&q, &s));
	}
	program_await(p, role);
}

/* A grandchild that loses its parent; its own child goes back. */
static void left(const struct program *p, struct state s, int home)
{
	s.main = false;
	leave_time();
	if (must(fork()))
		_exit(0);
	if (!must(fork())) {
		struct program q = program_role(p, "back");
		must(setns(home, CLONE_NEWTIME));
		close(home);
		_exit(serve(&q, &s));
	}
	close(home);
	struct program q = program_role(p, "ahead");
	_exit(serve(&q, &s));
}

int main(int argc, char **argv)
{
	struct program p;
	struct state s = {.main = true};
	program_start(&p, argc, argv);
	s.shared = mmap(NULL, sizeof(*s.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s.shared == MAP_FAILED)
		return 1;
	step(&s);
	if (program_told(argc, argv, "children")) {
		child(&p, "before", s);
		leave_time();
		child(&p, "ahead", s);
	} else {
		int home = must(open("/proc/self/ns/time", O_RDONLY | O_CLOEXEC));
		must(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
		pid_t middle = must(fork());
		if (!middle)
			left(&p, s, home);
		close(home);
		must(waitpid(middle, NULL, 0));
		program_await(&p, "ahead");
		program_await(&p, "back");
	}
	return serve(&p, &s);
}
