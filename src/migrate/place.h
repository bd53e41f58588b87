/* SPDX-License-Identifier: Apache-2.0 */
/* Where an image lies while it passes through: in memory when there is room, else in a directory. */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

struct place {
	char *path; /* of the images directory; NULL = none */
	int fd;     /* of the directory; -1 */
	char *made; /* directory that place_release() removes with all its files; NULL = none */
};

/* clang-format off */
#define PLACE_INIT {.fd = -1}
/* clang-format on */

/*
 * A place for about so many bytes. dir: use this directory and leave the image there; NULL: memory, or a
 * directory named 'name' below parent, which vanish with place_release(). In memory nothing is left behind by a death.
 */
must_check int place_make(const char *dir, const char *parent, const char *name, uint64_t bytes,
			  struct place *ret, struct ferry_error *err);
void place_release(struct place *p);

/* Remove what an earlier ferry left under this name. */
void place_remove_stale(const char *parent, const char *name);
