/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading shared memory where it is mapped. An object without a name can be opened through /proc/PID/map_files alone, and
 * that takes a right outside of user namespaces; an ordinary user reads it through the memory of the tasks that have it mapped,
 * /proc/PID/mem. A page that does not exist would come into being when it is read, so the tasks are asked which do.
 *
 * Kernel interface: mincore(2), which looks into the object and not only at the task's own pages; /proc/PID/smaps (Swap), because it
 * does not see what is swapped out.
 *
 * Does not handle: parts of an object that no task has mapped any more, which are refused.
 */
#include "kind/window.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/error.h"
#include "kind/kinds.h"
#include "proc/read.h"

enum { WINDOW_PAGE = 4096 };

/* Of an object, in the order of offsets. */
struct window_part {
	struct window_part *next;
	uint64_t dev, ino, offset, bytes;
	pid_t pid;
	uint64_t address;
};

bool window_wanted(const struct vma_view *view)
{
	char path[64];
	struct stat st;
	snprintf(path, sizeof(path), "map_files/%llx-%llx", (unsigned long long)view->vma->start,
		 (unsigned long long)view->vma->end);
	/* ENOENT: it was unmapped, or became larger, meanwhile. */
	return fstatat(view->proc_dir, path, &st, 0) < 0 && errno == EPERM;
}

int window_note(const struct vma_view *view, struct ferry_error *err)
{
	const struct proc_vma *vma = view->vma;
	void **first = &view->kind_data[KIND_shmem];
	struct window_part *part = arena_new(view->arena, struct window_part), *before = NULL;
	if (!part)
		return error_memory(err);
	*part = (struct window_part){.dev = vma->dev,
				     .ino = vma->ino,
				     .offset = vma->offset,
				     .bytes = vma->end - vma->start,
				     .pid = view->pid,
				     .address = vma->start};
	for (struct window_part *p = *first; p; p = p->next)
		if (p->ino < part->ino || (p->ino == part->ino && p->offset <= part->offset))
			before = p;
	part->next = before ? before->next : *first;
	if (before)
		before->next = part;
	else
		*first = part;
	return 0;
}

static int window_gap(const struct window_part *behind, uint64_t from, struct ferry_error *err)
{
	error_set(
		err, FERRY_ERROR_PERMISSION, EPERM,
		"bytes %llu to %llu of the shared memory that pid %d has at %llx are mapped nowhere any more, and only root can read them",
		(unsigned long long)from, (unsigned long long)behind->offset, behind->pid,
		(unsigned long long)behind->address);
	error_hint(
		err,
		"/proc/PID/map_files takes CAP_CHECKPOINT_RESTORE outside of user namespaces (Linux 6.18)");
	return -EPERM;
}

int window_check_end(void *const *kind_data, size_t *at, struct ferry_error *err)
{
	const struct window_part *last = NULL;
	uint64_t end = 0;
	size_t n = 0;
	for (const struct window_part *p = kind_data[KIND_shmem]; p; last = p, p = p->next) {
		if (!last || last->ino != p->ino || last->dev != p->dev)
			end = 0;
		if (p->offset > end && n++ == *at) {
			++*at;
			return window_gap(p, end, err);
		}
		end = MAX(end, p->offset + p->bytes);
	}
	return 0;
}

/* ------------------------------------------------------------------ collect */

static struct snap_window *window_new(struct collect *c, struct snap_shmem *shmem)
{
	struct snap_window *w = arena_new(&c->snap->arena, struct snap_window);
	if (!w)
		return NULL;
	*w = (struct snap_window){.next = shmem->windows};
	return shmem->windows = w;
}

int window_add(struct collect *c, struct snap_shmem *shmem, pid_t look, const struct vma_view *view,
	       struct snap_vma *vma)
{
	uint64_t offset = view->vma->offset, bytes = view->vma->end - view->vma->start;
	/* Members of a family have the same part as a rule. */
	for (const struct snap_window *w = shmem->windows; w; w = w->next)
		if (w->offset <= offset && offset + bytes <= w->offset + w->bytes)
			return 0;
	struct snap_window *w = window_new(c, shmem);
	if (!w)
		return -ENOMEM;
	w->pid = look;
	w->address = view->vma->start;
	w->offset = offset;
	w->bytes = bytes;
	vma->window = w;
	return 0;
}

/* Nothing is left of the answer when pages may be swapped out. */
static bool window_has_swap(void)
{
	struct sysinfo info;
	return sysinfo(&info) < 0 || info.totalswap > info.freeswap;
}

int window_add_own(struct collect *c, struct snap_shmem *shmem, const void *at)
{
	size_t pages = align_up(shmem->bytes, WINDOW_PAGE) / WINDOW_PAGE;
	struct snap_window *w = window_new(c, shmem);
	uint8_t *there = w ? arena_array(&c->snap->arena, uint8_t, pages) : NULL;
	if (!there)
		return -ENOMEM;
	w->pid = getpid();
	w->address = (uint64_t)(uintptr_t)at;
	w->bytes = pages * WINDOW_PAGE;
	if (mincore((void *)(uintptr_t)at, w->bytes, there) == 0 && !window_has_swap())
		w->there = there;
	return 0;
}

void window_ask(const struct snap_task *t, int proc_dir unused, struct script *s)
{
	vec_foreach(vma, &t->vmas) {
		if (!vma->window)
			continue;
		uint64_t bytes = vma->window->bytes;
		uint64_t answer = script_put(s, NULL, bytes / WINDOW_PAGE);
		struct blob_call *call =
			script_call(s, "looking for pages", SYS_mincore, vma->window->address, bytes, answer);
		call->data_mask = 1 << 2;
		call->check = BLOB_CHECK_NONE;
	}
}

/* What mincore(2) does not see. The order matters: a page that went between is found by the later look. */
static void window_forget_swapped(struct snap_task *t, int proc_dir)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	if (!window_has_swap())
		return;
	bool read = proc_read_smaps(proc_dir, &maps, NULL) >= 0;
	vec_foreach(vma, &t->vmas) {
		const struct proc_vma *now =
			read && vma->window ? proc_maps_find(&maps, vma->window->address) : NULL;
		if (vma->window && (!now || now->swapped || now->end != vma->entry->end))
			vma->window->there = NULL;
	}
}

int window_answer(struct collect *c, struct snap_task *t, int proc_dir, const struct answers *a,
		  struct ferry_error *err)
{
	uint64_t at = 0;
	size_t call = 0;
	vec_foreach(vma, &t->vmas) {
		if (!vma->window)
			continue;
		size_t pages = vma->window->bytes / WINDOW_PAGE;
		if (a->calls[call++].ret >= 0) {
			vma->window->there = arena_copy(&c->snap->arena, a->data + at, pages);
			if (!vma->window->there)
				return error_memory(err);
		}
		at = align_up(at + pages, 64);
	}
	if (call)
		window_forget_swapped(t, proc_dir);
	return 0;
}
