/* SPDX-License-Identifier: Apache-2.0 */
/* How a failed read below /proc/PID is told. Internal to src/proc. */
#pragma once

#include <stdbool.h>

#include <ferry/error.h>

/* Whether the task behind dirfd is gone. */
bool proc_gone(int dirfd);

/*
 * Set the error for 'name' below dirfd and return it: -ESRCH and NO_SUCH_TASK if the task is gone, PERMISSION for
 * -EACCES and -EPERM, else SYSTEM and -code.
 */
int proc_read_error(int dirfd, const char *name, int code, struct ferry_error *err);
