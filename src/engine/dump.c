/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns a dump from check to the end: look, make the image directory, freeze, collect, write, sync and read back, and only
 * then end the tree. A tree that is to run on does so before the sync, once everything is written but pages that were read and kept in memory
 * meanwhile. Whatever fails before the end leaves the tree running and no image.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/progress.h"
#include "collect/collect.h"
#include "engine/chain.h"
#include "engine/dump.h"
#include "engine/dump_write.h"
#include "engine/engine.h"
#include "engine/live.h"
#include "engine/throttle.h"
#include "freeze/freeze.h"
#include "host/hook.h"
#include "host/keeper.h"
#include "host/netlock.h"
#include "host/netns.h"
#include "host/warden.h"
#include "image/coverage.h"
#include "image/dedup.h"
#include "image/dir.h"
#include "image/proto/inventory.pb-c.h"
#include "kind/capture.h"
#include "kind/external.h"
#include "kind/inet.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "mem/idle.h"
#include "mem/mem.h"
#include "proc/mapper.h"
#include "stream/endpoint.h"
#include "stream/pageclient.h"
#include "stream/pagesource.h"

enum {
	DUMP_SPARE_BYTES = 16 << 20,
	DUMP_PAUSE_NS = 5 * 1000 * 1000,
	DUMP_MAPPER_BYTES = 32 << 20,
	DUMP_MAPPER_VMAS = 500,
	DUMP_SHORT_NS = 200 * 1000 * 1000,
	DUMP_SHORT_BYTES = 32 << 20,
};

struct dump_job {
	struct engine *engine;
	struct image_dir *dir;
	const struct image_pages_remote *remote; /* NULL: memory goes into dir */
	struct image_coverage
		*covered; /* of the image that this one builds on; NULL: none, or the caller's */
	struct mem_past past;
	bool has_past;
	struct freeze_options freeze;
	struct frozen frozen;
	bool is_frozen;
	bool is_locked; /* that the network is blocked was told */
	bool is_sealed; /* the image is whole */
	struct snapshot snap;
	struct collect collect;
	struct mem_dump mem;
};

static void dump_log(struct engine *e, const char *stage, const char *what)
{
	log_write(e->log, LOG_INFO, stage, NULL, 0, "%s after %llu us", what,
		  (unsigned long long)(time_now_ns() - e->start_ns) / 1000);
}

/* Getting ready takes 3 ms, which the freeze wins back. Where it is not possible smaps is read. */
static void dump_choose_mapper(struct engine *e, const struct obstacles *seen)
{
	if (e->mapper || (seen->image_bytes < DUMP_MAPPER_BYTES && seen->n_vmas < DUMP_MAPPER_VMAS))
		return;
	int r = proc_mapper_new(&e->caps, e->start_root >= 0 ? e->start_root : AT_FDCWD, &e->mapper);
	if (r < 0)
		log_write(e->log, LOG_INFO, "check", NULL, 0, "mappings are read from smaps: %s",
			  strerror(-r));
}

int dump_check(struct engine *e, struct ferry_error *err)
{
	struct obstacles obstacles = {0};
	uint64_t start = time_now_ns();
	int n = engine_check(e, &obstacles, err);
	e->check_ns = time_now_ns() - start;
	e->image_bytes = obstacles.image_bytes;
	vec_release(&e->large);
	e->large = obstacles.large;
	obstacles.large = (check_memories){0};
	if (!n)
		dump_choose_mapper(e, &obstacles);
	if (n > 0 && err) {
		/* What is in flight may arrive, so it is told last. */
		size_t first = 0;
		while (first + 1 < obstacles.v.n && obstacles.v.v[first].id == FERRY_ERROR_IN_FLIGHT)
			first++;
		*err = obstacles.v.v[first].id == FERRY_ERROR_IN_FLIGHT ? obstacles.v.v[0]
									: obstacles.v.v[first];
		if (n > 1 && !err->hint[0])
			error_hint(err, "and %d more: ferry check --tree %d lists them all", n - 1,
				   (int)e->options->tree);
	}
	obstacles_release(&obstacles);
	return n > 0 ? -ENOTSUP : n;
}

/* Before anything stops: the image has to fit. What may be the same as before is not counted: a disk that is full in the end is told then. */
static int dump_check_space(struct dump_job *j, const struct dump_to *to, struct ferry_error *err)
{
	struct engine *e = j->engine;
	const struct image_dir *dir = j->dir;
	uint64_t same = image_coverage_bytes(j->has_past ? j->past.covered : to->past.covered);
	uint64_t needed = e->image_bytes - MIN(e->image_bytes, same);
	struct statvfs fs;
	if (fstatvfs(image_dir_fd(dir), &fs) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at the file system of '%s'",
				   image_dir_path(dir));
	uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (available >= needed + DUMP_SPARE_BYTES)
		return 0;
	error_set(err, FERRY_ERROR_NO_SPACE, ENOSPC, "'%s' has %llu MiB free, the image may need %llu MiB",
		  image_dir_path(dir), (unsigned long long)(available >> 20),
		  (unsigned long long)((needed + DUMP_SPARE_BYTES) >> 20));
	error_hint(err, "free some space, or choose another directory with --images-dir");
	return -ENOSPC;
}

static int dump_collect(struct engine *e, struct frozen *f, struct collect *c, struct ferry_error *err)
{
	c->caps = &e->caps;
	c->options = &e->kinds;
	c->fault = &e->fault;
	c->log = e->log;
	c->warden = e->warden;
	c->peers = e->peers;
	c->mapper = e->mapper;
	int r = collect_tree(c, f, err);
	error_context(err, "collect", NULL, 0);
	dump_log(e, "collect", "collected");
	return r;
}

static int dump_seal(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	if (j->is_sealed)
		return 0;
	progress_begin(e->progress, PROGRESS_SYNC, image_dir_unsynced_bytes(j->dir));
	int r = image_dir_finish(j->dir, err);
	j->is_sealed = r >= 0;
	e->report.bytes = image_dir_bytes(j->dir);
	dump_log(e, "dump", "image synced and read back");
	return r;
}

static bool dump_has_family(const struct snapshot *snap)
{
	bool has = false;
	vec_foreach(t, &snap->tasks)
		has |= t->mm_extra->has_pages_of;
	return has;
}

/* What need not be done while the tree stands. */
static int dump_write_late(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	struct mem_dump *mem = &j->mem;
	bool late = mem->late;
	int r = mem_dump_late(mem, err);
	e->report.pages_scanned = mem->stats.pages_scanned + mem->stats.shmem_scanned;
	e->report.pages_written = mem->stats.pages_written + mem->stats.shmem_written;
	if (!mem->leaves)
		mem_dump_end(mem);
	if (late)
		dump_log(e, "dump", "memory stored");
	return r < 0 ? r : dump_write_stats(e, j->dir, err);
}

/* As restore/lazy.c: who has userfaultfds of its own, or another's descriptor table, or goes on after a stop that its parent is not told of. */
static bool dump_may_come_late(const struct snapshot *snap, const struct snap_task *t)
{
	vec_foreach(fd, &t->fds) {
		if (snap->files.v[fd->file].kind == &kind_uffd)
			return false;
	}
	return !t->shares[SHARING_FILES] && !t->tree->has_untold;
}

/* Nobody may take it for the image of a tree that is gone. */
static void dump_unseal(struct dump_job *j)
{
	if (unlinkat(image_dir_fd(j->dir), "inventory.img", 0) < 0)
		log_write(j->engine->log, LOG_WARN, "dump", NULL, 0, "the image of the failed dump stays: %s",
			  strerror(errno));
}

static int dump_write(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	struct collect *c = &j->collect;
	struct image_dir *dir = j->dir;
	struct mem_dump *mem = &j->mem;
	int r = 0;
	progress_begin(e->progress, PROGRESS_MEMORY, e->image_bytes);
	mem->progress = e->progress;
	mem->snap = c->snap;
	mem->past = j->has_past ? &j->past : NULL;
	for (size_t i = 0; i < c->snap->tasks.n && mem->leaves; i++)
		c->snap->tasks.v[i].may_come_late = dump_may_come_late(c->snap, &c->snap->tasks.v[i]);
	/* Who takes it knows nothing of families. */
	if (!j->remote && !mem->leaves)
		r = mem_find_inherited(c->snap, err);
	if (r >= 0)
		r = mem_dump_tasks(mem, err);
	for (size_t i = 0; i < c->snap->shmems.n && r >= 0; i++)
		r = mem_dump_shmem(mem, &c->snap->shmems.v[i], err);
	dump_log(e, "dump", mem->late ? "memory read" : "memory stored");
	if (r >= 0 && !mem->late)
		r = dump_write_late(j, err);
	if (r >= 0 && !strcmp(e->options->files, "capture"))
		r = capture_files(c->snap, dir, (uint64_t)e->options->capture_limit, &e->fault, err);
	if (r >= 0)
		r = dump_write_records(e, c, dir, err);
	if (r >= 0 && dump_has_family(c->snap))
		r = image_dir_link_family(dir, err);
	dump_log(e, "dump", "records stored");
	/* A tree that runs on in any case need not stand still for the disk, unless somebody wants the image while it stands. */
	if (r >= 0 && (!e->kinds.leave_running || e->stage))
		r = dump_seal(j, err);
	if (r >= 0)
		r = engine_at_stage(e, ENGINE_POST_DUMP, (pid_t)e->options->tree, err);
	if (r < 0 && j->is_sealed)
		dump_unseal(j);
	error_context(err, "dump", NULL, 0);
	return r;
}

/* For tests, see base/fault.h: nothing of it refers to anything, whatever was tracked. */
static int dump_full_copy(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	const struct image_dir_create create = {
		.no_sync = true, .read_back = IMAGE_READ_BACK_NONE, .log = e->log};
	const char *path = e->fault.full_copy;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	struct image_dir *dir = NULL;
	int at = engine_at(e, &path);
	int r = image_dir_create(at, path, &create, &dir, err);
	struct mem_idle running = {0};
	struct mem_dump mem = {.dir = dir, .snap = j->collect.snap, .caps = &e->caps, .running = &running};
	for (size_t i = 0; i < mem.snap->tasks.n && r >= 0; i++)
		r = mem_dump_task(&mem, &mem.snap->tasks.v[i], err);
	mem_dump_end(&mem);
	if (r >= 0)
		r = image_put_one(dir, IMAGE_INVENTORY, 0, &inventory.base, err);
	if (r >= 0)
		r = image_dir_finish(dir, err);
	image_dir_free(dir);
	return r;
}

static void dump_report(struct engine *e, const struct snapshot *snap)
{
	e->report.pid = (pid_t)e->options->tree;
	e->report.tasks = (uint32_t)snap->tasks.n;
	for (size_t i = 0; i < snap->tasks.n; i++)
		e->report.threads += (uint32_t)snap->tasks.v[i].threads.n;
}

int dump_ask_remote(struct engine *e, const struct image_pages_remote *remote, const struct image_dir *before,
		    const struct image_coverage *covered, struct ferry_error *err)
{
	uint64_t hi, lo;
	image_dir_id(before, &hi, &lo);
	fault_effect(&e->fault, "dump", "ask-server");
	return remote->builds_on(remote->context, covered, hi, lo, err);
}

/* What the image builds on is read while the tree still runs. */
static int dump_open_parent(struct dump_job *j, const struct dump_to *to, struct ferry_error *err)
{
	struct image_dir *parent = NULL;
	int r = image_dir_link_parent(j->dir, to->parent, err);
	if (r >= 0)
		r = image_dir_parent(j->dir, &parent, err);
	if (r >= 0 && !to->past.covered)
		r = image_coverage_read(parent, &j->covered, err);
	j->past = to->past;
	j->past.image = parent;
	if (j->covered)
		j->past.covered = j->covered;
	j->has_past = true;
	return r < 0 || !j->remote ? r : dump_ask_remote(j->engine, j->remote, parent, j->past.covered, err);
}

static int dump_open(struct dump_job *j, const struct dump_to *to, struct ferry_error *err)
{
	struct engine *e = j->engine;
	struct image_dir_create create = {
		.name = to->images_dir,
		.overwrite = e->options->overwrite,
		.read_back = to->pages ? IMAGE_READ_BACK_NONE : IMAGE_READ_BACK_STORED,
		.no_sync = to->pages,
		.pages = to->pages,
		.remote = to->remote,
		.progress = e->progress,
		.fault = &e->fault,
		.log = e->log,
	};
	const char *path = to->images_dir;
	int at = engine_at(e, &path);
	j->remote = to->remote;
	int r = image_dir_create(at, path, &create, &j->dir, err);
	j->mem = (struct mem_dump){.dir = j->dir, .caps = &e->caps, .fault = &e->fault, .leaves = to->leaves};
	if (r >= 0 && create.overwrite)
		keeper_dismiss(image_dir_fd(j->dir));
	if (r >= 0 && to->parent && !to->rounds)
		r = dump_open_parent(j, to, err);
	if (r >= 0 && !to->pages && !to->remote)
		r = dump_check_space(j, to, err);
	return r < 0 ? r : engine_warden(e, err);
}

/* A stop of a tree that runs on. */
static bool dump_is_short(const struct engine *e)
{
	bool live = e->report.n_rounds;
	return e->kinds.leave_running &&
	       (live ? e->report.predicted_ns < DUMP_SHORT_NS : e->image_bytes < DUMP_SHORT_BYTES);
}

static int dump_freeze(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	j->freeze = (struct freeze_options){
		.timeout_ms = (int)e->options->timeout * 1000,
		.looker = e->kinds.looker,
		.hurry = dump_is_short(e),
		.pause = e->pause,
		.warden = e->warden,
		.fault = &e->fault,
		.log = e->log,
	};
	throttle_end(e);
	int r = freeze_tree((pid_t)e->options->tree, &j->freeze, &j->frozen, err);
	error_context(err, "seize", NULL, 0);
	j->is_frozen = r >= 0;
	dump_log(e, "seize", "every thread stands");
	return r;
}

/* What is in flight arrives as a rule, while the tree runs. Who was seen outside may have changed by then. */
static bool dump_may_wait(struct engine *e, const struct ferry_error *err, uint64_t deadline_ns)
{
	const struct timespec pause = {.tv_nsec = DUMP_PAUSE_NS};
	if (err->id != FERRY_ERROR_IN_FLIGHT || time_now_ns() >= deadline_ns)
		return false;
	nanosleep(&pause, NULL);
	peers_free(e->peers);
	e->peers = NULL;
	return true;
}

static int dump_check_patiently(struct engine *e, uint64_t deadline_ns, struct ferry_error *err)
{
	int r;
	do {
		error_clear(err);
		r = dump_check(e, err);
	} while (r < 0 && dump_may_wait(e, err, deadline_ns));
	dump_log(e, "check", "checked");
	return r;
}

/* A tree that goes on has its network back; there is no way but this one. */
static void dump_tell_unlocked(struct dump_job *j)
{
	struct engine *e = j->engine;
	struct ferry_error refusal = FERRY_ERROR_INIT;
	if (j->is_locked && engine_at_stage(e, ENGINE_NETWORK_UNLOCK, (pid_t)e->options->tree, &refusal) < 0)
		log_write(e->log, LOG_WARN, "dump", NULL, 0, "%s, ignoring", refusal.message);
	j->is_locked = false;
}

/* Let the tree run on as it did. */
static void dump_let_go(struct dump_job *j)
{
	if (j->is_frozen) {
		dump_tell_unlocked(j);
		if (dump_after(j->engine, &j->collect, j->dir, false, NULL) < 0)
			log_write(j->engine->log, LOG_ERROR_LEVEL, "dump", NULL, 0,
				  "putting the target's sockets back failed");
		freeze_release(&j->frozen);
	}
	j->is_frozen = false;
	snapshot_release(&j->snap);
	j->snap = (struct snapshot){0};
	j->collect = (struct collect){.snap = &j->snap, .netlocks = j->collect.netlocks};
}

/* The network namespace of the tree's root. */
static int dump_open_net(const struct engine *e, uint64_t *ret_inode)
{
	_cleanup_close_ int dir = proc_open_look((pid_t)e->options->tree, NULL);
	_cleanup_close_ int net = dir < 0 ? dir : proc_open_namespace(dir, PROC_NS_NET, NULL);
	int r = net < 0 ? net : netns_inode(net, ret_inode);
	return r < 0 ? r : take_fd(net);
}

/* Making it waits for the whole machine, which the tree need not. Where it cannot be made, the first connection says so. */
static void dump_prepare_lock(struct dump_job *j)
{
	const struct kind_options *o = &j->engine->kinds;
	struct netlock *lock;
	uint64_t inode;
	j->collect.netlocks = engine_netlocks(j->engine);
	if (!o->tcp_established || o->tcp_close || !j->collect.netlocks)
		return;
	_cleanup_close_ int net = dump_open_net(j->engine, &inode);
	if (net >= 0 && netlocks_at(j->collect.netlocks, inode, net, &lock, NULL) < 0)
		log_write(j->engine->log, LOG_INFO, "check", NULL, 0, "the network lock is not prepared");
}

/*
 * A namespace that the tree has alone is blocked whole, if the tree is to end: who begins to connect meanwhile, or sends, tries again, and
 * reaches what is restored. A tree that goes on keeps what reaches it.
 */
static int dump_lock_network(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	const struct kind_options *o = &e->kinds;
	struct ferry_error missing = FERRY_ERROR_INIT;
	uint64_t inode = 0;
	_cleanup_close_ int net = dump_open_net(e, &inode);
	if (net < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -net, "opening the network namespace of pid %d",
				   (int)e->options->tree);
	if (inode == o->own_namespaces.ino[PROC_NS_NET])
		return 0;
	int r = engine_at_stage(e, ENGINE_NETWORK_LOCK, (pid_t)e->options->tree, err);
	j->is_locked = r >= 0;
	if (r < 0 || !j->collect.netlocks || o->leave_running || external_net(o, inode))
		return r;
	fault_effect(&e->fault, "dump", "net-lock-whole");
	r = netlocks_whole(j->collect.netlocks, inode, net, &missing);
	/* Connections cannot do without. */
	if (r < 0 && o->tcp_established) {
		error_pass(err, &missing);
		return r;
	}
	if (r < 0)
		log_write(e->log, LOG_WARN, "dump", NULL, 0, "%s, ignoring", missing.message);
	return 0;
}

static int dump_take(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	uint64_t start = time_now_ns();
	int r = dump_freeze(j, err);
	engine_phase(e, "freeze", start);
	start = time_now_ns();
	if (r >= 0)
		r = dump_lock_network(j, err);
	if (r >= 0)
		r = dump_collect(e, &j->frozen, &j->collect, err);
	engine_phase(e, "collect", start);
	return r;
}

static int dump_take_patiently(struct dump_job *j, uint64_t deadline_ns, struct ferry_error *err)
{
	uint32_t phases = j->engine->report.n_phases;
	for (;;) {
		int r = dump_take(j, err);
		if (r >= 0 || !dump_may_wait(j->engine, err, deadline_ns))
			return r;
		dump_let_go(j);
		j->engine->report.n_phases = phases;
		r = dump_check_patiently(j->engine, deadline_ns, err);
		if (r < 0)
			return r;
	}
}

static int dump_rounds(struct dump_job *j, struct dump_to *to, struct ferry_error *err)
{
	/* After the last round the tree goes on writing until it stands. */
	if (j->engine->kinds.leave_running && !j->engine->stage && j->engine->large.n &&
	    mem_dump_ready(&j->mem) < 0)
		return error_memory(err);
	int r = to->rounds(to->context, j->dir, to, err);
	if (r >= 0 && to->parent)
		r = dump_open_parent(j, to, err);
	return r;
}

static int dump_hook(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	if (!e->hook)
		return 0;
	uint64_t start = time_now_ns();
	fault_effect(&e->fault, "dump", "hook");
	progress_begin(e->progress, PROGRESS_HOOK, 0);
	int r = hook_run(e->hook, (pid_t)e->options->tree, image_dir_fd(j->dir), (int)e->kinds.timeout_ms,
			 err);
	engine_phase(e, "hook", start);
	error_context(err, "dump", NULL, 0);
	return r;
}

int dump_start(struct engine *e, struct dump_to *to, struct dump_job **ret_job, struct ferry_error *err)
{
	struct ferry_error local = FERRY_ERROR_INIT;
	struct dump_job *j = calloc(1, sizeof(*j));
	if (!err)
		err = &local;
	if (!j)
		return error_memory(err);
	j->engine = e;
	j->collect.snap = &j->snap;
	uint64_t start = time_now_ns(), deadline = start + (uint64_t)e->kinds.timeout_ms * 1000000;
	int r = engine_enter(e, err);
	/* It comes up while we look. */
	if (r >= 0)
		r = engine_start_warden(e, err);
	if (r >= 0)
		r = dump_check_patiently(e, deadline, err);
	if (r >= 0)
		r = engine_at_stage(e, ENGINE_PRE_DUMP, (pid_t)e->options->tree, err);
	if (r >= 0)
		r = dump_open(j, to, err);
	engine_phase(e, "check", start);
	if (r >= 0 && to->rounds)
		r = dump_rounds(j, to, err);
	if (r >= 0) {
		dump_prepare_lock(j);
		r = dump_take_patiently(j, deadline, err);
	}
	if (r >= 0)
		r = engine_at_stage(e, ENGINE_COLLECTED, (pid_t)e->options->tree, err);
	if (r >= 0 && to->stands)
		r = to->stands(to->context, &j->frozen, &j->snap, err);
	if (r >= 0)
		r = dump_hook(j, err);
	if (r >= 0) {
		start = time_now_ns();
		r = dump_write(j, err);
		engine_phase(e, "dump", start);
	}
	if (r >= 0 && e->fault.full_copy) {
		r = dump_full_copy(j, err);
	}
	if (r < 0) {
		dump_abort(j);
		return r;
	}
	dump_report(e, &j->snap);
	*ret_job = j;
	return 0;
}

static void dump_free(struct dump_job *j)
{
	mem_dump_end(&j->mem);
	snapshot_release(&j->snap);
	image_dir_free(j->dir);
	image_coverage_free(j->covered);
	netlocks_remove(j->collect.netlocks, NULL);
	netlocks_free(j->collect.netlocks);
	free(j);
}

void dump_abort(struct dump_job *j)
{
	if (!j)
		return;
	mem_dump_end(&j->mem);
	dump_let_go(j);
	dump_free(j);
}

const struct frozen *dump_frozen(const struct dump_job *j)
{
	return &j->frozen;
}

const struct image_dir *dump_dir(const struct dump_job *j)
{
	return j->dir;
}

void dump_leave(struct dump_job *j)
{
	freeze_release(&j->frozen);
	dump_free(j);
}

void dump_auto_dedup(struct engine *e, struct image_dir *dir)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dedup done;
	if (!e->options->auto_dedup || !image_dir_n_parents(dir))
		return;
	if (image_dedup(dir, &e->fault, &done, &err) < 0)
		log_write(e->log, LOG_WARN, "dump", NULL, 0, "%s, ignoring", err.message);
}

/* From the commit on no task of the tree runs on, also when we die between the first kill and the last. */
static int dump_arm_end(struct dump_job *j, struct ferry_error *err)
{
	vec_foreach(task, &j->frozen.tasks) {
		int r = warden_arm(j->engine->warden, WARDEN_END, task->pid, 0, NULL, 0);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_LIMIT, -r, "entering %zu tasks into the undo log",
					   j->frozen.tasks.n);
	}
	return 0;
}

static int dump_end_tree(struct dump_job *j, struct ferry_error *err)
{
	int killed = freeze_kill(&j->frozen, err);
	if (killed >= 0)
		warden_dismiss(j->engine->warden);
	int ended = freeze_await_end(&j->frozen, killed < 0 ? NULL : err);
	return killed < 0 ? killed : ended;
}

int dump_finish(struct dump_job *j, bool kill, struct ferry_error *err)
{
	struct engine *e = j->engine;
	uint64_t since = j->frozen.since_ns;
	int armed = kill ? dump_arm_end(j, err) : 0;
	int after = dump_after(e, &j->collect, j->dir, kill && armed >= 0, armed < 0 ? NULL : err);
	int r = armed < 0 ? armed : after;
	if (r >= 0 && !kill && e->options->leave_stopped)
		freeze_stop(&j->frozen);
	if (r < 0 || !kill)
		dump_tell_unlocked(j);
	if (r < 0 || !kill) {
		freeze_release(&j->frozen);
	} else {
		/* Paused connections do not go on any more, whatever happens to us. */
		engine_decided(e);
		warden_commit(e->warden);
		r = dump_end_tree(j, err);
	}
	e->report.freeze_ns = time_now_ns() - since;
	dump_log(e, "dump",
		 kill                        ? "the tree is ended"
		 : e->options->leave_stopped ? "the tree is left stopped"
					     : "the tree runs");
	if (r >= 0 && e->kinds.leave_running) {
		uint64_t start = time_now_ns();
		r = j->mem.late ? dump_write_late(j, err) : 0;
		if (r >= 0)
			r = dump_seal(j, err);
		error_context(err, "dump", NULL, 0);
		engine_phase(e, "sync", start);
	}
	if (r >= 0)
		dump_auto_dedup(e, j->dir);
	dump_free(j);
	return r;
}

static int dump_plainly(struct engine *e, struct dump_to *to, struct ferry_error *err)
{
	struct dump_job *j;
	int r = dump_start(e, to, &j, err);
	return r < 0 ? r : dump_finish(j, !e->kinds.leave_running, err);
}

/*
 * A dump that has rounds of its own, builds on an image before, or on which another will: the tree is stopped for what it wrote last, and
 * for all but its memory.
 */
static int dump_in_rounds(struct engine *e, struct dump_to to, struct ferry_error *err)
{
	struct live live;
	struct chain *chain = &live.chain;
	struct dump_job *j;
	uint64_t hi = 0, lo = 0;
	_cleanup_close_ int dir = -1;
	int r = live_begin(&live, e, &to, err);
	if (r >= 0)
		r = dump_start(e, &to, &j, err);
	if (r >= 0) {
		image_dir_id(dump_dir(j), &hi, &lo);
		dir = fcntl(image_dir_fd(dump_dir(j)), F_DUPFD_CLOEXEC, 0);
		r = dump_finish(j, !e->kinds.leave_running, err);
	}
	/* Nothing goes on from the image before, and nothing from this one. */
	if (r >= 0 && !chain->next)
		r = chain_spend(chain, err);
	if (r >= 0 && chain->next)
		chain_keep(chain, dir, hi, lo);
	live_end(&live);
	return r;
}

int dump_connect(struct engine *e, struct pageclient *ret, struct ferry_error *err)
{
	const struct options *o = e->options;
	if (o->auto_dedup)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "--auto-dedup is for who has the pages: give it to the page server");
	const struct pageclient_how how = {
		.tls = e->tls, .insecure = o->insecure, .timeout_ms = (int)o->timeout * 1000};
	return pageclient_open(ret, o->page_server, &how, err);
}

/* Pages go to a page server, the rest stays here. */
static int dump_remotely(struct engine *e, struct dump_to to, struct ferry_error *err)
{
	struct pageclient client;
	int r = dump_connect(e, &client, err);
	if (r < 0)
		return r;
	to.remote = &client.remote;
	r = dump_in_rounds(e, to, err);
	pageclient_close(&client);
	return r;
}

/* ------------------------------------------------- memory that is asked for later */

static int dump_listen(struct engine *e, char *ret_text, struct ferry_error *err)
{
	const struct options *o = e->options;
	struct endpoint at;
	if (!o->listen)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--lazy-pages: --listen ADDRESS is missing");
	if (o->prev_images_dir || o->track_mem || o->page_server || e->kinds.leave_running ||
	    o->leave_stopped)
		return error_set(
			err, FERRY_ERROR_USAGE, EINVAL,
			"--lazy-pages moves the tree whole, without --leave-running, --leave-stopped, "
			"--page-server, --prev-images-dir and --track-mem");
	int r = endpoint_parse_plain(o->listen, o->insecure || o->tls, ENDPOINT_LISTEN_HOW, &at, err);
	return r < 0 ? r : endpoint_listen(&at, ret_text, err);
}

/* From here on the tree may run elsewhere: if we die now it stands still. */
static void dump_settle(void *context)
{
	struct dump_job *j = context;
	fault_effect(&j->engine->fault, "dump", "settle");
	freeze_stop(&j->frozen);
}

static int dump_serve(struct dump_job *j, int listening, struct pagesource_done *ret, struct ferry_error *err)
{
	struct mem_dump *mem = &j->mem;
	_cleanup_free_ struct pagesource_memory *memories = calloc(mem->left.n + 1, sizeof(*memories));
	const struct pagesource s = {.memories = memories,
				     .n = mem->left.n,
				     .tls = j->engine->tls,
				     .timeout_ms = (int)j->engine->kinds.timeout_ms,
				     .settle = dump_settle,
				     .context = j};
	int r = memories ? 0 : error_memory(err);
	for (size_t i = 0; i < mem->left.n && r >= 0; i++) {
		const struct mem_left *left = &mem->left.v[i];
		int fd = fd_openf(O_RDONLY, "/proc/%d/mem", left->pid);
		memories[i] = (struct pagesource_memory){left->id, fd, left->ranges.v, left->ranges.n};
		if (fd < 0)
			r = error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening the memory of pid %d",
					left->pid);
	}
	/* The wait may be long, and nobody stops it but who stops ferry. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fault_effect(&j->engine->fault, "dump", "serve");
	if (r >= 0 && mem->left.n)
		r = pagesource_serve(&s, listening, ret, err);
	prctl(PR_SET_PDEATHSIG, 0);
	for (size_t i = 0; i < mem->left.n && memories; i++)
		if (memories[i].mem > 0)
			close(memories[i].mem);
	return r;
}

/* Without its tree the image is worth nothing. */
static int dump_arm_withdrawal(struct dump_job *j, struct ferry_error *err)
{
	char path[64];
	int n = snprintf(path, sizeof(path), "/proc/%d/fd/%d/inventory.img", getpid(), image_dir_fd(j->dir));
	int r = warden_arm(j->engine->warden, WARDEN_UNLINK, 0, 0, path, (size_t)n + 1);
	return r < 0 ? error_errno(err, FERRY_ERROR_LIMIT, -r, "entering the image into the undo log") : 0;
}

static int dump_told(const struct dump_job *j, const struct pagesource_done *done, int r,
		     struct ferry_error *err)
{
	if (r >= 0)
		error_set(err, FERRY_ERROR_PEER_GONE, EUCLEAN,
			  "the other side wants no more after %llu of %llu pages, and nobody knows why",
			  (unsigned long long)done->given, (unsigned long long)done->pages);
	if (done->settled)
		error_hint(err,
			   "the tree is left stopped: if it does not run there, kill -CONT lets it go on; "
			   "if it does, end it with kill -KILL (pid %d is its first process)",
			   (int)j->engine->options->tree);
	else
		error_hint(err, "the tree runs on here as before; what was restored from it is to be ended");
	return r < 0 ? r : -EUCLEAN;
}

static int dump_refuse_close(struct dump_job *j, struct pagesource_done *done, struct ferry_error *err)
{
	dump_settle(j);
	done->settled = true;
	return dump_told(j, done, 0, err);
}

/* Its memory stays here until whoever restores it has fetched it. */
static int dump_lazily(struct engine *e, struct dump_to to, struct ferry_error *err)
{
	char text[ENDPOINT_TEXT_BYTES];
	struct pagesource_done done = {.fd = -1};
	struct dump_job *j;
	_cleanup_close_ int listening = dump_listen(e, text, err);
	if (listening < 0)
		return listening;
	to.leaves = true;
	int r = dump_start(e, &to, &j, err);
	if (r < 0)
		return r;
	r = dump_arm_withdrawal(j, err);
	if (r >= 0) {
		log_write(e->log, LOG_WARN, "dump", NULL, 0, "memory is given at %s", text);
		r = engine_at_stage(e, ENGINE_READY, (pid_t)e->options->tree, err);
	}
	if (r >= 0) {
		r = dump_serve(j, listening, &done, err);
		/* CRIU says the same when it has failed. */
		if (done.fd >= 0 && !done.settled)
			r = dump_refuse_close(j, &done, err);
		else if (r < 0)
			r = dump_told(j, &done, r, err);
	}
	if (r >= 0) {
		r = dump_finish(j, true, err);
	} else {
		image_dir_withdraw(j->dir);
		dump_abort(j);
	}
	pagesource_confirm(&done);
	return r;
}

/* Made before namespaces are entered. */
static int dump_start_hook(struct engine *e, struct ferry_error *err)
{
	const char *command = e->options->hook;
	return command && !e->hook ? hook_start(command, &e->hook, err) : 0;
}

int engine_dump(struct engine *e, struct ferry_error *err)
{
	if (!e->options->images_dir)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	if (strcmp(e->options->files, "strict") != 0 && strcmp(e->options->files, "capture") != 0)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--files=%s is for a restore",
				 e->options->files);
	if (e->options->throttle > THROTTLE_MOST)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--throttle takes a percentage from 1 to %d",
				 THROTTLE_MOST);
	struct dump_to to = {.images_dir = e->options->images_dir};
	bool rounds = !e->options->no_live || e->options->prev_images_dir || e->options->track_mem;
	int r = dump_start_hook(e, err);
	if (r >= 0)
		r = e->options->lazy_pages    ? dump_lazily(e, to, err)
		    : e->options->page_server ? dump_remotely(e, to, err)
		    : rounds                  ? dump_in_rounds(e, to, err)
					      : dump_plainly(e, &to, err);
	e->report.total_ns = time_now_ns() - e->start_ns;
	return r;
}
