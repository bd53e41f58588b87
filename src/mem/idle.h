/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether processes run, by their processor time: who reads their memory beside them leaves them a processor as long as they do, and
 * uses it otherwise.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/vec.h"

/* Zero at first, and whose they are; asked by one thread at a time. */
struct mem_idle {
	VEC(pid_t) pids;
	uint64_t ran_ns;   /* what they had used when it was asked last */
	uint64_t since_ns; /* since when nothing was added to it; 0: it was not asked yet */
};

/*
 * True: none of them has run for a while. False also where that cannot be told, or takes too long. What they use between two
 * questions is seen, however short it was.
 */
bool mem_idle(struct mem_idle *idle);
