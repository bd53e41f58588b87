/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns private memory made of huge pages (MAP_HUGETLB). It is mapped and filled like other private memory; the size of its
 * pages is in the record's flags, as mmap(2) wants it. Shared memory of huge pages is a memfd (memfd.c).
 *
 * Kernel interface: mmap(2) MAP_HUGETLB (2.6.32), with a size (3.8); /sys/kernel/mm/hugepages.
 */
#include "kind/hugetlb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kind/kinds.h"
#include "model/vma-status.h"
#include "proc/maps.h"

enum { HUGETLB_SHIFT_DEFAULT = 21 };

static bool hugetlb_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_HUGETLB_ANON && !view->vma->shared;
}

uint32_t hugetlb_size_flags(unsigned page_shift)
{
	return (page_shift ? page_shift : HUGETLB_SHIFT_DEFAULT) << MAP_HUGE_SHIFT;
}

static int hugetlb_collect_vma(struct collect *c unused, struct snap_task *t unused,
			       const struct vma_view *view, struct snap_vma *vma,
			       struct ferry_error *err unused)
{
	vma->entry->status |= VMA_STATUS_ANON_PRIVATE;
	vma->entry->flags |=
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | hugetlb_size_flags(view->vma->page_shift);
	vma->entry->pgoff = 0;
	return 0;
}

static bool hugetlb_owns_record(const VmaEntry *entry)
{
	return entry->status & VMA_STATUS_ANON_PRIVATE && entry->flags & MAP_HUGETLB;
}

/* A number of the pool of one size; false when the kernel does not tell. */
static bool hugetlb_number(unsigned shift, const char *name, uint64_t *ret)
{
	char text[32];
	_cleanup_close_ int fd = fd_openf(O_RDONLY, "/sys/kernel/mm/hugepages/hugepages-%llukB/%s",
					  (unsigned long long)1 << (shift - 10), name);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return false;
	text[n] = '\0';
	*ret = strtoull(text, NULL, 10);
	return true;
}

/* Pages of a size that can be had; all of them when the kernel does not tell. */
static uint64_t hugetlb_free(unsigned shift)
{
	uint64_t pool, reserved, allowed, surplus;
	if (!hugetlb_number(shift, "free_hugepages", &pool) ||
	    !hugetlb_number(shift, "resv_hugepages", &reserved) ||
	    !hugetlb_number(shift, "nr_overcommit_hugepages", &allowed) ||
	    !hugetlb_number(shift, "surplus_hugepages", &surplus))
		return UINT64_MAX;
	return pool - MIN(reserved, pool) + (allowed - MIN(surplus, allowed));
}

int hugetlb_check(uint32_t flags, uint64_t bytes, const char *what, struct ferry_error *err)
{
	unsigned shift = flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK;
	if (!shift)
		shift = HUGETLB_SHIFT_DEFAULT;
	uint64_t have = hugetlb_free(shift), want = bytes >> shift;
	if (have >= want)
		return 0;
	error_set(err, FERRY_ERROR_LIMIT, ENOMEM, "%s takes %llu huge pages of %llu kB, %llu are free", what,
		  (unsigned long long)want, (unsigned long long)1 << (shift - 10), (unsigned long long)have);
	error_hint(err, "reserve more: sysctl vm.nr_hugepages, or /sys/kernel/mm/hugepages");
	return -ENOMEM;
}

/* Before anything is created: each of the tasks' mappings by itself; a family may share what it did not write to. */
static int hugetlb_read(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		for (size_t n = 0; n < t->mm->n_vmas && ret >= 0; n++) {
			const VmaEntry *vma = t->mm->vmas[n];
			char what[64];
			if (!hugetlb_owns_record(vma) || vma->flags & MAP_NORESERVE)
				continue;
			snprintf(what, sizeof(what), "memory of pid %d at %llx", t->pid,
				 (unsigned long long)vma->start);
			ret = hugetlb_check(vma->flags, vma->end - vma->start, what, err);
		}
	}
	return ret;
}

static int hugetlb_map(struct reader *r unused, struct plan_task *t unused, const VmaEntry *entry unused,
		       struct vma_map *m unused, struct ferry_error *err unused)
{
	return 0;
}

const struct kind_ops kind_hugetlb = {
	.name = "hugetlb",
	.what = "private memory of huge pages",
	.fd_type = -1,
	.image_file = -1,
	.owns_vma = hugetlb_owns_vma,
	.collect_vma = hugetlb_collect_vma,
	.read = hugetlb_read,
	.owns_record = hugetlb_owns_record,
	.map = hugetlb_map,
};
