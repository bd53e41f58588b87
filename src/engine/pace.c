/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the decisions of a live dump. Pure: no clock and no system call, so that each can be asked for with any numbers.
 *
 * A round stores what was written while the one before was being stored. Where the tree writes slower than ferry stores, each is
 * smaller than the last by the same factor; where it writes faster, or the same pages again and again, they stay as large as they are, and
 * nothing but the stop ends that, or slowing the tree down (engine/throttle.c), where that is allowed.
 */
#include "engine/pace.h"

#include "image/dir.h"

enum {
	PACE_ROUNDS = IMAGE_ROUNDS_MAX,
	PACE_SMALL_BYTES = 1 << 20,  /* not worth a round: two short stops take as long */
	PACE_LEAST_BYTES = 4 << 20,  /* of a memory, to be tracked */
	PACE_LEAST_A_VMA = 32 << 10, /* on average: a look at a mapping takes as long as storing some pages */
};

/* The next round has to take away at least a quarter, as this one has. */
static uint64_t pace_enough(uint64_t before)
{
	return before - before / 4;
}

static uint64_t pace_store_ns(const struct pace *p)
{
	return p->rate ? (uint64_t)((double)p->left / (double)p->rate * 1e9) : 0;
}

uint64_t pace_stop_ns(const struct pace *p)
{
	return p->fixed_ns + pace_store_ns(p);
}

bool pace_is_chased(const struct pace *p)
{
	return p->left > PACE_SMALL_BYTES && pace_store_ns(p) > p->budget_ns;
}

enum pace_next pace_next(const struct pace *p)
{
	if (p->rate && pace_stop_ns(p) <= p->budget_ns)
		return PACE_FITS;
	if (p->left <= PACE_SMALL_BYTES || p->rounds >= PACE_ROUNDS)
		return PACE_OVER;
	if (p->left <= pace_enough(p->before))
		return PACE_ROUND;
	return p->slowed < p->slowest ? PACE_SLOWER : PACE_OVER;
}

/* In few steps, since each costs a round. */
void pace_slow(struct pace *p)
{
	unsigned more = p->slowed + MAX((100 - p->slowed) / 2, 1u);
	p->slowed = MIN(more, p->slowest);
}

bool pace_pays(const struct pace_memory *m)
{
	uint64_t shared = m->anonymous - (m->own < m->anonymous ? m->own : m->anonymous);
	/* In rounds it would be stored for each of the family. */
	if (m->has_head && shared > m->own / 8)
		return false;
	return m->anonymous >= PACE_LEAST_BYTES && m->anonymous / PACE_LEAST_A_VMA >= m->n_vmas;
}
