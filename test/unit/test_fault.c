/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fault.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"

static int clear_environment(void **state)
{
	(void)state;
	unsetenv("FERRY_FAULT");
	unsetenv("FERRY_KILL_AT");
	unsetenv("FERRY_KILL_VICTIM");
	unsetenv("FERRY_EFFECT_LOG");
	return 0;
}

static void only_the_named_fault_hits(void **state)
{
	(void)state;
	struct fault f;

	setenv("FERRY_FAULT", "image-write", 1);
	assert_int_equal(fault_init(&f), 0);
	for (int i = 0; i < FAULT_COUNT; i++)
		assert_int_equal(fault_hit(&f, (enum fault_id)i), i == FAULT_IMAGE_WRITE);
	assert_false(fault_hit(NULL, FAULT_IMAGE_WRITE));
	fault_release(&f);
}

static void unknown_fault_is_refused(void **state)
{
	(void)state;
	struct fault f;

	setenv("FERRY_FAULT", "no-such-fault", 1);
	assert_int_equal(fault_init(&f), -EINVAL);
}

static void words_are_unique(void **state)
{
	(void)state;
	for (int i = 0; i < FAULT_COUNT; i++)
		for (int j = 0; j < i; j++)
			assert_string_not_equal(fault_info((enum fault_id)i)->word,
						fault_info((enum fault_id)j)->word);
	assert_null(fault_info(FAULT_COUNT));
}

/* Runs in a child, which the third effect must kill. */
static int three_effects(void)
{
	struct fault f;

	if (fault_init(&f) < 0)
		return 2;
	fault_effect(&f, "seize", "one");
	fault_effect(&f, "seize", "two");
	fault_effect(&f, "dump", "three");
	return 3;
}

static void kill_comes_at_the_counted_effect(void **state)
{
	(void)state;
	char name[128], line[3][64] = {"", "", ""};
	unit_temporary(name, sizeof(name), "ferry-fault");
	int fd = mkstemp(name), status = 0;

	assert_true(fd >= 0);
	setenv("FERRY_KILL_AT", "3", 1);
	setenv("FERRY_EFFECT_LOG", name, 1);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(three_effects());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);

	FILE *log = fdopen(fd, "r");
	assert_non_null(log);
	int lines = 0;
	while (lines < 3 && fgets(line[lines], sizeof(line[0]), log))
		lines++;
	fclose(log);
	unlink(name);
	assert_int_equal(lines, 3);
	assert_non_null(strstr(line[0], " 1 seize one\n"));
	assert_non_null(strstr(line[2], " 3 dump three\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(only_the_named_fault_hits, clear_environment),
		cmocka_unit_test_setup(unknown_fault_is_refused, clear_environment),
		cmocka_unit_test_setup(words_are_unique, clear_environment),
		cmocka_unit_test_setup(kill_comes_at_the_counted_effect, clear_environment),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
