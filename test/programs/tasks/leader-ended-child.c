/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child whose first thread has ended, with two others that count; told "shared" it has its parent's descriptors, told "stopped" it
 * is stopped, told "seccomp" all its threads have one filter. Proof by its parent: the first thread is a zombie with
 * its status, the child has not ended, the others count on, or stand; in the end they end one by one, and the parent is told
 * what another process of this kind told it before: how the first one ended, or since Linux 5.17 how the last one did.
 */
#include "leader-ended.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { COUNTERS = 2, HELD = 40, MADE = 41, LAST_STATUS = 60 };

/* In memory that parent and child share. */
struct board {
	atomic_uint counters[COUNTERS];
	atomic_int errors[COUNTERS]; /* of a call that the filter answers */
	atomic_int tids[COUNTERS];
	atomic_bool end[COUNTERS];
	atomic_int open; /* the child is to make a descriptor with this number, 0 = it did */
};

struct state {
	struct board *board;
	pid_t child;
	int usual; /* status of a process that ends so */
	bool shared, stopped, seccomp;
};

struct counter {
	const struct program *program;
	struct board *board;
	int number;
};

static void *count(void *argument)
{
	const struct counter *c = argument;
	char role[24];

	snprintf(role, sizeof(role), "rest-%d", c->number);
	struct program p = program_role(c->program, role);
	program_note_volatile(&p);
	c->board->tids[c->number] = gettid();
	while (!c->board->end[c->number]) {
		errno = 0;
		syscall(SYS_uselib, 0);
		c->board->errors[c->number] = errno;
		c->board->counters[c->number]++;
		int number = c->number ? 0 : c->board->open;
		if (number) {
			dup2(HELD, number);
			c->board->open = 0;
		}
		sleep_ms(1);
	}
	syscall(SYS_exit, c->number ? LEADER_STATUS + 1 : LAST_STATUS);
	return NULL;
}

/* uselib(2) fails with EDOM. */
static void load_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_uselib, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = ARRAY_SIZE(code), .filter = code};

	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must((int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
}

static __attribute__((noreturn)) void child_main(const struct program *p, const struct state *s)
{
	static struct counter counters[COUNTERS];

	if (s->seccomp)
		load_filter();
	for (int i = 0; i < COUNTERS; i++) {
		counters[i] = (struct counter){p, s->board, i};
		leader_thread(count, &counters[i]);
	}
	leader_end();
}

static void *end_last(void *argument)
{
	leader_await_end(getpid());
	syscall(SYS_exit, LAST_STATUS);
	return argument;
}

static int usual_status(void)
{
	int status = 0;
	pid_t child = must(fork());

	if (!child) {
		leader_thread(end_last, NULL);
		leader_end();
	}
	must(waitpid(child, &status, 0));
	return status;
}

static void verify_runs(struct program *p, const struct state *s)
{
	for (int i = 0; i < COUNTERS; i++) {
		expect(p, counts_on(&s->board->counters[i]), "thread %d of the child does not count", i);
		expect_same(p, "the errno of uselib", s->board->errors[i], s->seccomp ? EDOM : ENOSYS);
	}
	if (!s->shared)
		return;
	s->board->open = MADE;
	for (int i = 0; i < 2000 && s->board->open; i++)
		sleep_ms(1);
	expect(p, fcntl(MADE, F_GETFD) >= 0, "what the child opens its parent does not see");
	close(MADE);
}

static void verify_stands(struct program *p, const struct state *s)
{
	for (int i = 0; i < COUNTERS; i++) {
		char state = thread_state(s->child, s->board->tids[i], NULL);
		expect(p, state == 'T', "thread %d of the child is in state %c", i, state);
	}
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	siginfo_t info = {0};

	leader_verify(p, s->child);
	expect(p, kill(s->child, 0) == 0, "the child is gone");
	expect(p, waitid(P_PID, (id_t)s->child, &info, WEXITED | WNOWAIT | WNOHANG) == 0 && !info.si_pid,
	       "the parent is told an end");
	(s->stopped ? verify_stands : verify_runs)(p, s);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	int status = 0;

	verify(p, state);
	if (s->stopped)
		must(kill(s->child, SIGCONT));
	verify_runs(p, s);
	s->board->end[1] = true;
	while (thread_state(s->child, s->board->tids[1], NULL))
		sleep_ms(1);
	expect(p, counts_on(&s->board->counters[0]), "the last thread does not count");
	expect_same(p, "an end before that of the last", waitpid(s->child, &status, WNOHANG), 0);
	s->board->end[0] = true;
	expect_same(p, "waiting", waitpid(s->child, &status, 0), s->child);
	expect_same(p, "the status of the child", status, s->usual);
}

static void spoil(void *state)
{
	const struct state *s = state;

	kill(s->child, SIGKILL);
	waitpid(s->child, NULL, 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct program p;
	char path[256];

	program_start(&p, argc, argv);
	struct state s = {
		.board = must(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)),
		.usual = usual_status(),
		.shared = program_told(argc, argv, "shared"),
		.stopped = program_told(argc, argv, "stopped"),
		.seccomp = program_told(argc, argv, "seccomp"),
	};
	snprintf(path, sizeof(path), "%s/held", p.folder);
	int held = must(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644));
	must(dup2(held, HELD));
	must(close(held));
	s.child = (pid_t)must(syscall(SYS_clone, SIGCHLD | (s.shared ? CLONE_FILES : 0), 0, 0, 0, 0));
	if (!s.child)
		child_main(&p, &s);
	leader_await_end(s.child);
	for (int i = 0; i < COUNTERS; i++)
		counts_on(&s.board->counters[i]);
	if (s.stopped) {
		must(kill(s.child, SIGSTOP));
		must(waitpid(s.child, NULL, WUNTRACED));
	}
	return program_serve(&p, &ops, &s);
}
