/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns a dump from check to the end: look, make the image directory, freeze, collect, write, sync and read back, and only
 * then end the tree. A tree that is to run on does so once everything is written, before the sync. Whatever fails before
 * the end leaves the tree running and no image.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "collect/collect.h"
#include "engine/dump.h"
#include "engine/dump_write.h"
#include "engine/engine.h"
#include "freeze/freeze.h"
#include "host/netlock.h"
#include "host/warden.h"
#include "image/dir.h"
#include "kind/kinds.h"
#include "mem/mem.h"

enum { DUMP_SPARE_BYTES = 16 << 20 };

struct dump_job {
	struct engine *engine;
	struct image_dir *dir;
	struct freeze_options freeze;
	struct frozen frozen;
	bool is_frozen;
	struct snapshot snap;
	struct collect collect;
};

static void dump_log(struct engine *e, const char *stage, const char *what)
{
	log_write(e->log, LOG_INFO, stage, NULL, 0, "%s after %llu us", what,
		  (unsigned long long)(time_now_ns() - e->start_ns) / 1000);
}

int dump_check(struct engine *e, struct ferry_error *err)
{
	struct obstacles obstacles = {0};
	int n = engine_check(e, &obstacles, err);
	if (n > 0 && err) {
		*err = obstacles.v.v[0];
		if (n > 1 && !err->hint[0])
			error_hint(err, "and %d more: ferry check --tree %d lists them all", n - 1,
				   (int)e->options->tree);
	}
	vec_release(&obstacles.v);
	return n > 0 ? -ENOTSUP : n;
}

/* Before anything stops: the image has to fit. */
static int dump_check_space(struct engine *e, const struct image_dir *dir, struct ferry_error *err)
{
	uint64_t needed;
	struct statvfs fs;
	int r = check_memory((pid_t)e->options->tree, &needed, err);
	if (r < 0)
		return r;
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
	int r = collect_tree(c, f, err);
	error_context(err, "collect", NULL, 0);
	dump_log(e, "collect", "collected");
	return r;
}

static int dump_seal(struct engine *e, struct image_dir *dir, struct ferry_error *err)
{
	int r = image_dir_finish(dir, err);
	e->report.bytes = image_dir_bytes(dir);
	dump_log(e, "dump", "image synced and read back");
	return r;
}

static int dump_write(struct engine *e, struct collect *c, struct image_dir *dir, struct ferry_error *err)
{
	struct mem_dump mem = {.dir = dir, .caps = &e->caps, .fault = &e->fault};
	int r = 0;
	for (size_t i = 0; i < c->snap->tasks.n && r >= 0; i++)
		r = mem_dump_task(&mem, &c->snap->tasks.v[i], err);
	for (size_t i = 0; i < c->snap->shmems.n && r >= 0; i++)
		r = mem_dump_shmem(&mem, &c->snap->shmems.v[i], err);
	mem_dump_end(&mem);
	e->report.pages_scanned = mem.stats.pages_scanned + mem.stats.shmem_scanned;
	e->report.pages_written = mem.stats.pages_written + mem.stats.shmem_written;
	dump_log(e, "dump", "memory stored");
	if (r >= 0)
		r = dump_write_records(e, c, dir, err);
	dump_log(e, "dump", "records stored");
	/* A tree that runs on in any case need not stand still for the disk. */
	if (r >= 0 && !e->kinds.leave_running)
		r = dump_seal(e, dir, err);
	error_context(err, "dump", NULL, 0);
	return r;
}

static void dump_report(struct engine *e, const struct snapshot *snap)
{
	e->report.pid = (pid_t)e->options->tree;
	e->report.tasks = (uint32_t)snap->tasks.n;
	for (size_t i = 0; i < snap->tasks.n; i++)
		e->report.threads += (uint32_t)snap->tasks.v[i].threads.n;
}

static int dump_open(struct dump_job *j, const struct dump_to *to, struct ferry_error *err)
{
	struct engine *e = j->engine;
	struct image_dir_create create = {
		.overwrite = e->options->overwrite,
		.read_back = to->pages ? IMAGE_READ_BACK_NONE : IMAGE_READ_BACK_ALL,
		.no_sync = to->pages,
		.pages = to->pages,
		.fault = &e->fault,
		.log = e->log,
	};
	const char *path = to->images_dir;
	int at = engine_at(e, &path);
	int r = image_dir_create(at, path, &create, &j->dir, err);
	if (r >= 0 && !to->pages)
		r = dump_check_space(e, j->dir, err);
	return r < 0 ? r : engine_warden(e, err);
}

static int dump_freeze(struct dump_job *j, struct ferry_error *err)
{
	struct engine *e = j->engine;
	j->freeze = (struct freeze_options){
		.timeout_ms = (int)e->options->timeout * 1000,
		.fault = &e->fault,
		.log = e->log,
	};
	int r = freeze_tree((pid_t)e->options->tree, &j->freeze, &j->frozen, err);
	error_context(err, "seize", NULL, 0);
	j->is_frozen = r >= 0;
	dump_log(e, "seize", "every thread stands");
	return r;
}

int dump_start(struct engine *e, const struct dump_to *to, struct dump_job **ret_job, struct ferry_error *err)
{
	struct dump_job *j = calloc(1, sizeof(*j));
	if (!j)
		return error_memory(err);
	j->engine = e;
	j->collect.snap = &j->snap;
	uint64_t start = time_now_ns();
	int r = dump_check(e, err);
	dump_log(e, "check", "checked");
	if (r >= 0)
		r = dump_open(j, to, err);
	engine_phase(e, "check", start);
	if (r >= 0) {
		start = time_now_ns();
		r = dump_freeze(j, err);
		engine_phase(e, "freeze", start);
	}
	if (r >= 0) {
		start = time_now_ns();
		r = dump_collect(e, &j->frozen, &j->collect, err);
		engine_phase(e, "collect", start);
	}
	if (r >= 0) {
		start = time_now_ns();
		r = dump_write(e, &j->collect, j->dir, err);
		engine_phase(e, "dump", start);
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
	snapshot_release(&j->snap);
	image_dir_free(j->dir);
	free(j);
}

void dump_abort(struct dump_job *j)
{
	if (!j)
		return;
	if (j->is_frozen) {
		if (dump_after(j->engine, &j->collect, j->dir, false, NULL) < 0)
			log_write(j->engine->log, LOG_ERROR_LEVEL, "dump", NULL, 0,
				  "putting the target's sockets back failed");
		freeze_release(&j->frozen);
	}
	dump_free(j);
}

const struct frozen *dump_frozen(const struct dump_job *j)
{
	return &j->frozen;
}

void dump_leave(struct dump_job *j)
{
	freeze_release(&j->frozen);
	dump_free(j);
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

int dump_finish(struct dump_job *j, bool kill, struct ferry_error *err)
{
	struct engine *e = j->engine;
	uint64_t since = j->frozen.since_ns;
	int armed = kill ? dump_arm_end(j, err) : 0;
	int after = dump_after(e, &j->collect, j->dir, kill && armed >= 0, armed < 0 ? NULL : err);
	int r = armed < 0 ? armed : after;
	if (r >= 0 && !kill && e->options->leave_stopped)
		freeze_stop(&j->frozen);
	if (r < 0 || !kill) {
		freeze_release(&j->frozen);
	} else {
		/* Paused connections do not go on any more, whatever happens to us. */
		engine_decided(e);
		warden_commit(e->warden);
		r = freeze_kill(&j->frozen, err);
	}
	e->report.freeze_ns = time_now_ns() - since;
	dump_log(e, "dump",
		 kill                        ? "the tree is ended"
		 : e->options->leave_stopped ? "the tree is left stopped"
					     : "the tree runs");
	if (r >= 0 && e->kinds.leave_running) {
		uint64_t start = time_now_ns();
		r = dump_seal(e, j->dir, err);
		error_context(err, "dump", NULL, 0);
		engine_phase(e, "sync", start);
	}
	dump_free(j);
	return r;
}

int engine_dump(struct engine *e, struct ferry_error *err)
{
	struct dump_job *j;
	if (!e->options->images_dir)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	struct dump_to to = {.images_dir = e->options->images_dir};
	int r = dump_start(e, &to, &j, err);
	if (r >= 0)
		r = dump_finish(j, !e->kinds.leave_running, err);
	e->report.total_ns = time_now_ns() - e->start_ns;
	return r;
}
