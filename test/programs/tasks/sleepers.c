/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread in each system call that sleeps. Proof: nobody has returned, with EINTR or otherwise; at the end each call gets
 * what it waits for and returns what it should. A sleep that was given somewhere to write what is left of it goes on with
 * that, and a call with its own signal mask has it.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SLEEP_S = 500, STARTED_MS = 60 };

struct sleeper {
	const char *name;
	long (*call)(struct sleeper *s);
	void (*wake)(struct sleeper *s);
	long want;      /* result */
	int want_errno; /* when the result is -1 */
	int fd[2];
	pid_t tid, child;
	uint32_t word;
	struct timespec time;
	volatile long result;
	volatile int code;
	volatile bool returned;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_signal(int number)
{
	(void)number;
}

static uint64_t only(int number)
{
	return 1ull << (number - 1);
}

/* ------------------------------------------------------------------ wakers */

static void wake_byte(struct sleeper *s)
{
	must(write(s->fd[1], "x", 1));
}

static void wake_count(struct sleeper *s)
{
	const uint64_t one = 1;

	must(write(s->fd[0], &one, sizeof(one)));
}

static void wake_futex(struct sleeper *s)
{
	s->word = 1;
	syscall(SYS_futex, &s->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void wake_usr1(struct sleeper *s)
{
	must(syscall(SYS_tgkill, getpid(), s->tid, SIGUSR1));
}

static void wake_usr2(struct sleeper *s)
{
	must(syscall(SYS_tgkill, getpid(), s->tid, SIGUSR2));
}

static void wake_child(struct sleeper *s)
{
	kill(s->child, SIGKILL);
}

/* ------------------------------------------------------------------- calls */

static long call_read(struct sleeper *s)
{
	char byte;

	return syscall(SYS_read, s->fd[0], &byte, 1);
}

static long call_recv(struct sleeper *s)
{
	char byte;

	return recv(s->fd[0], &byte, 1, 0);
}

static long call_poll(struct sleeper *s)
{
	struct pollfd p = {s->fd[0], POLLIN, 0};

	return syscall(SYS_poll, &p, 1, -1);
}

static long call_poll_limit(struct sleeper *s)
{
	struct pollfd p = {s->fd[0], POLLIN, 0};

	return syscall(SYS_poll, &p, 1, SLEEP_S * 1000);
}

static long call_ppoll(struct sleeper *s)
{
	struct pollfd p = {s->fd[0], POLLIN, 0};
	const struct timespec limit = {SLEEP_S, 0};

	return ppoll(&p, 1, &limit, NULL);
}

static long call_select(struct sleeper *s)
{
	fd_set set;
	struct timeval limit = {SLEEP_S, 0};

	FD_ZERO(&set);
	FD_SET(s->fd[0], &set);
	return select(s->fd[0] + 1, &set, NULL, NULL, &limit);
}

static long call_epoll(struct sleeper *s)
{
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = must(epoll_create1(EPOLL_CLOEXEC));

	must(epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd[0], &event));
	return epoll_wait(epoll, &event, 1, SLEEP_S * 1000);
}

/* SIGUSR2 is blocked everywhere but in this call. */
static long call_epoll_mask(struct sleeper *s)
{
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = must(epoll_create1(EPOLL_CLOEXEC));
	sigset_t mask;

	(void)s;
	sigemptyset(&mask);
	return epoll_pwait(epoll, &event, 1, -1, &mask);
}

static long call_futex(struct sleeper *s)
{
	return syscall(SYS_futex, &s->word, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static long call_futex_limit(struct sleeper *s)
{
	const struct timespec limit = {SLEEP_S, 0};

	return syscall(SYS_futex, &s->word, FUTEX_WAIT, 0, &limit, NULL, 0);
}

static long call_futex_until(struct sleeper *s)
{
	struct timespec limit;

	clock_gettime(CLOCK_MONOTONIC, &limit);
	limit.tv_sec += SLEEP_S;
	return syscall(SYS_futex, &s->word, FUTEX_WAIT_BITSET, 0, &limit, NULL, FUTEX_BITSET_MATCH_ANY);
}

static long call_nanosleep(struct sleeper *s)
{
	/* On the stack: the kernel writes there whenever somebody looks. */
	struct timespec time = {SLEEP_S, 0};
	long result = syscall(SYS_nanosleep, &time, &time);

	s->time = time;
	return result;
}

static long call_sleep_until(struct sleeper *s)
{
	clock_gettime(CLOCK_MONOTONIC, &s->time);
	s->time.tv_sec += SLEEP_S;
	return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &s->time, NULL);
}

static long call_sigwait(struct sleeper *s)
{
	const uint64_t set = only(SIGUSR2);

	(void)s;
	return syscall(SYS_rt_sigtimedwait, &set, NULL, NULL, sizeof(set));
}

static long call_sigwait_limit(struct sleeper *s)
{
	const uint64_t set = only(SIGUSR2);
	const struct timespec limit = {SLEEP_S, 0};

	(void)s;
	return syscall(SYS_rt_sigtimedwait, &set, NULL, &limit, sizeof(set));
}

static long call_sigsuspend(struct sleeper *s)
{
	const uint64_t mask = 0;

	(void)s;
	return syscall(SYS_rt_sigsuspend, &mask, sizeof(mask));
}

static long call_pause(struct sleeper *s)
{
	(void)s;
	return syscall(SYS_pause);
}

static long call_wait(struct sleeper *s)
{
	return syscall(SYS_wait4, s->child, NULL, 0, NULL) == s->child ? 1 : -1;
}

static long call_waitid(struct sleeper *s)
{
	siginfo_t info;

	return syscall(SYS_waitid, P_PID, s->child, &info, WEXITED, NULL);
}

static long call_count(struct sleeper *s)
{
	uint64_t value;

	return read(s->fd[0], &value, sizeof(value));
}

static struct sleeper sleepers[] = {
	{.name = "read", .call = call_read, .wake = wake_byte, .want = 1},
	{.name = "recv", .call = call_recv, .wake = wake_byte, .want = 1},
	{.name = "poll", .call = call_poll, .wake = wake_byte, .want = 1},
	{.name = "poll with a limit", .call = call_poll_limit, .wake = wake_byte, .want = 1},
	{.name = "ppoll", .call = call_ppoll, .wake = wake_byte, .want = 1},
	{.name = "select", .call = call_select, .wake = wake_byte, .want = 1},
	{.name = "epoll_wait", .call = call_epoll, .wake = wake_byte, .want = 1},
	{.name = "epoll_pwait", .call = call_epoll_mask, .wake = wake_usr2, .want = -1, .want_errno = EINTR},
	{.name = "futex", .call = call_futex, .wake = wake_futex, .want = 0},
	{.name = "futex with a limit", .call = call_futex_limit, .wake = wake_futex, .want = 0},
	{.name = "futex until a time", .call = call_futex_until, .wake = wake_futex, .want = 0},
	{.name = "nanosleep", .call = call_nanosleep, .wake = wake_usr1, .want = -1, .want_errno = EINTR},
	{.name = "clock_nanosleep",
	 .call = call_sleep_until,
	 .wake = wake_usr1,
	 .want = -1,
	 .want_errno = EINTR},
	{.name = "sigwaitinfo", .call = call_sigwait, .wake = wake_usr2, .want = SIGUSR2},
	{.name = "sigtimedwait", .call = call_sigwait_limit, .wake = wake_usr2, .want = SIGUSR2},
	{.name = "sigsuspend", .call = call_sigsuspend, .wake = wake_usr2, .want = -1, .want_errno = EINTR},
	{.name = "pause", .call = call_pause, .wake = wake_usr1, .want = -1, .want_errno = EINTR},
	{.name = "wait4", .call = call_wait, .wake = wake_child, .want = 1},
	{.name = "waitid", .call = call_waitid, .wake = wake_child, .want = 0},
	{.name = "read of an eventfd", .call = call_count, .wake = wake_count, .want = 8},
};

static double began;

static void *sleeper_main(void *argument)
{
	struct sleeper *s = argument;

	s->tid = (pid_t)syscall(SYS_gettid);
	s->result = s->call(s);
	s->code = s->result < 0 ? errno : 0;
	s->returned = true;
	return NULL;
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sleepers); i++)
		expect(p, !sleepers[i].returned, "%s returned %ld (errno %d)", sleepers[i].name,
		       sleepers[i].result, sleepers[i].code);
}

static void sleeper_finish(struct program *p, struct sleeper *s)
{
	s->wake(s);
	for (int i = 0; i < 1000 && !s->returned; i++)
		sleep_ms(2);
	expect(p, s->returned, "%s does not return", s->name);
	expect(p, s->result == s->want && s->code == s->want_errno,
	       "%s returned %ld (errno %d), not %ld (errno %d)", s->name, s->result, s->code, s->want,
	       s->want_errno);
}

static void finish(struct program *p, void *state)
{
	verify(p, state);
	for (size_t i = 0; i < ARRAY_SIZE(sleepers); i++) {
		struct sleeper *s = &sleepers[i];
		sleeper_finish(p, s);
		if (s->call != call_nanosleep)
			continue;
		/* Interrupted by us now: what is left and what passed make the whole. */
		double slept = now() - began, rest = (double)s->time.tv_sec + (double)s->time.tv_nsec / 1e9;
		expect(p, slept + rest > SLEEP_S - 2 && slept + rest < SLEEP_S + 2,
		       "slept %.2f s, %.2f s are left", slept, rest);
	}
}

static void spoil(void *state)
{
	(void)state;
	wake_byte(&sleepers[0]);
	while (!sleepers[0].returned)
		sleep_ms(1);
}

static void sleeper_start(const struct program *p, struct sleeper *s)
{
	pthread_t thread;

	if (s->call == call_count)
		s->fd[0] = s->fd[1] = must(eventfd(0, EFD_CLOEXEC));
	else if (s->call == call_recv)
		must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->fd));
	else if (s->wake == wake_byte)
		must(pipe2(s->fd, O_CLOEXEC));
	if (s->wake == wake_child) {
		s->child = must(fork());
		if (!s->child) {
			struct program child = program_role(p, s->call == call_wait ? "child" : "child-2");
			program_note_volatile(&child);
			for (;;)
				pause();
		}
	}
	if (pthread_create(&thread, NULL, sleeper_main, s) != 0)
		program_die("pthread_create");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct program p;
	sigset_t blocked;

	program_start(&p, argc, argv);
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	began = now();
	for (size_t i = 0; i < ARRAY_SIZE(sleepers); i++)
		sleeper_start(&p, &sleepers[i]);
	sleep_ms(STARTED_MS);
	return program_serve(&p, &ops, NULL);
}
