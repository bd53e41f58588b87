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
#include "host/vdso_bridge.h"
#include "image/dir.h"
#include "image/memory.h"
#include "image/pages.h"
#include "model/vma-status.h"
#include "proc/read.h"
#include "restore/restore.h"

#define LAYOUT_HOLE_BYTES (4ull << 30) /* far more than any script needs */
#define LAYOUT_HOLE_FROM (1ull << 40)  /* programs rarely map near 1 TiB */
#define LAYOUT_HOLE_TO 0x7ff000000000ull
#define LAYOUT_SPARE_ALIGN (1ull << 30) /* the largest huge pages */
#define LAYOUT_MARGIN (64ull << 20)
#define LAYOUT_LOW_FROM 0x10000000ull /* where 32-bit code can reach */
#define LAYOUT_LOW_TO 0xf0000000ull

enum {
	LAYOUT_TEMPS = 64,
	LAYOUT_VDSO_MOST = 1 << 20, /* bytes; no kernel has one that large */
};

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

/* An address between from and to with so many free bytes; 0 = none. */
static uint64_t layout_find_hole(layout_ranges *ranges, uint64_t from, uint64_t to, uint64_t bytes)
{
	qsort(ranges->v, ranges->n, sizeof(*ranges->v), layout_compare);
	uint64_t at = from;
	vec_foreach(range, ranges) {
		if (range->end <= at)
			continue;
		if (range->start >= at + bytes)
			break;
		at = align_up(range->end, from == LAYOUT_LOW_FROM ? IMAGE_PAGE_BYTES : LAYOUT_SPARE_ALIGN);
	}
	return bytes <= to && at <= to - bytes ? at : 0;
}

/*
 * Those that share a descriptor table get their temporary numbers one behind the other, with room for what mappings, pages and
 * folders need: of images that this one builds on, too.
 */
static void layout_temps(struct restore *r, struct plan_task *t)
{
	const struct plan *p = r->plan;
	const struct plan_task *owner = t->files_owner ? t->files_owner : t,
			       *last = t == owner ? NULL : owner;
	bool shared = false;
	for (size_t i = 0; i < p->n_tasks && owner->n_table_mates; i++) {
		if (p->tasks[i].files_owner != owner)
			continue;
		shared = true;
		if (&p->tasks[i] < t)
			last = &p->tasks[i];
	}
	int highest = t->fds.n ? t->fds.v[t->fds.n - 1].fd : 2;
	t->first_temp = last ? last->first_temp + last->temps_room : highest + 1;
	t->temps_room =
		shared ? LAYOUT_TEMPS + 2 * (int)t->mm->n_vmas + (int)image_dir_n_parents(r->reader->dir) : 0;
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

/* The bytes of a vdso from the image: 1 and *ret_bytes, or 0 when the image has no such pages. */
static int layout_read_vdso(struct restore *r, const struct plan_task *t, const struct vdso_part *code,
			    unsigned char **ret_bytes, struct ferry_error *err)
{
	_cleanup_free_ unsigned char *bytes = code->bytes <= LAYOUT_VDSO_MOST ? malloc(code->bytes) : NULL;
	uint64_t pages = 0;
	if (code->bytes > LAYOUT_VDSO_MOST)
		return 0;
	if (!bytes)
		return error_memory(err);
	int ret = image_memory_get(r->reader->dir, IMAGE_PAGEMAP, (uint64_t)t->pid, code->start,
				   code->start + code->bytes, bytes, &pages, err);
	if (ret < 0 || pages * IMAGE_PAGE_BYTES < code->bytes)
		return ret;
	*ret_bytes = take_ptr(bytes);
	return 1;
}

/* Learn the kernel's vdso of 32-bit programs when the first task turns out to have one. */
static int layout_want_32(struct restore *r, struct plan_task *t, struct ferry_error *err)
{
	t->vdso_is_32 = true;
	if (r->vdso32)
		return 0;
	struct vdso32 *found = arena_alloc(&r->plan->arena, sizeof(*found));
	if (!found)
		return error_memory(err);
	int ret = vdso_find_32(found, err);
	if (ret < 0)
		return ret;
	if (found->v.slack + ferry_gadget_bytes > found->v.code_bytes)
		return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOSPC,
				 "the vdso of 32-bit programs has no room for %llu bytes behind its own",
				 (unsigned long long)ferry_gadget_bytes);
	r->vdso32 = found;
	return 0;
}

/* Whether the vdso of the image is the kernel's, and as far from its data. Without its bytes the layout has to be proof enough. */
static bool layout_same_vdso(const struct vdso *v, const struct vdso_part *vvar, const struct vdso_part *code,
			     const unsigned char *bytes)
{
	if (code->bytes != v->code_bytes || vvar->bytes != v->code - v->start ||
	    vvar->start + vvar->bytes != code->start)
		return false;
	size_t used = bytes ? vdso_elf_bytes(bytes, code->bytes) : 0;
	return bytes ? used && !memcmp(bytes, v->image, used) : true;
}

/* A call that was under way would go on in the middle of what is another function then. */
static int layout_not_in_vdso(const struct plan_task *t, const struct vdso_part *code,
			      struct ferry_error *err)
{
	vec_foreach(th, &t->threads) {
		const UserX86RegsEntry *regs = th->core->thread_info->gpregs;
		uint64_t ip = regs && !th->ended ? regs->ip : 0;
		if (ip < code->start || ip >= code->start + code->bytes)
			continue;
		error_set(
			err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			"thread %d of pid %d was dumped in the middle of a call of the vdso, under a kernel with another one",
			th->tid, t->pid);
		error_hint(err, "restore on a machine that runs the same kernel, or dump again with ferry");
		return -ENOTSUP;
	}
	return 0;
}

/* The old vdso stays as ordinary memory, and the kernel's own lies where it was parked. */
static int layout_bridge(struct restore *r, struct plan_task *t, const struct vdso_part *code,
			 const unsigned char *bytes, struct ferry_error *err)
{
	if (t->vdso_is_32 || !bytes) {
		error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			  "pid %d was dumped under a kernel with another vdso%s", t->pid,
			  t->vdso_is_32 ? " for 32-bit programs" : ", which the image does not have");
		error_hint(err, "restore on a machine that runs the same kernel");
		return -ENOTSUP;
	}
	int ret = layout_not_in_vdso(t, code, err);
	if (ret < 0)
		return ret;
	t->bridge = arena_new(&r->plan->arena, struct vdso_bridge);
	if (!t->bridge)
		return error_memory(err);
	return vdso_bridge(bytes, code->bytes, &r->vdso, t->vdso_parked + (r->vdso.code - r->vdso.start),
			   t->bridge, err);
}

/*
 * The task's code holds addresses inside its vdso, so the kernel's takes that place when it is the same. Whether it is that of 32-bit
 * programs its bytes say; in an image without them what the task executes has to be proof enough.
 */
static int layout_image_vdso(struct restore *r, struct plan_task *t, const struct vdso_part *vvar,
			     const struct vdso_part *code, struct ferry_error *err)
{
	_cleanup_free_ unsigned char *bytes = NULL;
	int ret = layout_read_vdso(r, t, code, &bytes, err);
	if (ret >= 0 && (bytes ? vdso_is_32(bytes, code->bytes) : plan_thread_is_32(t->threads.v)))
		ret = layout_want_32(r, t, err);
	if (ret < 0)
		return ret;
	if (!layout_same_vdso(layout_vdso_of(r, t), vvar, code, bytes))
		return layout_bridge(r, t, code, bytes, err);
	t->vdso_final = vvar->start;
	return 0;
}

/* A 32-bit program that gave up its vdso: one lies where it is in nobody's way. */
static int layout_lost_vdso(struct restore *r, struct plan_task *t, layout_ranges *ranges,
			    struct ferry_error *err)
{
	int ret = layout_want_32(r, t, err);
	if (ret < 0)
		return ret;
	t->vdso_final = layout_find_hole(ranges, LAYOUT_LOW_FROM, LAYOUT_LOW_TO,
					 r->vdso32->v.end - r->vdso32->v.start);
	return t->vdso_final ? 0
			     : error_set(err, FERRY_ERROR_RESTORE_STEP, ENOMEM,
					 "pid %d leaves no room for a vdso in its address space", t->pid);
}

static void layout_built(struct plan_task *t)
{
	t->built_offset = offsetof(struct restore_shared, members) +
			  (uint64_t)t->member * sizeof(struct restore_member) +
			  offsetof(struct restore_member, built);
	t->left_offset = t->built_offset - offsetof(struct restore_member, built) +
			 offsetof(struct restore_member, left);
}

static int layout_vdso(struct restore *r, struct plan_task *t, layout_ranges *ranges, struct ferry_error *err)
{
	struct vdso_part vvar, code;
	int ret = 0;
	t->vdso_final = t->vdso_parked;
	if (layout_find_vdso(t, &vvar, &code))
		ret = layout_image_vdso(r, t, &vvar, &code, err);
	else if (plan_thread_is_32(t->threads.v))
		ret = layout_lost_vdso(r, t, ranges, err);
	const struct vdso *v = ret < 0 ? NULL : layout_vdso_of(r, t);
	if (v)
		t->gadget =
			t->vdso_final + (t->vdso_is_32 ? v->code - v->start + v->slack : r->gadget_offset);
	layout_built(t);
	return ret;
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
		t->hole = layout_find_hole(&ranges, LAYOUT_HOLE_FROM, LAYOUT_HOLE_TO, t->hole_bytes);
		t->spare = t->hole + LAYOUT_HOLE_BYTES;
		t->vdso_parked = t->spare - (r->vdso.end - r->vdso.start);
	}
	if (ret)
		ret = error_memory(err);
	else if (!t->hole)
		ret = error_set(err, FERRY_ERROR_RESTORE_STEP, ENOMEM,
				"pid %d leaves no hole of %llu bytes in its address space", t->pid,
				(unsigned long long)t->hole_bytes);
	else
		ret = layout_vdso(r, t, &ranges, err);
	vec_release(&ranges);
	layout_temps(r, t);
	return ret;
}

/* Who has the memory of another has what lies in it. */
static int layout_share(struct restore *r, struct plan_task *t, struct ferry_error *err)
{
	const struct plan_task *owner = t->vm_owner;
	struct vdso_part vvar, code;
	t->hole = owner->hole;
	t->hole_bytes = owner->hole_bytes;
	t->spare = owner->spare;
	t->vdso_parked = owner->vdso_parked;
	t->vdso_final = owner->vdso_final;
	t->vdso_is_32 = owner->vdso_is_32;
	t->gadget = owner->gadget;
	layout_built(t);
	layout_temps(r, t);
	return owner->bridge && layout_find_vdso(owner, &vvar, &code) ? layout_not_in_vdso(t, &code, err) : 0;
}

/* Addresses that are free in ferry and in every task, beside all that was chosen before. */
static int layout_pool(struct plan *p, layout_ranges *ranges, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < p->n_tasks && !ret; i++) {
		const struct plan_task *t = &p->tasks[i];
		ret = layout_add(ranges, t->hole, t->hole + t->hole_bytes);
		for (size_t n = 0; n < t->mm->n_vmas && !ret; n++)
			ret = layout_add(ranges, t->mm->vmas[n]->start, t->mm->vmas[n]->end);
	}
	if (ret)
		return error_memory(err);
	p->pool = layout_find_hole(ranges, LAYOUT_HOLE_FROM, LAYOUT_HOLE_TO, p->pool_bytes);
	return p->pool ? 0
		       : error_set(
				 err, FERRY_ERROR_RESTORE_STEP, ENOMEM,
				 "the tasks leave no room for %llu bytes of shared memory in all address spaces",
				 (unsigned long long)p->pool_bytes);
}

int layout_plan(struct restore *r, struct ferry_error *err)
{
	layout_ranges own = {0};
	int ret = layout_own(&own, err);
	for (size_t i = 0; i < r->plan->n_tasks && !ret; i++) {
		if (r->plan->tasks[i].vm_owner)
			ret = layout_share(r, &r->plan->tasks[i], err);
		else
			ret = layout_task(r, &r->plan->tasks[i], &own, err);
	}
	if (!ret && r->plan->pool_bytes)
		ret = layout_pool(r->plan, &own, err);
	vec_release(&own);
	return ret;
}
