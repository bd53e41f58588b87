/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three interval timers. The main process has long ones and compares what is left of them with the time that
 * passed; a child has a short ITIMER_REAL and counts its signals. Proof: intervals are kept, what is left never
 * grows and shrinks no faster than time passes, and ticks go on.
 */
#include "program.h"

#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { TICK_US = 20000, ANSWER_MS = 3000 };

struct state {
	struct itimerval set[3];
	int64_t left_us[3];  /* as last seen */
	int64_t seen_at_us;  /* CLOCK_MONOTONIC then */
	unsigned long ticks; /* as last seen, in the child */
};

static const char *const names[3] = {
	[ITIMER_REAL] = "ITIMER_REAL", [ITIMER_VIRTUAL] = "ITIMER_VIRTUAL", [ITIMER_PROF] = "ITIMER_PROF"};

static volatile unsigned long ticks;

static int64_t to_us(const struct timeval *t)
{
	return (int64_t)t->tv_sec * 1000000 + t->tv_usec;
}

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void on_alarm(int number)
{
	(void)number;
	ticks++;
}

static void look(struct state *s)
{
	for (int which = 0; which < 3; which++) {
		struct itimerval now;
		getitimer(which, &now);
		s->left_us[which] = to_us(&now.it_value);
	}
	s->seen_at_us = now_us();
}

static void verify(struct program *p, void *state)
{
	struct state *s = state, before = *s;

	look(s);
	int64_t passed = s->seen_at_us - before.seen_at_us;
	for (int which = 0; which < 3; which++) {
		struct itimerval now;
		int64_t went = before.left_us[which] - s->left_us[which];

		getitimer(which, &now);
		expect_same(p, names[which], to_us(&now.it_interval), to_us(&s->set[which].it_interval));
		/* setitimer(2) adds a tick to the two that count processor time, and counts that time in ticks. */
		expect(p, went >= (which == ITIMER_REAL ? 0 : -10000),
		       "%s: %lld us more are left than before", names[which], (long long)-went);
		expect(p, went <= passed + 50000, "%s: %lld us went by in %lld us", names[which],
		       (long long)went, (long long)passed);
	}
	expect(p, before.left_us[ITIMER_REAL] - s->left_us[ITIMER_REAL] > 0, "ITIMER_REAL stands still");
}

static void spoil(void *state)
{
	(void)state;
	setitimer(ITIMER_VIRTUAL, &(struct itimerval){{3, 0}, {90000, 0}}, NULL);
}

static void child_verify(struct program *p, void *state)
{
	struct state *s = state;
	unsigned long want = s->ticks + 3;

	for (int i = 0; i < ANSWER_MS && ticks < want; i++)
		sleep_ms(1);
	expect(p, ticks >= want, "the timer ticks no more: %lu ticks", ticks);
	s->ticks = ticks;
}

static int child_main(const struct program *parent)
{
	static const struct program_ops ops = {.verify = child_verify};
	struct state s = {.ticks = 0};
	struct program p = program_role(parent, "child");

	signal(SIGALRM, on_alarm);
	must(setitimer(ITIMER_REAL, &(struct itimerval){{0, TICK_US}, {0, TICK_US}}, NULL));
	return program_serve(&p, &ops, &s);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {.set = {
				  [ITIMER_REAL] = {{7, 250000}, {5000, 0}},
				  [ITIMER_VIRTUAL] = {{3, 0}, {0, 900000}},
				  [ITIMER_PROF] = {{0, 0}, {0, 800000}},
			  }};
	struct program p;

	program_start(&p, argc, argv);
	if (!must(fork()))
		return child_main(&p);
	program_await(&p, "child");
	for (int which = 0; which < 3; which++)
		must(setitimer(which, &s.set[which], NULL));
	look(&s);
	return program_serve(&p, &ops, &s);
}
