/* SPDX-License-Identifier: Apache-2.0 */
#include "base/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *spawn_path(void)
{
	const char *path = getenv("PATH");
	return path && *path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

static int spawn_look(const char *file)
{
	struct stat st;
	if (stat(file, &st) < 0 || access(file, X_OK) < 0)
		return -errno;
	return S_ISREG(st.st_mode) ? 0 : -EACCES;
}

int spawn_find(const char *program, char **ret)
{
	bool is_place = strchr(program, '/');
	for (const char *at = is_place ? "" : spawn_path(); at;
	     at = strchr(at, ':') ? strchr(at, ':') + 1 : NULL) {
		int n = (int)strcspn(at, ":");
		char *file = NULL;
		if (asprintf(&file, "%.*s%s%s", n, at, n ? "/" : "", program) < 0)
			return -ENOMEM;
		int r = spawn_look(file);
		if (r >= 0) {
			*ret = file;
			return 0;
		}
		free(file);
		if (is_place)
			return r;
	}
	return -ENOENT;
}

static int spawn_stdio(posix_spawn_file_actions_t *actions, const int stdio[3])
{
	int r = 0;
	for (int i = 0; i < 3 && !r; i++) {
		if (stdio[i] == SPAWN_NULL)
			r = posix_spawn_file_actions_addopen(actions, i, "/dev/null",
							     i == STDIN_FILENO ? O_RDONLY : O_WRONLY, 0);
		else if (stdio[i] != SPAWN_SAME)
			r = posix_spawn_file_actions_adddup2(actions, stdio[i], i);
	}
	return r;
}

int spawn_program(char *const argv[], bool in_path, char *const environment[], const int stdio[3],
		  pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int r = posix_spawn_file_actions_init(&actions);
	if (r)
		return -r;
	r = posix_spawnattr_init(&attributes);
	if (r) {
		posix_spawn_file_actions_destroy(&actions);
		return -r;
	}
	sigemptyset(&none);
	r = posix_spawnattr_setsigmask(&attributes, &none);
	if (!r)
		r = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	if (!r)
		r = spawn_stdio(&actions, stdio);
	if (!r)
		r = (in_path ? posix_spawnp : posix_spawn)(ret_pid, argv[0], &actions, &attributes, argv,
							   environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}
