/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the trackers of a tree over the rounds of a chain, and what they say about each mapping.
 *
 * A page is only referred to if its tracker calls it clean *and* the round before has it. The first says that nothing was written
 * since that round looked, the second that its bytes were read after that.
 */
#include "engine/round.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "collect/collect.h"
#include "freeze/freeze.h"
#include "freeze/traced.h"
#include "image/coverage.h"
#include "image/dir.h"
#include "kernel/uapi.h"
#include "mem/idle.h"
#include "model/record.h"
#include "model/vma-status.h"
#include "proc/mapper.h"
#include "proc/read.h"

static void round_task_release(struct round_task *t)
{
	track_free(t->track);
	vec_release(&t->vmas);
	vec_release(&t->runs);
}

void rounds_release(struct rounds *rs)
{
	vec_foreach(t, &rs->tasks)
		round_task_release(t);
	vec_release(&rs->tasks);
}

static struct round_task *round_find(struct rounds *rs, pid_t pid)
{
	if (rs->last < rs->tasks.n && rs->tasks.v[rs->last].pid == pid)
		return &rs->tasks.v[rs->last];
	vec_foreach(t, &rs->tasks) {
		if (t->pid != pid)
			continue;
		rs->last = (size_t)(t - rs->tasks.v);
		return t;
	}
	return NULL;
}

bool rounds_track(struct rounds *rs, pid_t pid)
{
	return round_find(rs, pid);
}

/* fd is taken over in any case. */
static int round_add(struct rounds *rs, pid_t pid, pid_t look, const struct track_identity *identity, int fd,
		     struct round_task **ret, struct ferry_error *err)
{
	struct track *track;
	int r = track_new(rs->caps, fd, look, &track, err);
	if (r < 0)
		return r;
	struct round_task *t = vec_push(&rs->tasks);
	if (!t) {
		track_free(track);
		return error_memory(err);
	}
	*t = (struct round_task){.pid = pid, .look = look, .identity = *identity, .track = track};
	*ret = t;
	return 0;
}

int rounds_adopt(struct rounds *rs, pid_t pid, const struct track_identity *identity, int fd,
		 struct ferry_error *err)
{
	struct track_identity now;
	_cleanup_close_ int taken = fd;
	_cleanup_close_ int dir = proc_open_look(pid, NULL);
	struct round_task *t;
	/* Who is gone, or executes another program, is new. */
	if (dir < 0 || track_identify(dir, &now, NULL) < 0 || memcmp(&now, identity, sizeof(now)))
		return 0;
	int r = round_add(rs, pid, proc_look(pid), identity, take_fd(taken), &t, err);
	if (r >= 0)
		track_resume(t->track);
	return r;
}

/* ----------------------------------------------------------------- who takes part */

/* What cannot be tracked is plain: it is dirty at every look. */
static int round_make(struct rounds *rs, struct frozen *f, struct frozen_task *ft)
{
	struct ferry_error why = FERRY_ERROR_INIT;
	struct ferry_inject *inject;
	if (!track_is_possible(rs->caps))
		return -1;
	int fd = freeze_inject(f, ft, &inject, &why);
	if (fd >= 0) {
		fd = track_make(rs->caps, inject, ft->threads.v[0], ft->look, &why);
		if (ferry_inject_cure(inject, ft->threads.v[0], &why) < 0 && fd >= 0) {
			close(fd);
			fd = -1;
		}
	}
	if (fd < 0)
		log_write(rs->log, LOG_WARN, "track", NULL, ft->pid,
			  "memory cannot be tracked, and is stored whole: %s", why.message);
	return fd < 0 ? -1 : fd;
}

static bool round_is_chosen(const struct rounds *rs, pid_t pid)
{
	for (size_t i = 0; rs->only_chosen && i < rs->n_chosen; i++)
		if (rs->chosen[i] == pid)
			return true;
	return !rs->only_chosen;
}

/*
 * Whether threads of it trace others, or are traced. Such have no rounds: a tracer holds its tracees for us while the tree stands, by a
 * function that a call in the same thread would end.
 */
static bool round_is_traced(const struct frozen *f, const struct frozen_task *ft)
{
	bool found = false;
	vec_foreach(th, &ft->threads)
		found |= traced_find(f, ferry_thread_tid(*th)) || traced_server(f, ferry_thread_tid(*th));
	return found;
}

/* level: PID namespaces between ours and the root's. */
static int round_join_task(struct rounds *rs, struct frozen *f, struct frozen_task *ft, uint32_t level,
			   bool begin, struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	struct round_task *t = round_find(rs, ft->pid);
	struct track_identity now;
	int r = track_identify(ft->proc_dir, &now, err);
	begin = begin && !round_is_traced(f, ft);
	if (r >= 0)
		r = proc_read_status(ft->proc_dir, &status, err);
	if (r < 0 || (!t && !(begin && round_is_chosen(rs, ft->pid))))
		return r;
	if (t && memcmp(&now, &t->identity, sizeof(now))) {
		/* It executes another program: what was looked at is no more. */
		track_free(t->track);
		t->track = NULL;
		if (begin)
			r = track_new(rs->caps, round_make(rs, f, ft), ft->look, &t->track, err);
		t->identity = now;
		t->is_looked = t->has_gaps = false;
		t->is_ours = true;
	} else if (!t) {
		r = round_add(rs, ft->pid, ft->look, &now, round_make(rs, f, ft), &t, err);
		if (r >= 0)
			t->is_ours = true;
	}
	if (r < 0)
		return r;
	t->is_there = t->track;
	t->look = ft->look;
	if (t->track)
		track_set_look(t->track, ft->look);
	t->inner_pid = level < status.ns_pid.n ? status.ns_pid.v[level] : ft->pid;
	return 0;
}

/* The parent of a task, and the thread through which it is looked at. */
static struct sharing_process round_parent(const struct frozen *f, const struct frozen_task *ft)
{
	struct sharing_process parent = {ft->ppid, ft->ppid};
	vec_foreach(t, &f->tasks)
		if (t->pid == ft->ppid)
			parent.look = t->look;
	return parent;
}

/* Everybody who has a memory of his own; and whether others write to one behind its back. */
static int round_members(struct rounds *rs, struct frozen *f, bool begin, struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status root = {0};
	struct sharing sharing = {0};
	int r = proc_read_status(f->tasks.v[0].proc_dir, &root, err);
	uint32_t level = root.ns_pid.n ? root.ns_pid.n - 1 : 0;
	vec_foreach(t, &rs->tasks)
		t->is_there = t->is_pinned = false;
	for (size_t i = 0; i < f->tasks.n && r >= 0; i++) {
		struct frozen_task *ft = &f->tasks.v[i];
		pid_t owners[SHARING_TYPES];
		r = collect_sharing(&sharing, (struct sharing_process){ft->pid, ft->look},
				    round_parent(f, ft), !i, owners, err);
		if (r >= 0 && owners[SHARING_VM] == ft->pid)
			r = round_join_task(rs, f, ft, level, begin, err);
		struct round_task *t = r < 0 ? NULL : round_find(rs, owners[SHARING_VM]);
		int pinned = t ? track_is_pinned(ft->proc_dir, rs->caps, err) : 0;
		if (pinned > 0)
			t->is_pinned = true;
		r = pinned < 0 ? pinned : r;
	}
	sharing_release(&sharing);
	return r;
}

/* Who is not there any more is forgotten. */
static void round_forget(struct rounds *rs)
{
	size_t kept = 0;
	for (size_t i = 0; i < rs->tasks.n; i++) {
		if (rs->tasks.v[i].is_there)
			rs->tasks.v[kept++] = rs->tasks.v[i];
		else
			round_task_release(&rs->tasks.v[i]);
	}
	rs->tasks.n = kept;
}

int rounds_join(struct rounds *rs, struct frozen *f, struct ferry_error *err)
{
	int r = round_members(rs, f, true, err);
	round_forget(rs);
	return r;
}

int rounds_settle(struct rounds *rs, struct frozen *f, struct ferry_error *err)
{
	int r = round_members(rs, f, false, err);
	round_forget(rs);
	vec_foreach(t, &rs->tasks)
		track_settle(t->track, r < 0 || t->is_pinned || !t->is_looked);
	return r;
}

bool rounds_want_stop(const struct rounds *rs)
{
	vec_foreach(t, &rs->tasks) {
		if (t->track && track_wants_stop(t->track))
			return true;
	}
	return false;
}

/* ----------------------------------------------------------------- looking */

static int round_add_vma(struct round_task *t, const struct track_vma *vma)
{
	struct track_vma *slot = vec_push(&t->vmas);
	if (!slot)
		return -ENOMEM;
	*slot = *vma;
	return 0;
}

/* What two restores must not both have is never stored. */
static int round_list(struct rounds *rs, struct round_task *t, struct ferry_error *err)
{
	const uint64_t never = PROC_VM(WIPEONFORK) | PROC_VM(DROPPABLE);
	struct proc_maps maps = {0};
	_cleanup_close_ int dir = proc_open(t->look, err);
	int r = dir < 0 ? dir : proc_mapper_read(rs->mapper, dir, t->look, &maps, err);
	t->vmas.n = 0;
	for (size_t i = 0; r >= 0 && i < maps.vmas.n; i++) {
		const struct proc_vma *vma = &maps.vmas.v[i];
		if (track_fits(vma) && !(vma->vm_flags & never) &&
		    round_add_vma(t,
				  &(struct track_vma){.start = vma->start,
						      .end = vma->end,
						      .fit = true,
						      .anonymous = true,
						      .common = vma->common_bytes,
						      .ask_common = vma->common_bytes == PROC_COMMON_UNKNOWN,
						      .guards = vma->vm_flags & PROC_VM(GUARD)}) < 0)
			r = error_memory(err);
	}
	proc_maps_release(&maps);
	return r;
}

static int round_look(const struct rounds *rs, struct round_task *t, bool arm, struct ferry_error *err)
{
	t->runs.n = 0;
	if (arm)
		fault_effect(rs->fault, "track", "arm");
	int r = track_scan(t->track, t->vmas.v, t->vmas.n, arm, &t->runs, err);
	t->is_looked = r >= 0;
	if (r >= 0 && track_watched(t->track))
		log_write(
			rs->log, LOG_WARN, "track", NULL, t->pid,
			"%zu mappings are watched by another userfaultfd (the program's own, or of a ferry-keeper that another image has), and are stored whole",
			track_watched(t->track));
	return r;
}

int rounds_look(struct rounds *rs, struct ferry_error *err)
{
	struct ferry_error local = FERRY_ERROR_INIT;
	vec_foreach(t, &rs->tasks) {
		error_clear(&local);
		int r = round_list(rs, t, &local);
		if (r >= 0)
			r = round_look(rs, t, true, &local);
		/* Who ends meanwhile, or executes another program, is no part of this round. */
		if (r == -ESRCH || r == -ENOENT || r == -EAGAIN) {
			t->is_looked = false;
			continue;
		}
		if (r < 0 && err) {
			uint32_t size = err->size;
			*err = local;
			err->size = size;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/* The same memory as track_fits() tells, by its record. */
static bool round_vma_fits(const struct snap_vma *vma)
{
	const VmaEntry *entry = vma->entry;
	return vma->dump_pages && vma->private_ && entry->status & VMA_STATUS_ANON_PRIVATE &&
	       !(entry->status & (VMA_STATUS_VDSO | VMA_STATUS_VVAR | VMA_STATUS_AIO_RING)) &&
	       !(entry->flags & (MAP_HUGETLB | MAP_DROPPABLE)) &&
	       !(vma->watched & (PROC_VM(UFFD_MISSING) | PROC_VM(UFFD_MINOR)));
}

static int round_stand(const struct rounds *rs, struct round_task *t, const struct snap_task *snap, bool arm,
		       struct ferry_error *err)
{
	t->vmas.n = 0;
	for (size_t i = 0; i < snap->vmas.n; i++) {
		const struct snap_vma *vma = &snap->vmas.v[i];
		if (round_vma_fits(vma) && round_add_vma(t, &(struct track_vma){.start = vma->entry->start,
										.end = vma->entry->end,
										.fit = true,
										.anonymous = true,
										.guards = vma->guards}) < 0)
			return error_memory(err);
	}
	return round_look(rs, t, arm, err);
}

/*
 * Without arming nobody need be asked again who he is: memory that is not the one that was looked at is not registered, and so dirty.
 * What the tree stands for is short.
 */
int rounds_stand(struct rounds *rs, struct frozen *f, const struct snapshot *snap, bool arm,
		 struct ferry_error *err)
{
	int r = arm ? rounds_join(rs, f, err) : 0;
	for (size_t i = 0; i < snap->tasks.n && r >= 0; i++) {
		struct round_task *t = round_find(rs, snap->tasks.v[i].pid);
		struct ferry_error why = FERRY_ERROR_INIT;
		if (!t)
			continue;
		t->inner_pid = snap->tasks.v[i].inner_pid;
		r = round_stand(rs, t, &snap->tasks.v[i], arm, &why);
		if (arm)
			track_settle(t->track, r < 0 || t->is_pinned);
		if (r < 0)
			log_write(rs->log, LOG_WARN, "track", NULL, t->pid, "%s: memory is stored whole",
				  why.message);
		r = r == -ENOMEM ? error_memory(err) : 0;
	}
	return r;
}

static uint64_t round_dirty(const track_runs *runs)
{
	uint64_t bytes = 0;
	vec_foreach(run, runs)
		bytes += run->flags & TRACK_DIRTY ? run->end - run->start : 0;
	return bytes;
}

uint64_t rounds_looked(const struct rounds *rs)
{
	uint64_t bytes = 0;
	vec_foreach(t, &rs->tasks)
		bytes += t->is_looked ? round_dirty(&t->runs) : 0;
	return bytes;
}

/* Mappings as they are now: those that were not looked at are new, and all there is of them counts. */
static int round_left(const struct rounds *rs, const struct round_task *t, uint64_t *ret_bytes,
		      struct ferry_error *err)
{
	VEC(struct track_vma) vmas = {0};
	track_runs runs = {0};
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	_cleanup_close_ int dir = proc_open(t->look, err);
	int r = dir < 0 ? dir : proc_read_maps(dir, rs->caps, &maps, err);
	for (size_t i = 0; r >= 0 && i < maps.vmas.n; i++) {
		const struct proc_vma *vma = &maps.vmas.v[i];
		struct track_vma *slot = track_fits(vma) ? vec_push(&vmas) : NULL;
		if (slot)
			*slot = (struct track_vma){
				.start = vma->start, .end = vma->end, .fit = true, .anonymous = true};
		else if (track_fits(vma))
			r = error_memory(err);
	}
	if (r >= 0)
		r = track_scan(t->track, vmas.v, vmas.n, false, &runs, err);
	*ret_bytes = round_dirty(&runs);
	vec_release(&vmas);
	vec_release(&runs);
	return r;
}

int rounds_left(struct rounds *rs, uint64_t *ret_bytes, struct ferry_error *err)
{
	struct ferry_error local = FERRY_ERROR_INIT;
	uint64_t sum = 0;
	vec_foreach(t, &rs->tasks) {
		uint64_t bytes = 0;
		error_clear(&local);
		int r = t->track && (t->is_looked || !t->is_ours) ? round_left(rs, t, &bytes, &local) : 0;
		if (r == -ENOMEM)
			return error_memory(err);
		/* Who ended, or executes another program, has nothing left of what was looked at. */
		sum += r < 0 ? 0 : bytes;
	}
	*ret_bytes = sum;
	return 0;
}

/* ----------------------------------------------------------------- telling */

struct round_told {
	const struct image_covered *covered;
	bool knows_zeroes; /* what is clean and was not stored is zeroes */
	size_t span;       /* the first that may matter */
	mem_range_found *found;
	void *context;
};

static int round_tell(const struct round_told *told, const struct mem_range *range)
{
	return range->start < range->end ? told->found(told->context, range) : 0;
}

/*
 * What nobody has is stored, also if it is clean. Unless all of it was read for a round of this command, each page after it had been
 * armed: then what is clean and not there is as it was read, zeroes.
 */
static int round_tell_clean(struct round_told *told, uint64_t start, uint64_t end, bool huge)
{
	const struct image_covered *c = told->covered;
	int r = 0;
	if (told->knows_zeroes)
		return round_tell(
			told, &(struct mem_range){.start = start, .end = end, .huge = huge, .same = true});
	while (c && told->span < c->n && c->v[told->span].end <= start)
		told->span++;
	for (size_t i = told->span; c && i < c->n && c->v[i].start < end && r >= 0; i++) {
		uint64_t from = MAX(start, c->v[i].start), to = MIN(end, c->v[i].end);
		r = round_tell(told, &(struct mem_range){.start = start, .end = from, .huge = huge});
		if (r >= 0)
			r = round_tell(told, &(struct mem_range){
						     .start = from, .end = to, .huge = huge, .same = true});
		start = to;
	}
	return r < 0 ? r : round_tell(told, &(struct mem_range){.start = start, .end = end, .huge = huge});
}

static int round_tell_run(struct round_told *told, const struct track_run *run, uint64_t start, uint64_t end)
{
	bool huge = run->flags & TRACK_HUGE;
	if (!(run->flags & TRACK_DIRTY))
		return round_tell_clean(told, start, end, huge);
	return round_tell(told, &(struct mem_range){.start = start, .end = end, .huge = huge});
}

/* The first run that ends behind an address. */
static size_t round_first_run(const struct round_task *t, uint64_t address)
{
	size_t low = 0, high = t->runs.n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (t->runs.v[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Whether a mapping was looked at. */
static bool round_has_vma(const struct round_task *t, const VmaEntry *entry)
{
	size_t low = 0, high = t->vmas.n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (t->vmas.v[middle].start < entry->start)
			low = middle + 1;
		else
			high = middle;
	}
	return low < t->vmas.n && t->vmas.v[low].start == entry->start && t->vmas.v[low].end == entry->end;
}

static int round_changed(void *context, const struct snap_task *task, const struct snap_vma *vma,
			 mem_range_found *found, void *found_context)
{
	struct rounds *rs = context;
	struct round_task *t = round_find(rs, task->pid);
	const VmaEntry *entry = vma->entry;
	if (!t || !t->is_looked || !round_has_vma(t, entry))
		return 0;
	struct round_told told = {.covered = image_coverage_find(rs->covered, IMAGE_PAGEMAP,
								 (uint64_t)task->inner_pid),
				  .knows_zeroes = t->is_ours && !t->has_gaps,
				  .found = found,
				  .context = found_context};
	uint64_t at = entry->start;
	int r = 0;
	for (size_t i = round_first_run(t, at); i < t->runs.n && t->runs.v[i].start < entry->end && r >= 0;
	     i++) {
		const struct track_run *run = &t->runs.v[i];
		uint64_t start = MAX(run->start, at), end = MIN(run->end, entry->end);
		r = round_tell(&told, &(struct mem_range){.start = at, .end = start, .gone = true});
		if (r >= 0)
			r = round_tell_run(&told, run, start, end);
		at = end;
	}
	if (r >= 0)
		r = round_tell(&told, &(struct mem_range){.start = at, .end = entry->end, .gone = true});
	return r < 0 ? r : 1;
}

const struct mem_past *rounds_past(struct rounds *rs)
{
	rs->past = (struct mem_past){.covered = rs->covered, .changed = round_changed, .context = rs};
	return &rs->past;
}

/* ----------------------------------------------------------------- storing */

/* As much of a task as mem_dump_task() wants to know. */
static int round_describe(struct snapshot *snap, const struct round_task *t, struct snap_task *task)
{
	*task = (struct snap_task){.pid = t->pid, .look = t->look, .inner_pid = t->inner_pid};
	task->memory = task;
	task->mm_extra = record_new(&snap->arena, FerryMmEntry, ferry_mm_entry);
	if (!task->mm_extra)
		return -ENOMEM;
	vec_foreach(vma, &t->vmas) {
		VmaEntry *entry = record_new(&snap->arena, VmaEntry, vma_entry);
		struct snap_vma *slot = entry ? vec_push(&task->vmas) : NULL;
		if (!slot)
			return -ENOMEM;
		entry->start = vma->start;
		entry->end = vma->end;
		entry->status = VMA_STATUS_REGULAR | VMA_STATUS_ANON_PRIVATE;
		entry->flags = MAP_PRIVATE | MAP_ANONYMOUS;
		*slot = (struct snap_vma){.entry = entry,
					  .private_ = true,
					  .dump_pages = true,
					  .common = vma->common && !vma->ask_common,
					  .ask_common = vma->ask_common,
					  .guards = vma->guards};
	}
	return 0;
}

/* Who runs beside the reading. */
static int round_running(const struct rounds *rs, struct mem_idle *ret, struct ferry_error *err)
{
	vec_foreach(t, &rs->tasks) {
		pid_t *pid = vec_push(&ret->pids);
		if (!pid)
			return error_memory(err);
		*pid = t->pid;
	}
	return 0;
}

int rounds_store(struct rounds *rs, struct image_dir *dir, const struct fault *fault,
		 struct mem_stats *ret_stats, struct ferry_error *err)
{
	struct snapshot snap = {0};
	struct mem_idle running = {0};
	struct mem_dump mem = {.dir = dir,
			       .snap = &snap,
			       .caps = rs->caps,
			       .fault = fault,
			       .past = rounds_past(rs),
			       .progress = rs->progress,
			       .running = &running};
	int r = round_running(rs, &running, err);
	vec_foreach(t, &rs->tasks) {
		struct snap_task task = {0};
		if (!t->is_looked || r < 0)
			continue;
		uint64_t gaps = mem.stats.pages_unread;
		r = round_describe(&snap, t, &task) < 0 ? error_memory(err) : mem_dump_task(&mem, &task, err);
		t->has_gaps |= mem.stats.pages_unread != gaps;
		vec_release(&task.vmas);
	}
	mem_dump_end(&mem);
	vec_release(&running.pids);
	snapshot_release(&snap);
	*ret_stats = mem.stats;
	return r;
}
