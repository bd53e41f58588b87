/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pidfds of single threads (PIDFD_THREAD): two numbers of one description, and another one that does not block. Proof: which
 * threads they are of, flags, what is one description; a signal that is sent through one waits for that thread alone; in the end
 * the thread ends and its pidfd tells that, the other's does not.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/uapi.h"

enum { FIRST = 20, AGAIN, OTHER, THREADS = 2 };

struct state {
	volatile pid_t tids[THREADS];
	volatile int end;
	const struct program *program;
};

static struct state state_of;

static void *thread_main(void *number)
{
	long i = (long)number;

	struct program role = program_role(state_of.program, i ? "second" : "first");

	program_note_volatile(&role);
	state_of.tids[i] = gettid();
	while (i || !state_of.end)
		sleep_ms(2);
	return NULL;
}

/* Signals that wait for one thread. */
static unsigned long long waiting(pid_t tid)
{
	char path[64], line[128];
	unsigned long long set = 0;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "SigPnd: %llx", &set) == 1)
			break;
	if (f)
		fclose(f);
	return set;
}

static void check_sends(struct program *p, int fd, pid_t tid)
{
	expect_same(p, "signals before", (long long)waiting(tid), 0);
	expect_same(p, "sending nothing", syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), 0);
}

static bool over(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	return poll(&poll_fd, 1, 0) > 0;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	if (fcntl(FIRST, F_GETFD) < 0)
		return; /* "elsewhere" */

	expect_same(p, "of which thread", fdinfo_number(FIRST, "Pid: %llu"), s->tids[0]);
	expect_same(p, "the second number", fdinfo_number(AGAIN, "Pid: %llu"), s->tids[0]);
	expect_same(p, "the other", fdinfo_number(OTHER, "Pid: %llu"), s->tids[1]);
	expect_same(p, "flags", fcntl(FIRST, F_GETFL) & (O_NONBLOCK | O_EXCL), O_EXCL);
	expect_same(p, "flags of the other", fcntl(OTHER, F_GETFL) & (O_NONBLOCK | O_EXCL),
		    O_NONBLOCK | O_EXCL);
	expect_same(p, "cloexec", fcntl(FIRST, F_GETFD), FD_CLOEXEC);
	expect_same(p, "cloexec of the second number", fcntl(AGAIN, F_GETFD), 0);
	for (int fd = FIRST; fd <= OTHER; fd++)
		expect(p, !over(fd), "fd %d says that a thread has ended", fd);
	check_sends(p, FIRST, s->tids[0]);
	check_sends(p, OTHER, s->tids[1]);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	must(syscall(SYS_pidfd_send_signal, OTHER, SIGUSR1, NULL, 0));
	expect_same(p, "the signal waits for the other", (long long)waiting(s->tids[1]), 1 << (SIGUSR1 - 1));
	expect_same(p, "and not for the first", (long long)waiting(s->tids[0]), 0);
	s->end = 1;
	for (int i = 0; i < 400 && !over(AGAIN); i++)
		sleep_ms(5);
	expect(p, over(FIRST) && over(AGAIN), "the end of a thread is not told");
	expect(p, !over(OTHER), "the end of another thread is told");
}

static void spoil(void *state)
{
	(void)state;
	must(dup3(OTHER, AGAIN, O_CLOEXEC));
}

static void place(pid_t tid, unsigned flags, int number)
{
	int fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD | flags);

	if (fd < 0 && errno == EINVAL)
		program_lacks("pidfds of threads (6.9)");
	must(fd);
	must(dup3(fd, number, O_CLOEXEC));
	close(fd);
}

static void watch(void)
{
	struct epoll_event event = {.events = EPOLLIN};

	int fd = must(epoll_create1(EPOLL_CLOEXEC));

	must(epoll_ctl(fd, EPOLL_CTL_ADD, OTHER, &event));
}

/* A child that has the descriptors, the parent no more if it is alone. */
static void hold(bool alone)
{
	if (!must(fork()))
		for (;;)
			pause();
	for (int fd = FIRST; alone && fd <= OTHER; fd++)
		close(fd);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	sigset_t usr1;
	pthread_t thread;

	program_start(&p, argc, argv);
	state_of.program = &p;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	must(sigprocmask(SIG_BLOCK, &usr1, NULL));
	for (long i = 0; i < THREADS; i++) {
		pthread_create(&thread, NULL, thread_main, (void *)i);
		while (!state_of.tids[i])
			sleep_ms(1);
	}
	place(state_of.tids[0], 0, FIRST);
	must(dup2(FIRST, AGAIN));
	place(state_of.tids[1], PIDFD_NONBLOCK, OTHER);
	/* What cannot be dumped, for the tests that ask for a refusal. */
	if (program_told(argc, argv, "watched"))
		watch();
	if (program_told(argc, argv, "inherited") || program_told(argc, argv, "elsewhere"))
		hold(program_told(argc, argv, "elsewhere"));
	program_note_volatile(&p);
	return program_serve(&p, &ops, &state_of);
}
