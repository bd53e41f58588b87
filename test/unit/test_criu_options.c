/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "compat/criu_options.h"

enum { MOST_WORDS = 16 };

/* Words apart by blanks; 0 or what reading them gave. */
static int take(const char *line, struct criu_options *ret, struct ferry_error *err)
{
	char text[256], name[] = "criu", *argv[MOST_WORDS + 1] = {name}, *state = NULL;
	int argc = 1;
	snprintf(text, sizeof(text), "%s", line);
	for (char *word = strtok_r(text, " ", &state); word; word = strtok_r(NULL, " ", &state))
		argv[argc++] = word;
	return criu_options_read(argc, argv, ret, err);
}

static void test_levels(unused void **state)
{
	static const struct {
		const char *line;
		int level;
	} lines[] = {
		{"check", 2},        {"-v check", 1},          {"-vv check", 2}, {"-vvvv check", 4},
		{"-v -v -v", 3},     {"check -v0", 0},         {"-v4", 4},       {"--verbosity=3", 3},
		{"-verbosity=0", 0}, {"--verbosity check", 1}, {"-v9", 4},       {"-v4 -v1", 1},
	};
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		struct criu_options o;
		assert_int_equal(take(lines[i].line, &o, NULL), 0);
		assert_int_equal(o.log_level, lines[i].level);
		criu_options_release(&o);
	}
}

static void test_values(unused void **state)
{
	struct criu_options o;
	assert_int_equal(
		take("-D dir --leave-run dump -t 17 --no-leave-running -jl --ghost-limit=2K --external a[b] "
		     "--external=c more",
		     &o, NULL),
		0);
	assert_int_equal(o.job.tree, 17);
	assert_string_equal(o.job.images_dir, "dir");
	assert_false(o.job.leave_running);
	assert_true(o.job.shell_job);
	assert_true(o.job.file_locks);
	assert_true(o.job.criu_compat);
	assert_int_equal(o.job.ghost_limit, 2048);
	assert_int_equal(o.job.timeout, 10);
	assert_int_equal(o.job.external.v.n, 2);
	assert_string_equal(o.job.external.v.v[0], "a[b]");
	assert_string_equal(o.job.external.v.v[1], "c");
	assert_int_equal(o.n_words, 2);
	assert_string_equal(o.words[0], "dump");
	assert_string_equal(o.words[1], "more");
	criu_options_release(&o);
}

static void test_wrong(unused void **state)
{
	static const char *const lines[][2] = {
		{"-t", "'-t'"},
		{"-t 1x", "--tree: 1x"},
		{"-t -1", "--tree: -1"},
		{"--tree=", "--tree: "},
		{"--ghost-limit 1X", "--ghost-limit: 1X"},
		{"--ghost-limit 9999999999G", "--ghost-limit: 9999999999G"},
		{"--port 99999999999999999999", "--port: 99999999999999999999"},
		{"-vx", "--verbosity: x"},
		{"--no-tree", "'--no-tree'"},
		{"--le", "'--le'"},
		{"-Z", "'-Z'"},
		{"--lsm-profile x", "--lsm-profile yet"},
		{"--config /proc/1", "/proc/1"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		struct criu_options o;
		struct ferry_error err = FERRY_ERROR_INIT;
		assert_true(take(lines[i][0], &o, &err) < 0);
		assert_int_equal(err.id, FERRY_ERROR_USAGE);
		assert_non_null(strstr(err.message, lines[i][1]));
		criu_options_release(&o);
	}
}

static void test_config_lines(unused void **state)
{
	static const struct {
		const char *line, *words[3];
	} lines[] = {
		{"", {NULL}},
		{"   # nothing\n", {NULL}},
		{"tcp-established\n", {"--tcp-established"}},
		{"\tlog-file  a.log # more\r\n", {"--log-file", "a.log"}},
		{"log-file \"a \\\"b\\\".log\"", {"--log-file", "a \"b\".log"}},
		{"log-file 'a \\ b'", {"--log-file", "a \\ b"}},
		{"log-file a#b", {"--log-file", "a#b"}},
	};
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		criu_words words = {0};
		char *text = strdup(lines[i].line);
		assert_non_null(text);
		assert_int_equal(criu_config_line(text, &words), 0);
		free(text);
		size_t n = 0;
		for (; n < 3 && lines[i].words[n]; n++) {
			assert_true(n < words.n);
			assert_string_equal(words.v[n], lines[i].words[n]);
		}
		assert_int_equal(words.n, n);
		criu_words_release(&words);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_levels),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_wrong),
		cmocka_unit_test(test_config_lines),
	};
	/* Nobody's files. */
	setenv("HOME", "/nowhere", 1);
	unsetenv("CRIU_CONFIG_FILE");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
