/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PID namespaces below that of the first process, by word: "one" child that is the first process of one, with children there;
 * "three" of them, one below the other; "unshare": the process stays, its children go into another one;
 * "threads": the first process of one has threads. Proof: the numbers that each has, who reaps orphans, and that new
 * processes get their numbers where they must.
 */
#include "program.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct state {
	pid_t pid, parent; /* as getpid(2) and getppid(2) must say; parent -1: not the same after a restore */
	pid_t child;       /* one of this process's own, or 0 */
	pid_t tid[2];      /* of threads, or 0 */
	bool children_elsewhere;
	pid_t *shared; /* for the threads' numbers */
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	expect_same(p, "getpid", syscall(SYS_getpid), s->pid);
	if (s->parent >= 0)
		expect_same(p, "getppid", getppid(), s->parent);
	if (s->child)
		expect_same(p, "the child", kill(s->child, 0), 0);
	for (int i = 0; i < 2; i++) {
		if (!s->tid[i])
			continue;
		expect_same(p, "a thread", syscall(SYS_tgkill, s->pid, s->tid[i], 0), 0);
		expect_same(p, "its number", s->shared[i], s->tid[i]);
	}
	if (s->child) {
		pid_t new = fork();
		if (!new) {
			char outer[16] = "";
			bool here = readlink("/proc/self", outer, sizeof(outer) - 1) > 0 &&
				    atoi(outer) == (int)syscall(SYS_getpid);
			_exit(s->children_elsewhere && here ? 6 : 5);
		}
		int status = -1;
		expect(p, new > 0, "fork fails");
		expect_same(p, "a new child", waitpid(new, &status, 0), new);
		expect_same(p, "its status", status, 5 << 8);
	}
}

static void spoil(void *state)
{
	struct state *s = state;
	if (!s->child)
		return;
	must(kill(s->child, SIGKILL));
	must(waitpid(s->child, NULL, 0));
}

static const struct program_ops ops = {.verify = verify, .spoil = spoil};
static const struct program_ops child_ops = {.verify = verify};

static void *thread_main(void *argument)
{
	pid_t *slot = argument;
	for (;;) {
		*(volatile pid_t *)slot = (pid_t)syscall(SYS_gettid);
		sleep_ms(2);
	}
	return NULL;
}

static pid_t child_new(struct program *p, const char *role, unsigned long flags, pid_t pid, pid_t parent,
		       int deeper, bool threads)
{
	pid_t got = (pid_t)must(syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL));
	if (got) {
		program_await(p, role);
		return got;
	}
	struct program q = program_role(p, role);
	struct state s = {.pid = pid, .parent = parent};
	char name[24];
	snprintf(name, sizeof(name), "%s-below", role);
	if (deeper > 0)
		s.child = child_new(&q, name, CLONE_NEWPID, 1, 0, deeper - 1, false);
	else if (!deeper)
		s.child = child_new(&q, name, 0, 2, 1, -1, false);
	if (threads) {
		static pid_t numbers[2];
		s.shared = numbers;
		for (int i = 0; i < 2; i++) {
			pthread_t thread;
			pthread_create(&thread, NULL, thread_main, &numbers[i]);
			while (!*(volatile pid_t *)&numbers[i])
				sleep_ms(1);
			s.tid[i] = numbers[i];
		}
	}
	_exit(program_serve(&q, &child_ops, &s));
}

int main(int argc, char **argv)
{
	struct program p;
	program_start(&p, argc, argv);
	program_has_other_numbers();
	struct state s = {.pid = getpid(), .parent = -1};
	if (program_told(argc, argv, "unshare")) {
		must(unshare(CLONE_NEWPID));
		s.children_elsewhere = true;
		child_new(&p, "init", 0, 1, 0, -1, false);
		s.child = child_new(&p, "second", 0, 2, 0, -1, false);
	} else if (program_told(argc, argv, "threads")) {
		s.child = child_new(&p, "init", CLONE_NEWPID, 1, 0, 0, true);
	} else {
		s.child = child_new(&p, "init", CLONE_NEWPID, 1, 0, program_told(argc, argv, "three") ? 2 : 0,
				    false);
	}
	return program_serve(&p, &ops, &s);
}
