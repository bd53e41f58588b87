/* SPDX-License-Identifier: Apache-2.0 */
/* Starting another program. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/macros.h"

enum {
	SPAWN_NULL = -1, /* /dev/null */
	SPAWN_SAME = -2, /* ours */
};

/* The folders that programs are looked for in: PATH, or the usual ones without it. */
const char *spawn_path(void);

/* Where execvp(3) would find a program; the caller frees it. Returns 0, -ENOENT, -EACCES (it is no program) or -ENOMEM. */
must_check int spawn_find(const char *program, char **ret);

/*
 * argv[0], looked for in PATH if it is to be, with no signal blocked and nothing open but 0 to 2, which become what stdio says:
 * descriptors of ours, SPAWN_NULL or SPAWN_SAME. What is open beyond them has to be close-on-exec. Returns 0 or -errno.
 */
must_check int spawn_program(char *const argv[], bool in_path, char *const environment[], const int stdio[3],
			     pid_t *ret_pid);
