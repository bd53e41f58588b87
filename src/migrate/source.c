/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the source's side of a migration: everything up to the commit can be taken back, nothing after it.
 *
 *   OPEN       the tree runs or is in the volatile hold; dying lets it run
 *   HELD       durable hold, the target is prepared; the warden takes the hold back when the worker dies, after it wrote ABORTED
 *   COMMITTED  nobody here lets it run any more; only the target's word, or the operator's, changes that
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "collect/collect.h"
#include "freeze/freeze.h"
#include "image/dir.h"
#include "migrate/files.h"
#include "migrate/hold.h"
#include "migrate/migrate.h"
#include "migrate/source.h"
#include "proc/read.h"

enum {
	SOURCE_PIDS_MAX = 4000,      /* as many as an offer has room for */
	SOURCE_BYTES_PER_MS = 65536, /* slowest pace at which a target fills memory */
	SOURCE_WRITE_TRIES = 50,
	SOURCE_WRITE_PAUSE_NS = 20000000,
};

#define SOURCE_HOW "accept that with --insecure and --token FILE, or forward a port with ssh"

/* ----------------------------------------------------- in the warden, for a dead worker */

static int deputy_open(struct source *s, bool worker_is_held, struct journal **ret, int *ret_lock)
{
	int r = journal_open(s->e->options->journal, false, NULL, ret, NULL);
	/* A worker that stands at its end still has the lock: we act in its stead. */
	*ret_lock = r < 0 || worker_is_held ? -1 : journal_lock(*ret, JOURNAL_SOURCE, s->record.id, NULL);
	if (r >= 0 && !worker_is_held && *ret_lock < 0) {
		journal_close(*ret);
		return -EBUSY;
	}
	return r;
}

/* Before anything is taken back the record must say ABORTED: then nobody can commit any more. */
static bool deputy_may_undo(void *context, bool worker_is_held)
{
	struct source *s = context;
	struct journal *j;
	struct journal_record r;
	int lock;
	if (deputy_open(s, worker_is_held, &j, &lock) < 0)
		return false;
	bool may = true;
	if (journal_read(j, JOURNAL_SOURCE, s->record.id, &r, NULL) >= 0) {
		bool was_held = r.state == JOURNAL_HELD;
		int swap = 0;
		if (was_held || r.state == JOURNAL_OPEN) {
			snprintf(r.reason, sizeof(r.reason), "ferry was killed");
			swap = journal_swap(j, &r, JOURNAL_ABORTED, NULL);
		}
		may = r.state != JOURNAL_COMMITTED && !(was_held && swap < 0);
	}
	if (lock >= 0)
		close(lock);
	journal_close(j);
	return may;
}

static void deputy_finish(void *context, bool worker_is_held, bool undone, bool committed)
{
	struct source *s = context;
	struct journal *j;
	struct journal_record r;
	char name[HOLD_NAME_BYTES];
	int lock;
	(void)committed;
	snprintf(name, sizeof(name), "%s.image", s->record.id);
	if (deputy_open(s, worker_is_held, &j, &lock) < 0)
		return;
	if (undone)
		place_remove_stale(journal_path(j), name);
	if (journal_read(j, JOURNAL_SOURCE, s->record.id, &r, NULL) >= 0) {
		int done = -EBUSY;
		if (undone)
			done = hold_undo(&r, NULL, NULL);
		else if (r.confirmed)
			done = hold_end(&r, NULL, s->timeout_ms, NULL);
		r.settled = true;
		if (done >= 0 && journal_swap(j, &r, r.state, NULL) < 0)
			log_write(s->e->log, LOG_WARN, "migrate", NULL, 0,
				  "the journal of '%s' cannot be written: settle it with --resume or --abort",
				  s->record.id);
	}
	if (lock >= 0)
		close(lock);
	journal_close(j);
}

/* ------------------------------------------------------------------ preparing */

static int source_addresses(struct source *s, struct ferry_error *err)
{
	const struct text_list *list = &s->e->options->move_address;
	if (list->v.n > JOURNAL_ADDRESSES)
		return error_set(err, FERRY_ERROR_USAGE, E2BIG, "more than %d times --move-address",
				 JOURNAL_ADDRESSES);
	for (size_t i = 0; i < list->v.n; i++) {
		struct address a;
		int r = hold_parse_address(list->v.v[i], &a, err);
		if (r < 0)
			return r;
		snprintf(s->record.addresses[s->record.n_addresses++], JOURNAL_ADDRESS_BYTES, "%s",
			 list->v.v[i]);
	}
	return hold_check_addresses(&s->record, true, err);
}

/* The channel must outlive the address. */
static int source_check_own_address(const struct source *s, struct ferry_error *err)
{
	struct sockaddr_storage own = {0};
	socklen_t n = sizeof(own);
	if (getsockname(channel_fd(s->wire.channel), (struct sockaddr *)&own, &n) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "asking for our own address");
	for (size_t i = 0; i < s->record.n_addresses; i++) {
		struct address a;
		int r = hold_parse_address(s->record.addresses[i], &a, err);
		if (r < 0)
			return r;
		bool same = own.ss_family == AF_INET
				    ? !memcmp(&((struct sockaddr_in *)&own)->sin_addr, a.bytes, 4)
				    : own.ss_family == AF_INET6 &&
					      !memcmp(&((struct sockaddr_in6 *)&own)->sin6_addr, a.bytes, 16);
		if (!same || own.ss_family != a.family)
			continue;
		error_set(err, FERRY_ERROR_USAGE, EADDRINUSE,
			  "the migration itself would run over '%s', which is to move",
			  s->record.addresses[i]);
		error_hint(err,
			   "use another address of the target with --to, so that ours is another one, too");
		return -EADDRINUSE;
	}
	return 0;
}

static int source_read_task(struct source *s, struct ferry_error *err)
{
	char comm[PROC_NAME_BYTES];
	pid_t pid = (pid_t)s->e->options->tree;
	if (pid <= 0)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--tree PID is missing");
	_cleanup_close_ int proc = proc_open(pid, err);
	if (proc < 0)
		return proc;
	int r = proc_read_comm(proc, comm, err);
	if (r >= 0)
		r = proc_start_time(proc, &s->record.start_ticks, err);
	if (r < 0)
		return r;
	s->record.pid = pid;
	wire_copy_text(s->record.comm, sizeof(s->record.comm), comm);
	return 0;
}

/* That of v2 comes first: what it holds can still be killed by others. */
static int source_freezer(struct source *s, struct ferry_error *err)
{
	static const enum freezer_kind kinds[] = {FREEZER_V2, FREEZER_V1};
	char name[HOLD_NAME_BYTES];
	struct ferry_error first = FERRY_ERROR_INIT;
	int r = -ENODEV;
	hold_name(s->record.id, name);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		r = freezer_open(kinds[i], name, &s->e->fault, &s->freezer, i ? NULL : &first);
		if (r >= 0)
			r = freezer_try(s->freezer, s->record.pid, i ? NULL : &first);
		if (r >= 0)
			return 0;
		freezer_close(s->freezer);
		s->freezer = NULL;
	}
	if (err)
		*err = first;
	return r;
}

/* Everything that can be refused before anybody else is asked. */
static int source_prepare(struct source *s, struct ferry_error *err)
{
	const struct options *o = s->e->options;
	if (!o->to)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--to ADDRESS is missing");
	int r = endpoint_parse_plain(o->to, o->insecure && s->token.n, SOURCE_HOW, &s->peer, err);
	if (r < 0)
		return r;
	s->record.side = JOURNAL_SOURCE;
	s->record.state = JOURNAL_OPEN;
	s->record.epoch = 1;
	wire_copy_text(s->record.id, sizeof(s->record.id), s->e->report.migration.id);
	snprintf(s->record.peer, sizeof(s->record.peer), "%s", o->to);
	r = source_read_task(s, err);
	if (r >= 0)
		r = source_addresses(s, err);
	if (r >= 0)
		r = s->lock = journal_lock(s->journal, JOURNAL_SOURCE, s->record.id, err);
	if (r >= 0)
		r = source_freezer(s, err);
	if (r >= 0)
		r = token_fingerprint(&s->token, s->record.token);
	return r;
}

static int source_list_pids(pid_t root, uint32_t *pids, size_t max, size_t *ret_n)
{
	size_t n = 0;
	pids[n++] = (uint32_t)root;
	for (size_t i = 0; i < n; i++) {
		struct proc_pid_list children;
		_cleanup_close_ int proc = proc_open((pid_t)pids[i], NULL);
		if (proc < 0 || proc_read_children(proc, &children, NULL) < 0)
			continue; /* it ended meanwhile */
		vec_foreach(child, &children.v) {
			if (n < max)
				pids[n++] = (uint32_t)*child;
		}
		proc_pid_list_release(&children);
	}
	*ret_n = n;
	return 0;
}

/* Tell the target what is to come; it refuses now what it can refuse. */
static int source_offer(struct source *s, uint64_t memory_bytes, struct ferry_error *err)
{
	_cleanup_free_ uint32_t *pids = calloc(SOURCE_PIDS_MAX, sizeof(*pids));
	struct utsname uts;
	char *addresses[JOURNAL_ADDRESSES];
	MigrateOffer offer = MIGRATE_OFFER__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	if (!pids)
		return error_memory(err);
	if (uname(&uts) < 0 || source_list_pids(s->record.pid, pids, SOURCE_PIDS_MAX, &offer.n_pids) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "uname");
	for (size_t i = 0; i < s->record.n_addresses; i++)
		addresses[i] = s->record.addresses[i];
	offer.memory_bytes = memory_bytes;
	offer.root_pid = (uint32_t)s->record.pid;
	offer.comm = s->record.comm;
	offer.pids = pids;
	offer.addresses = addresses;
	offer.n_addresses = s->record.n_addresses;
	offer.arch = uts.machine;
	offer.has_tcp_established = offer.has_shell_job = 1;
	offer.tcp_established = s->e->kinds.tcp_established;
	offer.shell_job = s->e->kinds.shell_job;
	m.offer = &offer;
	int r = wire_send(&s->wire, MIGRATE_KIND__OFFER, &m, err);
	return r < 0 ? r : wire_expect(&s->wire, MIGRATE_KIND__ACCEPT, err);
}

static int source_begin(struct source *s, struct ferry_error *err)
{
	uint64_t start = time_now_ns();
	s->e->kinds.moving = true;
	int r = source_prepare(s, err);
	if (r >= 0)
		r = dump_check(s->e, err);
	if (r >= 0)
		r = source_connect(s, err);
	if (r >= 0)
		r = source_check_own_address(s, err);
	if (r >= 0)
		r = source_offer(s, s->e->image_bytes, err);
	engine_phase(s->e, "connect", start);
	if (r < 0)
		return r;
	s->e->warden_actions.deputy = (struct warden_deputy){deputy_may_undo, deputy_finish, s};
	r = engine_warden(s->e, err);
	if (r >= 0)
		r = journal_create(s->journal, &s->record, err);
	if (r < 0)
		return r;
	char name[HOLD_NAME_BYTES];
	snprintf(name, sizeof(name), "%s.image", s->record.id);
	/* Pages go over the wire at once; what is left is small. */
	return place_make(NULL, journal_path(s->journal), name, 0, &s->place, err);
}

/* ------------------------------------------------------------------- moving */

static int source_go_on(const struct source *s, struct ferry_error *err)
{
	return getppid() == s->caller ? 0 : error_set(err, FERRY_ERROR_INTERRUPTED, EINTR, "interrupted");
}

/* The memory is under way to the target while it is read. */
static int source_dump(struct source *s, struct ferry_error *err)
{
	s->transfer = (struct transfer){
		.wire = &s->wire, .fault = &s->e->fault, .log = s->e->log, .caller = s->caller};
	struct image_sink pages = files_sink(&s->transfer);
	struct dump_to to = {.images_dir = s->place.path, .pages = &pages};
	int r = dump_start(s->e, &to, &s->job, err);
	s->stopped = r >= 0 || s->transfer.files;
	if (r < 0)
		return r;
	const struct frozen *f = dump_frozen(s->job);
	s->frozen_ns = f->since_ns;
	s->pids = calloc(f->tasks.n, sizeof(*s->pids));
	if (!s->pids)
		return error_memory(err);
	for (size_t i = 0; i < f->tasks.n; i++)
		s->pids[s->n_pids++] = f->tasks.v[i].pid;
	return source_go_on(s, err);
}

static int source_send(struct source *s, struct ferry_error *err)
{
	struct engine_report *report = &s->e->report;
	struct transfer *t = &s->transfer;
	fault_effect(&s->e->fault, "migrate", "transfer");
	int r = files_send_image(t, s->place.fd, err);
	engine_phase(s->e, "transfer", t->start_ns);
	struct engine_migration *m = &report->migration;
	m->transfer_ns = time_now_ns() - t->start_ns;
	m->rounds[0] = (struct engine_round){
		.pages = report->pages_written, .bytes = t->bytes, .ns = m->transfer_ns};
	m->n_rounds = 1;
	report->bytes = t->bytes;
	return r;
}

/* The target rebuilds everything; that takes the longer the more memory there is. */
static int source_await_prepared(struct source *s, struct ferry_error *err)
{
	uint64_t start = time_now_ns(), extra_ms = s->e->report.bytes / SOURCE_BYTES_PER_MS;
	channel_set_timeout(s->wire.channel, s->timeout_ms + (int)MIN(extra_ms, (uint64_t)INT32_MAX / 2));
	int r = wire_expect(&s->wire, MIGRATE_KIND__PREPARED, err);
	channel_set_timeout(s->wire.channel, s->timeout_ms);
	engine_phase(s->e, "prepare", start);
	return r;
}

/* The durable hold: from here on the tree stands still even if every ferry dies. */
static int source_hold(struct source *s, struct ferry_error *err)
{
	uint64_t start = time_now_ns();
	struct engine *e = s->e;
	int r = fault_hit(&e->fault, FAULT_HOLD)
			? error_set(err, FERRY_ERROR_FAULT, EIO, "freezing: fault injected")
			: freezer_hold(s->freezer, s->pids, s->n_pids, s->timeout_ms, err);
	s->held = r >= 0;
	if (r >= 0 && e->kinds.tcp_established)
		r = hold_lock_connections(s->record.id, s->pids, s->n_pids, &e->fault, err);
	if (r >= 0)
		r = source_swap(s, JOURNAL_HELD, NULL, err);
	if (r >= 0)
		r = fault_hit(&e->fault, FAULT_ADDRESS)
			    ? error_set(err, FERRY_ERROR_FAULT, EIO, "moving an address: fault injected")
			    : hold_remove_addresses(&s->record, &e->fault, err);
	if (r >= 0)
		r = source_go_on(s, err);
	engine_phase(e, "hold", start);
	return r;
}

/* Write a state, or find out that it was not written. A result that stays unknown is OUTCOME_UNKNOWN. */
static int source_write(struct source *s, enum journal_state state, const char *reason,
			struct ferry_error *err)
{
	struct timespec pause = {.tv_nsec = SOURCE_WRITE_PAUSE_NS};
	struct journal_record now;
	for (int i = 0; i < SOURCE_WRITE_TRIES; i++) {
		error_clear(err);
		int r = source_swap(s, state, reason, err);
		if (r >= 0)
			return 0;
		if (journal_read(s->journal, JOURNAL_SOURCE, s->record.id, &now, NULL) >= 0) {
			if (now.state == state)
				s->record = now;
			return now.state == state ? 0 : r;
		}
		nanosleep(&pause, NULL);
	}
	error_clear(err);
	error_set(err, FERRY_ERROR_OUTCOME_UNKNOWN, EIO, "the journal '%s' can neither be written nor read",
		  journal_path(s->journal));
	error_hint(err, "the tree is held; when the journal works again: ferry migrate --abort %s",
		   s->record.id);
	return -EIO;
}

/* ------------------------------------------------------------------- ending */

/*
 * Back to a running source. Only with ABORTED (or REVERTED) on the disk the hold is taken back; a volatile hold ends by itself
 * anyhow, and from OPEN nobody can commit.
 */
static int source_undo(struct source *s, enum journal_state state, struct ferry_error *why)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	bool was_held = s->record.state != JOURNAL_OPEN;
	int r = source_write(s, state, why->message, &err);
	if (r < 0 && was_held) {
		/* The warden must not do what we may not. */
		dump_leave(s->job);
		s->job = NULL;
		*why = err;
		if (err.id != FERRY_ERROR_OUTCOME_UNKNOWN) {
			error_clear(why);
			error_set(why, FERRY_ERROR_OUTCOME_UNKNOWN, EIO, "%s; the tree is held", err.message);
			error_hint(why, "when the journal works again: ferry migrate --abort %s",
				   s->record.id);
		}
		snprintf(s->e->report.migration.outcome, sizeof(s->e->report.migration.outcome), "unknown");
		return r;
	}
	if (r < 0)
		log_write(s->e->log, LOG_WARN, "migrate", NULL, 0, "%s", err.message);
	else if (state == JOURNAL_REVERTED)
		source_done(s);
	int back = was_held ? hold_add_addresses(&s->record, &s->e->fault, &err) : 0;
	if (s->held && hold_unlock(s->record.id, &err) < 0)
		back = -EIO;
	/* The tasks still stand by ptrace: the order of the two holds does not show. */
	if (s->held && freezer_thaw(s->freezer, &err) < 0)
		back = -EIO;
	dump_abort(s->job);
	s->job = NULL;
	if (back < 0)
		log_write(s->e->log, LOG_ERROR_LEVEL, "migrate", NULL, 0, "putting the source back: %s",
			  err.message);
	else
		source_settled(s);
	return 0;
}

/* What the target said after the tree was stopped is no refusal any more. */
static void source_relabel(const struct source *s, struct ferry_error *err)
{
	if (!s->stopped || ferry_error_exit_code(err->id) != 3)
		return;
	err->id = FERRY_ERROR_RESTORE_STEP;
}

static int source_fail(struct source *s, int r, struct ferry_error *err)
{
	if (s->record.sequence && source_undo(s, JOURNAL_ABORTED, err) >= 0)
		source_relabel(s, err);
	if (wire_is_open(&s->wire)) {
		channel_set_interrupt(s->wire.channel, -1);
		if (wire_send(&s->wire, MIGRATE_KIND__ABORT, NULL, NULL) < 0)
			return r;
	}
	return r;
}

/* It runs there: end the copy here, silently. */
static int source_end(struct source *s, struct ferry_error *err)
{
	struct engine *e = s->e;
	uint64_t start = time_now_ns();
	e->report.freeze_ns = start - s->frozen_ns;
	snprintf(e->report.migration.outcome, sizeof(e->report.migration.outcome), "committed");
	int r = source_confirm(s, err);
	if (r >= 0)
		r = freezer_kill(s->freezer, s->timeout_ms, err);
	uint64_t freeze_ns = e->report.freeze_ns;
	int end = r < 0 ? 0 : dump_finish(s->job, true, err);
	e->report.freeze_ns = freeze_ns;
	if (r < 0)
		dump_leave(s->job);
	s->job = NULL;
	if (r >= 0)
		r = end;
	if (r >= 0)
		r = hold_unlock(s->record.id, err);
	engine_phase(e, "end", start);
	if (r >= 0)
		source_settled(s);
	else
		error_hint(
			err,
			"the work runs on the target; end the held copy here with: ferry migrate --resume %s",
			s->record.id);
	return r;
}

/* From the commit on: find out who runs it. */
static int source_commit(struct source *s, struct ferry_error *err)
{
	uint64_t start = time_now_ns();
	enum source_answer answer;
	int r = source_write(s, JOURNAL_COMMITTED, NULL, err);
	if (r < 0 && err->id != FERRY_ERROR_OUTCOME_UNKNOWN)
		return source_fail(s, r, err);
	if (r >= 0)
		r = source_ask(s, MIGRATE_KIND__COMMIT, &answer, err);
	engine_phase(s->e, "commit", start);
	if (r < 0) {
		dump_leave(s->job);
		s->job = NULL;
		return r;
	}
	if (answer == SOURCE_RUNS_THERE)
		return source_end(s, err);
	error_set(err, FERRY_ERROR_RESTORE_STEP, ECANCELED, "the target took it back: %s",
		  s->record.reason[0] ? s->record.reason : "it did not say why");
	r = source_undo(s, JOURNAL_REVERTED, err);
	return r < 0 ? r : -ECANCELED;
}

int migrate_source(struct engine *e, struct ferry_error *err)
{
	struct source s;
	int r = source_init(&s, e, e->options->id, err);
	if (r >= 0)
		r = source_begin(&s, err);
	if (r >= 0)
		r = source_dump(&s, err);
	if (r >= 0)
		r = source_send(&s, err);
	if (r >= 0)
		r = source_await_prepared(&s, err);
	if (r >= 0)
		r = source_hold(&s, err);
	r = r < 0 ? source_fail(&s, r, err) : source_commit(&s, err);
	e->report.migration.bytes = wire_bytes(&s.wire);
	e->report.total_ns = time_now_ns() - e->start_ns;
	source_release(&s);
	return r;
}
