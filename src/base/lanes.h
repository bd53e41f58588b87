/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbered pieces of work in a few threads. Pieces begin in ascending order; where the order of results matters, a piece
 * waits for its turn:
 *
 *	static int piece(void *context, struct lanes *l, unsigned lane, uint64_t number)
 *	{
 *		... read into the buffer of this lane ...
 *		int r = lanes_turn(l, number);	every piece before it is past its turn
 *		if (r < 0)
 *			return r;
 *		... append to something that all share ...
 *		lanes_next(l, number);		the next piece has its turn
 *		... write ...
 *	}
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

enum { LANES_MAX = 4 };

struct lanes;

typedef int lanes_piece(void *context, struct lanes *l, unsigned lane, uint64_t number);

/* How many threads are worth having here: one for each CPU that we may use, at most LANES_MAX. */
unsigned lanes_wanted(void);

/*
 * Run pieces 0..n-1 in up to that many threads, the caller's included; with one lane nothing is created. lane: 0..lanes-1,
 * below that no two pieces run at the same time. Returns 0, or what the first piece that failed returned; after a failure no
 * further piece begins. Signals have to be blocked if no thread but the caller's may take them.
 */
must_check int lanes_run(unsigned lanes, uint64_t n, lanes_piece *piece, void *context);

/*
 * The same beside others who run: of several CPUs one is theirs. Its lane begins a piece only when they leave it to us, which
 * is asked before each one, by one thread, and again after a while.
 */
typedef bool lanes_left_to_us(void *others);
must_check int lanes_run_beside(uint64_t n, lanes_piece *piece, void *context, lanes_left_to_us *left,
				void *others);

/* Wait until all pieces before this one are past their turn. -ECANCELED: another piece failed. */
must_check int lanes_turn(struct lanes *l, uint64_t number);

/* The turn is over; implied when a piece returns without having said so. */
void lanes_next(struct lanes *l, uint64_t number);
