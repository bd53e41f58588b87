/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of the files that a tree writes to. */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

struct fault;
struct image_dir;
struct snapshot;

/*
 * Put the contents of all regular files with a name that the tree, which stands, has open for writing into the image, and note in the guards
 * where. limit: bytes of the largest; 0 takes any. A file that somebody else writes to meanwhile is an error.
 */
must_check int capture_files(struct snapshot *snap, struct image_dir *dir, uint64_t limit,
			     const struct fault *fault, struct ferry_error *err);
