/* SPDX-License-Identifier: Apache-2.0 */
/* Writing a snapshot's records into an image directory. */
#pragma once

#include "engine/engine.h"
#include "model/kind.h"

struct image_dir;

/* Everything but memory and statistics. */
must_check int dump_write_records(struct engine *e, struct collect *c, struct image_dir *dir,
				  struct ferry_error *err);

/* How much memory was stored, of e->report. */
must_check int dump_write_stats(struct engine *e, struct image_dir *dir, struct ferry_error *err);

/*
 * What kinds changed outside for the sake of the dump: put it back, or, when the tasks are about to be killed, make
 * their end silent for peers outside. Called in any case.
 */
must_check int dump_after(struct engine *e, struct collect *c, struct image_dir *dir, bool kill,
			  struct ferry_error *err);
