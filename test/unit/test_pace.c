/* SPDX-License-Identifier: Apache-2.0 */
/* When a live dump stores one more round, and whose memory gets any. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/pace.h"

enum { MS = 1000 * 1000 };
#define MIB (1ull << 20)
#define GIB (1ull << 30)

static const struct pace first = {
	.budget_ns = 5 * MS, .fixed_ns = 2 * MS, .rate = 2 * GIB, .before = 4 * GIB, .rounds = 1};

static void test_stop(void **state)
{
	struct pace p = first;
	(void)state;
	assert_int_equal(pace_stop_ns(&p), 2 * MS);
	p.left = 2 * GIB;
	assert_int_equal(pace_stop_ns(&p), 1002 * MS);
	p.rate = 0;
	assert_int_equal(pace_stop_ns(&p), 2 * MS);
}

static void test_within(void **state)
{
	struct pace p = first;
	(void)state;
	/* 3 ms are left for pages: 6.1 MiB. */
	p.left = 6 * MIB;
	assert_int_equal(pace_next(&p), PACE_FITS);
	p.left = 7 * MIB;
	assert_int_equal(pace_next(&p), PACE_ROUND);
	p.budget_ns = 6 * MS;
	assert_int_equal(pace_next(&p), PACE_FITS);
	p.budget_ns = 1 * MS;
	assert_int_equal(pace_next(&p), PACE_ROUND);
	/* Without a rate nothing is known to fit. */
	p = first;
	p.left = 2 * MIB;
	p.rate = 0;
	assert_int_equal(pace_next(&p), PACE_ROUND);
}

static void test_slower(void **state)
{
	struct pace p = first;
	(void)state;
	p.left = p.before = 2 * GIB;
	assert_int_equal(pace_next(&p), PACE_OVER);
	p.slowest = 90;
	static const unsigned steps[] = {50, 75, 87, 90};
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		assert_int_equal(pace_next(&p), PACE_SLOWER);
		pace_slow(&p);
		assert_int_equal(p.slowed, steps[i]);
	}
	assert_int_equal(pace_next(&p), PACE_OVER);
	/* As slow as it was is enough. */
	p.left = GIB;
	assert_int_equal(pace_next(&p), PACE_ROUND);
	p.slowest = 99;
	p.slowed = 98;
	pace_slow(&p);
	assert_int_equal(p.slowed, 99);
}

static void test_nothing_to_win(void **state)
{
	struct pace p = first;
	(void)state;
	p.fixed_ns = 50 * MS;
	p.left = MIB;
	assert_int_equal(pace_next(&p), PACE_OVER);
	assert_false(pace_is_chased(&p));
	p.left = 0;
	assert_int_equal(pace_next(&p), PACE_OVER);
	p.fixed_ns = 5 * MS;
	assert_int_equal(pace_next(&p), PACE_FITS);
	p.budget_ns = 0;
	p.left = MIB;
	assert_int_equal(pace_next(&p), PACE_OVER);
	assert_false(pace_is_chased(&p));
}

/* How many rounds a tree of so much memory takes that writes at this rate, within what it has. */
static unsigned simulate(struct pace *p, uint64_t all, uint64_t hot, double share, enum pace_next *ret)
{
	uint64_t stored = all;
	*p = first;
	for (p->rounds = 1;; p->rounds++) {
		uint64_t left = (uint64_t)((double)stored * share);
		p->before = stored;
		p->left = left < hot ? left : hot;
		stored = p->left;
		*ret = pace_next(p);
		if (*ret != PACE_ROUND)
			return p->rounds;
		assert_true(p->rounds < 1000);
	}
}

static void test_converges(void **state)
{
	enum pace_next next;
	struct pace p;
	(void)state;
	/* One that only reads; one that writes at a tenth, and at half of what is stored. */
	assert_int_equal(simulate(&p, 4 * GIB, 0, 0, &next), 1);
	assert_int_equal(next, PACE_FITS);
	assert_int_equal(simulate(&p, 4 * GIB, GIB, 0.1, &next), 3);
	assert_int_equal(next, PACE_FITS);
	unsigned n = simulate(&p, 4 * GIB, 4 * GIB, 0.5, &next);
	assert_true(n > 8 && n < 12);
	assert_int_equal(next, PACE_FITS);
}

static void test_never_converges(void **state)
{
	enum pace_next next;
	struct pace p;
	(void)state;
	/* As fast as it is stored; and 256 MiB again and again, faster than any round. */
	assert_int_equal(simulate(&p, 4 * GIB, 4 * GIB, 1, &next), 1);
	assert_int_equal(next, PACE_OVER);
	assert_true(pace_is_chased(&p));
	assert_int_equal(simulate(&p, 4 * GIB, 256 * MIB, 10, &next), 2);
	assert_int_equal(next, PACE_OVER);
	/* Hardly slower: each round would take away a tenth, and there may be hundreds of them. */
	assert_int_equal(simulate(&p, 4 * GIB, 4 * GIB, 0.9, &next), 1);
	assert_int_equal(next, PACE_OVER);
	/* In the end there is a last one in any case. */
	p = first;
	p.rounds = 16;
	p.left = GIB;
	p.before = 4 * GIB;
	assert_int_equal(pace_next(&p), PACE_OVER);
	p.rounds = 15;
	assert_int_equal(pace_next(&p), PACE_ROUND);
}

static void test_pays(void **state)
{
	struct pace_memory m = {.anonymous = GIB, .own = GIB, .n_vmas = 30};
	(void)state;
	assert_true(pace_pays(&m));
	/* A small process; many small pieces. */
	m.anonymous = m.own = 2 * MIB;
	assert_false(pace_pays(&m));
	m.anonymous = m.own = 400 * MIB;
	m.n_vmas = 100000;
	assert_false(pace_pays(&m));
	m.n_vmas = 10000;
	assert_true(pace_pays(&m));
}

static void test_family(void **state)
{
	struct pace_memory m = {.anonymous = GIB, .own = 0, .n_vmas = 30};
	(void)state;
	/* The head of a family shares all of it, and it is stored there. */
	assert_true(pace_pays(&m));
	m.has_head = true;
	assert_false(pace_pays(&m));
	m.own = GIB / 2;
	assert_false(pace_pays(&m));
	/* A child that has become another: what it still shares is little. */
	m.own = GIB - 64 * MIB;
	assert_true(pace_pays(&m));
	/* Numbers that were not read at the same instant. */
	m.own = 2 * GIB;
	assert_true(pace_pays(&m));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stop),      cmocka_unit_test(test_within),
		cmocka_unit_test(test_slower),    cmocka_unit_test(test_nothing_to_win),
		cmocka_unit_test(test_converges), cmocka_unit_test(test_never_converges),
		cmocka_unit_test(test_pays),      cmocka_unit_test(test_family),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
