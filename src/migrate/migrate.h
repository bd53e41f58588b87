/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moving a running tree from one machine to another so that exactly one copy runs, whoever dies and whatever is cut
 * meanwhile. Each function is a job (engine/job.h). What decides is the record of store/journal.h.
 */
#pragma once

#include <ferry/error.h>

#include "base/macros.h"
#include "engine/engine.h"

enum { MIGRATE_ID_BYTES = 48 };

/* A new id. */
void migrate_new_id(char ret[static MIGRATE_ID_BYTES]);

/*
 * Source: move --tree to --to, under the id --id (which must be set). 0: it runs there and is gone here. Else it
 * runs here, unless the error is OUTCOME_UNKNOWN: then it is held here until the migration is settled.
 */
must_check int migrate_source(struct engine *e, struct ferry_error *err);

/* Target: wait at --listen for one migration. 0: the work runs here, or one from the journal was settled. */
must_check int migrate_receive(struct engine *e, struct ferry_error *err);

/* Source or target: settle the migration that --resume or --abort names. 0: done as asked; the outcome is in the report. */
must_check int migrate_settle(struct engine *e, struct ferry_error *err);
