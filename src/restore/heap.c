/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what the forks of a tree pay for the coordinator's heap, in which the plan of all tasks lies. Anonymous memory costs each
 * fork an entry of the page tables for every page, and its end another one, so that a tree would cost the square of its size. A
 * private mapping of a file that nobody has written to is copied by nobody: forks find its pages when they touch them. So everything
 * that is allocated for a plan comes from the heap, large arrays, too.
 *
 * Kernel interface: memfd_create(2) (3.17), mmap(2) MAP_FIXED over what brk(2) has made; mallopt(3).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "proc/read.h"
#include "restore/restore.h"

/* With fewer, copying the heap once costs more than it saves. */
enum { HEAP_TASKS = 8, HEAP_PAD_BYTES = 1 << 20 };

void heap_keep_whole(void)
{
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_MAX, 0);
	mallopt(M_TRIM_THRESHOLD, INT_MAX);
	mallopt(M_TOP_PAD, HEAP_PAD_BYTES);
}

/* What was there when we were forked ourselves is a mapping of its own, which stays: who makes others may write there. */
static int heap_find(uint64_t *ret_start, struct ferry_error *err)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	int r = proc_read_own_maps(&maps, err);
	if (r < 0)
		return r;
	const struct proc_vma *vma = proc_maps_find(&maps, (uint64_t)(uintptr_t)sbrk(0) - 1);
	*ret_start = vma && vma->kind == PROC_VMA_HEAP ? vma->start : 0;
	return 0;
}

int heap_share(const struct restore *r, struct ferry_error *err)
{
	uint64_t start = 0;
	if (r->plan->family.members.n < HEAP_TASKS)
		return 0;
	int ret = heap_find(&start, err);
	if (ret < 0 || !start)
		return ret;
	_cleanup_close_ int file = memfd_create("ferry-heap", MFD_CLOEXEC);
	void *from = (void *)(uintptr_t)start;
	/* From here on nothing may be allocated. */
	size_t bytes = (uint64_t)(uintptr_t)sbrk(0) - start;
	ret = file < 0 ? -errno : fd_write_all(file, from, bytes);
	if (ret >= 0 &&
	    mmap(from, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == MAP_FAILED)
		ret = -errno;
	return ret < 0 ? error_errno(err, FERRY_ERROR_NO_MEMORY, -ret, "sharing %zu bytes with the tasks",
				     bytes)
		       : 0;
}
