/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX timers of each way to notify, on several clocks, with a gap in their identifiers. The raw system calls are
 * used, so that the identifiers are the kernel's. Proof: /proc/self/timers as at the start, intervals, what is left,
 * and a short timer that goes on ticking with its value.
 */
#include "program.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { TICK_NS = 10000000, TICK_VALUE = 31337, ANSWER_MS = 3000, TEXT_BYTES = 2048 };

struct timer {
	const char *name;
	clockid_t clock;
	int notify;
	int signal; /* added to SIGRTMIN */
	long value_s;
	long interval_ns;
	bool absolute;
	bool removed; /* leaves a gap in the identifiers */
	int id;
	int64_t left_ns;    /* as last seen */
	int64_t seen_at_ns; /* then, on its own clock */
};

static struct timer timers[] = {
	{"ticking", CLOCK_MONOTONIC, SIGEV_SIGNAL, 1, 0, TICK_NS, false, false, 0, 0, 0},
	{"gap", CLOCK_MONOTONIC, SIGEV_SIGNAL, 2, 100, 0, false, true, 0, 0, 0},
	{"silent", CLOCK_MONOTONIC, SIGEV_NONE, 0, 4000, 123456789, false, false, 0, 0, 0},
	{"to a thread", CLOCK_BOOTTIME, SIGEV_THREAD_ID, 3, 5000, 0, false, false, 0, 0, 0},
	{"absolute", CLOCK_REALTIME, SIGEV_SIGNAL, 4, 6000, 500, true, false, 0, 0, 0},
	{"processor time", CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, 5, 7000, 0, false, false, 0, 0, 0},
	{"disarmed", CLOCK_MONOTONIC, SIGEV_SIGNAL, 6, 0, 0, false, false, 0, 0, 0},
};

struct state {
	const struct program *program;
	char listing[TEXT_BYTES]; /* /proc/self/timers */
	unsigned long ticks;
	volatile pid_t thread;
};

static volatile unsigned long ticks, wrong_value;

static int64_t to_ns(const struct timespec *t)
{
	return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

/* Between dump and restore some clocks may stand still and others not. */
static int64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return to_ns(&t);
}

static void on_tick(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	ticks += 1 + (unsigned long)info->si_overrun;
	wrong_value += info->si_value.sival_int != TICK_VALUE || info->si_code != SI_TIMER;
}

static void read_listing(char text[static TEXT_BYTES])
{
	int fd = open("/proc/self/timers", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, TEXT_BYTES - 1);

	text[n > 0 ? n : 0] = '\0';
	close(fd);
}

static void timer_make(struct timer *t, pid_t thread)
{
	struct sigevent event = {.sigev_notify = t->notify, .sigev_signo = SIGRTMIN + t->signal};
	struct itimerspec spec = {.it_value = {t->value_s, t->interval_ns},
				  .it_interval = {0, t->interval_ns}};

	event.sigev_value.sival_int = TICK_VALUE;
	if (t->notify == SIGEV_THREAD_ID)
		event.sigev_notify_thread_id = thread;
	if (t->absolute) {
		clock_gettime(t->clock, &spec.it_value);
		spec.it_value.tv_sec += t->value_s;
	}
	must(syscall(SYS_timer_create, t->clock, &event, &t->id));
	must(syscall(SYS_timer_settime, t->id, t->absolute ? TIMER_ABSTIME : 0, &spec, NULL));
}

static void timers_look(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		struct itimerspec now = {0};
		syscall(SYS_timer_gettime, timers[i].id, &now);
		timers[i].left_ns = to_ns(&now.it_value);
		timers[i].seen_at_ns = now_ns(timers[i].clock);
	}
}

static void timer_verify(struct program *p, const struct timer *t)
{
	struct itimerspec now = {0};

	if (syscall(SYS_timer_gettime, t->id, &now) < 0) {
		program_bad(p, "%s: no timer has the identifier %d", t->name, t->id);
		return;
	}
	expect_same(p, t->name, to_ns(&now.it_interval), t->interval_ns);
	int64_t left = to_ns(&now.it_value), passed = now_ns(t->clock) - t->seen_at_ns;
	if (!t->value_s)
		return;
	expect(p, left > 0 && left <= t->left_ns, "%s: %lld ns are left, %lld were", t->name, (long long)left,
	       (long long)t->left_ns);
	expect(p, t->left_ns - left <= passed + 50000000, "%s: %lld ns went by in %lld", t->name,
	       (long long)(t->left_ns - left), (long long)passed);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	char listing[TEXT_BYTES];

	read_listing(listing);
	expect(p, !strcmp(listing, s->listing), "/proc/self/timers changed");
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		if (!timers[i].removed)
			timer_verify(p, &timers[i]);
	for (int i = 0; i < ANSWER_MS && ticks < s->ticks + 4; i++)
		sleep_ms(1);
	expect(p, ticks >= s->ticks + 4, "the short timer ticks no more");
	expect_same(p, "signals with another value or code", wrong_value, 0);
	s->ticks = ticks;
	timers_look();
}

static void spoil(void *state)
{
	(void)state;
	syscall(SYS_timer_delete, timers[2].id);
}

static void *thread_main(void *argument)
{
	struct state *s = argument;

	s->thread = (pid_t)syscall(SYS_gettid);
	for (;;)
		pause();
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
	static struct state s;
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	s.program = &p;
	must(sigaction(SIGRTMIN + 1, &action, NULL));
	if (pthread_create(&handle, NULL, thread_main, &s) != 0)
		program_die("pthread_create");
	while (!s.thread)
		sleep_ms(1);
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		timer_make(&timers[i], s.thread);
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		if (timers[i].removed)
			must(syscall(SYS_timer_delete, timers[i].id));
	read_listing(s.listing);
	timers_look();
	return program_serve(&p, &ops, &s);
}
