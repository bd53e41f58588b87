/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns settling a migration that nobody drives any more, from its record alone. From OPEN and HELD the only way is back: who
 * could have committed is gone. From COMMITTED only the target's word counts, or the operator's that it is off.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "migrate/hold.h"
#include "migrate/migrate.h"
#include "migrate/source.h"

static void settle_outcome(struct engine *e, const char *outcome)
{
	snprintf(e->report.migration.outcome, sizeof(e->report.migration.outcome), "%s", outcome);
}

/* The record says that the work is to run here: see to it. */
static int settle_undo(struct source *s, struct ferry_error *err)
{
	char name[HOLD_NAME_BYTES];
	snprintf(name, sizeof(name), "%s.image", s->record.id);
	place_remove_stale(journal_path(s->journal), name);
	int r = hold_undo(&s->record, &s->e->fault, err);
	if (r < 0)
		return r;
	source_settled(s);
	settle_outcome(s->e, "aborted");
	return 0;
}

static int settle_end(struct source *s, struct ferry_error *err)
{
	int r = source_confirm(s, err);
	if (r >= 0)
		r = hold_end(&s->record, &s->e->fault, s->timeout_ms, err);
	if (r < 0)
		return r;
	source_settled(s);
	settle_outcome(s->e, "committed");
	return 0;
}

static int settle_revert(struct source *s, const char *reason, struct ferry_error *err)
{
	int r = source_swap(s, JOURNAL_REVERTED, reason, err);
	if (r < 0)
		return r;
	source_done(s);
	return settle_undo(s, err);
}

#define SETTLE_HOW "repeat --insecure and --token FILE as they were given to the migration"

static int settle_committed(struct source *s, struct ferry_error *err)
{
	const struct options *o = s->e->options;
	enum source_answer answer;
	if (s->record.confirmed)
		return settle_end(s, err);
	if (o->abort && o->peer_is_fenced)
		return settle_revert(s, "the operator said that the other side does not run", err);
	int r = endpoint_parse_plain(o->to ? o->to : s->record.peer, o->insecure && s->token.n, SETTLE_HOW,
				     &s->peer, err);
	if (r < 0)
		return r;
	r = source_ask(s, o->abort ? MIGRATE_KIND__ABORT : MIGRATE_KIND__COMMIT, &answer, err);
	if (r < 0)
		return r;
	return answer == SOURCE_RUNS_THERE ? settle_end(s, err) : settle_revert(s, NULL, err);
}

static int settle_source(struct source *s, struct ferry_error *err)
{
	int r;
	switch (s->record.state) {
	case JOURNAL_OPEN:
	case JOURNAL_HELD:
		r = source_swap(s, JOURNAL_ABORTED, "settled after an interruption", err);
		return r < 0 ? r : settle_undo(s, err);
	case JOURNAL_COMMITTED:
		if (!s->record.settled)
			return settle_committed(s, err);
		settle_outcome(s->e, "committed");
		return 0;
	default:
		if (!s->record.settled)
			return settle_undo(s, err);
		settle_outcome(s->e, "aborted");
		return 0;
	}
}

/* On the target there is one thing to settle: that work which was prepared by a dead ferry never ran. */
static int settle_target(struct source *s, struct ferry_error *err)
{
	struct journal_record *r = &s->record;
	switch (r->state) {
	case JOURNAL_RUNNING: settle_outcome(s->e, "running"); return 0;
	case JOURNAL_TARGET_REVERTED: settle_outcome(s->e, "reverted"); return 0;
	case JOURNAL_PREPARED: break;
	default:
		error_set(err, FERRY_ERROR_OUTCOME_UNKNOWN, EIO,
			  "migration '%s' was about to run here when ferry died", r->id);
		error_hint(
			err,
			"look for pid %d (%s); if it does not run: on the source, ferry migrate --abort %s --peer-is-fenced",
			r->pid, r->comm, r->id);
		return -EIO;
	}
	r->settled = true;
	snprintf(r->reason, sizeof(r->reason), "settled after an interruption");
	int ret = journal_swap(s->journal, r, JOURNAL_TARGET_REVERTED, err);
	if (ret >= 0)
		settle_outcome(s->e, "reverted");
	return ret;
}

int migrate_settle(struct engine *e, struct ferry_error *err)
{
	struct source s;
	const char *id = e->options->resume ? e->options->resume : e->options->abort;
	int r = source_init(&s, e, id, err);
	enum journal_side side = JOURNAL_SOURCE;
	if (r >= 0) {
		r = journal_read(s.journal, JOURNAL_SOURCE, id, &s.record, err);
		struct ferry_error second = FERRY_ERROR_INIT;
		if (r == -ENOENT && journal_read(s.journal, JOURNAL_TARGET, id, &s.record, &second) >= 0) {
			error_clear(err);
			side = JOURNAL_TARGET;
			r = 0;
		}
	}
	if (r >= 0)
		r = s.lock = journal_lock(s.journal, side, id, err);
	/* Again: it may have changed before we had the lock. */
	if (r >= 0)
		r = journal_read(s.journal, side, id, &s.record, err);
	if (r >= 0)
		r = side == JOURNAL_SOURCE ? settle_source(&s, err) : settle_target(&s, err);
	e->report.migration.bytes = wire_bytes(&s.wire);
	e->report.total_ns = time_now_ns() - e->start_ns;
	source_release(&s);
	return r < 0 ? r : 0;
}
