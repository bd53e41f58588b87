/* SPDX-License-Identifier: Apache-2.0 */
#include "base/vec.h"

#include "unit.h"

struct thing {
	long a;
	long b;
};

static void push_gives_zeroed_elements(void **state)
{
	(void)state;
	VEC(struct thing) things = {0};
	long sum = 0;

	for (long i = 0; i < 100; i++) {
		struct thing *t = vec_push(&things);
		assert_non_null(t);
		assert_int_equal(t->b, 0);
		t->a = i;
		t->b = -1;
	}
	vec_foreach(t, &things)
		sum += t->a;
	assert_int_equal(sum, 4950);
	vec_release(&things);
	assert_null(things.v);
	vec_foreach(t, &things)
		fail();
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(push_gives_zeroed_elements)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
