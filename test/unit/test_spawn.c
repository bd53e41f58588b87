/* SPDX-License-Identifier: Apache-2.0 */
#include "base/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "unit.h"

extern char **environ;

static void put(const char *path, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT, mode);
	assert_true(fd >= 0);
	close(fd);
}

static void expect_found(const char *program, const char *path)
{
	char *found = NULL;
	assert_int_equal(spawn_find(program, &found), 0);
	assert_string_equal(found, path);
	free(found);
}

static const char *const made[] = {"one/both",   "one/plain", "one/folder", "two/both", "two/plain",
				   "two/folder", "here",      "data",       "one",      "two"};

static void found_in_order(void **state)
{
	(void)state;
	char *found = NULL, folder[256];

	unit_temporary(folder, sizeof(folder), "spawn");
	assert_non_null(mkdtemp(folder));
	assert_int_equal(chdir(folder), 0);
	assert_int_equal(mkdir("one", 0755) | mkdir("two", 0755) | mkdir("one/folder", 0755), 0);
	put("one/both", 0755);
	put("two/both", 0755);
	put("one/plain", 0644);
	put("two/plain", 0755);
	put("two/folder", 0755);
	put("here", 0755);
	put("data", 0644);
	setenv("PATH", "none:one:two:", 1);
	expect_found("both", "one/both");
	expect_found("plain", "two/plain");
	expect_found("folder", "two/folder");
	expect_found("here", "here"); /* an empty part is the folder one is in */
	expect_found("./here", "./here");
	assert_int_equal(spawn_find("nothing", &found), -ENOENT);
	assert_int_equal(spawn_find("./nothing", &found), -ENOENT);
	assert_int_equal(spawn_find("./one/folder", &found), -EACCES);
	assert_int_equal(spawn_find("data", &found), -ENOENT);
	setenv("PATH", "one:two", 1);
	assert_int_equal(spawn_find("here", &found), -ENOENT);
	unsetenv("PATH");
	assert_int_equal(spawn_find("sh", &found), 0);
	assert_true(*found == '/');
	free(found);
	for (size_t i = 0; i < ARRAY_SIZE(made); i++)
		assert_int_equal(remove(made[i]), 0);
	assert_int_equal(chdir("/") | rmdir(folder), 0);
}

/* With what it is to have, and nothing of ours. */
static void started(void **state)
{
	(void)state;
	static char script[] = "read line; echo \"$line $#\"; echo wrong >&2; kill -TERM $$; echo late";
	char sh[] = "/bin/sh", c[] = "-c", one[] = "one";
	char *const argv[] = {sh, c, script, one, one, NULL};
	char got[32] = "";
	int in[2], out[2], status;
	sigset_t term;
	pid_t pid;

	assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL);
	assert_int_equal(spawn_program(argv, false, environ, (const int[]){in[0], out[1], SPAWN_NULL}, &pid),
			 0);
	sigprocmask(SIG_UNBLOCK, &term, NULL);
	close(out[1]);
	assert_int_equal(write(in[1], "line\n", 5), 5);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
	assert_int_equal(read(out[0], got, sizeof(got) - 1), 7);
	assert_string_equal(got, "line 1\n");
	close(in[0]);
	close(in[1]);
	close(out[0]);
	*argv[0] = 'x';
	assert_int_equal(spawn_program(argv, false, environ, (const int[]){0, 1, 2}, &pid), -ENOENT);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(found_in_order),
		cmocka_unit_test(started),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
