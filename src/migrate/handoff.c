/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what migrating and settling have in common on the source: connecting, asking until there is an answer, the record.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "kernel/syscalls.h"
#include "migrate/migrate.h"
#include "migrate/source.h"

enum { SOURCE_RETRY_NS = 50000000, SOURCE_EPOCH = 1 };

void migrate_new_id(char ret[static MIGRATE_ID_BYTES])
{
	uint64_t random;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		random = time_now_ns();
	snprintf(ret, MIGRATE_ID_BYTES, "%016llx", (unsigned long long)random);
}

int source_init(struct source *s, struct engine *e, const char *id, struct ferry_error *err)
{
	const struct options *o = e->options;
	*s = (struct source){.e = e,
			     .lock = -1,
			     .caller_fd = -1,
			     .place = PLACE_INIT,
			     .timeout_ms = (int)o->timeout * 1000,
			     .caller = getppid()};
	s->caller_fd = sys_pidfd_open(s->caller, 0);
	snprintf(e->report.migration.id, sizeof(e->report.migration.id), "%s", id);
	snprintf(e->report.migration.outcome, sizeof(e->report.migration.outcome), "aborted");
	if (gethostname(e->report.migration.source, sizeof(e->report.migration.source) - 1) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "gethostname");
	if (!journal_id_valid(id))
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "'%.60s' cannot be the id of a migration",
				 id);
	int r = token_read(o->token, &s->token, err);
	if (r >= 0)
		r = journal_open(o->journal, true, &e->fault, &s->journal, err);
	return r;
}

void source_release(struct source *s)
{
	wire_close(&s->wire);
	place_release(&s->place);
	freezer_close(s->freezer);
	journal_close(s->journal);
	free(s->pids);
	if (s->lock >= 0)
		close(s->lock);
	if (s->caller_fd >= 0)
		close(s->caller_fd);
}

int source_connect(struct source *s, struct ferry_error *err)
{
	/* Once the record is COMMITTED there is no way back that an interruption could take. */
	int interrupt = s->record.state == JOURNAL_COMMITTED ? -1 : s->caller_fd;
	int fd = endpoint_connect(&s->peer, s->timeout_ms, err);
	if (fd < 0)
		return fd;
	int r = wire_open(&s->wire, fd, s->timeout_ms, interrupt, err);
	if (r >= 0)
		r = wire_greet_target(&s->wire, &s->token, err);
	if (r < 0) {
		wire_close(&s->wire);
		return r;
	}
	struct engine_migration *m = &s->e->report.migration;
	snprintf(s->wire.id, sizeof(s->wire.id), "%s", s->record.id);
	snprintf(m->target, sizeof(m->target), "%s", s->wire.node);
	s->wire.epoch = s->record.epoch ? s->record.epoch : SOURCE_EPOCH;
	return 0;
}

static int source_unknown(struct source *s, const char *why, struct ferry_error *err)
{
	snprintf(s->e->report.migration.outcome, sizeof(s->e->report.migration.outcome), "unknown");
	error_clear(err);
	error_set(err, FERRY_ERROR_OUTCOME_UNKNOWN, EIO, "migration '%s': %s; the copy here is held",
		  s->record.id, why);
	error_hint(
		err,
		"with 'ferry receive' running there: ferry migrate --resume %s; if the other machine is known to be off: ferry migrate --abort "
		"%s --peer-is-fenced",
		s->record.id, s->record.id);
	return -EIO;
}

/* 1: *ret is the answer; 0: the other side is still at it; -errno: it does not know, or cannot be understood. */
static int source_read_answer(struct source *s, enum source_answer *ret, struct ferry_error *err)
{
	int r = wire_receive(&s->wire, err);
	if (r < 0)
		return r;
	const MigrateMessage *m = s->wire.message;
	switch (m->kind) {
	case MIGRATE_KIND__RUNNING: *ret = SOURCE_RUNS_THERE; return 1;
	case MIGRATE_KIND__REVERTED:
		*ret = SOURCE_REVERTED;
		if (m->state && m->state->reason)
			wire_copy_text(s->record.reason, sizeof(s->record.reason), m->state->reason);
		return 1;
	case MIGRATE_KIND__STATE:
		if (m->state && m->state->is_driven)
			return 0;
		error_set(err, FERRY_ERROR_OUTCOME_UNKNOWN, ENODATA, "%s",
			  m->state && m->state->state == MIGRATE_TARGET_STATE__TARGET_RUN_INTENT
				  ? "the target began to run it and died before it could say more"
				  : "the target knows nothing of it");
		return -ENODATA;
	default: return wire_unexpected(&s->wire, err);
	}
}

static void source_pause(void)
{
	struct timespec t = {.tv_nsec = SOURCE_RETRY_NS};
	nanosleep(&t, NULL);
}

int source_ask(struct source *s, MigrateKind kind, enum source_answer *ret, struct ferry_error *err)
{
	uint64_t end = time_now_ns() + (uint64_t)s->timeout_ms * 1000000;
	struct ferry_error last = FERRY_ERROR_INIT;
	if (wire_is_open(&s->wire))
		channel_set_interrupt(s->wire.channel, -1);
	for (;;) {
		error_clear(&last);
		int r = wire_is_open(&s->wire) ? 0 : source_connect(s, &last);
		fault_effect(&s->e->fault, "migrate", "ask");
		if (r >= 0)
			r = wire_send(&s->wire, kind, NULL, &last);
		if (r >= 0)
			r = source_read_answer(s, ret, &last);
		if (r > 0)
			return 0;
		if (r < 0) {
			log_write(s->e->log, LOG_INFO, "migrate", NULL, 0, "asking the target: %s",
				  last.message);
			wire_close(&s->wire);
		}
		if (last.id == FERRY_ERROR_OUTCOME_UNKNOWN || time_now_ns() > end)
			break;
		source_pause();
	}
	return source_unknown(s, last.message[0] ? last.message : "the target did not answer in time", err);
}

int source_swap(struct source *s, enum journal_state state, const char *reason, struct ferry_error *err)
{
	if (reason)
		snprintf(s->record.reason, sizeof(s->record.reason), "%s", reason);
	return journal_swap(s->journal, &s->record, state, err);
}

void source_done(struct source *s)
{
	fault_effect(&s->e->fault, "migrate", "done");
	if (wire_is_open(&s->wire) && wire_send(&s->wire, MIGRATE_KIND__DONE, NULL, NULL) < 0)
		log_write(s->e->log, LOG_INFO, "migrate", NULL, 0,
			  "the target was gone before it heard that we know, ignoring");
}

int source_confirm(struct source *s, struct ferry_error *err)
{
	s->record.confirmed = true;
	int r = source_swap(s, JOURNAL_COMMITTED, NULL, err);
	if (r >= 0)
		source_done(s);
	return r;
}

void source_settled(struct source *s)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	s->record.settled = true;
	if (journal_swap(s->journal, &s->record, s->record.state, &err) < 0)
		log_write(s->e->log, LOG_WARN, "migrate", NULL, 0,
			  "the journal still lists migration '%s' as open: %s", s->record.id, err.message);
}
