/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timerfds on all clocks (with "alarm" on those, too, that wake the machine): long one-shot, periodic and ticking,
 * expired and unread, disarmed, absolute with cancel-on-set. Proof: interval, what is left against the time that
 * passed, unread expirations and flags from fdinfo; the ticking one goes on; at the end the expired one gives its
 * count.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#ifndef TFD_TIMER_CANCEL_ON_SET
#define TFD_TIMER_CANCEL_ON_SET (1 << 1)
#endif

enum { TICK_NS = 10000000, ANSWER_MS = 3000 };

enum use { LONG, TICKING, EXPIRED, DISARMED };

static struct timer {
	const char *name;
	clockid_t clock;
	enum use use;
	int set_flags;
	int flags;
	long value_s;
	long interval_ns;
	bool alarm; /* only with "alarm": needs a clock that can wake the machine */
	bool more;  /* only with "more" */
	int fd;
	int64_t left_ns;
	int64_t seen_at_ns; /* when that much was left, on the clock that the timer follows */
} timers[] = {
	{"monotonic", CLOCK_MONOTONIC, LONG, 0, TFD_NONBLOCK, 5000, 0, false, false, -1, 0, 0},
	{"realtime", CLOCK_REALTIME, LONG, 0, TFD_CLOEXEC, 6000, 250000000, false, false, -1, 0, 0},
	{"boottime", CLOCK_BOOTTIME, LONG, 0, 0, 7000, 0, false, false, -1, 0, 0},
	{"realtime alarm", CLOCK_REALTIME_ALARM, LONG, 0, 0, 8000, 0, true, false, -1, 0, 0},
	{"boottime alarm", CLOCK_BOOTTIME_ALARM, LONG, 0, 0, 9000, 0, true, false, -1, 0, 0},
	{"absolute", CLOCK_MONOTONIC, LONG, TFD_TIMER_ABSTIME, 0, 3000, 0, false, true, -1, 0, 0},
	{"cancel on set", CLOCK_REALTIME, LONG, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, 0, 4000, 0,
	 false, true, -1, 0, 0},
	{"ticking", CLOCK_MONOTONIC, TICKING, 0, TFD_NONBLOCK, 0, TICK_NS, false, true, -1, 0, 0},
	{"expired", CLOCK_BOOTTIME, EXPIRED, 0, TFD_NONBLOCK, 0, 0, false, false, -1, 0, 0},
	{"disarmed", CLOCK_MONOTONIC, DISARMED, 0, TFD_NONBLOCK, 0, 0, false, false, -1, 0, 0},
};

static int64_t to_ns(const struct timespec *t)
{
	return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

/* Only an absolute timer follows the time of day, which goes on while the program does not. */
static int64_t now_ns(const struct timer *timer)
{
	bool of_day = timer->clock == CLOCK_REALTIME && timer->set_flags & TFD_TIMER_ABSTIME;
	struct timespec t;

	clock_gettime(of_day ? CLOCK_REALTIME : CLOCK_MONOTONIC, &t);
	return to_ns(&t);
}

static void timer_make(struct timer *t)
{
	struct itimerspec spec = {.it_value = {t->value_s, t->interval_ns},
				  .it_interval = {0, t->interval_ns}};

	t->fd = timerfd_create(t->clock, t->flags);
	if (t->fd < 0 && t->alarm)
		program_lacks("timerfds that wake the machine");
	must(t->fd);
	if (t->use == EXPIRED)
		spec.it_value.tv_nsec = 1;
	if (t->set_flags & TFD_TIMER_ABSTIME) {
		clock_gettime(t->clock, &spec.it_value);
		spec.it_value.tv_sec += t->value_s;
	}
	must(timerfd_settime(t->fd, t->set_flags, &spec, NULL));
}

static void look(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		struct itimerspec now = {0};
		if (timers[i].fd >= 0)
			timerfd_gettime(timers[i].fd, &now);
		timers[i].left_ns = to_ns(&now.it_value);
		timers[i].seen_at_ns = now_ns(&timers[i]);
	}
}

static void verify_long(struct program *p, const struct timer *t, int64_t left, int64_t passed)
{
	expect(p, left > 0 && left <= t->left_ns, "%s: %lld ns are left, %lld were", t->name, (long long)left,
	       (long long)t->left_ns);
	expect(p, t->left_ns - left <= passed + 50000000, "%s: %lld ns went by in %lld", t->name,
	       (long long)(t->left_ns - left), (long long)passed);
	/* An absolute timer keeps its date. */
	expect(p, !(t->set_flags & TFD_TIMER_ABSTIME) || t->left_ns - left >= passed - 50000000,
	       "%s: only %lld ns went by in %lld", t->name, (long long)(t->left_ns - left),
	       (long long)passed);
	expect_same(p, "unread expirations", fdinfo_number(t->fd, "ticks: %llu"), 0);
}

static void verify_ticking(struct program *p, const struct timer *t)
{
	uint64_t ticks = 0, sum = 0;

	for (int i = 0; i < ANSWER_MS && sum < 4; i++) {
		if (read(t->fd, &ticks, sizeof(ticks)) == (ssize_t)sizeof(ticks))
			sum += ticks;
		sleep_ms(1);
	}
	expect(p, sum >= 4, "%s: no more ticks", t->name);
}

static void timer_verify(struct program *p, const struct timer *t)
{
	struct itimerspec now = {0};

	expect_same(p, "timerfd_gettime", timerfd_gettime(t->fd, &now), 0);
	expect_same(p, t->name, to_ns(&now.it_interval), t->interval_ns);
	expect_same(p, "clock", fdinfo_number(t->fd, "clockid: %llu"), t->clock);
	expect_same(p, "settime flags", fdinfo_number(t->fd, "settime flags: 0%llo"), t->set_flags);
	expect_same(p, "O_NONBLOCK", fcntl(t->fd, F_GETFL) & O_NONBLOCK, t->flags & TFD_NONBLOCK);
	expect_same(p, "close-on-exec", fcntl(t->fd, F_GETFD), t->flags & TFD_CLOEXEC ? FD_CLOEXEC : 0);
	if (t->use == LONG)
		verify_long(p, t, to_ns(&now.it_value), now_ns(t) - t->seen_at_ns);
	if (t->use == TICKING)
		verify_ticking(p, t);
	if (t->use == EXPIRED)
		expect_same(p, "unread expirations", fdinfo_number(t->fd, "ticks: %llu"), 1);
	if (t->use == DISARMED)
		expect_same(p, "what is left of a disarmed timer", to_ns(&now.it_value), 0);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		if (timers[i].fd >= 0)
			timer_verify(p, &timers[i]);
	look();
}

static void finish(struct program *p, void *state)
{
	uint64_t ticks = 0;

	verify(p, state);
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		if (timers[i].use != EXPIRED && timers[i].use != DISARMED)
			continue;
		ssize_t n = read(timers[i].fd, &ticks, sizeof(ticks));
		if (timers[i].use == EXPIRED)
			expect(p, n == (ssize_t)sizeof(ticks) && ticks == 1,
			       "the expired timer gives %zd, %d", n, (int)ticks);
		else
			expect(p, n < 0 && errno == EAGAIN, "the disarmed timer expired");
	}
}

static void spoil(void *state)
{
	(void)state;
	timerfd_settime(timers[1].fd, 0, &(const struct itimerspec){{0, 5}, {9, 0}}, NULL);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	bool alarms = program_told(argc, argv, "alarm");
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		if ((alarms || !timers[i].alarm) && (p.more || !timers[i].more))
			timer_make(&timers[i]);
	sleep_ms(5);
	look();
	return program_serve(&p, &ops, NULL);
}
