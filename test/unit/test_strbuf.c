/* SPDX-License-Identifier: Apache-2.0 */
#include "base/strbuf.h"

#include <stdlib.h>
#include <string.h>

#include "unit.h"

static void grows_and_stays_terminated(void **state)
{
	(void)state;
	_cleanup_strbuf_ struct strbuf b = {0};

	assert_string_equal(strbuf_str(&b), "");
	for (int i = 0; i < 1000; i++)
		strbuf_addf(&b, "%d,", i % 10);
	assert_int_equal(b.n, 2000);
	assert_int_equal(strlen(b.s), 2000);
	assert_memory_equal(b.s + 1990, "5,6,7,8,9,", 10);
	strbuf_reset(&b);
	strbuf_add(&b, "a\0b", 3);
	strbuf_adds(&b, "cd");
	assert_int_equal(b.n, 5);
	assert_memory_equal(b.s, "a\0bcd", 6);
	assert_false(b.failed);
}

static void take_hands_over(void **state)
{
	(void)state;
	struct strbuf b = {0};
	char *empty = strbuf_take(&b);

	assert_string_equal(empty, "");
	free(empty);
	strbuf_adds(&b, "text");
	char *text = strbuf_take(&b);
	assert_string_equal(text, "text");
	assert_null(b.s);
	assert_int_equal(b.n, 0);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_and_stays_terminated),
		cmocka_unit_test(take_hands_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
