/* SPDX-License-Identifier: Apache-2.0 */
#include "base/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

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
