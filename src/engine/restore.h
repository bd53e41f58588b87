/* SPDX-License-Identifier: Apache-2.0 */
/* A restore in two halves, so that a migration can decide in between which copy runs. */
#pragma once

#include "engine/engine.h"

struct restore_job;
struct image_seen;

/* Where an image comes from. */
struct restore_from {
	const char *images_dir;
	const struct image_seen *seen; /* files whose checksum is known already; may be NULL */
	size_t n_seen;
};

/*
 * Read, plan, compare with the machine, build: on success every task stands at the barrier and nothing has run. When the
 * worker dies now, everything that was created is removed. On failure it is removed, too.
 */
must_check int restore_prepare(struct engine *e, const struct restore_from *from,
			       struct restore_job **ret_job, struct ferry_error *err);

/* Open the barrier. On failure nothing has run and everything is removed. Frees the job. */
must_check int restore_commit(struct restore_job *j, struct ferry_error *err);

/* Remove everything. Frees the job; NULL is fine. */
void restore_abandon(struct restore_job *j);
