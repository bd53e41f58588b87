/* SPDX-License-Identifier: Apache-2.0 */
/* Files of /proc that show processes, living or ended; and files of the kernel that hold a state of their own. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "image/proto/regfile.pb-c.h"
#include "model/kind.h"

/* The process of /proc/PID or /proc/PID/...; 0: the path is none of that form. */
pid_t procfile_pid(const char *path);

/* Whether the file shows a process that has ended. The number may belong to another by now. */
bool procfile_ended(const struct fd_view *view);

/* Whether such a file can be opened again. tree: the tasks are known; NULL = nobody asks whose it is. */
must_check int procfile_check(const struct fd_view *view, const struct snapshot *tree,
			      struct ferry_error *err);

/* Refuse what is read only once, or holds what was written to it. */
must_check int procfile_check_kernel(const struct fd_view *view, struct ferry_error *err);

/* Open a file of a process that had ended: of a helper that gets its number if that is free, and ends again. */
must_check int procfile_open_ended(const struct opener *o, const RegFileEntry *reg, pid_t pid, int flags,
				   int *ret_fd, struct ferry_error *err);
