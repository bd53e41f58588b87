/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the script that replaces a fork of ferry by the address space of the image: everything but the blob goes,
 * the vdso waits in its parking place, mappings are made at their final addresses, filled from the pages file,
 * given their final protection, and the mm's own fields are set.
 *
 * Kernel interface: mmap(2), mremap(2) of vdso and vvar (4.8), arch_prctl(2) ARCH_MAP_VDSO_32 (4.8), prctl(2) PR_SET_MM_MAP (3.18), madvise(2)
 * MADV_POPULATE_WRITE (5.14; only a hint here).
 */
#include <asm/prctl.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/vdso_bridge.h"
#include "image/dir.h"
#include "image/memory.h"
#include "image/pages.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "kind/mm.h"
#include "mem/mem.h"
#include "model/vma-status.h"
#include "restore/restore.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
	MEMORY_POPULATE_PAGES = 4, /* from here on one call is cheaper than the faults */
	MEMORY_FILL_PAGES = 512,
	MEMORY_POUR_PAGES = 4096, /* less is not worth the coordinator's while */
	MEMORY_NR32_MMAP2 = 192,
};
#define MEMORY_TASK_END 0x7ffffffff000ull
#define MEMORY_LOWEST 0x10000ull /* vm.mmap_min_addr is not above it */

/* Runs of pages that belong to one mapping, cut at its borders. */
struct memory_runs {
	const struct plan_run *runs;
	uint64_t stuck; /* pages that would have to be here before the task runs, and are not; 0 = none */
	size_t n, at;
	struct plan_task *task;
	int source, number; /* the last one asked for, and what it is in the task */
};

typedef void memory_act(struct script *s, uint64_t from, uint64_t to);

/* Reading a task's pagemap. */
struct memory_plan {
	struct plan_task *task;
	VEC(struct plan_run) runs;
};

static void memory_unmap(struct script *s, uint64_t from, uint64_t to)
{
	script_call(s, "unmapping what lies in the way", SYS_munmap, from, to - from);
}

/* Addresses that keep what is there until all mappings were made. */
struct memory_kept {
	uint64_t from, to;
};

static void memory_beside(const struct memory_kept *kept, struct script *s, memory_act *act, uint64_t from,
			  uint64_t to)
{
	for (size_t i = 0; i < 2; i++) {
		uint64_t end = MIN(to, kept[i].from);
		if (from < end)
			act(s, from, end);
		from = MAX(from, MIN(to, kept[i].to));
	}
	if (from < to)
		act(s, from, to);
}

/* All of a range but the hole, the pool, and memory that is filled already. */
static void memory_around(const struct restore *r, const struct plan_task *t, struct script *s,
			  memory_act *act, uint64_t from, uint64_t to)
{
	const struct memory_kept hole = {t->hole, t->hole + t->hole_bytes};
	const struct memory_kept pool = {r->plan->pool, r->plan->pool + r->plan->pool_bytes};
	const struct memory_kept kept[2] = {pool.from < hole.from ? pool : hole,
					    pool.from < hole.from ? hole : pool};
	for (size_t i = 0; t->early && i < t->mm->n_vmas && from < to; i++) {
		const VmaEntry *vma = t->mm->vmas[i];
		if (!t->early[i] || vma->end <= from)
			continue;
		memory_beside(kept, s, act, from, MIN(vma->start, to));
		from = vma->end;
	}
	memory_beside(kept, s, act, from, to);
}

/*
 * vdso aside, all else of the fork away, but memory that is filled already or that all tasks take their shared mappings from. Within the hole nothing of the fork was mapped.
 * The vdso of 32-bit programs is mapped only into a process that has none.
 */
static void memory_clear(struct restore *r, struct plan_task *t, struct script *s)
{
	for (size_t i = 0; i < r->vdso.n_parts && !t->vdso_is_32; i++) {
		const struct vdso_part *part = &r->vdso.parts[i];
		script_call(s, "parking the vdso", SYS_mremap, part->start, part->bytes, part->bytes,
			    MREMAP_MAYMOVE | MREMAP_FIXED, t->vdso_parked + (part->start - r->vdso.start));
	}
	memory_around(r, t, s, memory_unmap, 0, MEMORY_TASK_END);
}

static void memory_place_vdso(struct restore *r, struct plan_task *t, struct script *s)
{
	if (t->vdso_is_32 || t->vdso_final == t->vdso_parked)
		return;
	for (size_t i = 0; i < r->vdso.n_parts; i++) {
		const struct vdso_part *part = &r->vdso.parts[i];
		uint64_t offset = part->start - r->vdso.start;
		script_call(s, "placing the vdso", SYS_mremap, t->vdso_parked + offset, part->bytes,
			    part->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, t->vdso_final + offset);
	}
}

/*
 * The kernel maps it where it is asked to if the place is free, as it is while the image's mappings are not there yet. The
 * gadget is written like a debugger would, so that the mapping stays what it is.
 */
static int memory_make_vdso_32(struct restore *r, struct plan_task *t, struct ferry_error *err)
{
	const struct vdso *v = &r->vdso32->v;
	struct script *s = &t->memory;
	int proc = plan_temp_source(t, r->proc);
	if (proc < 0)
		return error_memory(err);
	struct blob_call *call = script_call(s, "mapping the vdso of 32-bit programs", SYS_arch_prctl,
					     ARCH_MAP_VDSO_32, t->vdso_final);
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)v->code_bytes;
	uint64_t fd = script_put(s, NULL, sizeof(int64_t));
	/* Else the file belongs to the root of another user namespace. The task's own setting comes later. */
	script_call(s, "making the task dumpable", SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
	script_call(s, "opening the task's memory", SYS_openat, (uint64_t)proc,
		    script_put(s, "self/mem", sizeof("self/mem")), O_RDWR | O_CLOEXEC)
		->data_mask = 1 << 1;
	script_call(s, "keeping a descriptor", BLOB_OP_KEEP, fd)->data_mask = 1 << 0;
	call = script_call(s, "writing to the vdso", SYS_pwrite64, fd,
			   script_put(s, ferry_gadget, ferry_gadget_bytes), ferry_gadget_bytes, t->gadget);
	call->data_mask = 1 << 0 | 1 << 1;
	call->load_mask = 1 << 0;
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)ferry_gadget_bytes;
	call = script_call(s, "closing the task's memory", SYS_close, fd);
	call->data_mask = call->load_mask = 1 << 0;
	return 0;
}

/* The number that the file of a run has in the task. */
static int memory_number(struct memory_runs *runs, const struct plan_run *run)
{
	if (runs->source != run->source)
		runs->number = plan_temp_source(runs->task, run->source);
	runs->source = run->source;
	return runs->number;
}

/* The first pages that lie between start and end, which are to ascend from call to call. */
static bool memory_cut(struct memory_runs *runs, uint64_t start, uint64_t end, struct plan_run *ret)
{
	while (runs->at < runs->n &&
	       runs->runs[runs->at].vaddr + runs->runs[runs->at].nr_pages * IMAGE_PAGE_BYTES <= start)
		runs->at++;
	if (start >= end || runs->at == runs->n || runs->runs[runs->at].vaddr >= end)
		return false;
	const struct plan_run *run = &runs->runs[runs->at];
	uint64_t from = MAX(run->vaddr, start);
	uint64_t to = MIN(run->vaddr + run->nr_pages * IMAGE_PAGE_BYTES, end);
	*ret = (struct plan_run){.vaddr = from,
				 .nr_pages = (to - from) / IMAGE_PAGE_BYTES,
				 .offset = run->offset + (from - run->vaddr),
				 .source = run->source,
				 .late = run->late};
	return true;
}

/* Append reads of the pages between start and end, in parts that a cache holds. */
static void memory_fill(struct memory_runs *runs, struct script *s, uint64_t start, uint64_t end)
{
	struct plan_run run;
	for (; memory_cut(runs, start, end, &run); start = run.vaddr + run.nr_pages * IMAGE_PAGE_BYTES) {
		if (run.source == PLAN_LATE) {
			runs->stuck = run.vaddr;
			return;
		}
		int pages = memory_number(runs, &run);
		if (run.nr_pages > MEMORY_FILL_PAGES)
			run.nr_pages = MEMORY_FILL_PAGES - run.vaddr / IMAGE_PAGE_BYTES % MEMORY_FILL_PAGES;
		uint64_t bytes = run.nr_pages * IMAGE_PAGE_BYTES;
		if (run.nr_pages >= MEMORY_POPULATE_PAGES)
			script_call(s, "populating memory", SYS_madvise, run.vaddr, bytes,
				    MADV_POPULATE_WRITE)
				->check = BLOB_CHECK_NONE;
		struct blob_call *call = script_call(s, "filling memory", SYS_pread64, (uint64_t)pages,
						     run.vaddr, bytes, run.offset);
		call->check = BLOB_CHECK_FULL;
		script_detail(s, run.vaddr);
	}
}

static void memory_drop(struct script *s, uint64_t from, uint64_t to)
{
	if (from < to)
		script_call(s, "dropping what the maker had", SYS_madvise, from, to - from, MADV_DONTNEED);
}

/* A mapping that is what the maker had there: what differs. */
static void memory_fill_inherited(struct memory_runs *runs, struct plan_task *t, const VmaEntry *vma)
{
	struct script *s = &t->memory;
	struct plan_run run;
	uint64_t at = vma->start, to;
	while (memory_cut(runs, at, vma->end, &run)) {
		memory_drop(s, at, run.vaddr);
		at = run.vaddr + run.nr_pages * IMAGE_PAGE_BYTES;
		for (uint64_t from = run.vaddr; inherit_differs(t, &from, at, &to); from = to)
			memory_fill(runs, s, from, to);
	}
	memory_drop(s, at, vma->end);
}

/* Leave the pages between start and end to the coordinator. */
static int memory_pour(struct memory_runs *runs, struct plan_pour *pour, uint64_t start, uint64_t end)
{
	struct plan_run run;
	for (; memory_cut(runs, start, end, &run); start = run.vaddr + run.nr_pages * IMAGE_PAGE_BYTES) {
		struct plan_run *slot = vec_push(&pour->runs);
		if (!slot)
			return -ENOMEM;
		*slot = run;
	}
	return 0;
}

/* A mapping whose pages the coordinator fills, but for huge ones: copied from outside they would be small. */
static int memory_pour_vma(struct memory_runs *runs, struct plan_task *t, const VmaEntry *vma,
			   const FerryVmaEntry *extra)
{
	struct plan_range *range = vec_push(&t->pour.ranges);
	uint64_t at = vma->start;
	int r = 0;
	if (!range)
		return -ENOMEM;
	*range = (struct plan_range){vma->start, vma->end};
	for (size_t i = 0; extra && i + 1 < extra->n_huge && r >= 0 && !t->pour.lazy; i += 2) {
		uint64_t start = MAX(extra->huge[i], at), end = MIN(extra->huge[i + 1], vma->end);
		if (start >= end)
			continue;
		r = memory_pour(runs, &t->pour, at, start);
		memory_fill(runs, &t->memory, start, end);
		at = end;
	}
	return r < 0 ? r : memory_pour(runs, &t->pour, at, vma->end);
}

/* A mapping some of whose pages another process brings: the others are filled before that one is asked for any. */
static int memory_hand_vma(struct memory_runs *runs, struct plan_task *t, const VmaEntry *vma)
{
	struct plan_run run;
	bool any = false;
	for (uint64_t at = vma->start; memory_cut(runs, at, vma->end, &run);
	     at = run.vaddr + run.nr_pages * IMAGE_PAGE_BYTES) {
		struct plan_run *slot = run.late ? vec_push(&t->pour.runs) : NULL;
		if (!run.late)
			memory_fill(runs, &t->memory, run.vaddr, run.vaddr + run.nr_pages * IMAGE_PAGE_BYTES);
		else if (slot)
			*slot = run;
		else
			return -ENOMEM;
		any |= run.late;
	}
	struct plan_range *range = any ? vec_push(&t->pour.ranges) : NULL;
	if (range)
		*range = (struct plan_range){vma->start, vma->end};
	return any && !range ? -ENOMEM : 0;
}

static bool memory_has_pages(const struct memory_runs *runs, uint64_t start, uint64_t end)
{
	for (size_t i = runs->at; i < runs->n && runs->runs[i].vaddr < end; i++)
		if (runs->runs[i].vaddr + runs->runs[i].nr_pages * IMAGE_PAGE_BYTES > start)
			return true;
	return false;
}

static void memory_advise(struct script *s, const VmaEntry *vma)
{
	for (int advice = 0; advice < 64; advice++) {
		if (!(vma->madv >> advice & 1))
			continue;
		script_call(s, "advising on a mapping", SYS_madvise, vma->start, vma->end - vma->start,
			    (uint64_t)advice);
		script_detail(s, vma->start);
	}
}

/* The mapping itself, at its final address. */
static int memory_make_vma(struct restore *r, struct plan_task *t, const VmaEntry *vma, uint64_t prot,
			   struct ferry_error *err)
{
	struct script *s = &t->memory;
	const struct kind_ops *kind = kind_of_record(vma);
	struct vma_map m = {
		.prot = prot,
		.flags = vma->flags & ~(uint32_t)(MAP_LOCKED | MAP_POPULATE | MAP_ANONYMOUS),
		.offset = vma->pgoff,
		.fd = -1,
	};
	if (!kind && !(vma->status & VMA_STATUS_ANON_PRIVATE))
		return error_set(
			err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			"pid %d has a mapping at %llx of a kind that this ferry does not restore (status %#x)",
			t->pid, (unsigned long long)vma->start, vma->status);
	int ret = kind ? kind->map(r->reader, t, vma, &m, err) : 0;
	if (ret < 0 || m.made) {
		error_context(err, "plan", kind->name, t->pid);
		return ret;
	}
	if (m.fd < 0)
		m.flags |= MAP_ANONYMOUS;
	struct blob_call *call =
		script_call(s, "making a mapping", SYS_mmap, vma->start, vma->end - vma->start, m.prot,
			    m.flags | MAP_FIXED, (uint64_t)(int64_t)m.fd, m.offset);
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)vma->start;
	script_detail(s, vma->start);
	return 0;
}

/* Guard pages, whose records come behind those of the mappings. */
static bool memory_guard(const struct plan_task *t, struct script *s, const VmaEntry *vma)
{
	bool any = false;
	for (size_t i = t->mm->n_vmas; i-- && t->mm->vmas[i]->status & VMA_STATUS_GUARD;) {
		uint64_t start = MAX(t->mm->vmas[i]->start, vma->start);
		uint64_t end = MIN(t->mm->vmas[i]->end, vma->end);
		if (start >= end)
			continue;
		script_call(s, "installing guard pages", SYS_madvise, start, end - start, MADV_GUARD_INSTALL);
		script_detail(s, start);
		any = true;
	}
	return any;
}

/* Guard pages and what nobody may touch cannot be populated, which mlock(2) tells after it has locked all. */
static void memory_lock(struct script *s, const VmaEntry *vma, const FerryVmaEntry *extra, bool guarded)
{
	bool on_fault = extra && extra->lock_on_fault;
	bool empty = guarded || !(vma->prot & (PROT_READ | PROT_WRITE | PROT_EXEC));
	if (on_fault || empty) {
		script_call(s, "locking a mapping", SYS_mlock2, vma->start, vma->end - vma->start,
			    MLOCK_ONFAULT);
		script_detail(s, vma->start);
	}
	if (on_fault)
		return;
	struct blob_call *call =
		script_call(s, "locking a mapping", SYS_mlock2, vma->start, vma->end - vma->start, 0);
	call->check = empty ? BLOB_CHECK_NONE : BLOB_CHECK_OK;
	script_detail(s, vma->start);
}

/* Huge pages where they were. They may not be had, or the kernel may not have them: it works without. */
static void memory_collapse(struct script *s, const VmaEntry *vma, const FerryVmaEntry *extra)
{
	for (size_t i = 0; i + 1 < extra->n_huge; i += 2) {
		uint64_t start = MAX(extra->huge[i], vma->start), end = MIN(extra->huge[i + 1], vma->end);
		if (start < end)
			script_call(s, "making huge pages", SYS_madvise, start, end - start, MADV_COLLAPSE)
				->check = BLOB_CHECK_NONE;
	}
}

static bool memory_is_poured(const struct plan_task *t, const VmaEntry *vma)
{
	if (t->pour.lazy)
		return mem_may_come_late(vma);
	return t->pour.wanted && vma->status & VMA_STATUS_ANON_PRIVATE && !(vma->flags & MAP_HUGETLB) &&
	       vma->end - vma->start >= MEMORY_FILL_PAGES * IMAGE_PAGE_BYTES;
}

/* How a mapping comes into being. */
enum memory_how {
	MEMORY_EMPTY, /* its pages are not of the image, or there are none */
	MEMORY_FILLED,
	MEMORY_EARLY,     /* it is there, and filled (inherit.c) */
	MEMORY_INHERITED, /* it is there, as its maker had it */
};

static bool memory_is_there(enum memory_how how)
{
	return how == MEMORY_EARLY || how == MEMORY_INHERITED;
}

static uint64_t memory_prot(const VmaEntry *vma, enum memory_how how)
{
	const uint64_t prot[] = {
		[MEMORY_EMPTY] = vma->prot,
		[MEMORY_FILLED] = vma->prot | PROT_WRITE,
		[MEMORY_EARLY] = PROT_READ | PROT_WRITE,
		[MEMORY_INHERITED] = PROT_READ | PROT_WRITE,
	};
	return prot[how];
}

static enum memory_how memory_how(const struct plan_task *t, const struct memory_runs *runs, size_t index)
{
	const VmaEntry *vma = t->mm->vmas[index];
	if (t->early && t->early[index])
		return t->early[index] & PLAN_EARLY_PASSED ? MEMORY_EARLY : MEMORY_INHERITED;
	return !(vma->flags & MAP_SHARED) && memory_has_pages(runs, vma->start, vma->end) ? MEMORY_FILLED
											  : MEMORY_EMPTY;
}

static int memory_map_vma(struct restore *r, struct plan_task *t, const VmaEntry *vma,
			  struct memory_runs *runs, enum memory_how how, struct ferry_error *err)
{
	struct script *s = &t->memory;
	int ret = memory_is_there(how) ? 0 : memory_make_vma(r, t, vma, memory_prot(vma, how), err);
	if (ret < 0)
		return ret;
	const FerryVmaEntry *extra = plan_vma_extra(t, vma);
	if (vma->madv)
		memory_advise(s, vma);
	if (extra)
		mm_bind(s, extra);
	if (how == MEMORY_INHERITED)
		memory_fill_inherited(runs, t, vma);
	if (how != MEMORY_FILLED)
		return 0;
	if (!memory_is_poured(t, vma))
		memory_fill(runs, s, vma->start, vma->end);
	else if ((r->lazy_daemon >= 0 ? memory_hand_vma(runs, t, vma)
				      : memory_pour_vma(runs, t, vma, extra)) < 0)
		return error_memory(err);
	return 0;
}

/* What would hinder filling it. */
static void memory_finish_vma(struct plan_task *t, const VmaEntry *vma, enum memory_how how)
{
	struct script *s = &t->memory;
	const FerryVmaEntry *extra = plan_vma_extra(t, vma);
	/* Of memory that comes later the kernel makes huge pages by itself, in time. */
	bool lazy = how == MEMORY_FILLED && t->pour.lazy && memory_is_poured(t, vma);
	if (extra && !memory_is_there(how) && !lazy)
		memory_collapse(s, vma, extra);
	bool guarded = memory_guard(t, s, vma);
	if (memory_prot(vma, how) != vma->prot) {
		script_call(s, "protecting a mapping", SYS_mprotect, vma->start, vma->end - vma->start,
			    vma->prot);
		script_detail(s, vma->start);
	}
	if (vma->flags & MAP_LOCKED)
		memory_lock(s, vma, extra, guarded);
}

/* Wait until the coordinator has filled what is left to it. */
static void memory_await_pour(struct plan_task *t)
{
	struct script *s = &t->memory;
	uint64_t member = t->hole + offsetof(struct restore_shared, members) +
			  (uint64_t)t->member * sizeof(struct restore_member);
	if (!t->pour.runs.n)
		return;
	script_call(s, "asking for memory to be filled", BLOB_OP_TELL,
		    member + offsetof(struct restore_member, mapped),
		    t->hole + offsetof(struct restore_shared, control));
	script_call(s, "waiting for memory to be filled", BLOB_OP_AWAIT,
		    member + offsetof(struct restore_member, poured));
}

/* The vdso of another kernel, as memory of the task's own. Its data is not there: nothing of it that reads them is executed. */
static void memory_make_bridge(struct plan_task *t, const VmaEntry *vma, struct memory_runs *runs)
{
	struct script *s = &t->memory;
	uint64_t bytes = vma->end - vma->start;
	struct blob_call *call =
		script_call(s, "making a place for another kernel's vdso", SYS_mmap, vma->start, bytes,
			    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0);
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)vma->start;
	memory_fill(runs, s, vma->start, vma->end);
	for (size_t i = 0; i < t->bridge->n; i++) {
		const struct vdso_patch *p = &t->bridge->v[i];
		for (size_t k = 0; k < p->n_words; k++)
			script_call(s, "leading a call to this kernel's vdso", BLOB_OP_STORE,
				    vma->start + p->offset + k * sizeof(*p->words), p->words[k]);
	}
	script_call(s, "protecting a mapping", SYS_mprotect, vma->start, bytes, PROT_READ | PROT_EXEC);
}

/* Nothing about a sealed mapping can be changed any more. */
static void memory_seal(struct plan_task *t)
{
	const FerryMmEntry *mm = t->mm_extra;
	for (size_t i = 0; mm && i < mm->n_vmas; i++) {
		const FerryVmaEntry *vma = mm->vmas[i];
		if (!vma->sealed)
			continue;
		script_call(&t->memory, "sealing a mapping", SYS_mseal, vma->start, vma->end - vma->start, 0);
		script_detail(&t->memory, vma->start);
	}
}

/* Who looks at the task from outside finds the kernel's vdso; the copy on its stack, which it may have read, stays. */
static const uint64_t *memory_auxv(struct restore *r, const struct plan_task *t)
{
	size_t n = t->mm->n_mm_saved_auxv;
	uint64_t *vector = arena_array(&r->plan->arena, uint64_t, n + 1);
	for (size_t i = 0; vector && i < n; i++)
		vector[i] = t->mm->mm_saved_auxv[i];
	for (size_t i = 0; vector && t->bridge && i + 1 < n; i += 2)
		if (vector[i] == AT_SYSINFO_EHDR)
			vector[i + 1] = t->vdso_final + (r->vdso.code - r->vdso.start);
	return vector;
}

/* brk, argument area, auxiliary vector, executable. */
static int memory_set_mm(struct restore *r, struct plan_task *t, struct ferry_error *err)
{
	struct script *s = &t->memory;
	const MmEntry *mm = t->mm;
	struct plan_file *exe = plan_file(r->plan, mm->exe_file_id);
	if (!exe)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "the executable of pid %d, file id %u, is not in files.img", t->pid,
				 mm->exe_file_id);
	int exe_fd = plan_temp_file(t, exe, O_RDONLY);
	if (exe_fd < 0)
		return error_memory(err);
	const uint64_t *vector = memory_auxv(r, t);
	if (!vector)
		return error_memory(err);
	uint64_t auxv = script_put(s, vector, mm->n_mm_saved_auxv * sizeof(uint64_t));
	struct prctl_mm_map map = {
		.start_code = mm->mm_start_code,
		.end_code = mm->mm_end_code,
		.start_data = mm->mm_start_data,
		.end_data = mm->mm_end_data,
		.start_brk = mm->mm_start_brk,
		.brk = mm->mm_brk,
		.start_stack = mm->mm_start_stack,
		.arg_start = mm->mm_arg_start,
		.arg_end = mm->mm_arg_end,
		.env_start = mm->mm_env_start,
		.env_end = mm->mm_env_end,
		.auxv_size = (uint32_t)(mm->n_mm_saved_auxv * sizeof(uint64_t)),
		.exe_fd = (uint32_t)exe_fd,
	};
	uint64_t at = script_put(s, &map, sizeof(map));
	struct blob_call *copy = script_call(s, "placing the auxiliary vector", BLOB_OP_STORE,
					     at + offsetof(struct prctl_mm_map, auxv), auxv);
	copy->data_mask = 1 << 0 | 1 << 1;
	struct blob_call *call = script_call(s, "setting brk, arguments and executable", SYS_prctl, PR_SET_MM,
					     PR_SET_MM_MAP, at, sizeof(map), 0);
	call->data_mask = 1 << 2;
	return 0;
}

static int memory_add_run(struct memory_plan *m, const struct plan_run *run)
{
	struct plan_run *slot = vec_push(&m->runs);
	if (!slot)
		return -ENOMEM;
	*slot = *run;
	return 0;
}

/*
 * Keep the file of a piece open. One that belongs to an earlier task of the same image is open already: parents come first, and what a
 * family has in common is in one file.
 */
static int memory_keep_source(struct restore *r, struct plan_task *t, struct image_source *source)
{
	bool own = source->dir == r->reader->dir && source->id == (uint64_t)t->pid;
	const struct plan_task *other =
		source->dir == r->reader->dir && !own ? plan_task(r->plan, (pid_t)source->id) : NULL;
	if (source->user >= 0)
		return 0;
	bool is_open = other && other < t && !other->vm_owner && other->pages >= 0;
	int fd = is_open ? other->pages : plan_keep_source(r->plan, fd_dup(source->fd, 3));
	if (own && fd >= 0)
		t->pages = fd;
	source->user = fd;
	return fd < 0 ? fd : 0;
}

static int memory_read_runs(struct restore *r, struct memory_plan *m, struct ferry_error *err)
{
	_cleanup_image_memory_ struct image_memory *memory = NULL;
	struct plan_task *t = m->task;
	struct image_piece piece;
	int ret = image_memory_open(r->reader->dir, IMAGE_PAGEMAP, (uint64_t)t->pid, &memory, err);
	if (memory && (r->page_server >= 0 || r->lazy_daemon >= 0))
		image_memory_allow_late(memory);
	while (ret >= 0 && (ret = image_memory_next(memory, &piece, err)) > 0) {
		int kept = piece.source ? memory_keep_source(r, t, piece.source) : 0;
		if (kept < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -kept,
					   "keeping a pages file of pid %d open", t->pid);
		const struct plan_run run = {.vaddr = piece.vaddr,
					     .nr_pages = piece.nr_pages,
					     .offset = piece.offset,
					     .source = piece.source ? piece.source->user : PLAN_LATE,
					     .late = piece.lazy && r->lazy_daemon >= 0};
		ret = memory_add_run(m, &run);
		if (ret < 0)
			ret = error_memory(err);
	}
	return ret;
}

/* ---------------------------------------------------- mappings that take no address */

static bool memory_is_anywhere(const VmaEntry *vma)
{
	const struct kind_ops *kind = kind_of_record(vma);
	return kind && kind->map_anywhere;
}

static void memory_block(struct script *s, uint64_t from, uint64_t to)
{
	struct blob_call *call =
		script_call(s, "leaving no place free", SYS_mmap, from, to - from, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, ~0ull, 0);
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)from;
}

/* What is free of the hole shows when the region in it has its size. */
static void memory_block_hole(struct plan_task *t, struct script *s)
{
	t->hole_rest = script_put(s, NULL, 2 * sizeof(uint64_t));
	t->hole_blocked = true;
	struct blob_call *call =
		script_call(s, "leaving no place free", SYS_mmap, t->hole_rest,
			    t->hole_rest + sizeof(uint64_t), PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, ~0ull, 0);
	call->data_mask = call->load_mask = 1 << 0 | 1 << 1;
}

static void memory_unblock_hole(const struct plan_task *t, struct script *s)
{
	struct blob_call *call = script_call(s, "making places free", SYS_munmap, t->hole_rest,
					     t->hole_rest + sizeof(uint64_t));
	call->data_mask = call->load_mask = 1 << 0 | 1 << 1;
}

static int memory_map_anywhere(struct restore *r, struct plan_task *t, const VmaEntry *vma,
			       struct ferry_error *err)
{
	struct script *s = &t->memory;
	uint64_t bytes = vma->end - vma->start;
	struct vma_map m = {.prot = vma->prot, .offset = vma->pgoff, .fd = -1};
	int ret = kind_of_record(vma)->map(r->reader, t, vma, &m, err);
	if (ret < 0)
		return ret;
	script_call(s, "making one place free", SYS_munmap, vma->start, bytes);
	/* Each of the two calls looks where programs of its kind have their mappings. */
	bool low = vma->end <= UINT32_MAX && t->vdso_is_32;
	const char *what = "making a mapping in the only free place";
	uint64_t offset = low ? m.offset / IMAGE_PAGE_BYTES : m.offset;
	struct blob_call *call = script_call(s, what, low ? MEMORY_NR32_MMAP2 : SYS_mmap, 0, bytes, m.prot,
					     MAP_SHARED, (uint64_t)(int64_t)m.fd, offset);
	call->abi = low ? BLOB_ABI_I386 : BLOB_ABI_NATIVE;
	call->check = BLOB_CHECK_EQUAL;
	call->expect = low ? (int32_t)vma->start : (int64_t)vma->start;
	script_detail(s, vma->start);
	memory_advise(s, vma);
	return 0;
}

/* The kernel chooses their places. It has no choice while all others are taken, by mappings of nothing. */
static int memory_map_all_anywhere(struct restore *r, struct plan_task *t, struct ferry_error *err)
{
	struct script *s = &t->memory;
	uint64_t at = IMAGE_PAGE_BYTES;
	int ret = 0;
	size_t first = 0;
	while (first < t->mm->n_vmas && !memory_is_anywhere(t->mm->vmas[first]))
		first++;
	if (first == t->mm->n_vmas)
		return 0;
	/* The lowest pages take a right, and the kernel offers them only to those who have it. */
	memory_block(s, IMAGE_PAGE_BYTES, MEMORY_LOWEST);
	s->calls.v[script_last(s)].check = BLOB_CHECK_NONE;
	memory_around(r, t, s, memory_block, MEMORY_LOWEST, MEMORY_TASK_END);
	memory_block_hole(t, s);
	for (size_t i = first; i < t->mm->n_vmas && ret >= 0; i++)
		if (memory_is_anywhere(t->mm->vmas[i]))
			ret = memory_map_anywhere(r, t, t->mm->vmas[i], err);
	memory_unblock_hole(t, s);
	for (size_t i = first; i < t->mm->n_vmas; i++) {
		if (!memory_is_anywhere(t->mm->vmas[i]))
			continue;
		memory_around(r, t, s, memory_unmap, at, t->mm->vmas[i]->start);
		at = t->mm->vmas[i]->end;
	}
	memory_around(r, t, s, memory_unmap, at, MEMORY_TASK_END);
	return ret;
}

/* Mappings that are made one by one, at their places. */
static bool memory_is_ours(const VmaEntry *vma)
{
	return !(vma->status & (VMA_STATUS_KERNEL | VMA_STATUS_GUARD)) && !memory_is_anywhere(vma);
}

static bool memory_is_large(const struct plan_task *t)
{
	uint64_t pages = 0;
	for (size_t i = 0; i < t->n_runs; i++)
		pages += t->runs[i].nr_pages;
	return pages >= MEMORY_POUR_PAGES;
}

/* One that waits for another one first, before it takes descriptors, cannot be asked to make one. */
static bool memory_can_ask(const struct plan_task *t)
{
	return !t->files_owner && t->untold != PLAN_UNTOLD_CONTINUED;
}

int memory_plan(struct restore *r, struct plan_task *t, struct ferry_error *err)
{
	struct script *s = &t->memory;
	struct memory_plan plan = {.task = t};
	/* Its owner does all that; what kinds add here is the process's own. */
	if (t->vm_owner)
		return 0;
	t->pages = -1;
	int ret = memory_read_runs(r, &plan, err);
	t->runs = plan.runs.v;
	t->n_runs = plan.runs.n;
	if (ret < 0)
		return ret;
	struct memory_runs runs = {.runs = t->runs, .n = t->n_runs, .task = t, .source = -1};
	t->pour.lazy = r->lazy && memory_can_ask(t) && lazy_fits(t);
	t->pour.wanted = t->pour.lazy || (memory_is_large(t) && memory_can_ask(t) && pour_possible());
	memory_clear(r, t, s);
	ret = memory_map_all_anywhere(r, t, err);
	if (ret >= 0 && t->vdso_is_32)
		ret = memory_make_vdso_32(r, t, err);
	uint8_t *how = arena_array(&r->plan->arena, uint8_t, t->mm->n_vmas + 1);
	if (ret >= 0 && !how)
		ret = error_memory(err);
	for (size_t i = 0; i < t->mm->n_vmas && ret >= 0; i++) {
		const VmaEntry *vma = t->mm->vmas[i];
		if (t->bridge && vma->status & VMA_STATUS_VDSO)
			memory_make_bridge(t, vma, &runs);
		if (!memory_is_ours(vma))
			continue;
		how[i] = memory_how(t, &runs, i);
		ret = memory_map_vma(r, t, vma, &runs, how[i], err);
	}
	memory_await_pour(t);
	for (size_t i = 0; i < t->mm->n_vmas && ret >= 0; i++)
		if (memory_is_ours(t->mm->vmas[i]))
			memory_finish_vma(t, t->mm->vmas[i], how[i]);
	if (ret >= 0 && !t->pour.runs.n && fault_hit(r->fault, FAULT_MEMORY_FILL))
		script_call(s, "filling memory (fault injected)", SYS_pread64, (uint64_t)-1, t->hole, 1, 0);
	if (ret >= 0 && r->plan->pool_bytes)
		memory_unmap(s, r->plan->pool, r->plan->pool + r->plan->pool_bytes);
	if (ret >= 0) {
		memory_place_vdso(r, t, s);
		ret = memory_set_mm(r, t, err);
		memory_seal(t);
	}
	if (ret >= 0 && s->failed)
		ret = error_memory(err);
	if (ret >= 0 && runs.stuck)
		ret = error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				"pid %d needs its memory at %llx before it runs, and a page server has it",
				t->pid, (unsigned long long)runs.stuck);
	return ret;
}
