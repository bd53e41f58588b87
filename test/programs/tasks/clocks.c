/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks and what waits on them. Proof: CLOCK_MONOTONIC and CLOCK_BOOTTIME never go back and never jump ahead by more than
 * a minute, as read by the vdso and by the system call; a sleep to an absolute time ends when it should; timers for
 * relative and absolute times of both clocks go on, neither expired nor days away.
 */
#include "program.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { LATE_S = 5000, JUMP_S = 60, TICK_MS = 20 };

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};

struct state {
	int64_t last[ARRAY_SIZE(clocks)]; /* ns */
	int late[ARRAY_SIZE(clocks)];     /* timerfds that expire in LATE_S, set by absolute time */
	int64_t late_at[ARRAY_SIZE(clocks)];
	timer_t timers[ARRAY_SIZE(clocks)];
};

static int64_t ns_of(const struct timespec *t)
{
	return t->tv_sec * 1000000000ll + t->tv_nsec;
}

static struct timespec time_of(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static int64_t now(clockid_t clock)
{
	struct timespec t;

	must(clock_gettime(clock, &t));
	return ns_of(&t);
}

static int64_t now_by_call(clockid_t clock)
{
	struct timespec t;

	must((int)syscall(SYS_clock_gettime, clock, &t));
	return ns_of(&t);
}

static void check_near(struct program *p, const char *what, size_t i, int64_t left_ns, int64_t want_ns)
{
	int64_t off = left_ns - want_ns;

	expect(p, off > -JUMP_S * 1000000000ll && off < JUMP_S * 1000000000ll,
	       "%s of clock %d has %lld ms left, not %lld", what, (int)clocks[i],
	       (long long)(left_ns / 1000000), (long long)(want_ns / 1000000));
}

static void check_sleep(struct program *p, size_t i)
{
	int64_t end = now(clocks[i]) + TICK_MS * 1000000ll;
	struct timespec at = time_of(end);

	expect_same(p, "clock_nanosleep", clock_nanosleep(clocks[i], TIMER_ABSTIME, &at, NULL), 0);
	int64_t late = now(clocks[i]) - end;
	expect(p, late >= 0, "a sleep on clock %d ended %lld us early", (int)clocks[i],
	       (long long)(-late / 1000));
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	struct itimerspec left;

	for (size_t i = 0; i < ARRAY_SIZE(clocks); i++) {
		int64_t by_call = now_by_call(clocks[i]), by_vdso = now(clocks[i]);
		int64_t went = by_call - s->last[i];

		expect(p, went >= 0, "clock %d went back by %lld us", (int)clocks[i],
		       (long long)(-went / 1000));
		expect(p, went < JUMP_S * 1000000000ll, "clock %d jumped by %lld s", (int)clocks[i],
		       (long long)(went / 1000000000));
		expect(p, by_vdso >= by_call && by_vdso - by_call < 1000000000,
		       "the vdso's clock %d is %lld us off the kernel's", (int)clocks[i],
		       (long long)((by_vdso - by_call) / 1000));
		s->last[i] = by_vdso;
		must(timerfd_gettime(s->late[i], &left));
		check_near(p, "a timerfd", i, ns_of(&left.it_value), s->late_at[i] - by_vdso);
		must(timer_gettime(s->timers[i], &left));
		check_near(p, "a timer", i, ns_of(&left.it_value), s->late_at[i] - by_vdso);
		check_sleep(p, i);
	}
}

static void spoil(void *state)
{
	struct state *s = state;

	s->last[0] += 3600 * 1000000000ll;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(clocks); i++) {
		struct sigevent nothing = {.sigev_notify = SIGEV_NONE};

		s.last[i] = now(clocks[i]);
		s.late_at[i] = s.last[i] + LATE_S * 1000000000ll;
		struct itimerspec at = {.it_value = time_of(s.late_at[i])};
		s.late[i] = must(timerfd_create(clocks[i], TFD_CLOEXEC));
		must(timerfd_settime(s.late[i], TFD_TIMER_ABSTIME, &at, NULL));
		must(timer_create(clocks[i], &nothing, &s.timers[i]));
		must(timer_settime(s.timers[i], TIMER_ABSTIME, &at, NULL));
	}
	return program_serve(&p, &ops, &s);
}
