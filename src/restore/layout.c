/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns where things of ours lie in a task while it is being restored: the blob's region in a hole that neither
 * ferry nor the restored task uses, the vdso in a parking place at the hole's end, and the numbers of temporary
 * descriptors above all that the task will keep.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/pages.h"
#include "model/vma-status.h"
#include "proc/read.h"
#include "restore/restore.h"

#define LAYOUT_HOLE_BYTES (4ull << 30) /* far more than any script needs */
#define LAYOUT_HOLE_FROM (1ull << 40)  /* programs rarely map near 1 TiB */
#define LAYOUT_HOLE_TO 0x7ff000000000ull
#define LAYOUT_SPARE_ALIGN (1ull << 30) /* the largest huge pages */
#define LAYOUT_MARGIN (64ull << 20)

enum { LAYOUT_TEMPS = 64 };

struct layout_range {
	uint64_t start, end;
};
typedef VEC(struct layout_range) layout_ranges;

static int layout_compare(const void *a, const void *b)
{
	const struct layout_range *x = a, *y = b;
	return x->start < y->start ? -1 : x->start > y->start;
}

static int layout_add(layout_ranges *ranges, uint64_t start, uint64_t end)
{
	struct layout_range *range = vec_push(ranges);
	if (!range)
		return -ENOMEM;
	*range = (struct layout_range){start, end};
	return 0;
}

/* Our own mappings, widened: the heap and the stack of a fork may have grown a little since. */
static int layout_own(layout_ranges *ranges, struct ferry_error *err)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	int r = proc_read_own_maps(&maps, err);
	for (size_t i = 0; i < maps.vmas.n && r >= 0; i++) {
		uint64_t start = maps.vmas.v[i].start, end = maps.vmas.v[i].end;
		r = layout_add(ranges, start - MIN(start, LAYOUT_MARGIN), end + LAYOUT_MARGIN);
		if (r < 0)
			error_memory(err);
	}
	return r;
}

static uint64_t layout_find_hole(layout_ranges *ranges, uint64_t bytes)
{
	qsort(ranges->v, ranges->n, sizeof(*ranges->v), layout_compare);
	uint64_t at = LAYOUT_HOLE_FROM;
	vec_foreach(range, ranges) {
		if (range->end <= at)
			continue;
		if (range->start >= at + bytes)
			break;
		at = align_up(range->end, LAYOUT_SPARE_ALIGN);
	}
	return bytes <= LAYOUT_HOLE_TO && at <= LAYOUT_HOLE_TO - bytes ? at : 0;
}

/*
 * Those that share a descriptor table get their temporary numbers one behind the other, with room for what mappings, pages and
 * folders need.
 */
static void layout_temps(struct plan *p, struct plan_task *t)
{
	struct plan_task *owner = t->files_owner ? t->files_owner : t, *last = t == owner ? NULL : owner;
	bool shared = false;
	for (size_t i = 0; i < p->n_tasks; i++) {
		if (p->tasks[i].files_owner != owner)
			continue;
		shared = true;
		if (&p->tasks[i] < t)
			last = &p->tasks[i];
	}
	int highest = t->fds.n ? t->fds.v[t->fds.n - 1].fd : 2;
	t->first_temp = last ? last->first_temp + last->temps_room : highest + 1;
	t->temps_room = shared ? LAYOUT_TEMPS + 2 * (int)t->mm->n_vmas : 0;
}

static int layout_task(struct restore *r, struct plan_task *t, const layout_ranges *own,
		       struct ferry_error *err)
{
	layout_ranges ranges = {0};
	int ret = 0;
	for (size_t i = 0; i < own->n && !ret; i++)
		ret = layout_add(&ranges, own->v[i].start, own->v[i].end);
	for (size_t i = 0; i < t->mm->n_vmas && !ret; i++)
		ret = layout_add(&ranges, t->mm->vmas[i]->start, t->mm->vmas[i]->end);
	if (!ret) {
		uint64_t spare = align_up(MIN(t->spare_bytes, LAYOUT_HOLE_TO), LAYOUT_SPARE_ALIGN);
		t->hole_bytes = LAYOUT_HOLE_BYTES + spare;
		t->hole = layout_find_hole(&ranges, t->hole_bytes);
		t->spare = t->hole + LAYOUT_HOLE_BYTES;
		t->vdso_parked = t->spare - (r->vdso.end - r->vdso.start);
	}
	vec_release(&ranges);
	if (ret)
		return error_memory(err);
	if (!t->hole)
		return error_set(err, FERRY_ERROR_RESTORE_STEP, ENOMEM,
				 "pid %d leaves no hole of %llu bytes in its address space", t->pid,
				 (unsigned long long)t->hole_bytes);
	layout_temps(r->plan, t);
	return 0;
}

/* Where the task had its vdso block: vvar, then code. */
static bool layout_find_vdso(const struct plan_task *t, struct vdso_part *ret_vvar,
			     struct vdso_part *ret_code)
{
	*ret_vvar = *ret_code = (struct vdso_part){0};
	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *vma = t->mm->vmas[i];
		if (vma->status & VMA_STATUS_VVAR)
			*ret_vvar = (struct vdso_part){vma->start, vma->end - vma->start};
		if (vma->status & VMA_STATUS_VDSO)
			*ret_code = (struct vdso_part){vma->start, vma->end - vma->start};
	}
	return ret_code->bytes;
}

/* The task's code holds addresses inside its vdso, so only the same vdso can take that place. */
static int layout_same_vdso(struct restore *r, const struct plan_task *t, const struct vdso_part *code,
			    struct ferry_error *err)
{
	_cleanup_pages_reader_ struct image_pages_reader *pages = NULL;
	struct image_run run;
	int ret = image_pages_open(r->reader->dir, IMAGE_PAGEMAP, (uint64_t)t->pid, &pages, err);
	while (ret >= 0 && (ret = image_pages_next(pages, &run, err)) > 0) {
		uint64_t end = run.vaddr + run.nr_pages * IMAGE_PAGE_BYTES;
		if (run.vaddr > code->start || end < code->start + code->bytes)
			continue;
		_cleanup_free_ unsigned char *bytes = malloc(code->bytes);
		if (!bytes)
			return error_memory(err);
		uint64_t first = (code->start - run.vaddr) / IMAGE_PAGE_BYTES;
		ret = image_pages_read(pages, &run, first, code->bytes / IMAGE_PAGE_BYTES, bytes, err);
		if (ret < 0)
			return ret;
		size_t used = vdso_elf_bytes(bytes, code->bytes);
		return used && !memcmp(bytes, (const void *)r->vdso.code, used);
	}
	/* An image without the pages: the layout has to be proof enough. */
	return ret < 0 ? ret : 1;
}

static int layout_vdso(struct restore *r, struct plan_task *t, struct ferry_error *err)
{
	struct vdso_part vvar, code;
	uint64_t offset = r->vdso.code - r->vdso.start;
	t->vdso_final = t->vdso_parked;
	if (layout_find_vdso(t, &vvar, &code)) {
		int same = code.bytes == r->vdso.code_bytes && vvar.bytes == offset &&
			   vvar.start + vvar.bytes == code.start;
		if (same)
			same = layout_same_vdso(r, t, &code, err);
		if (same < 0)
			return same;
		if (!same) {
			error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				  "pid %d was dumped under a kernel with another vdso", t->pid);
			error_hint(err, "restore on a machine that runs the same kernel");
			return -ENOTSUP;
		}
		t->vdso_final = code.start - offset;
	}
	t->gadget = t->vdso_final + r->gadget_offset;
	return 0;
}

int layout_plan(struct restore *r, struct ferry_error *err)
{
	layout_ranges own = {0};
	int ret = layout_own(&own, err);
	for (size_t i = 0; i < r->plan->n_tasks && !ret; i++)
		ret = layout_task(r, &r->plan->tasks[i], &own, err);
	for (size_t i = 0; i < r->plan->n_tasks && !ret; i++)
		ret = layout_vdso(r, &r->plan->tasks[i], err);
	vec_release(&own);
	return ret;
}
