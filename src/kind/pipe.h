/* SPDX-License-Identifier: Apache-2.0 */
/* What anonymous and named pipes share. */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/arena.h"
#include "base/macros.h"
#include "image/proto/pipe-data.pb-c.h"

struct image_reader;

/* The bytes of a pipe in one of our own, packets as packets; *ret_fd is its reading end. name: for messages. */
must_check int pipe_copy(int reader, uint32_t bytes, uint32_t size, const char *name, int *ret_fd,
			 struct ferry_error *err);

/* What an image has of a pipe, in the plan's arena. */
struct pipe_bytes {
	const void *data; /* NULL: not read yet */
	uint32_t n;
	uint32_t size; /* capacity; 0: as it comes */
};

/* Read what follows a record of a pipe. IMAGE_BAD: it is missing, or was there before. */
must_check int pipe_read_bytes(struct arena *a, struct image_reader *in, const PipeDataEntry *entry,
			       struct pipe_bytes *ret, struct ferry_error *err);

/* F_SETPIPE_SZ; LIMIT when the machine does not allow it. */
must_check int pipe_resize(int fd, uint32_t size, struct ferry_error *err);
