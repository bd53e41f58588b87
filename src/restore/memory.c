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
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/vdso_bridge.h"
#include "image/dir.h"
#include "image/pages.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "kind/mm.h"
#include "model/vma-status.h"
#include "restore/restore.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
	MEMORY_POPULATE_PAGES = 4, /* from here on one call is cheaper than the faults */
	MEMORY_NR32_MMAP2 = 192,
};
#define MEMORY_TASK_END 0x7ffffffff000ull
#define MEMORY_LOWEST 0x10000ull /* vm.mmap_min_addr is not above it */

/* Runs of pages that belong to one mapping, cut at its borders. */
struct memory_runs {
	const struct plan_run *runs;
	size_t n, at;
	const struct plan_task *task;
	int own, others; /* descriptors in the task: of its pages file, and of that of its family's head */
};

typedef void memory_act(struct script *s, uint64_t from, uint64_t to);

/* Reading a task's pagemap. */
struct memory_plan {
	struct plan_task *task;
	const struct plan_task *head; /* whose pages it refers to; NULL = nobody's */
	size_t head_at;
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

/* Append reads of the pages between start and end; says whether there were any. */
static bool memory_fill(struct memory_runs *runs, struct script *s, uint64_t start, uint64_t end)
{
	bool any = false;
	while (runs->at < runs->n &&
	       runs->runs[runs->at].vaddr + runs->runs[runs->at].nr_pages * IMAGE_PAGE_BYTES <= start)
		runs->at++;
	for (size_t i = runs->at; i < runs->n && runs->runs[i].vaddr < end; i++) {
		const struct plan_run *run = &runs->runs[i];
		int pages = run->of == runs->task ? runs->own : runs->others;
		uint64_t from = MAX(run->vaddr, start);
		uint64_t to = MIN(run->vaddr + run->nr_pages * IMAGE_PAGE_BYTES, end);
		if (to - from >= MEMORY_POPULATE_PAGES * IMAGE_PAGE_BYTES)
			script_call(s, "populating memory", SYS_madvise, from, to - from, MADV_POPULATE_WRITE)
				->check = BLOB_CHECK_NONE;
		struct blob_call *call = script_call(s, "filling memory", SYS_pread64, (uint64_t)pages, from,
						     to - from, run->offset + (from - run->vaddr));
		call->check = BLOB_CHECK_FULL;
		script_detail(s, from);
		any = true;
	}
	return any;
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

/* early: it is there, and filled (inherit.c). */
static int memory_map_vma(struct restore *r, struct plan_task *t, const VmaEntry *vma,
			  struct memory_runs *runs, bool early, struct ferry_error *err)
{
	struct script *s = &t->memory;
	bool filled = !early && !(vma->flags & MAP_SHARED) && memory_has_pages(runs, vma->start, vma->end);
	uint64_t prot = early ? PROT_READ | PROT_WRITE : vma->prot | (filled ? PROT_WRITE : 0);
	int ret = early ? 0 : memory_make_vma(r, t, vma, prot, err);
	if (ret < 0)
		return ret;
	const FerryVmaEntry *extra = plan_vma_extra(t, vma);
	if (vma->madv)
		memory_advise(s, vma);
	if (extra)
		mm_bind(s, extra);
	if (filled)
		memory_fill(runs, s, vma->start, vma->end);
	if (extra && !early)
		memory_collapse(s, vma, extra);
	bool guarded = memory_guard(t, s, vma);
	if (prot != vma->prot) {
		script_call(s, "protecting a mapping", SYS_mprotect, vma->start, vma->end - vma->start,
			    vma->prot);
		script_detail(s, vma->start);
	}
	if (vma->flags & MAP_LOCKED)
		memory_lock(s, vma, extra, guarded);
	return 0;
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

/* What the head of the family has of these pages, which must be all of them. */
static int memory_add_shared(struct memory_plan *m, const struct image_run *run, struct ferry_error *err)
{
	const struct plan_task *t = m->task, *head = m->head;
	uint64_t at = run->vaddr, end = at + run->nr_pages * IMAGE_PAGE_BYTES;
	while (head && m->head_at < head->n_runs && at < end) {
		const struct plan_run *there = &head->runs[m->head_at];
		uint64_t there_end = there->vaddr + there->nr_pages * IMAGE_PAGE_BYTES;
		if (there_end <= at) {
			m->head_at++;
			continue;
		}
		if (there->vaddr > at || there->of != head)
			break;
		uint64_t to = MIN(end, there_end);
		if (memory_add_run(m, &(struct plan_run){.vaddr = at,
							 .nr_pages = (to - at) / IMAGE_PAGE_BYTES,
							 .offset = there->offset + (at - there->vaddr),
							 .of = head}) < 0)
			return error_memory(err);
		at = to;
	}
	if (at == end)
		return 0;
	return head ? error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				"pid %d shares its page at %llx with pid %d, which has none there", t->pid,
				(unsigned long long)at, head->pid)
		    : error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				"pagemap of pid %d refers to pages of a parent image or a page server",
				t->pid);
}

/* Of an earlier task, for parents come first. */
static int memory_find_head(struct restore *r, struct memory_plan *m, struct ferry_error *err)
{
	const struct plan_task *t = m->task;
	if (!t->mm_extra || !t->mm_extra->has_pages_of)
		return 0;
	const struct plan_task *head = plan_task(r->plan, (pid_t)t->mm_extra->pages_of);
	if (!head || head >= t)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pid %d shares pages with pid %u, which is not made before it", t->pid,
				 t->mm_extra->pages_of);
	m->head = head;
	return 0;
}

static int memory_read_runs(struct restore *r, struct memory_plan *m, struct image_pages_reader **ret_reader,
			    struct ferry_error *err)
{
	struct image_run run;
	int ret = image_pages_open(r->reader->dir, IMAGE_PAGEMAP, (uint64_t)m->task->pid, ret_reader, err);
	if (ret >= 0)
		ret = memory_find_head(r, m, err);
	while (ret >= 0 && (ret = image_pages_next(*ret_reader, &run, err)) > 0) {
		if (!(run.flags & IMAGE_PE_PRESENT))
			ret = memory_add_shared(m, &run, err);
		else if (memory_add_run(m, &(struct plan_run){run.vaddr, run.nr_pages, run.offset, m->task}) <
			 0)
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

int memory_plan(struct restore *r, struct plan_task *t, struct ferry_error *err)
{
	struct script *s = &t->memory;
	struct memory_plan plan = {.task = t};
	/* Its owner does all that; what kinds add here is the process's own. */
	if (t->vm_owner)
		return 0;
	struct image_pages_reader *reader = NULL;
	int ret = memory_read_runs(r, &plan, &reader, err);
	t->runs = plan.runs.v;
	t->n_runs = plan.runs.n;
	if (ret < 0)
		goto out;
	ret = plan_keep_source(r->plan, fd_dup(image_pages_fd(reader), 3));
	if (ret < 0) {
		error_errno(err, FERRY_ERROR_SYSTEM, -ret, "keeping the pages file of pid %d open", t->pid);
		goto out;
	}
	t->pages = ret;
	struct memory_runs runs = {
		.runs = t->runs, .n = t->n_runs, .task = t, .own = plan_temp_source(t, ret)};
	runs.others = plan.head ? plan_temp_source(t, plan.head->pages) : -1;
	memory_clear(r, t, s);
	ret = memory_map_all_anywhere(r, t, err);
	if (ret >= 0 && t->vdso_is_32)
		ret = memory_make_vdso_32(r, t, err);
	for (size_t i = 0; i < t->mm->n_vmas && ret >= 0; i++) {
		const VmaEntry *vma = t->mm->vmas[i];
		if (t->bridge && vma->status & VMA_STATUS_VDSO)
			memory_make_bridge(t, vma, &runs);
		if (vma->status & (VMA_STATUS_KERNEL | VMA_STATUS_GUARD) || memory_is_anywhere(vma))
			continue;
		ret = memory_map_vma(r, t, vma, &runs, t->early && t->early[i], err);
	}
	if (ret >= 0 && fault_hit(r->fault, FAULT_MEMORY_FILL))
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
out:
	image_pages_reader_free(reader);
	return ret;
}
