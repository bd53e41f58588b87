/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Periodic timerfds that nobody reads: the kernel lets such a timer stand still and counts when it is asked.
 * Proof: at the end each has expired as often as its clock says, whatever happened in between.
 */
#include "program.h"

#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MS = 1000000 };

static struct timer {
	clockid_t clock;
	int64_t period_ns;
	bool absolute;
	int fd;
	int64_t start_ns; /* of the first period */
} timers[] = {
	{CLOCK_MONOTONIC, 20 * MS, false, -1, 0},
	{CLOCK_BOOTTIME, 70 * MS, false, -1, 0},
	{CLOCK_MONOTONIC, 50 * MS, true, -1, 0},
};

static int64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct timespec to_timespec(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static void make(struct timer *t)
{
	struct itimerspec spec = {.it_interval = to_timespec(t->period_ns)};

	t->fd = must(timerfd_create(t->clock, TFD_NONBLOCK | TFD_CLOEXEC));
	t->start_ns = now_ns(t->clock);
	spec.it_value = to_timespec(t->absolute ? t->start_ns + t->period_ns : t->period_ns);
	must(timerfd_settime(t->fd, t->absolute ? TFD_TIMER_ABSTIME : 0, &spec, NULL));
}

/* Looking at fdinfo does not make a timer go on. */
static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		expect(p, fdinfo_number(timers[i].fd, "ticks: %llu") >= 1, "timer %zu has not expired", i);
}

static void finish(struct program *p, void *state)
{
	verify(p, state);
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		const struct timer *t = &timers[i];
		uint64_t ticks = 0;
		int64_t periods = (now_ns(t->clock) - t->start_ns) / t->period_ns;
		expect_same(p, "reading", read(t->fd, &ticks, sizeof(ticks)), sizeof(ticks));
		expect(p, (int64_t)ticks >= periods - 1 && (int64_t)ticks <= periods + 1,
		       "timer %zu expired %lld times in %lld periods", i, (long long)ticks,
		       (long long)periods);
		sleep_ms(2 * t->period_ns / MS);
		expect_same(p, "reading", read(t->fd, &ticks, sizeof(ticks)), sizeof(ticks));
	}
}

static void spoil(void *state)
{
	uint64_t ticks;

	(void)state;
	timerfd_settime(timers[0].fd, 0, &(const struct itimerspec){{0, 0}, {0, 0}}, NULL);
	(void)!read(timers[0].fd, &ticks, sizeof(ticks));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		make(&timers[i]);
	sleep_ms(150);
	return program_serve(&p, &ops, NULL);
}
