/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/lanes.h"

enum { PIECES = 5000, FAILING = 1234 };

struct work {
	unsigned lanes;
	uint64_t order[PIECES];
	uint64_t appended;
	unsigned long long sums[LANES_MAX];
	int fail; /* what piece FAILING returns */
	bool before_turn;
};

static int piece(void *context, struct lanes *l, unsigned lane, uint64_t number)
{
	struct work *w = context;
	if (lane >= w->lanes)
		return -ERANGE;
	if (w->fail && w->before_turn && number == FAILING)
		return w->fail;
	int r = lanes_turn(l, number);
	if (r < 0)
		return r;
	w->order[w->appended++] = number;
	if (w->fail && number == FAILING)
		return w->fail;
	lanes_next(l, number);
	w->sums[lane] += number;
	return 0;
}

static void test_order(unused void **state)
{
	for (unsigned lanes = 1; lanes <= LANES_MAX; lanes++) {
		struct work w = {.lanes = lanes};
		unsigned long long sum = 0;
		assert_int_equal(lanes_run(lanes, PIECES, piece, &w), 0);
		assert_int_equal(w.appended, PIECES);
		for (uint64_t i = 0; i < PIECES; i++)
			assert_int_equal(w.order[i], i);
		for (unsigned i = 0; i < LANES_MAX; i++)
			sum += w.sums[i];
		assert_int_equal(sum, (unsigned long long)PIECES * (PIECES - 1) / 2);
	}
}

static void test_failure(unused void **state)
{
	for (unsigned lanes = 1; lanes <= LANES_MAX; lanes++) {
		struct work before = {.lanes = lanes, .fail = -EIO, .before_turn = true};
		struct work after = {.lanes = lanes, .fail = -ENOSPC};
		assert_int_equal(lanes_run(lanes, PIECES, piece, &before), -EIO);
		assert_in_range(before.appended, FAILING + 1 - LANES_MAX, FAILING);
		assert_int_equal(lanes_run(lanes, PIECES, piece, &after), -ENOSPC);
		/* Those that wait for their turn never get it. */
		assert_int_equal(after.appended, FAILING + 1);
	}
}

static void test_nothing(unused void **state)
{
	struct work w = {.lanes = LANES_MAX};
	assert_int_equal(lanes_run(LANES_MAX, 0, piece, &w), 0);
	assert_int_equal(w.appended, 0);
	assert_in_range(lanes_wanted(), 1, LANES_MAX);
}

struct others {
	bool idle;
	unsigned long asked;
};

static bool left(void *context)
{
	struct others *others = context;
	others->asked++;
	return others->idle;
}

/* The last lane begins nothing while others need its processor, and as much as any when they do not. */
static void test_beside(unused void **state)
{
	for (int idle = 0; idle < 2; idle++) {
		struct work w = {.lanes = lanes_wanted()}, failing = {.lanes = lanes_wanted(), .fail = -EIO};
		struct others others = {.idle = idle};
		unsigned long long sum = 0;
		assert_int_equal(lanes_run_beside(PIECES, piece, &w, left, &others), 0);
		assert_int_equal(w.appended, PIECES);
		for (uint64_t i = 0; i < PIECES; i++)
			assert_int_equal(w.order[i], i);
		for (unsigned i = 0; i < LANES_MAX; i++)
			sum += w.sums[i];
		assert_int_equal(sum, (unsigned long long)PIECES * (PIECES - 1) / 2);
		if (!idle && lanes_wanted() > 1 && lanes_wanted() < LANES_MAX)
			assert_int_equal(w.sums[lanes_wanted() - 1], 0);
		assert_int_equal(lanes_run_beside(PIECES, piece, &failing, left, &others), -EIO);
		assert_int_equal(failing.appended, FAILING + 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_failure),
		cmocka_unit_test(test_beside),
		cmocka_unit_test(test_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
