/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding what a task and its parent share after a fork: pages that are the same page of the machine, or the same
 * place in the swap, at the same address of both; and what of that need not be stored again.
 *
 * Kernel interface: /proc/PID/pagemap (page frame numbers, which take CAP_SYS_ADMIN since 4.0; without them nothing
 * counts as shared).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "kernel/uapi.h"
#include "mem/mem.h"
#include "model/record.h"
#include "model/vma-status.h"

enum {
	INHERIT_WORDS = 4096,
	INHERIT_PAGE = 4096,
	INHERIT_LEAST = 1 << 20, /* bytes; less is stored again, so that small images are plain ones */
};
#define INHERIT_THERE (3ull << 62)       /* present, swapped */
#define INHERIT_PLACE ((1ull << 55) - 1) /* page frame, or place in the swap */

struct inherit {
	int ours, theirs; /* pagemaps */
	mem_runs ranges;
	uint64_t words[2][INHERIT_WORDS];
};

static bool inherit_is_fit(const struct snap_vma *vma)
{
	const VmaEntry *entry = vma->entry;
	return vma->dump_pages && entry->status & VMA_STATUS_ANON_PRIVATE &&
	       !(entry->status & VMA_STATUS_KERNEL) &&
	       !(entry->flags & (MAP_HUGETLB | MAP_GROWSDOWN | MAP_DROPPABLE));
}

int mem_runs_add(mem_runs *runs, uint64_t start, uint64_t end)
{
	if (runs->n && runs->v[runs->n - 1] == start) {
		runs->v[runs->n - 1] = end;
		return 0;
	}
	for (int i = 0; i < 2; i++) {
		uint64_t *slot = vec_push(runs);
		if (!slot)
			return -ENOMEM;
		*slot = i ? end : start;
	}
	return 0;
}

static bool inherit_same(uint64_t a, uint64_t b)
{
	return a & INHERIT_THERE && (a & INHERIT_THERE) == (b & INHERIT_THERE) && a & INHERIT_PLACE &&
	       (a & INHERIT_PLACE) == (b & INHERIT_PLACE);
}

static int inherit_range(struct inherit *in, uint64_t start, uint64_t end)
{
	int r = 0;
	while (start < end && r >= 0) {
		size_t n = MIN((end - start) / INHERIT_PAGE, (uint64_t)INHERIT_WORDS);
		size_t bytes = n * sizeof(uint64_t);
		r = fd_pread_all(in->ours, in->words[0], bytes, start / INHERIT_PAGE * sizeof(uint64_t));
		if (r >= 0)
			r = fd_pread_all(in->theirs, in->words[1], bytes,
					 start / INHERIT_PAGE * sizeof(uint64_t));
		for (size_t i = 0; i < n && r >= 0; i++, start += INHERIT_PAGE)
			if (inherit_same(in->words[0][i], in->words[1][i]))
				r = mem_runs_add(&in->ranges, start, start + INHERIT_PAGE);
	}
	return r;
}

/* Mappings of both are ascending. */
static int inherit_find(struct inherit *in, const struct snap_task *t, const struct snap_task *parent)
{
	size_t at = 0;
	int r = 0;
	for (size_t i = 0; i < t->vmas.n && r >= 0; i++) {
		const struct snap_vma *vma = &t->vmas.v[i], *theirs = parent->vmas.v;
		while (at < parent->vmas.n && theirs[at].entry->end <= vma->entry->start)
			at++;
		if (at == parent->vmas.n)
			break;
		if (inherit_is_fit(vma) && inherit_is_fit(&theirs[at]) &&
		    theirs[at].entry->start <= vma->entry->start && theirs[at].entry->end >= vma->entry->end)
			r = inherit_range(in, vma->entry->start, vma->entry->end);
	}
	return r;
}

int mem_find_inherited(struct snap_task *t, struct arena *a, struct ferry_error *err)
{
	if (!t->parent || t->memory != t)
		return 0;
	const struct snap_task *parent = t->parent->memory;
	_cleanup_close_ int ours = fd_openf(O_RDONLY, "/proc/%d/pagemap", t->look);
	_cleanup_close_ int theirs = fd_openf(O_RDONLY, "/proc/%d/pagemap", parent->look);
	if (ours < 0 || theirs < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, ours < 0 ? -ours : -theirs,
				   "opening the pagemaps of pid %d and its parent", t->pid);
	struct inherit in = {.ours = ours, .theirs = theirs};
	int r = inherit_find(&in, t, parent);
	if (r >= 0 && in.ranges.n) {
		t->mm_extra->inherited = arena_copy(a, in.ranges.v, in.ranges.n * sizeof(uint64_t));
		t->mm_extra->n_inherited = t->mm_extra->inherited ? in.ranges.n : 0;
		record_set(t->mm_extra, inherited_from, (uint32_t)parent->inner_pid);
		r = t->mm_extra->inherited ? 0 : -ENOMEM;
	}
	vec_release(&in.ranges);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "finding what pid %d shares with its parent",
				   t->pid)
		     : 0;
}

int mem_find_known(const struct snap_task *t, const struct mem_known *parent, struct mem_known *ret)
{
	const FerryMmEntry *mm = t->mm_extra;
	uint64_t bytes = 0;
	int r = 0;
	for (size_t i = 0, at = 0; i < mm->n_inherited && r >= 0; i += 2) {
		while (at < parent->ranges.n && parent->ranges.v[at + 1] <= mm->inherited[i])
			at += 2;
		for (size_t n = at; n < parent->ranges.n && r >= 0; n += 2) {
			uint64_t start = MAX(parent->ranges.v[n], mm->inherited[i]);
			uint64_t end = MIN(parent->ranges.v[n + 1], mm->inherited[i + 1]);
			if (start >= end)
				break;
			bytes += end - start;
			r = mem_runs_add(&ret->ranges, start, end);
		}
	}
	if (bytes < INHERIT_LEAST)
		ret->ranges.n = 0;
	if (r < 0 || !ret->ranges.n)
		return r;
	ret->head = parent->head;
	ret->pages_id = parent->pages_id;
	return 0;
}
