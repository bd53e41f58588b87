/* SPDX-License-Identifier: Apache-2.0 */
/* The source's side of a handoff, shared by migrating and by settling. */
#pragma once

#include <stdbool.h>

#include "engine/dump.h"
#include "engine/engine.h"
#include "host/freezer.h"
#include "migrate/files.h"
#include "migrate/place.h"
#include "migrate/token.h"
#include "migrate/wire.h"
#include "store/journal.h"
#include "stream/endpoint.h"

struct source {
	struct engine *e;
	struct journal *journal;
	int lock; /* we drive this migration */
	struct journal_record record;
	struct token token;
	struct endpoint peer;
	struct wire wire;
	int timeout_ms;
	pid_t caller;  /* who started the job; its end interrupts, until the work was let go */
	int caller_fd; /* pidfd */

	/* migrating only */
	struct freezer *freezer;
	struct place place;
	struct transfer transfer;
	struct dump_job *job; /* the tree is frozen */
	pid_t *pids;          /* of the tree */
	size_t n_pids;
	bool held;    /* by the freezer */
	bool stopped; /* the tree was frozen at some time */
	uint64_t frozen_ns;
};

/* Options, token, journal, lock. */
must_check int source_init(struct source *s, struct engine *e, const char *id, struct ferry_error *err);
void source_release(struct source *s);

must_check int source_connect(struct source *s, struct ferry_error *err);

enum source_answer { SOURCE_RUNS_THERE, SOURCE_REVERTED };

/*
 * Say COMMIT or ABORT until there is an answer that settles it, connecting anew as often as needed. OUTCOME_UNKNOWN when none
 * comes within the time-out.
 */
must_check int source_ask(struct source *s, MigrateKind kind, enum source_answer *ret,
			  struct ferry_error *err);

/* Swap the record and say why. */
must_check int source_swap(struct source *s, enum journal_state state, const char *reason,
			   struct ferry_error *err);

/* Let the target go: its answer is written down here. Without it the target waits a little longer for questions, no more. */
void source_done(struct source *s);

/* Write down that the work runs there, and let the target go. */
must_check int source_confirm(struct source *s, struct ferry_error *err);

/* The record says that nothing is left to do. */
void source_settled(struct source *s);
