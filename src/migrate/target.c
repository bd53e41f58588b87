/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the target's side of a migration: wait, take an image, rebuild everything up to the barrier, and open it when the source
 * has let go. Until RUN_INTENT is on the disk the target may drop what it built; after it only the warden, which knows
 * whether the barrier was opened, or this process may say that nothing ran.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "engine/restore.h"
#include "kernel/syscalls.h"
#include "migrate/files.h"
#include "migrate/hold.h"
#include "migrate/migrate.h"
#include "migrate/place.h"
#include "migrate/token.h"
#include "migrate/wire.h"
#include "store/journal.h"
#include "stream/endpoint.h"

enum {
	TARGET_ANNOUNCE_TIMES = 2,
	TARGET_ANNOUNCE_MS = 20,
	TARGET_GUESS_PAUSE_MS = 500, /* after a wrong token */
	TARGET_SPARE_BYTES = 16 << 20,
	TARGET_DRAIN_MS = 1000,
};

/* Follows the id in the name of the directory that holds what is received, when memory has no room. */
#define TARGET_PLACE_SUFFIX ".received"

struct target {
	struct engine *e;
	struct journal *journal;
	struct token token;
	char fingerprint[TOKEN_FINGERPRINT_BYTES];
	int listener;
	bool is_unix;
	bool must_trust; /* without a token only a user with our rights may connect */
	pid_t caller;
	int caller_fd;
	int timeout_ms;
	struct wire wire;

	/* the migration that was accepted */
	int lock;
	struct journal_record record;
	struct place place;
	struct transfer transfer;
	struct restore_job *job; /* everything stands at the barrier */
	bool decided;            /* the source has committed, and it runs, or was taken back for good */
	bool running;
	struct ferry_error failure; /* why it was taken back */
};

/* ----------------------------------------------------- in the warden, for a dead worker */

static void deputy_finish(void *context, bool worker_is_held, bool undone, bool committed)
{
	struct target *t = context;
	struct journal *j;
	struct journal_record r;
	char name[HOLD_NAME_BYTES];
	(void)undone;
	snprintf(name, sizeof(name), "%s" TARGET_PLACE_SUFFIX, t->record.id);
	if (journal_open(t->e->options->journal, false, NULL, &j, NULL) < 0)
		return;
	place_remove_stale(journal_path(j), name);
	_cleanup_close_ int lock = worker_is_held ? -1 : journal_lock(j, JOURNAL_TARGET, t->record.id, NULL);
	bool may = worker_is_held || lock >= 0;
	if (may && journal_read(j, JOURNAL_TARGET, t->record.id, &r, NULL) >= 0 &&
	    (r.state == JOURNAL_PREPARED || r.state == JOURNAL_RUN_INTENT)) {
		/* The log was replayed before: what had not been committed is dead by now. */
		if (!committed && r.state == JOURNAL_RUN_INTENT && hold_remove_addresses(&r, NULL, NULL) < 0)
			r.settled = false;
		else
			r.settled = true;
		snprintf(r.reason, sizeof(r.reason), "ferry was killed");
		if (journal_swap(j, &r, committed ? JOURNAL_RUNNING : JOURNAL_TARGET_REVERTED, NULL) < 0)
			r.settled = false;
	}
	journal_close(j);
}

/* ------------------------------------------------------------------ accepting */

static int target_check_peer(const struct target *t, int fd, struct ferry_error *err)
{
	uid_t uid;
	if (!t->must_trust)
		return 0;
	int r = endpoint_peer_uid(fd, &uid);
	if (r >= 0 && (uid == 0 || uid == geteuid()))
		return 0;
	if (r >= 0)
		error_set(err, FERRY_ERROR_PERMISSION, EACCES,
			  "user %u may not send work to a ferry of user %u", uid, geteuid());
	else
		error_errno(err, FERRY_ERROR_PERMISSION, -r, "it is not known who connected");
	error_hint(err, "use --token FILE on both sides");
	return -EACCES;
}

/* Wait for a connection until end_ns (0: for ever). -ETIMEDOUT without *err. */
static int target_accept(struct target *t, uint64_t end_ns, struct ferry_error *err)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = t->listener, .events = POLLIN},
				      {.fd = t->caller_fd, .events = POLLIN}};
		uint64_t now = time_now_ns();
		if (end_ns && now >= end_ns)
			return -ETIMEDOUT;
		int r = poll(p, 2, end_ns ? (int)((end_ns - now) / 1000000) + 1 : -1);
		if (r < 0 && errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "poll");
		if (r > 0 && p[1].revents)
			return error_set(err, FERRY_ERROR_INTERRUPTED, EINTR, "interrupted while waiting");
		int fd = r > 0 ? accept4(t->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;
		if (fd >= 0)
			return fd;
	}
}

/* One connection up to its first message. Whatever a stranger does wrong is told to him and logged, no more. */
static int target_greet(struct target *t, int fd)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int r = target_check_peer(t, fd, &err);
	int opened = wire_open(&t->wire, fd, t->timeout_ms, t->caller_fd, r < 0 ? NULL : &err);
	if (opened < 0)
		return opened;
	if (r >= 0)
		r = wire_greet_source(&t->wire, &t->token, &err);
	if (r >= 0)
		r = wire_receive(&t->wire, &err);
	if (r >= 0)
		return 0;
	log_write(t->e->log, LOG_WARN, "receive", NULL, 0, "refused a connection: %s", err.message);
	wire_send_error(&t->wire, &err);
	wire_close(&t->wire);
	if (err.id == FERRY_ERROR_TOKEN)
		poll(NULL, 0, TARGET_GUESS_PAUSE_MS);
	return r;
}

/* Answers about a migration carry its id. */
static void target_take_id(struct target *t)
{
	const MigrateMessage *m = t->wire.message;
	wire_copy_text(t->wire.id, sizeof(t->wire.id), m->id);
	t->wire.epoch = m->epoch;
}

static int target_tell(struct target *t, const struct journal_record *r, bool is_driven,
		       struct ferry_error *err)
{
	MigrateState state = MIGRATE_STATE__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	MigrateKind kind = MIGRATE_KIND__STATE;
	state.state = MIGRATE_TARGET_STATE__TARGET_UNKNOWN;
	state.is_driven = is_driven;
	if (r) {
		state.reason = (char *)r->reason;
		switch (r->state) {
		case JOURNAL_PREPARED: state.state = MIGRATE_TARGET_STATE__TARGET_PREPARED; break;
		case JOURNAL_RUN_INTENT: state.state = MIGRATE_TARGET_STATE__TARGET_RUN_INTENT; break;
		case JOURNAL_RUNNING:
			state.state = MIGRATE_TARGET_STATE__TARGET_RUNNING;
			kind = MIGRATE_KIND__RUNNING;
			break;
		case JOURNAL_TARGET_REVERTED:
			state.state = MIGRATE_TARGET_STATE__TARGET_REVERTED;
			kind = MIGRATE_KIND__REVERTED;
			break;
		default: break;
		}
	}
	m.state = &state;
	return wire_send(&t->wire, kind, &m, err);
}

/*
 * A source asks about a migration of earlier (COMMIT and ABORT are questions, too). What stands at PREPARED and is driven by
 * nobody never ran: say so for good. Returns 1 when it is settled now.
 */
static int target_answer(struct target *t, struct ferry_error *err)
{
	struct journal_record r;
	target_take_id(t);
	if (!journal_id_valid(t->wire.id))
		return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG,
				 "the other side asked about a migration without a proper id");
	_cleanup_close_ int lock = journal_lock(t->journal, JOURNAL_TARGET, t->wire.id, NULL);
	int ret = journal_read(t->journal, JOURNAL_TARGET, t->wire.id, &r, err);
	if (ret == -ENOENT) {
		error_clear(err);
		return target_tell(t, NULL, lock < 0, err);
	}
	if (ret >= 0 && strcmp(r.token, t->fingerprint) != 0)
		return error_set(err, FERRY_ERROR_TOKEN, EACCES, "migration '%s' began with another token",
				 t->wire.id);
	if (ret >= 0 && lock >= 0 && r.state == JOURNAL_PREPARED) {
		r.settled = true;
		snprintf(r.reason, sizeof(r.reason), "the ferry that had prepared it is gone");
		ret = journal_swap(t->journal, &r, JOURNAL_TARGET_REVERTED, err);
	}
	if (ret >= 0)
		ret = target_tell(t, &r, lock < 0, err);
	if (ret < 0)
		return ret;
	t->record = r;
	/* Only when it has written that down nobody will ask any more. */
	return wire_expect(&t->wire, MIGRATE_KIND__DONE, NULL) >= 0;
}

/* -------------------------------------------------------------------- the offer */

static int offer_check_pids(const MigrateOffer *o, struct ferry_error *err)
{
	for (size_t i = 0; i < o->n_pids; i++) {
		char path[32];
		snprintf(path, sizeof(path), "/proc/%u", o->pids[i]);
		if (access(path, F_OK) < 0)
			continue;
		error_set(err, FERRY_ERROR_PID_TAKEN, EEXIST, "pid %u, which '%.16s' needs, is in use",
			  o->pids[i], o->comm);
		error_hint(
			err,
			"receive in a PID namespace of its own: unshare -pf --mount-proc ferry receive ...");
		return -EEXIST;
	}
	return 0;
}

static int offer_check_arch(const MigrateOffer *o, struct ferry_error *err)
{
	struct utsname uts;
	if (uname(&uts) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "uname");
	if (!strcmp(uts.machine, o->arch))
		return 0;
	return error_set(err, FERRY_ERROR_CPU_FEATURE, ENOEXEC,
			 "the work is for '%.16s', this machine is '%s'", o->arch, uts.machine);
}

/* A one-time token serves one migration. */
static int offer_check_token(struct target *t, struct ferry_error *err)
{
	struct journal_record *list;
	size_t n, bad;
	if (!t->token.n)
		return 0;
	int r = journal_list(t->journal, &list, &n, &bad, err);
	for (size_t i = 0; i < n && r >= 0; i++) {
		if (list[i].side != JOURNAL_TARGET || strcmp(list[i].token, t->fingerprint) != 0)
			continue;
		r = error_set(err, FERRY_ERROR_TOKEN, EACCES,
			      "the one-time token served migration '%s' already", list[i].id);
		error_hint(err, "put a new one into the files that --token names");
	}
	if (r >= 0 || n)
		free(list);
	return r;
}

static int offer_take(struct target *t, const MigrateOffer *o, struct ferry_error *err)
{
	struct journal_record *r = &t->record;
	if (!journal_id_valid(t->wire.id) || o->n_addresses > JOURNAL_ADDRESSES || o->root_pid > INT32_MAX)
		return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG,
				 "the other side sent an offer that is none");
	*r = (struct journal_record){.side = JOURNAL_TARGET,
				     .state = JOURNAL_PREPARED,
				     .epoch = t->wire.epoch,
				     .pid = (pid_t)o->root_pid};
	wire_copy_text(r->id, sizeof(r->id), t->wire.id);
	snprintf(r->token, sizeof(r->token), "%s", t->fingerprint);
	wire_copy_text(r->comm, sizeof(r->comm), o->comm);
	wire_copy_text(r->peer, sizeof(r->peer), t->wire.node);
	for (size_t i = 0; i < o->n_addresses; i++) {
		struct address a;
		int ret = hold_parse_address(o->addresses[i], &a, err);
		if (ret < 0)
			return ret;
		snprintf(r->addresses[r->n_addresses++], JOURNAL_ADDRESS_BYTES, "%s", o->addresses[i]);
	}
	return 0;
}

static int offer_check_space(const struct target *t, uint64_t bytes, struct ferry_error *err)
{
	struct statvfs fs;
	if (fstatvfs(t->place.fd, &fs) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at the file system of '%s'",
				   t->place.path);
	uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (available >= bytes && available - bytes >= TARGET_SPARE_BYTES)
		return 0;
	error_set(err, FERRY_ERROR_NO_SPACE, ENOSPC, "'%s' has %llu MiB free, the image may need %llu MiB",
		  t->place.path, (unsigned long long)(available >> 20),
		  (unsigned long long)((bytes + TARGET_SPARE_BYTES) >> 20));
	error_hint(err, "free some space, or choose another directory with --images-dir");
	return -ENOSPC;
}

static int target_accept_offer(struct target *t, struct ferry_error *err)
{
	const MigrateOffer *o = t->wire.message->offer;
	target_take_id(t);
	if (!o)
		return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG, "the other side sent an empty offer");
	int r = offer_take(t, o, err);
	if (r >= 0)
		r = t->lock = journal_lock(t->journal, JOURNAL_TARGET, t->record.id, err);
	if (r >= 0 && journal_read(t->journal, JOURNAL_TARGET, t->record.id, &(struct journal_record){0},
				   NULL) != -ENOENT)
		r = error_set(err, FERRY_ERROR_USAGE, EEXIST, "there was a migration '%s' here before",
			      t->record.id);
	if (r >= 0)
		r = offer_check_token(t, err);
	if (r >= 0)
		r = offer_check_arch(o, err);
	if (r >= 0)
		r = offer_check_pids(o, err);
	if (r >= 0)
		r = hold_check_addresses(&t->record, false, err);
	if (r < 0)
		return r;
	t->e->kinds.tcp_established = o->has_tcp_established && o->tcp_established;
	t->e->kinds.moving = true;
	t->e->kinds.shell_job = o->has_shell_job && o->shell_job;
	char name[HOLD_NAME_BYTES];
	snprintf(name, sizeof(name), "%s" TARGET_PLACE_SUFFIX, t->record.id);
	if (r >= 0)
		r = place_make(t->e->options->images_dir, journal_path(t->journal), name, o->memory_bytes,
			       &t->place, err);
	if (r >= 0)
		r = offer_check_space(t, o->memory_bytes, err);
	return r;
}

/* ------------------------------------------------------------------- rebuilding */

static int target_build(struct target *t, struct ferry_error *err)
{
	struct engine *e = t->e;
	uint64_t start = time_now_ns();
	t->transfer = (struct transfer){
		.wire = &t->wire,
		.fault = &e->fault,
		.log = e->log,
		.caller = t->caller,
		.expected_bytes = t->wire.message->offer->memory_bytes,
	};
	channel_set_data_max(t->wire.channel, CHANNEL_DATA_MAX);
	fault_effect(&e->fault, "migrate", "accept");
	int r = wire_send(&t->wire, MIGRATE_KIND__ACCEPT, NULL, err);
	if (r >= 0)
		r = files_receive_image(&t->transfer, t->place.fd, err);
	channel_set_data_max(t->wire.channel, 0);
	engine_phase(e, "transfer", t->transfer.start_ns ? t->transfer.start_ns : start);
	if (r < 0)
		return r;
	start = time_now_ns();
	fault_effect(&e->fault, "migrate", "received");
	/* The restore starts the warden, once it has mapped what the warden has to see. */
	e->warden_actions.deputy = (struct warden_deputy){NULL, deputy_finish, t};
	struct restore_from from = {
		.images_dir = t->place.path,
		.seen = t->transfer.seen.v,
		.n_seen = t->transfer.seen.n,
	};
	r = restore_prepare(e, &from, &t->job, err);
	engine_phase(e, "prepare", start);
	if (r >= 0)
		r = journal_create(t->journal, &t->record, err);
	return r;
}

static int target_send_prepared(struct target *t, struct ferry_error *err)
{
	MigrateTimes times = MIGRATE_TIMES__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	const struct engine_phase *last = &t->e->report.phases[t->e->report.n_phases - 1];
	times.ns = last->end_ns - last->start_ns;
	m.times = &times;
	fault_effect(&t->e->fault, "migrate", "prepared");
	return wire_send(&t->wire, MIGRATE_KIND__PREPARED, &m, err);
}

/* Nothing ran and nothing will: first the tasks end, then the journal says so. */
static void target_revert(struct target *t, const char *reason)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	restore_abandon(t->job);
	t->job = NULL;
	if (!t->record.sequence)
		return;
	t->record.settled = true;
	snprintf(t->record.reason, sizeof(t->record.reason), "%s", reason);
	if (journal_swap(t->journal, &t->record, JOURNAL_TARGET_REVERTED, &err) < 0)
		log_write(t->e->log, LOG_WARN, "receive", NULL, 0, "%s", err.message);
	/* True whatever the journal says: we are alive and have seen the tasks end before they ran. */
	t->record.state = JOURNAL_TARGET_REVERTED;
}

static int target_open(struct target *t, struct ferry_error *err)
{
	struct engine *e = t->e;
	struct restore_job *job = t->job;
	int r = journal_swap(t->journal, &t->record, JOURNAL_RUN_INTENT, err);
	if (r >= 0 && fault_hit(&e->fault, FAULT_ADDRESS))
		r = error_set(err, FERRY_ERROR_FAULT, EIO, "adding an address: fault injected");
	if (r >= 0)
		r = hold_add_addresses(&t->record, &e->fault, err);
	if (r < 0)
		return r;
	t->job = NULL;
	r = restore_commit(job, err);
	if (r < 0 && hold_remove_addresses(&t->record, &e->fault, NULL) < 0)
		log_write(e->log, LOG_ERROR_LEVEL, "receive", NULL, 0,
			  "an address could not be removed again");
	return r;
}

/* The source has let go: this copy is the one, or nothing is. */
static void target_run(struct target *t)
{
	uint64_t start = time_now_ns();
	struct ferry_error told = FERRY_ERROR_INIT;
	t->failure = (struct ferry_error)FERRY_ERROR_INIT;
	t->decided = true;
	t->running = target_open(t, &t->failure) >= 0;
	engine_phase(t->e, "run", start);
	if (!t->running) {
		target_revert(t, t->failure.message);
		return;
	}
	t->record.settled = true;
	if (journal_swap(t->journal, &t->record, JOURNAL_RUNNING, &told) < 0)
		log_write(t->e->log, LOG_WARN, "receive", NULL, 0, "the work runs, but: %s", told.message);
	t->record.state = JOURNAL_RUNNING;
}

/* ------------------------------------------------------------------ the last steps */

/* One message while everything stands at the barrier, or afterwards. 1: it is decided, and the source knows. */
static int target_step(struct target *t, struct ferry_error *err)
{
	switch (t->wire.message->kind) {
	case MIGRATE_KIND__COMMIT:
		if (!t->decided)
			target_run(t);
		break;
	case MIGRATE_KIND__ABORT:
		if (t->decided)
			break;
		target_revert(t, "the source gave up");
		if (target_tell(t, &t->record, true, NULL) < 0)
			wire_close(&t->wire);
		return error_set(err, FERRY_ERROR_INTERRUPTED, ECANCELED, "the source gave up");
	case MIGRATE_KIND__DONE: return t->decided ? 1 : wire_unexpected(&t->wire, err);
	case MIGRATE_KIND__QUERY: break;
	default: return wire_unexpected(&t->wire, err);
	}
	fault_effect(&t->e->fault, "migrate", "tell");
	return target_tell(t, &t->record, true, err);
}

/* A new connection of the same source, after the first was cut. */
static int target_reconnect(struct target *t, uint64_t end_ns, struct ferry_error *err)
{
	for (;;) {
		int fd = target_accept(t, end_ns, err);
		if (fd < 0)
			return fd;
		if (target_greet(t, fd) < 0)
			continue;
		if (!strcmp(t->wire.message->id, t->record.id) && t->wire.message->epoch == t->record.epoch) {
			target_take_id(t);
			return 0;
		}
		struct ferry_error busy = FERRY_ERROR_INIT;
		error_set(&busy, FERRY_ERROR_USAGE, EBUSY, "another migration is under way here");
		wire_send_error(&t->wire, &busy);
		wire_close(&t->wire);
	}
}

/*
 * Wait for the decision, and until the source knows it. When the connection is cut the source may come again; when it does not,
 * and had not committed, nothing ran here and nothing ever will.
 */
static int target_decide(struct target *t, struct ferry_error *err)
{
	uint64_t end = 0;
	int r = target_send_prepared(t, err);
	for (;;) {
		if (r >= 0)
			r = wire_receive(&t->wire, err);
		if (r >= 0)
			r = target_step(t, err);
		if (r > 0 || (r < 0 && !t->decided && (!t->job || err->id == FERRY_ERROR_INTERRUPTED)))
			return r;
		if (r >= 0)
			continue;
		wire_close(&t->wire);
		if (!end)
			end = time_now_ns() + (uint64_t)t->timeout_ms * 1000000;
		struct ferry_error again = FERRY_ERROR_INIT;
		if (target_reconnect(t, end, &again) < 0)
			return r;
		error_clear(err);
		r = target_step(t, err);
	}
}

static void target_report(struct target *t, const char *outcome)
{
	struct engine_migration *m = &t->e->report.migration;
	snprintf(m->id, sizeof(m->id), "%s", t->record.id);
	wire_copy_text(m->source, sizeof(m->source), t->record.peer);
	snprintf(m->outcome, sizeof(m->outcome), "%s", outcome);
	if (gethostname(m->target, sizeof(m->target) - 1) < 0)
		m->target[0] = '\0';
}

/* One migration, from an offer to its end. */
static int target_migrate(struct target *t, struct ferry_error *err)
{
	int r = target_build(t, err);
	if (r < 0) {
		wire_send_error(&t->wire, err);
		target_revert(t, err->message);
		channel_drain(t->wire.channel, TARGET_DRAIN_MS);
	} else {
		r = target_decide(t, err);
	}
	if (t->job)
		target_revert(t, err->message[0] ? err->message : "the source did not come back");
	if (t->running)
		hold_announce(&t->record, TARGET_ANNOUNCE_TIMES, TARGET_ANNOUNCE_MS);
	target_report(t, t->running ? "running" : "reverted");
	if (t->decided && !t->running) {
		*err = t->failure;
		return -t->failure.code;
	}
	return t->running ? 0 : r;
}

/* Offers that are refused and questions leave us waiting. 1: done. */
static int target_serve(struct target *t, struct ferry_error *err)
{
	int r;
	switch (t->wire.message->kind) {
	case MIGRATE_KIND__OFFER:
		r = target_accept_offer(t, err);
		if (r >= 0) {
			r = target_migrate(t, err);
			return r < 0 ? r : 1;
		}
		place_release(&t->place);
		if (t->lock >= 0)
			close(t->lock);
		t->lock = -1;
		break;
	case MIGRATE_KIND__COMMIT:
	case MIGRATE_KIND__ABORT:
	case MIGRATE_KIND__QUERY:
		r = target_answer(t, err);
		if (r > 0)
			target_report(t, t->record.state == JOURNAL_RUNNING ? "running" : "reverted");
		break;
	default: r = wire_unexpected(&t->wire, err); break;
	}
	if (r < 0) {
		wire_send_error(&t->wire, err);
		log_write(t->e->log, LOG_WARN, "receive", NULL, 0, "refused: %s", err->message);
		error_clear(err);
		r = 0;
	}
	return r;
}

/* What a ferry that was killed had received: nobody drives that migration any more. */
static void target_remove_stale(struct target *t)
{
	_cleanup_closedir_ DIR *d = opendir(journal_path(t->journal));
	if (!d)
		return;
	for (struct dirent *entry; (entry = readdir(d));) {
		char id[JOURNAL_ID_MAX + 1];
		const char *suffix = strstr(entry->d_name, TARGET_PLACE_SUFFIX);
		if (!suffix || strcmp(suffix, TARGET_PLACE_SUFFIX) != 0 ||
		    (size_t)(suffix - entry->d_name) >= sizeof(id))
			continue;
		snprintf(id, sizeof(id), "%.*s", (int)(suffix - entry->d_name), entry->d_name);
		_cleanup_close_ int lock = journal_lock(t->journal, JOURNAL_TARGET, id, NULL);
		if (lock >= 0)
			place_remove_stale(journal_path(t->journal), entry->d_name);
	}
}

/* What arrives runs as root. */
#define TARGET_HOW \
	"accept that with --insecure and --token FILE, or listen on loopback and forward a port with ssh"

static int target_listen(struct target *t, struct ferry_error *err)
{
	const struct options *o = t->e->options;
	struct endpoint e;
	char text[ENDPOINT_TEXT_BYTES];
	if (!o->listen)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--listen ADDRESS is missing");
	int r = endpoint_parse_plain(o->listen, o->insecure && t->token.n, TARGET_HOW, &e, err);
	if (r < 0)
		return r;
	t->must_trust = !t->token.n;
	t->is_unix = e.address.ss_family == AF_UNIX;
	r = t->listener = endpoint_listen(&e, text, err);
	if (r >= 0)
		log_write(t->e->log, LOG_PROGRESS, "progress", "listening", 0, "receiving on %s", text);
	return r;
}

static void target_release(struct target *t)
{
	if (t->is_unix && t->listener >= 0)
		unlink(t->e->options->listen + strlen("unix:"));
	wire_close(&t->wire);
	place_release(&t->place);
	transfer_release(&t->transfer);
	journal_close(t->journal);
	const int fds[] = {t->listener, t->lock, t->caller_fd};
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

int migrate_receive(struct engine *e, struct ferry_error *err)
{
	struct target t = {.e = e,
			   .listener = -1,
			   .lock = -1,
			   .place = PLACE_INIT,
			   .caller = getppid(),
			   .timeout_ms = (int)e->options->timeout * 1000};
	t.caller_fd = sys_pidfd_open(t.caller, 0);
	int r = token_read(e->options->token, &t.token, err);
	if (r >= 0 && token_fingerprint(&t.token, t.fingerprint) < 0)
		r = error_set(err, FERRY_ERROR_TOKEN, EIO, "computing the fingerprint of the token failed");
	if (r >= 0)
		r = journal_open(e->options->journal, true, &e->fault, &t.journal, err);
	if (r >= 0) {
		target_remove_stale(&t);
		r = target_listen(&t, err);
	}
	while (r >= 0) {
		int fd = target_accept(&t, 0, err);
		r = fd;
		if (fd < 0 || target_greet(&t, fd) < 0)
			continue;
		r = target_serve(&t, err);
		wire_close(&t.wire);
		if (r > 0)
			break;
	}
	e->report.total_ns = time_now_ns() - e->start_ns;
	target_release(&t);
	return r < 0 ? r : 0;
}
