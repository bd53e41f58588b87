/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns shared anonymous memory. The coordinator maps each object, fills it from the image, and opens it through
 * /proc/self/map_files (CAP_CHECKPOINT_RESTORE), so that the tasks' mappings show the same kind of object as before:
 * "/dev/zero (deleted)", not a memfd.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "mem/mem.h"
#include "model/vma-status.h"
#include "restore/read.h"

static struct plan_shmem *shmem_find(struct plan *p, uint64_t shmid)
{
	vec_foreach(shmem, &p->shmems) {
		if (shmem->shmid == shmid)
			return shmem;
	}
	return NULL;
}

static int shmem_measure(struct plan *p, const VmaEntry *vma, struct ferry_error *err)
{
	struct plan_shmem *shmem = shmem_find(p, vma->shmid);
	if (!shmem) {
		shmem = vec_push(&p->shmems);
		if (!shmem)
			return error_memory(err);
		*shmem = (struct plan_shmem){.shmid = vma->shmid, .fd = -1};
	}
	shmem->bytes = MAX(shmem->bytes, vma->pgoff + (vma->end - vma->start));
	return 0;
}

static int shmem_create(struct reader *r, struct plan_shmem *shmem, struct ferry_error *err)
{
	char *at = mmap(NULL, shmem->bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return error_errno(err, FERRY_ERROR_NO_MEMORY, errno, "mapping %llu bytes of shared memory",
				   (unsigned long long)shmem->bytes);
	int ret = mem_fill_shmem(r->dir, shmem->shmid, shmem->bytes, at, err);
	if (ret >= 0) {
		shmem->fd = fd_openf(O_RDWR, "/proc/self/map_files/%lx-%lx", (unsigned long)at,
				     (unsigned long)at + shmem->bytes);
		if (shmem->fd < 0) {
			ret = error_errno(err, FERRY_ERROR_PERMISSION, -shmem->fd,
					  "opening shared memory in /proc/self/map_files");
			error_hint(err, "this takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN");
		}
	}
	munmap(at, shmem->bytes);
	return ret;
}

int plan_shmems(struct reader *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	int ret = 0;
	for (size_t i = 0; i < p->n_tasks && ret >= 0; i++)
		for (size_t n = 0; n < p->tasks[i].mm->n_vmas && ret >= 0; n++)
			if (p->tasks[i].mm->vmas[n]->status & VMA_STATUS_ANON_SHARED)
				ret = shmem_measure(p, p->tasks[i].mm->vmas[n], err);
	for (size_t i = 0; i < p->shmems.n && ret >= 0; i++)
		ret = shmem_create(r, &p->shmems.v[i], err);
	return ret;
}
