/* SPDX-License-Identifier: Apache-2.0 */
/* What anonymous and named pipes share. */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

/* The bytes of a pipe in one of our own, packets as packets; *ret_fd is its reading end. name: for messages. */
must_check int pipe_copy(int reader, uint32_t bytes, uint32_t size, const char *name, int *ret_fd,
			 struct ferry_error *err);

/* F_SETPIPE_SZ; LIMIT when the machine does not allow it. */
must_check int pipe_resize(int fd, uint32_t size, struct ferry_error *err);
