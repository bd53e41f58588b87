/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns shared anonymous memory (MAP_SHARED | MAP_ANONYMOUS, and shared mappings of /dev/zero, which are the same). An object
 * is known by its inode, so that mappings of several tasks come back as one. The coordinator maps each and fills it from the
 * image before there are tasks; they inherit that mapping and make theirs as further ones of the same pages. So it is the same
 * kind of object as before, "/dev/zero (deleted)" and not a memfd, and nothing of it takes a right that ordinary users lack.
 * What root reads through /proc/PID/map_files they read through the tasks' memory (window.c).
 *
 * Kernel interface: mremap(2) with an old size of 0, which makes a second mapping of shared pages; /proc/PID/map_files, which takes
 * CAP_CHECKPOINT_RESTORE to open (5.9).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "image/pages.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "kind/window.h"
#include "mem/mem.h"
#include "model/vma-status.h"
#include "proc/maps.h"

/* More than an address space has, so that sums do not overflow. */
#define SHMEM_MOST (1ull << 47)

/* An object of the image. */
struct shmem_plan {
	struct shmem_plan *next;
	uint64_t shmid;
	uint64_t bytes;
	uint64_t offset; /* in the addresses that all tasks inherit */
	bool reserve;    /* its mappings count as memory that will be used */
	bool made;
};

static bool shmem_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_SHMEM_ANON;
}

static int shmem_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	int r = peers_refuse_mapping(view, err);
	return r >= 0 && window_wanted(view) ? window_note(view, err) : r;
}

static int shmem_collect_vma(struct collect *c, struct snap_task *t, const struct vma_view *view,
			     struct snap_vma *vma, struct ferry_error *err)
{
	struct snap_shmem *shmem = NULL;
	bool windows = window_wanted(view);
	vec_foreach(known, &c->snap->shmems) {
		if (known->inode == vma->inode && known->dev == vma->dev)
			shmem = known;
	}
	if (!shmem) {
		shmem = vec_push(&c->snap->shmems);
		if (!shmem)
			return error_memory(err);
		char path[96];
		snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", t->look,
			 (unsigned long long)view->vma->start, (unsigned long long)view->vma->end);
		*shmem = (struct snap_shmem){
			.inode = vma->inode,
			.dev = vma->dev,
			.shmid = snapshot_shmid(c->snap, vma->inode),
			.path = windows ? NULL : arena_string(&c->snap->arena, path),
		};
		if (!shmem->shmid || (!windows && !shmem->path))
			return error_memory(err);
	}
	if (windows && window_add(c, shmem, t->look, view, vma) < 0)
		return error_memory(err);
	shmem->bytes = MAX(shmem->bytes, vma->entry->pgoff + (vma->entry->end - vma->entry->start));
	vma->entry->shmid = shmem->shmid;
	vma->entry->status |= VMA_STATUS_ANON_SHARED;
	vma->entry->flags |= MAP_SHARED | MAP_ANONYMOUS;
	return 0;
}

/* -------------------------------------------------------------------------- restore */

static bool shmem_owns_record(const VmaEntry *entry)
{
	return entry->status & VMA_STATUS_ANON_SHARED;
}

static struct shmem_plan *shmem_find(const struct plan *p, uint64_t shmid)
{
	struct shmem_plan *shmem = p->kind_data[KIND_shmem];
	while (shmem && shmem->shmid != shmid)
		shmem = shmem->next;
	return shmem;
}

static int shmem_measure(struct plan *p, const VmaEntry *entry, struct ferry_error *err)
{
	struct shmem_plan *shmem = shmem_find(p, entry->shmid);
	uint64_t end;
	if (__builtin_add_overflow(entry->pgoff, entry->end - entry->start, &end) ||
	    entry->pgoff % IMAGE_PAGE_BYTES || entry->end <= entry->start || end > SHMEM_MOST)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "a mapping of shared memory %llu begins at its byte %llu",
				 (unsigned long long)entry->shmid, (unsigned long long)entry->pgoff);
	if (!shmem) {
		shmem = arena_new(&p->arena, struct shmem_plan);
		if (!shmem)
			return error_memory(err);
		*shmem = (struct shmem_plan){.next = p->kind_data[KIND_shmem], .shmid = entry->shmid};
		p->kind_data[KIND_shmem] = shmem;
	}
	shmem->bytes = MAX(shmem->bytes, align_up(end, IMAGE_PAGE_BYTES));
	shmem->reserve |= !(entry->flags & MAP_NORESERVE);
	return 0;
}

/* An object is as large as its mappings say. */
static int shmem_read(struct reader *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	int ret = 0;
	for (size_t i = 0; i < p->n_tasks; i++) {
		const MmEntry *mm = p->tasks[i].mm;
		for (size_t n = 0; n < mm->n_vmas && ret >= 0; n++)
			if (kind_of_record(mm->vmas[n]) == &kind_shmem)
				ret = shmem_measure(p, mm->vmas[n], err);
	}
	for (struct shmem_plan *s = p->kind_data[KIND_shmem]; s && ret >= 0; s = s->next) {
		s->offset = p->pool_bytes;
		p->pool_bytes += s->bytes;
		if (p->pool_bytes > SHMEM_MOST)
			ret = error_set(err, FERRY_ERROR_RESTORE_STEP, ENOMEM,
					"shared memory of more than %llu bytes", SHMEM_MOST);
	}
	return ret;
}

static int shmem_make(struct reader *r, struct shmem_plan *shmem, struct ferry_error *err)
{
	void *wanted = (void *)(uintptr_t)(r->plan->pool + shmem->offset);
	int reserve = shmem->reserve ? 0 : MAP_NORESERVE;
	char *at = mmap(wanted, shmem->bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | reserve, -1, 0);
	if (at == MAP_FAILED)
		return error_errno(err, FERRY_ERROR_NO_MEMORY, errno, "mapping %llu bytes of shared memory",
				   (unsigned long long)shmem->bytes);
	shmem->made = true;
	/* Only the tasks inherit it, and not who is forked before them and stays. */
	if (madvise(at, shmem->bytes, MADV_DONTFORK) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "keeping shared memory to the tasks");
	return mem_fill_shmem(r->dir, shmem->shmid, shmem->bytes, at, err);
}

static int shmem_map(struct reader *r, struct plan_task *t, const VmaEntry *entry, struct vma_map *m,
		     struct ferry_error *err)
{
	struct shmem_plan *shmem = shmem_find(r->plan, entry->shmid);
	if (!shmem)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "shared memory %llu was not measured",
				 (unsigned long long)entry->shmid);
	int ret = shmem->made ? 0 : shmem_make(r, shmem, err);
	if (ret < 0)
		return ret;
	struct blob_call *call =
		script_call(&t->memory, "mapping shared memory", SYS_mremap,
			    r->plan->pool + shmem->offset + entry->pgoff, 0, entry->end - entry->start,
			    MREMAP_MAYMOVE | MREMAP_FIXED, entry->start);
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)entry->start;
	script_detail(&t->memory, entry->start);
	if (m->prot != (PROT_READ | PROT_WRITE)) {
		script_call(&t->memory, "protecting shared memory", SYS_mprotect, entry->start,
			    entry->end - entry->start, m->prot);
		script_detail(&t->memory, entry->start);
	}
	m->made = true;
	return 0;
}

/* The tasks have what is theirs: a ferry that waits for their end must not keep the memory, or be one who has it. */
static void shmem_before_run(struct opener *o)
{
	for (struct shmem_plan *s = o->plan->kind_data[KIND_shmem]; s; s = s->next)
		if (s->made)
			munmap((void *)(uintptr_t)(o->plan->pool + s->offset), s->bytes);
}

const struct kind_ops kind_shmem = {
	.name = "shmem",
	.what = "shared anonymous memory",
	.fd_type = -1,
	.image_file = -1,
	.owns_vma = shmem_owns_vma,
	.check_vma = shmem_check_vma,
	.check_end = window_check_end,
	.collect_vma = shmem_collect_vma,
	.read = shmem_read,
	.owns_record = shmem_owns_record,
	.map = shmem_map,
	.before_run = shmem_before_run,
	.ask_task = window_ask,
	.collect_task = window_answer,
};
