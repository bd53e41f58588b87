/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns shared anonymous memory (MAP_SHARED | MAP_ANONYMOUS, and shared mappings of /dev/zero, which are the same). An object
 * is known by its inode, so that mappings of several tasks come back as one. The coordinator maps each, fills it from the
 * image, and opens it through /proc/self/map_files, so that the tasks' mappings show the same kind of object as
 * before: "/dev/zero (deleted)", not a memfd.
 *
 * Kernel interface: /proc/PID/map_files, which takes CAP_CHECKPOINT_RESTORE to open (5.9).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/fd.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "mem/mem.h"
#include "model/vma-status.h"
#include "proc/read.h"

/* An object of the image. */
struct shmem_plan {
	struct shmem_plan *next;
	uint64_t shmid;
	uint64_t bytes;
	int fd; /* -1 = not made yet; a source of the plan, which closes it */
};

static bool shmem_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_SHMEM_ANON;
}

static int shmem_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	int r = peers_refuse_mapping(view, err);
	return r < 0 ? r : fdcommon_check_map_files(view, err);
}

static int shmem_collect_vma(struct collect *c, struct snap_task *t, const struct vma_view *view,
			     struct snap_vma *vma, struct ferry_error *err)
{
	struct snap_shmem *shmem = NULL;
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
			.shmid = snapshot_next_shmid(c->snap),
			.path = arena_string(&c->snap->arena, path),
		};
		if (!shmem->path)
			return error_memory(err);
	}
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
	if (!shmem) {
		shmem = arena_new(&p->arena, struct shmem_plan);
		if (!shmem)
			return error_memory(err);
		*shmem = (struct shmem_plan){
			.next = p->kind_data[KIND_shmem], .shmid = entry->shmid, .fd = -1};
		p->kind_data[KIND_shmem] = shmem;
	}
	shmem->bytes = MAX(shmem->bytes, entry->pgoff + (entry->end - entry->start));
	return 0;
}

/* An object is as large as its mappings say. */
static int shmem_read(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		const MmEntry *mm = r->plan->tasks[i].mm;
		for (size_t n = 0; n < mm->n_vmas && ret >= 0; n++)
			if (kind_of_record(mm->vmas[n]) == &kind_shmem)
				ret = shmem_measure(r->plan, mm->vmas[n], err);
	}
	return ret;
}

static int shmem_make(struct reader *r, struct shmem_plan *shmem, struct ferry_error *err)
{
	char *at = mmap(NULL, shmem->bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return error_errno(err, FERRY_ERROR_NO_MEMORY, errno, "mapping %llu bytes of shared memory",
				   (unsigned long long)shmem->bytes);
	int ret = mem_fill_shmem(r->dir, shmem->shmid, shmem->bytes, at, err);
	if (ret >= 0) {
		shmem->fd = plan_keep_source(r->plan,
					     fd_openf(O_RDWR, "/proc/self/map_files/%lx-%lx",
						      (unsigned long)at, (unsigned long)at + shmem->bytes));
		if (shmem->fd < 0) {
			ret = error_errno(err, FERRY_ERROR_PERMISSION, -shmem->fd,
					  "opening shared memory in /proc/self/map_files");
			error_hint(err, "this takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN");
		}
	}
	munmap(at, shmem->bytes);
	return ret;
}

static int shmem_map(struct reader *r, struct plan_task *t, const VmaEntry *entry, struct vma_map *m,
		     struct ferry_error *err)
{
	struct shmem_plan *shmem = shmem_find(r->plan, entry->shmid);
	if (!shmem)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "shared memory %llu was not measured",
				 (unsigned long long)entry->shmid);
	int ret = shmem->fd < 0 ? shmem_make(r, shmem, err) : 0;
	if (ret < 0)
		return ret;
	m->fd = plan_temp_source(t, shmem->fd);
	return m->fd < 0 ? error_memory(err) : 0;
}

const struct kind_ops kind_shmem = {
	.name = "shmem",
	.what = "shared anonymous memory",
	.fd_type = -1,
	.image_file = -1,
	.owns_vma = shmem_owns_vma,
	.check_vma = shmem_check_vma,
	.collect_vma = shmem_collect_vma,
	.read = shmem_read,
	.owns_record = shmem_owns_record,
	.map = shmem_map,
};
