/* SPDX-License-Identifier: Apache-2.0 */
/* Putting back the contents of files that an image has. */
#pragma once

#include <stdbool.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"

struct fault;
struct image_dir;
struct plan;

/* What was there before stands beside a file, under its name with this, until the restore is decided. */
#define PUTBACK_SUFFIX ".ferry-before"

struct putback_file {
	int dir; /* of the file; -1 */
	char *name, *beside;
	bool placed; /* it stands where it belongs */
	bool was;    /* there was one before */
};

struct putback {
	VEC(struct putback_file) files;
};

/*
 * Let the files that the image has contents of, and that are not as they were, be as they were: all are written first, and then take their
 * places. On failure, too, call one of the functions below.
 */
must_check int putback_files(struct putback *p, const struct plan *plan, struct image_dir *dir,
			     const struct fault *fault, struct ferry_error *err);

/* The restore is decided: what was there before goes. */
void putback_keep(struct putback *p);

/* It failed: what was there before comes back. */
must_check int putback_undo(struct putback *p);

void putback_release(struct putback *p);
