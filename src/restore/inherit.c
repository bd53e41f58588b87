/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns memory that a family keeps in common: what a task shared with its maker is filled by the maker before it forks,
 * and each task then writes only what differs, so that the rest stays one page for all. What it passes on to nobody its script
 * writes (memory.c), and the files with those pages need not be open in all tasks while these are made.
 *
 * It is filled at its final addresses while the task still is a fork of ferry. Mappings that would meet ferry's own are
 * left out, and are made by the memory script like all others; the addresses of the rest are reserved in the coordinator
 * before it maps anything else.
 *
 * Kernel interface: mmap(2) MAP_FIXED_NOREPLACE (4.17), madvise(2) MADV_DONTNEED.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "image/pages.h"
#include "kernel/uapi.h"
#include "model/vma-status.h"
#include "proc/read.h"
#include "restore/restore.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { INHERIT_POPULATE_BYTES = 4 * IMAGE_PAGE_BYTES };
#define INHERIT_MARGIN (64ull << 20) /* our heap and our mappings may grow meanwhile */
#define INHERIT_ADVICE (1ull << MADV_HUGEPAGE | 1ull << MADV_NOHUGEPAGE)

struct inherit_range {
	uint64_t start, end;
};

struct inherit_plan {
	VEC(struct inherit_range) own, wanted;
};

/* ------------------------------------------------------------------ in the plan */

/* The task whose memory a new task begins with, which is that of its maker. */
static struct plan_task *inherit_maker(const struct plan *p, const struct plan_task *t)
{
	const struct family_member *m = &p->family.members.v[t->member];
	while (m->maker != FAMILY_NONE) {
		m = &p->family.members.v[m->maker];
		if (m->ends || m->helper)
			continue;
		struct plan_task *maker = m->context;
		return maker->vm_owner ? maker->vm_owner : maker;
	}
	return NULL;
}

static bool inherit_is_fit(const struct inherit_plan *ip, const VmaEntry *vma)
{
	if (!(vma->status & VMA_STATUS_ANON_PRIVATE) || vma->status & VMA_STATUS_KERNEL ||
	    vma->flags & (MAP_HUGETLB | MAP_GROWSDOWN | MAP_DROPPABLE) || vma->start >= vma->end)
		return false;
	vec_foreach(own, &ip->own) {
		if (vma->start < own->end && own->start < vma->end)
			return false;
	}
	return true;
}

/* The first run of inherited pages that ends behind an address. */
static size_t inherit_first(const FerryMmEntry *mm, uint64_t address)
{
	size_t low = 0, high = mm->n_inherited / 2;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (mm->inherited[middle * 2 + 1] <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool inherit_has(const FerryMmEntry *mm, const VmaEntry *vma)
{
	size_t i = inherit_first(mm, vma->start);
	return i < mm->n_inherited / 2 && mm->inherited[i * 2] < vma->end;
}

static bool inherit_is_ascending(const struct plan_task *t)
{
	const FerryMmEntry *extra = t->mm_extra;
	uint64_t before = 0;
	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *vma = t->mm->vmas[i];
		if (vma->status & (VMA_STATUS_GUARD | VMA_STATUS_VSYSCALL))
			continue;
		if (vma->start < before || vma->end <= vma->start || vma->start % IMAGE_PAGE_BYTES ||
		    vma->end % IMAGE_PAGE_BYTES)
			return false;
		before = vma->end;
	}
	before = 0;
	for (size_t i = 0; extra && i < extra->n_inherited; i++) {
		if (extra->inherited[i] < before || extra->inherited[i] % IMAGE_PAGE_BYTES)
			return false;
		before = extra->inherited[i];
	}
	return !extra || extra->n_inherited % 2 == 0;
}

static int inherit_mark(struct plan *p, struct inherit_plan *ip, struct plan_task *t, size_t index,
			uint8_t how)
{
	if (!t->early)
		t->early = arena_array(&p->arena, uint8_t, t->mm->n_vmas);
	struct inherit_range *range = t->early ? vec_push(&ip->wanted) : NULL;
	if (!range)
		return -ENOMEM;
	t->early[index] |= how | PLAN_EARLY_FILLED;
	*range = (struct inherit_range){t->mm->vmas[index]->start, t->mm->vmas[index]->end};
	return 0;
}

/* What lies within one mapping of the maker that can be filled early, and has pages of it. */
static int inherit_task(struct plan *p, struct inherit_plan *ip, struct plan_task *t)
{
	struct plan_task *maker = inherit_maker(p, t);
	size_t at = 0;
	int ret = 0;
	if (t->vm_owner)
		return 0;
	if (!maker || !t->mm_extra || !t->mm_extra->n_inherited ||
	    t->mm_extra->inherited_from != (uint32_t)maker->pid || !inherit_is_ascending(t) ||
	    !inherit_is_ascending(maker))
		return 0;
	for (size_t i = 0; i < t->mm->n_vmas && ret >= 0; i++) {
		const VmaEntry *vma = t->mm->vmas[i];
		while (at < maker->mm->n_vmas && maker->mm->vmas[at]->end <= vma->start)
			at++;
		if (at == maker->mm->n_vmas)
			break;
		const VmaEntry *from = maker->mm->vmas[at];
		if (from->start > vma->start || from->end < vma->end || !inherit_is_fit(ip, vma) ||
		    !inherit_is_fit(ip, from) || (vma->flags ^ from->flags) & MAP_NORESERVE ||
		    (vma->madv ^ from->madv) & INHERIT_ADVICE || !inherit_has(t->mm_extra, vma))
			continue;
		ret = inherit_mark(p, ip, maker, at, PLAN_EARLY_PASSED);
		if (ret >= 0)
			ret = inherit_mark(p, ip, t, i, PLAN_EARLY_INHERITED);
	}
	return ret;
}

static int inherit_own(struct inherit_plan *ip, struct ferry_error *err)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	int r = proc_read_own_maps(&maps, err);
	for (size_t i = 0; i < maps.vmas.n && r >= 0; i++) {
		struct inherit_range *range = vec_push(&ip->own);
		if (!range)
			return error_memory(err);
		range->start = maps.vmas.v[i].start - MIN(maps.vmas.v[i].start, INHERIT_MARGIN);
		range->end = maps.vmas.v[i].end + INHERIT_MARGIN;
	}
	return r;
}

static int inherit_compare(const void *a, const void *b)
{
	const struct inherit_range *x = a, *y = b;
	return x->start < y->start ? -1 : x->start > y->start;
}

/* So that nothing of ours comes to lie there. */
static int inherit_reserve(struct inherit_plan *ip, struct ferry_error *err)
{
	uint64_t from = 0, to = 0;
	if (!ip->wanted.n)
		return 0;
	qsort(ip->wanted.v, ip->wanted.n, sizeof(*ip->wanted.v), inherit_compare);
	for (size_t i = 0; i <= ip->wanted.n; i++) {
		const struct inherit_range *next = i < ip->wanted.n ? &ip->wanted.v[i] : NULL;
		if (next && to && next->start <= to) {
			to = MAX(to, next->end);
			continue;
		}
		if (to && mmap((void *)(uintptr_t)from, to - from, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
			       0) == MAP_FAILED)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
					   "reserving addresses from %llx on", (unsigned long long)from);
		if (next) {
			from = next->start;
			to = next->end;
		}
	}
	return 0;
}

int inherit_plan(struct restore *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	struct inherit_plan ip = {0};
	int ret = p->n_tasks > 1 ? inherit_own(&ip, err) : 0;
	for (size_t i = 1; i < p->n_tasks && ret >= 0; i++)
		if (inherit_task(p, &ip, &p->tasks[i]) < 0)
			ret = error_memory(err);
	if (ret >= 0)
		ret = inherit_reserve(&ip, err);
	vec_release(&ip.own);
	vec_release(&ip.wanted);
	return ret;
}

static bool inherit_passes(const struct plan_task *t)
{
	for (size_t i = 0; t->early && i < t->mm->n_vmas; i++)
		if (t->early[i] & PLAN_EARLY_PASSED)
			return true;
	return false;
}

int inherit_sources(struct restore *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	int highest = 0;
	for (size_t i = 0; i < p->n_tasks; i++)
		highest = MAX(highest, p->tasks[i].pages);
	p->idle_sources = arena_array(&p->arena, int, p->n_tasks);
	_cleanup_free_ uint8_t *needed = calloc((size_t)highest + 1, 1);
	if (!p->idle_sources || !needed)
		return error_memory(err);
	for (size_t i = 0; i < p->n_tasks; i++) {
		const struct plan_task *t = &p->tasks[i];
		for (size_t n = 0; n < t->n_runs && inherit_passes(t); n++)
			if (t->runs[n].source >= 0 && t->runs[n].source <= highest)
				needed[t->runs[n].source] = true;
	}
	for (size_t i = 0; i < p->n_tasks; i++) {
		int fd = p->tasks[i].vm_owner ? -1 : p->tasks[i].pages;
		if (fd >= 0 && !needed[fd])
			p->idle_sources[p->n_idle_sources++] = fd;
	}
	return 0;
}

/* ------------------------------------------------------------------ in the task */

static void inherit_drop(uint64_t from, uint64_t to)
{
	if (from < to)
		madvise((void *)(uintptr_t)from, to - from, MADV_DONTNEED);
}

static int inherit_pread(const struct plan_run *run, uint64_t from, uint64_t to)
{
	void *at = (void *)(uintptr_t)from;
	if (from >= to)
		return 0;
	if (to - from >= INHERIT_POPULATE_BYTES && madvise(at, to - from, MADV_POPULATE_WRITE) < 0)
		errno = 0; /* only a hint */
	return fd_pread_all(run->source, at, to - from, run->offset + (from - run->vaddr));
}

bool inherit_differs(const struct plan_task *t, uint64_t *from, uint64_t to, uint64_t *ret_end)
{
	const FerryMmEntry *mm = t->mm_extra;
	size_t i = inherit_first(mm, *from), n = mm->n_inherited / 2;
	for (; i < n && mm->inherited[i * 2] <= *from; i++)
		*from = MAX(*from, mm->inherited[i * 2 + 1]);
	if (*from >= to)
		return false;
	*ret_end = i < n ? MIN(to, mm->inherited[i * 2]) : to;
	return true;
}

/* Pages of a run within [from, to), without those that are there by the maker. */
static int inherit_fill_run(const struct plan_task *t, const struct plan_run *run, uint64_t from, uint64_t to,
			    bool inherited)
{
	uint64_t end;
	int ret = inherited ? 0 : inherit_pread(run, from, to);
	for (; inherited && ret >= 0 && inherit_differs(t, &from, to, &end); from = end)
		ret = inherit_pread(run, from, end);
	return ret;
}

static int inherit_map(const VmaEntry *vma)
{
	void *at = (void *)(uintptr_t)vma->start;
	uint64_t bytes = vma->end - vma->start;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (int)(vma->flags & MAP_NORESERVE);
	if (mmap(at, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED)
		return -errno;
	for (int advice = MADV_HUGEPAGE; advice <= MADV_NOHUGEPAGE; advice++)
		if (vma->madv >> advice & 1 && madvise(at, bytes, advice) < 0)
			return -errno;
	return 0;
}

/* Huge pages where they were, before anybody shares them; it works without. */
static void inherit_collapse(const VmaEntry *vma, const FerryVmaEntry *extra)
{
	for (size_t i = 0; extra && i + 1 < extra->n_huge; i += 2) {
		uint64_t start = MAX(extra->huge[i], vma->start), end = MIN(extra->huge[i + 1], vma->end);
		if (start < end && madvise((void *)(uintptr_t)start, end - start, MADV_COLLAPSE) < 0)
			errno = 0;
	}
}

static int inherit_fill_vma(const struct plan_task *t, const VmaEntry *vma, bool inherited, size_t *run)
{
	uint64_t at = vma->start;
	int ret = inherited ? 0 : inherit_map(vma);
	while (*run < t->n_runs &&
	       t->runs[*run].vaddr + t->runs[*run].nr_pages * IMAGE_PAGE_BYTES <= vma->start)
		++*run;
	for (size_t i = *run; i < t->n_runs && t->runs[i].vaddr < vma->end && ret >= 0; i++) {
		uint64_t from = MAX(t->runs[i].vaddr, vma->start);
		uint64_t to = MIN(t->runs[i].vaddr + t->runs[i].nr_pages * IMAGE_PAGE_BYTES, vma->end);
		if (inherited)
			inherit_drop(at, from);
		at = to;
		ret = inherit_fill_run(t, &t->runs[i], from, to, inherited);
	}
	if (inherited)
		inherit_drop(at, vma->end);
	else if (ret >= 0)
		inherit_collapse(vma, plan_vma_extra(t, vma));
	return ret;
}

int inherit_fill(struct plan_task *t, struct ferry_error *err)
{
	size_t run = 0;
	for (size_t i = 0; t->early && i < t->mm->n_vmas; i++) {
		const VmaEntry *vma = t->mm->vmas[i];
		if (!(t->early[i] & PLAN_EARLY_PASSED))
			continue;
		int ret = inherit_fill_vma(t, vma, t->early[i] & PLAN_EARLY_INHERITED, &run);
		if (ret < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret,
					   "filling memory of pid %d at %llx", t->pid,
					   (unsigned long long)vma->start);
	}
	return 0;
}

void inherit_close_idle(const struct plan *p)
{
	for (size_t i = 0; i < p->n_idle_sources; i++)
		close(p->idle_sources[i]);
}
