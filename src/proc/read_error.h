/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that read /proc have in common, and how a failed read is told. Internal to src/proc. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <ferry/error.h>

#include "base/macros.h"

/* Whether the task behind dirfd is gone. */
bool proc_gone(int dirfd);

/*
 * Set the error for 'name' below dirfd and return it: -ESRCH and NO_SUCH_TASK if the task is gone, PERMISSION for
 * -EACCES and -EPERM, else SYSTEM and -code.
 */
int proc_read_error(int dirfd, const char *name, int code, struct ferry_error *err);

/* Read a file whose text the kernel makes as a whole: by single_open() or simple_read_from_buffer(). */
must_check int proc_read_piece(int dirfd, const char *name, char **ret_text, size_t *ret_n,
			       struct ferry_error *err);
