/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signalfds with different masks, signals waiting in them. Proof: masks and flags from fdinfo, pending set; at the end
 * the signals are read through the descriptors, with their values.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { QUEUED = 3, FIRST_VALUE = 500 };

struct state {
	int fds[2];
	uint64_t masks[2]; /* bit n - 1 for signal n */
	int flags[2];
};

static uint64_t bit(int number)
{
	return 1ULL << (number - 1);
}

static uint64_t mask_of_fd(int fd)
{
	char path[64], line[256];
	unsigned long long value = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "sigmask: %llx", &value) == 1)
			break;
	if (f)
		fclose(f);
	return value;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	sigset_t pending;

	for (int i = 0; i < 2; i++) {
		expect_same(p, "mask", mask_of_fd(s->fds[i]), s->masks[i]);
		expect_same(p, "flags", fcntl(s->fds[i], F_GETFL), s->flags[i]);
	}
	sigpending(&pending);
	expect(p, sigismember(&pending, SIGUSR1) && sigismember(&pending, SIGRTMIN + 3),
	       "a signal is not pending");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct signalfd_siginfo info;

	verify(p, state);
	expect_same(p, "reading SIGUSR1", read(s->fds[0], &info, sizeof(info)), sizeof(info));
	expect_same(p, "its number", info.ssi_signo, SIGUSR1);
	for (int i = 0; i < QUEUED; i++) {
		expect_same(p, "reading a queued signal", read(s->fds[1], &info, sizeof(info)), sizeof(info));
		expect_same(p, "its number", info.ssi_signo, SIGRTMIN + 3);
		expect_same(p, "its value", info.ssi_int, FIRST_VALUE + i);
		expect_same(p, "its sender", info.ssi_pid, getpid());
	}
	for (int i = 0; i < 2; i++)
		expect(p, read(s->fds[i], &info, sizeof(info)) < 0 && errno == EAGAIN,
		       "more signals than were sent");
}

static void spoil(void *state)
{
	struct state *s = state;
	sigset_t none;

	sigemptyset(&none);
	signalfd(s->fds[0], &none, 0);
}

static int make(uint64_t mask)
{
	sigset_t set;

	sigemptyset(&set);
	for (int n = 1; n <= SIGRTMAX; n++)
		if (mask & bit(n))
			sigaddset(&set, n);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return must(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct state s = {.masks = {bit(SIGUSR1) | bit(SIGHUP), bit(SIGRTMIN + 3) | bit(SIGRTMAX)}};
	struct program p;

	program_start(&p, argc, argv);
	for (int i = 0; i < 2; i++) {
		s.fds[i] = make(s.masks[i]);
		s.flags[i] = fcntl(s.fds[i], F_GETFL);
	}
	must(kill(getpid(), SIGUSR1));
	for (int i = 0; i < QUEUED; i++)
		must(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = FIRST_VALUE + i}));
	return program_serve(&p, &ops, &s);
}
