/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a live dump stores one more round while the tree runs, or stops it for the rest: from what its rounds have measured,
 * and from nothing else.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

/* Milliseconds that a tree may stand still where nobody says anything. */
enum { PACE_BUDGET_MS = 5 };

/* What is known after a round. */
struct pace {
	uint64_t budget_ns; /* the tree is to stand still no longer than this */
	uint64_t fixed_ns;  /* it stands so long when no page is left to store */
	uint64_t rate;      /* bytes that are stored in a second; 0: not known yet */
	uint64_t left;      /* bytes of tracked memory that were written since the round looked */
	uint64_t before;    /* bytes that the round stored: what was left when it began */
	unsigned rounds;    /* that there were */
	unsigned slowed;    /* percent of the time that the tree stands still while a round is stored */
	unsigned slowest;   /* what that may come to; 0: it is not slowed down */
};

enum pace_next {
	PACE_ROUND,  /* one more pays */
	PACE_SLOWER, /* one more pays if the tree is slowed down: pace_slow() */
	PACE_FITS,   /* stop it: what is left fits into the budget */
	PACE_OVER, /* stop it although it does not: further rounds would not make it less, or not by enough */
};

/* How long the tree would stand still now. */
uint64_t pace_stop_ns(const struct pace *p);

enum pace_next pace_next(const struct pace *p);

/* Slow the tree down, more than so far. */
void pace_slow(struct pace *p);

/* Whether what is left, and not the fixed part, is too much for the budget: it is written as fast as it is stored. */
bool pace_is_chased(const struct pace *p);

/* What is known of a memory before its first round. */
struct pace_memory {
	uint64_t anonymous; /* bytes of private anonymous memory that are there */
	uint64_t own;       /* of these, those that nobody else has: no other process since a fork */
	uint64_t n_vmas;
	bool has_head; /* its parent is in the tree, and as large: what both have is stored once if this one has no rounds */
};

/*
 * Whether rounds save more time of a memory than they take: making what tracks it, and looking at each mapping, twice for each
 * round.
 */
bool pace_pays(const struct pace_memory *m);
