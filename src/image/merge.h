/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging: an image made anew, with the pages that it needs of those that it builds on. What builds on the image builds on the new one as
 * well, if that takes its place: id, files and memory are the same.
 */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

struct fault;
struct image_dir;
struct log_sink;

struct image_merge {
	const char *
		parent; /* what the new one builds on, relative to it; it is in from's chain. NULL: nothing */
	const struct fault *fault;  /* may be NULL */
	const struct log_sink *log; /* may be NULL */
};

/*
 * Make it in the directory at_fd/path, on the file system of from; what an earlier try left there is replaced. Files that hold no memory
 * are the very files of from, which has to have a manifest. *ret_bytes: of pages that were copied. On failure nothing is left.
 */
must_check int image_merge(struct image_dir *from, int at_fd, const char *path,
			   const struct image_merge *options, uint64_t *ret_bytes, struct ferry_error *err);
