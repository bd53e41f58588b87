/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Uses the vdso all the time. Proof: each clock read through it lies between two readings by system call, clocks never
 * go back, and not less time has passed than the program slept.
 */
#include "program.h"

#include <sched.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const struct {
	clockid_t id;
	const char *name;
} clocks[] = {
	{CLOCK_MONOTONIC, "CLOCK_MONOTONIC"},
	{CLOCK_BOOTTIME, "CLOCK_BOOTTIME"},
	{CLOCK_REALTIME, "CLOCK_REALTIME"},
};

struct state {
	int64_t last_ns[ARRAY_SIZE(clocks)];
	int64_t went_back_ns[ARRAY_SIZE(clocks)]; /* most that step() saw; 0 = never */
	unsigned long calls;
};

static int64_t to_ns(const struct timespec *t)
{
	return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

static int64_t by_vdso(clockid_t id)
{
	struct timespec t = {0};

	clock_gettime(id, &t);
	return to_ns(&t);
}

static int64_t by_call(clockid_t id)
{
	struct timespec t = {0};

	syscall(SYS_clock_gettime, id, &t);
	return to_ns(&t);
}

/* CLOCK_REALTIME may be set by anyone; only the other two promise not to go back. */
static void step(void *state)
{
	struct state *s = state;

	for (int i = 0; i < 3000; i++) {
		size_t c = (size_t)(i % 2);
		int64_t now = by_vdso(clocks[c].id);
		if (s->last_ns[c] - now > s->went_back_ns[c])
			s->went_back_ns[c] = s->last_ns[c] - now;
		s->last_ns[c] = now;
		s->calls++;
	}
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	unsigned cpu = 9999;

	for (size_t i = 0; i < ARRAY_SIZE(clocks); i++) {
		int64_t before = by_call(clocks[i].id), now = by_vdso(clocks[i].id),
			after = by_call(clocks[i].id);
		/* Adjusting CLOCK_REALTIME between two of them is not ours to judge. */
		if (clocks[i].id != CLOCK_REALTIME)
			expect(p, before <= now && now <= after,
			       "%s: %lld by the vdso, %lld and %lld by call", clocks[i].name, (long long)now,
			       (long long)before, (long long)after);
		else
			expect(p, now - before < 1000000000 && before - now < 1000000000, "%s is off",
			       clocks[i].name);
		expect(p, !s->went_back_ns[i], "%s went back by %lld ns", clocks[i].name,
		       (long long)s->went_back_ns[i]);
	}
	expect(p, s->last_ns[0] <= by_vdso(CLOCK_MONOTONIC), "CLOCK_MONOTONIC went back");
	expect(p, getcpu(&cpu, NULL) == 0 && cpu < 4096, "getcpu says %u", cpu);
	expect(p, s->calls > 0, "no call was made");
}

static void spoil(void *state)
{
	struct state *s = state;

	s->last_ns[0] += 1000000000000000;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .step = step};
	struct state s = {.calls = 0};
	struct program p;

	program_start(&p, argc, argv);
	step(&s);
	return program_serve(&p, &ops, &s);
}
