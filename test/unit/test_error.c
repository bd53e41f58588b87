/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "unit.h"

static void first_error_is_kept(void **state)
{
	(void)state;
	struct ferry_error err = FERRY_ERROR_INIT;

	assert_int_equal(error_set(&err, FERRY_ERROR_BUSY_TASK, EBUSY, "pid %d is traced", 41), -EBUSY);
	assert_int_equal(error_set(&err, FERRY_ERROR_INTERNAL, EIO, "later"), -EIO);
	assert_int_equal(err.id, FERRY_ERROR_BUSY_TASK);
	assert_int_equal(err.code, EBUSY);
	assert_string_equal(err.message, "pid 41 is traced");
	error_hint(&err, "end the other tracer");
	error_hint(&err, "second");
	assert_string_equal(err.hint, "end the other tracer");
	assert_string_equal(error_next_step(&err), "end the other tracer");
	error_clear(&err);
	assert_string_equal(error_next_step(&err), "");
	(void)error_set(&err, FERRY_ERROR_IMAGE_MISSING, ENOENT, "gone");
	assert_non_null(strstr(error_next_step(&err), "copy the whole images directory"));
	error_hint(&err, "of its own");
	assert_string_equal(error_next_step(&err), "of its own");
}

static void errno_text_is_appended(void **state)
{
	(void)state;
	struct ferry_error err = FERRY_ERROR_INIT;

	assert_int_equal(error_errno(&err, FERRY_ERROR_SYSTEM, ENOENT, "open 'x'"), -ENOENT);
	assert_string_equal(err.message, "open 'x': No such file or directory");
}

static void context_fills_only_gaps(void **state)
{
	(void)state;
	struct ferry_error err = FERRY_ERROR_INIT;

	error_context(&err, "dump", "pipe", 7);
	assert_string_equal(err.stage, "");
	(void)error_set(&err, FERRY_ERROR_SYSTEM, EIO, "x");
	error_context(&err, "dump", NULL, 0);
	error_context(&err, "collect", "pipe", 7);
	assert_string_equal(err.stage, "dump");
	assert_string_equal(err.kind, "pipe");
	assert_int_equal(err.pid, 7);
	error_clear(&err);
	assert_false(error_is_set(&err));
	assert_int_equal(err.size, sizeof(err));
}

static void long_message_is_cut(void **state)
{
	(void)state;
	struct ferry_error err = FERRY_ERROR_INIT;
	char text[2000];

	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	(void)error_errno(&err, FERRY_ERROR_SYSTEM, EIO, "%s", text);
	assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
}

static void null_error_is_accepted(void **state)
{
	(void)state;
	assert_int_equal(error_set(NULL, FERRY_ERROR_SYSTEM, EIO, "x"), -EIO);
	error_hint(NULL, "x");
	error_context(NULL, "x", "x", 1);
	error_clear(NULL);
	assert_false(error_is_set(NULL));
}

/* Scripts match on the words, so two identifiers must not share one, and none may lack its exit class. */
static void identifiers_are_complete(void **state)
{
	(void)state;
	for (int i = FERRY_ERROR_NONE + 1; i < FERRY_ERROR_COUNT; i++) {
		const char *word = ferry_error_word((enum ferry_error_id)i);

		assert_true(strlen(word) > 0 && strlen(ferry_error_text((enum ferry_error_id)i)) > 0);
		assert_in_range(ferry_error_exit_code((enum ferry_error_id)i), 1, 4);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(word, ferry_error_word((enum ferry_error_id)j));
	}
	assert_string_equal(ferry_error_word((enum ferry_error_id)9999), "internal");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_error_is_kept),     cmocka_unit_test(errno_text_is_appended),
		cmocka_unit_test(context_fills_only_gaps), cmocka_unit_test(long_message_is_cut),
		cmocka_unit_test(null_error_is_accepted),  cmocka_unit_test(identifiers_are_complete),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
