/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far a job is: numbers in memory that processes share. Who does the work only counts; who shows it looks now and then. All of it may be
 * NULL: then nobody wants to know.
 */
#pragma once

#include <stdint.h>

#include "base/macros.h"

enum progress_step {
	PROGRESS_NONE,
	PROGRESS_ROUND,  /* memory is stored while the tree runs */
	PROGRESS_HOOK,   /* a command of the user's runs */
	PROGRESS_MEMORY, /* memory is stored */
	PROGRESS_SYNC,   /* the image is synced and read back */
	PROGRESS_FILL,   /* memory is filled */
	PROGRESS_VERIFY, /* pages are compared with their checksums */
	PROGRESS_OVER,   /* what is left is waiting */
	PROGRESS_STEPS,
};

struct progress {
	uint32_t step;  /* enum progress_step */
	uint32_t round; /* PROGRESS_ROUND: from 1 */
	uint64_t total; /* bytes, at most; 0: not known */
	uint64_t done;  /* bytes */
};

/* NULL: memory is short, and nobody will know. */
struct progress *progress_new(void);
void progress_free(struct progress *p);

const char *progress_word(enum progress_step step);

/* A step begins. round: the next one of PROGRESS_ROUND. */
static inline void progress_begin(struct progress *p, enum progress_step step, uint64_t total)
{
	if (!p)
		return;
	__atomic_store_n(&p->done, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&p->total, total, __ATOMIC_RELAXED);
	if (step == PROGRESS_ROUND)
		__atomic_store_n(&p->round, p->round + 1, __ATOMIC_RELAXED);
	__atomic_store_n(&p->step, (uint32_t)step, __ATOMIC_RELAXED);
}

static inline void progress_add(struct progress *p, uint64_t bytes)
{
	if (p)
		__atomic_fetch_add(&p->done, bytes, __ATOMIC_RELAXED);
}
