/* SPDX-License-Identifier: Apache-2.0 */
#include "base/intmap.h"

#include "unit.h"

static void finds_what_was_put(void **state)
{
	(void)state;
	struct intmap m = {0};
	uint32_t value = 7;

	assert_false(intmap_get(&m, 1, &value));
	for (uint32_t i = 1; i <= 5000; i++)
		assert_int_equal(intmap_put(&m, i * 64, i), 0);
	assert_int_equal(intmap_put(&m, 64, 0), 0);
	assert_int_equal(m.n, 5000);
	for (uint32_t i = 2; i <= 5000; i++) {
		assert_true(intmap_get(&m, i * 64, &value));
		assert_int_equal(value, i);
		assert_false(intmap_get(&m, i * 64 + 1, &value));
		assert_int_equal(value, i);
	}
	assert_true(intmap_get(&m, 64, &value));
	assert_int_equal(value, 0);
	intmap_release(&m);
	assert_false(intmap_get(&m, 64, &value));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(finds_what_was_put)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
