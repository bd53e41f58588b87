/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns a dump from check to the end: look, make the image directory, freeze, collect, write, sync and read back, and only
 * then let the tree go or end it. Whatever fails before that leaves the tree running and no image.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "collect/collect.h"
#include "engine/dump_write.h"
#include "engine/engine.h"
#include "freeze/freeze.h"
#include "host/netlock.h"
#include "host/warden.h"
#include "image/dir.h"
#include "kind/kinds.h"
#include "mem/mem.h"

enum { DUMP_SPARE_BYTES = 16 << 20 };

static int dump_check(struct engine *e, struct ferry_error *err)
{
	struct obstacles obstacles = {0};
	int n = engine_check(e, &obstacles, err);
	if (n > 0 && err) {
		*err = obstacles.v.v[0];
		if (n > 1 && !err->hint[0])
			error_hint(err, "and %d more: ferry check --tree %d lists them all", n - 1, (int)e->options->tree);
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
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at the file system of '%s'", image_dir_path(dir));
	uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (available >= needed + DUMP_SPARE_BYTES)
		return 0;
	error_set(err, FERRY_ERROR_NO_SPACE, ENOSPC, "'%s' has %llu MiB free, the image may need %llu MiB", image_dir_path(dir),
		  (unsigned long long)(available >> 20), (unsigned long long)((needed + DUMP_SPARE_BYTES) >> 20));
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
	int r = collect_tree(c, f, err);
	error_context(err, "collect", NULL, 0);
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
	if (mem.buffer)
		munmap(mem.buffer, MEM_BUFFER_BYTES);
	e->report.pages_scanned = mem.stats.pages_scanned + mem.stats.shmem_scanned;
	e->report.pages_written = mem.stats.pages_written + mem.stats.shmem_written;
	if (r >= 0)
		r = dump_write_records(e, c, dir, err);
	if (r >= 0)
		r = image_dir_finish(dir, err);
	error_context(err, "dump", NULL, 0);
	return r;
}

static void dump_report(struct engine *e, const struct frozen *f, const struct snapshot *snap)
{
	e->report.pid = (pid_t)e->options->tree;
	e->report.tasks = (uint32_t)snap->tasks.n;
	for (size_t i = 0; i < snap->tasks.n; i++)
		e->report.threads += (uint32_t)snap->tasks.v[i].threads.n;
	e->report.freeze_ns = f->since_ns;
}

/* The image is safe: end the tree, or let it go on. */
static int dump_end(struct engine *e, struct frozen *f, struct ferry_error *err)
{
	uint64_t since = f->since_ns;
	int r = 0;
	if (e->options->leave_running)
		freeze_release(f);
	else
		r = freeze_kill(f, err);
	e->report.freeze_ns = time_now_ns() - since;
	return r;
}

static int dump_frozen(struct engine *e, struct frozen *f, struct image_dir *dir, struct ferry_error *err)
{
	struct snapshot snap = {0};
	struct collect c = {.snap = &snap};
	int r = dump_collect(e, f, &c, err);
	if (r >= 0)
		r = dump_write(e, &c, dir, err);
	bool committed = r >= 0;
	if (committed)
		dump_report(e, f, &snap);
	int after = dump_after(e, &c, dir, committed && !e->options->leave_running, committed ? err : NULL);
	if (committed)
		r = after;
	snapshot_release(&snap);
	if (!committed)
		freeze_release(f);
	else if (r >= 0)
		r = dump_end(e, f, err);
	else
		freeze_release(f);
	return r;
}

int engine_dump(struct engine *e, struct ferry_error *err)
{
	const struct options *o = e->options;
	if (!o->images_dir)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	int r = dump_check(e, err);
	if (r < 0)
		return r;
	struct image_dir_create create = {
		.overwrite = o->overwrite,
		.read_back = IMAGE_READ_BACK_ALL,
		.fault = &e->fault,
		.log = e->log,
	};
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	r = image_dir_create(AT_FDCWD, o->images_dir, &create, &dir, err);
	if (r >= 0)
		r = dump_check_space(e, dir, err);
	if (r >= 0)
		r = engine_warden(e, err);
	if (r < 0)
		return r;
	struct freeze_options freeze = {
		.timeout_ms = (int)o->timeout * 1000,
		.fault = &e->fault,
		.log = e->log,
	};
	struct frozen f;
	r = freeze_tree((pid_t)o->tree, &freeze, &f, err);
	error_context(err, "seize", NULL, 0);
	if (r >= 0)
		r = dump_frozen(e, &f, dir, err);
	e->report.total_ns = time_now_ns() - e->start_ns;
	return r;
}
