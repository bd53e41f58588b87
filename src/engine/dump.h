/* SPDX-License-Identifier: Apache-2.0 */
/* A dump in two halves, so that a migration can decide in between what becomes of the source. */
#pragma once

#include <stdbool.h>

#include "engine/engine.h"
#include "mem/mem.h"

struct dump_job;
struct image_coverage;
struct image_dir;
struct image_pages_remote;
struct pageclient;
struct image_sink;
struct snapshot;

/* Where a dump goes. */
struct dump_to {
	const char *images_dir;
	/*
	 * Gets the pages files while they are read; NULL: they go into the directory. With it the image only passes through:
	 * whoever receives it compares it with its manifest, so here it is neither synced nor read back.
	 */
	const struct image_sink *pages;
	const struct image_pages_remote
		*remote; /* gets pagemaps and pages; NULL: they go into the directory */
	/* An incremental dump: where the link 'parent' is to lead, relative to images_dir. NULL: a full dump. */
	const char *parent;
	bool leaves;          /* memory that may come late stays where it is, see struct mem_left */
	struct mem_past past; /* .covered: NULL when that is to be read from the parent */
	/* Called when the tree stands and is known, before its memory is read; may be NULL. */
	int (*stands)(void *context, struct frozen *frozen, const struct snapshot *snap,
		      struct ferry_error *err);
	/*
	 * Called when the directory is made, while the tree runs: rounds of the image's own. May set parent and past of this very
	 * structure; NULL: there are none.
	 */
	int (*rounds)(void *context, struct image_dir *dir, struct dump_to *to, struct ferry_error *err);
	void *context;
	struct image_coverage
		*coverage; /* gets which pages this image has, for the next round; may be NULL */
};

/* Connect to the server of --page-server, and refuse what does not go with it. To be closed unless it fails. */
must_check int dump_connect(struct engine *e, struct pageclient *ret, struct ferry_error *err);

/* The image builds on another one, which is open: does the other side of its pages have that? covered: what that one has. */
must_check int dump_ask_remote(struct engine *e, const struct image_pages_remote *remote,
			       const struct image_dir *before, const struct image_coverage *covered,
			       struct ferry_error *err);

/* Whether the tree can be dumped, seen from outside; the first obstacle is the error. */
must_check int dump_check(struct engine *e, struct ferry_error *err);

/*
 * Check, freeze, collect, write the image and read it back (with leave_running that is left to dump_finish()). The tree stays
 * frozen (volatile hold: it runs on when the worker dies). On failure it runs and there is no image.
 */
must_check int dump_start(struct engine *e, struct dump_to *to, struct dump_job **ret_job,
			  struct ferry_error *err);

/*
 * The tree runs on, or is killed, silently for its network peers. With leave_running the image is synced and read back after
 * that. Frees the job, also on failure (then the tree runs, and there is no image).
 */
must_check int dump_finish(struct dump_job *j, bool kill, struct ferry_error *err);

/* Once an image is whole: with --auto-dedup take out of those that it builds on what it has again. A failure is only said. */
void dump_auto_dedup(struct engine *e, struct image_dir *dir);

/* Where it is written. */
const struct image_dir *dump_dir(const struct dump_job *j);

/* Who is frozen, and since when. */
const struct frozen *dump_frozen(const struct dump_job *j);

/*
 * Let go of a tree that something else holds, changing nothing: sockets stay as they are. Frees the job.
 */
void dump_leave(struct dump_job *j);

/* The tree runs on; an image that is not complete is removed. Frees the job; NULL is fine. */
void dump_abort(struct dump_job *j);
