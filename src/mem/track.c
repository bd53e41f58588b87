/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what the ways of tracking have in common: which mapping is looked at in which way, when a look can be trusted, who writes to
 * memory past the page tables.
 *
 * Kernel interface: /proc/PID/pagemap, VmPin of /proc/PID/status (3.2), descriptors and mappings of io_uring and of AIO contexts.
 */
#include "mem/track.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "mem/mem.h"
#include "mem/track_way.h"
#include "proc/read.h"

static const struct track_ops *const track_ways[TRACK_WAYS] = {
	[TRACK_UFFD] = &track_ops_uffd,
	[TRACK_SOFT_DIRTY] = &track_ops_soft_dirty,
	[TRACK_PLAIN] = &track_ops_plain,
};

/* Mappings whose pages others reach as well, or that do not consist of pages of the task's. */
#define TRACK_UNFIT                                                                                     \
	(PROC_VM(IO) | PROC_VM(PFNMAP) | PROC_VM(MIXEDMAP) | PROC_VM(HUGETLB) | PROC_VM(SHADOW_STACK) | \
	 PROC_VM(UFFD_MISSING) | PROC_VM(UFFD_MINOR))

bool track_fits(const struct proc_vma *vma)
{
	switch ((enum proc_vma_kind)vma->kind) {
	case PROC_VMA_ANON:
	case PROC_VMA_ANON_NAMED:
	case PROC_VMA_HEAP:
	case PROC_VMA_STACK: break;
	default: return false;
	}
	return !vma->shared && !vma->ino && !(vma->has_flags && vma->vm_flags & TRACK_UNFIT);
}

/* The first way that this kernel has. */
static enum track_way track_best(const struct kern_caps *caps)
{
	enum track_way way = TRACK_UFFD;
	for (size_t i = 0; way < TRACK_PLAIN && i < track_ways[way]->n_needs; i++)
		if (!kern_has(caps, track_ways[way]->needs[i])) {
			way++;
			i = (size_t)-1;
		}
	return way;
}

enum track_way track_way(const struct track *t)
{
	return t->fd < 0 ? TRACK_PLAIN : track_best(t->caps);
}

bool track_is_possible(const struct kern_caps *caps)
{
	return track_best(caps) != TRACK_PLAIN;
}

int track_make(const struct kern_caps *caps, struct ferry_inject *inject, struct ferry_thread *thread,
	       pid_t look, struct ferry_error *err)
{
	const struct track_ops *ops = track_ways[track_best(caps)];
	return ops->make ? ops->make(inject, thread, look, err) : -1;
}

const char *track_word(enum track_way way)
{
	return track_ways[way]->word;
}

bool track_wants_stop(const struct track *t)
{
	return track_ways[track_way(t)]->wants_stop;
}

int track_new(const struct kern_caps *caps, int fd, pid_t look, struct track **ret, struct ferry_error *err)
{
	_cleanup_close_ int taken = fd;
	struct track *t = calloc(1, sizeof(*t));
	if (!t)
		return error_memory(err);
	*t = (struct track){.caps = caps, .look = look, .fd = taken >= 0 ? take_fd(taken) : -1};
	*ret = t;
	return 0;
}

void track_free(struct track *t)
{
	if (t && t->fd >= 0)
		close(t->fd);
	if (t)
		vec_release(&t->huge);
	free(t);
}

void track_settle(struct track *t, bool is_pinned)
{
	t->is_settled = !is_pinned;
}

bool track_is_settled(const struct track *t)
{
	return t->is_settled;
}

void track_resume(struct track *t)
{
	t->is_settled = true;
}

size_t track_watched(const struct track *t)
{
	return t->watched;
}

int track_fd(const struct track *t)
{
	return t->fd;
}

void track_set_look(struct track *t, pid_t look)
{
	t->look = look;
}

int track_identify(int proc_dir, struct track_identity *ret, struct ferry_error *err)
{
	struct proc_stat st;
	struct stat exe;
	int r = proc_read_stat(proc_dir, &st, err);
	if (r < 0)
		return r;
	if (fstatat(proc_dir, "exe", &exe, 0) < 0)
		return error_errno(err, errno == ENOENT ? FERRY_ERROR_NO_SUCH_TASK : FERRY_ERROR_SYSTEM,
				   errno, "looking at the program of pid %d", st.pid);
	*ret = (struct track_identity){
		.start_ticks = st.starttime_ticks,
		.start_code = st.startcode,
		.start_stack = st.startstack,
		.start_env = st.env_start,
		.exe_dev = exe.st_dev,
		.exe_ino = exe.st_ino,
	};
	return 0;
}

int track_add(struct track_look *l, uint64_t start, uint64_t end, uint32_t flags)
{
	struct track_run *last = l->runs->n ? &l->runs->v[l->runs->n - 1] : NULL;
	if (!l->t->is_settled)
		flags |= TRACK_DIRTY;
	if (last && last->end == start && last->flags == flags) {
		last->end = end;
		return 0;
	}
	struct track_run *run = vec_push(l->runs);
	if (!run)
		return -ENOMEM;
	*run = (struct track_run){start, end, flags};
	return 0;
}

static int track_found(void *context, const struct mem_range *range)
{
	return track_add(context, range->start, range->end, TRACK_DIRTY | (range->huge ? TRACK_HUGE : 0));
}

int track_add_all(struct track_look *l, const struct track_vma *vma, uint64_t start, uint64_t end)
{
	unsigned flags = (vma->anonymous ? MEM_FIND_ANONYMOUS : 0) | (vma->guards ? MEM_FIND_NO_GUARDS : 0);
	return mem_find(l->pagemap, l->t->caps, start, end, flags, track_found, l);
}

static int track_plain_scan(struct track_look *l, const struct track_vma *vma)
{
	return track_add_all(l, vma, vma->start, vma->end);
}

const struct track_ops track_ops_plain = {.word = "plain", .scan = track_plain_scan};

static int track_scan_vma(struct track_look *l, const struct track_ops *ops, const struct track_vma *vma)
{
	int r = vma->fit ? ops->scan(l, vma) : -EOPNOTSUPP;
	return r == -EOPNOTSUPP ? track_ops_plain.scan(l, vma) : r;
}

/* For the next look. */
static int track_note_huge(struct track *t, const track_runs *runs)
{
	int r = 0;
	t->huge.n = 0;
	for (size_t i = 0; i < runs->n && r >= 0; i++)
		if (runs->v[i].flags & TRACK_HUGE)
			r = mem_runs_add(&t->huge, runs->v[i].start, runs->v[i].end);
	t->knows_huge = r >= 0;
	return r;
}

int track_scan(struct track *t, const struct track_vma *vmas, size_t n, bool arm, track_runs *runs,
	       struct ferry_error *err)
{
	const struct track_ops *ops = track_ways[track_way(t)];
	_cleanup_close_ int pagemap = fd_openf(O_RDONLY, "/proc/%d/pagemap", t->look);
	struct track_look l = {.t = t, .pagemap = pagemap, .arm = arm, .runs = runs, .kpageflags = -1};
	int r = pagemap < 0 ? pagemap : 0;
	uint64_t at = 0;
	t->watched = 0;
	for (size_t i = 0; i < n && r >= 0; at = vmas[i++].end) {
		if (vmas[i].start < at || vmas[i].end <= vmas[i].start)
			r = -EINVAL;
		else
			r = track_scan_vma(&l, ops, &vmas[i]);
	}
	if (r >= 0 && arm && ops->arm)
		r = ops->arm(&l);
	if (arm)
		t->is_settled = t->knows_huge = false;
	if (r >= 0 && arm)
		r = track_note_huge(t, runs);
	if (l.kpageflags >= 0)
		close(l.kpageflags);
	if (r == -ENOENT || r == -ESRCH)
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "pid %d has ended", t->look);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "finding what pid %d has written", t->look)
		     : 0;
}

static int track_has_ring(int proc_dir, struct ferry_error *err)
{
	_cleanup_proc_fds_ struct proc_fds fds = {0};
	int r = proc_read_fds(proc_dir, &fds, err);
	if (r < 0)
		return r;
	vec_foreach(fd, &fds.v) {
		if (!strcmp(proc_fd_link(&fds, fd), "anon_inode:[io_uring]"))
			return 1;
	}
	return 0;
}

static int track_has_aio(int proc_dir, const struct kern_caps *caps, struct ferry_error *err)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	int r = proc_read_maps(proc_dir, caps, &maps, err);
	if (r < 0)
		return r;
	vec_foreach(vma, &maps.vmas) {
		if (vma->kind == PROC_VMA_AIO)
			return 1;
	}
	return 0;
}

int track_is_pinned(int proc_dir, const struct kern_caps *caps, struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	int r = proc_read_status(proc_dir, &status, err);
	if (r < 0 || status.vm_pinned_bytes)
		return r < 0 ? r : 1;
	r = track_has_ring(proc_dir, err);
	return r ? r : track_has_aio(proc_dir, caps, err);
}
