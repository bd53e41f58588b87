/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the processes of a test program hang together, as /proc shows it: parent, group, session, and whether each lives,
 * is stopped or is a zombie. The first process looks at all of them.
 */
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"

enum { RELATIONS_MAX = 64 };

struct relation {
	pid_t pid, ppid, pgid, sid;
	char state; /* Z, T, or S for all that live */
};

struct relations {
	int n;
	struct relation v[RELATIONS_MAX]; /* [0] is the first process; parents before children */
};

static inline bool relation_read(pid_t pid, struct relation *ret)
{
	char path[64], text[512];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	const char *behind = strrchr(text, ')');
	ret->pid = pid;
	if (!behind || sscanf(behind, ") %c %d %d %d", &ret->state, &ret->ppid, &ret->pgid, &ret->sid) != 4)
		return false;
	ret->state = ret->state == 'Z' || ret->state == 'T' ? ret->state : 'S';
	return true;
}

static inline void relations_children(struct relations *all, pid_t pid)
{
	char path[64], text[1024];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	char *at = text, *end;
	for (long child; (child = strtol(at, &end, 10)) > 0 && end != at; at = end)
		if (all->n < RELATIONS_MAX && relation_read((pid_t)child, &all->v[all->n]))
			all->n++;
}

static inline void relations_look(struct relations *ret)
{
	memset(ret, 0, sizeof(*ret));
	relation_read(getpid(), &ret->v[ret->n++]);
	for (int i = 0; i < ret->n; i++)
		relations_children(ret, ret->v[i].pid);
}

/* Wait until the tree has that many processes and rests. */
static inline void relations_settle(struct relations *ret, int n)
{
	struct relations before = {0};

	for (int quiet = 0; quiet < 3;) {
		sleep_ms(15);
		relations_look(ret);
		quiet = ret->n == n && !memcmp(ret, &before, sizeof(before)) ? quiet + 1 : 0;
		before = *ret;
	}
}

static inline const struct relation *relations_find(const struct relations *all, pid_t pid)
{
	for (int i = 0; i < all->n; i++)
		if (all->v[i].pid == pid)
			return &all->v[i];
	return NULL;
}

static inline void relations_verify(struct program *p, void *state)
{
	const struct relations *want = state;
	struct relations now;

	relations_look(&now);
	for (int i = 0; i < want->n; i++) {
		const struct relation *w = &want->v[i], *g = relations_find(&now, w->pid);
		expect(p, g, "pid %d is not in the tree", w->pid);
		if (!g)
			continue;
		expect(p, g->state == w->state, "pid %d is in state %c, not %c", w->pid, g->state, w->state);
		expect(p, !i || g->ppid == w->ppid, "the parent of pid %d is %d, not %d", w->pid, g->ppid,
		       w->ppid);
		expect(p, g->pgid == w->pgid, "the group of pid %d is %d, not %d", w->pid, g->pgid, w->pgid);
		expect(p, g->sid == w->sid, "the session of pid %d is %d, not %d", w->pid, g->sid, w->sid);
	}
	expect_same(p, "number of processes", now.n, want->n);
}

/* The last one that lives does so no more. */
static inline void relations_spoil(void *state)
{
	const struct relations *all = state;

	for (int i = all->n; i-- > 1;)
		if (all->v[i].state != 'Z') {
			kill(all->v[i].pid, SIGKILL);
			break;
		}
	sleep_ms(60);
	while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
		continue;
}

/* What the first process was started with, for those that only rest. */
static const struct program *relations_of;

static inline void relations_start(struct program *p, int argc, char **argv)
{
	program_start(p, argc, argv);
	relations_of = p;
}

static inline void note_volatile(void)
{
	char role[24];

	snprintf(role, sizeof(role), "rest-%d", gettid());
	struct program p = program_role(relations_of, role);
	program_note_volatile(&p);
}

/* Wait here until killed. */
static inline void rest(void)
{
	note_volatile();
	for (;;)
		pause();
}

/* A child that rests. */
static inline pid_t resting_child(void)
{
	pid_t pid = must(fork());

	if (!pid)
		rest();
	return pid;
}

/* Wait until a child is a zombie, and leave it. */
static inline void await_zombie(pid_t pid)
{
	siginfo_t info;

	must(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT | __WALL));
}
