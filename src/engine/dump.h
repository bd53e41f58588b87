/* SPDX-License-Identifier: Apache-2.0 */
/* A dump in two halves, so that a migration can decide in between what becomes of the source. */
#pragma once

#include <stdbool.h>

#include "engine/engine.h"

struct dump_job;
struct image_sink;

/* Where a dump goes. */
struct dump_to {
	const char *images_dir;
	/*
	 * Gets the pages files while they are read; NULL: they go into the directory. With it the image only passes through:
	 * whoever receives it compares it with its manifest, so here it is neither synced nor read back.
	 */
	const struct image_sink *pages;
};

/* Whether the tree can be dumped, seen from outside; the first obstacle is the error. */
must_check int dump_check(struct engine *e, struct ferry_error *err);

/*
 * Check, freeze, collect, write the image and read it back (with leave_running that is left to dump_finish()). The tree stays
 * frozen (volatile hold: it runs on when the worker dies). On failure it runs and there is no image.
 */
must_check int dump_start(struct engine *e, const struct dump_to *to, struct dump_job **ret_job,
			  struct ferry_error *err);

/*
 * The tree runs on, or is killed, silently for its network peers. With leave_running the image is synced and read back after
 * that. Frees the job, also on failure (then the tree runs, and there is no image).
 */
must_check int dump_finish(struct dump_job *j, bool kill, struct ferry_error *err);

/* Who is frozen, and since when. */
const struct frozen *dump_frozen(const struct dump_job *j);

/*
 * Let go of a tree that something else holds, changing nothing: sockets stay as they are. Frees the job.
 */
void dump_leave(struct dump_job *j);

/* The tree runs on; an image that is not complete is removed. Frees the job; NULL is fine. */
void dump_abort(struct dump_job *j);
