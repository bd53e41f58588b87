/* SPDX-License-Identifier: Apache-2.0 */
/* Folders and handles of overlay file systems. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kind/overlay.h"

struct seen {
	char text[400];
	int stop_at, n;
};

static int see(enum overlay_use use, const char *path, void *ctx)
{
	static const char *const words[] = {
		[OVERLAY_LOWER] = "lower", [OVERLAY_UPPER] = "upper", [OVERLAY_WORK] = "work"};
	struct seen *s = ctx;
	size_t n = strlen(s->text);
	snprintf(s->text + n, sizeof(s->text) - n, "%s %.40s|", words[use], path);
	return ++s->n == s->stop_at ? 7 : 0;
}

static void test_folders(void **state unused)
{
	static const struct {
		const char *options, *seen;
	} cases[] = {
		{"lowerdir=/a:/b,upperdir=/u,workdir=/w,uuid=on", "lower /a|lower /b|upper /u|work /w|"},
		{"index=off,lowerdir+=/a:b,datadir+=/d", "lower /a:b|lower /d|"},
		{"lowerdir=/a\\:b:/c::/data", "lower /a:b|lower /c|lower /data|"},
		{"upperdir=/u:x", "upper /u:x|"},
		{"lowerdir=l/ABC:l/DEF", "lower l/ABC|lower l/DEF|"},
		{"xlowerdir=/a,lowerdirs=/b,lowerdir", ""},
		{"lowerdir=,upperdir=", ""},
		{"lowerdir=/end\\", "lower /end\\|"},
		{"", ""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct seen s = {.n = 0};
		assert_int_equal(overlay_each(cases[i].options, see, &s), 0);
		assert_string_equal(s.text, cases[i].seen);
	}
	struct seen s = {.stop_at = 2};
	assert_int_equal(overlay_each(cases[0].options, see, &s), 7);
	assert_string_equal(s.text, "lower /a|lower /b|");
}

/* What is too long leads nowhere, and is read to its end. */
static void test_long(void **state unused)
{
	enum { BYTES = 20000 };
	char *options = malloc(BYTES + 20);
	struct seen s = {.n = 0};
	assert_non_null(options);
	int n = snprintf(options, BYTES, "lowerdir=");
	memset(options + n, 'a', BYTES);
	snprintf(options + n + BYTES, 4, ":/b");
	assert_int_equal(overlay_each(options, see, &s), 0);
	assert_int_equal(s.n, 2);
	assert_non_null(strstr(s.text, "lower /b|"));
	free(options);
}

static void test_handle(void **state unused)
{
	/* Padding, version, magic, length, type, flags, uuid, and the handle within. */
	struct proc_handle outer = {.type = 0xf8, .n = 3 + 21 + 8}, inner;
	outer.bytes[3 + 1] = 0xfb;
	outer.bytes[3 + 2] = 21 + 8;
	outer.bytes[3 + 4] = 1;
	memcpy(outer.bytes + 3 + 21, "inodegen", 8);
	assert_true(overlay_inner_handle(&outer, &inner));
	assert_int_equal(inner.type, 1);
	assert_int_equal(inner.n, 8);
	assert_memory_equal(inner.bytes, "inodegen", 8);

	struct proc_handle bad = outer;
	bad.type = 1;
	assert_false(overlay_inner_handle(&bad, &inner));
	bad = outer;
	bad.bytes[3] = 1;
	assert_false(overlay_inner_handle(&bad, &inner));
	bad = outer;
	bad.bytes[3 + 2]++; /* longer than what there is */
	assert_false(overlay_inner_handle(&bad, &inner));
	bad = outer;
	bad.bytes[3 + 2] = 21; /* nothing within */
	assert_false(overlay_inner_handle(&bad, &inner));
	bad = outer;
	bad.n = 10;
	assert_false(overlay_inner_handle(&bad, &inner));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_folders),
		cmocka_unit_test(test_long),
		cmocka_unit_test(test_handle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
