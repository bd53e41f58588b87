/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns telling a tree that waits from one that runs.
 *
 * Kernel interface: clock_getcpuclockid(3), clock_gettime(2) of another process's processor time.
 */
#include "mem/idle.h"

#include <time.h>

#include "base/log.h"

enum {
	IDLE_AFTER_NS = 20000000, /* a program that runs every few milliseconds runs */
	IDLE_MOST = 16,           /* more are not asked one by one */
};

/* 0: it cannot be told. */
static uint64_t idle_ran_ns(const struct mem_idle *idle)
{
	uint64_t sum = 1;
	for (size_t i = 0; i < idle->pids.n; i++) {
		struct timespec ran;
		clockid_t clock;
		if (clock_getcpuclockid(idle->pids.v[i], &clock) || clock_gettime(clock, &ran) < 0)
			return 0;
		sum += (uint64_t)ran.tv_sec * 1000000000u + (uint64_t)ran.tv_nsec;
	}
	return sum;
}

bool mem_idle(struct mem_idle *idle)
{
	uint64_t ran = idle->pids.n > IDLE_MOST ? 0 : idle_ran_ns(idle);
	uint64_t now = time_now_ns();
	if (!ran || !idle->since_ns || ran != idle->ran_ns)
		idle->since_ns = now;
	idle->ran_ns = ran;
	return ran && now - idle->since_ns >= IDLE_AFTER_NS;
}
