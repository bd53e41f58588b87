/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding the pages of a private mapping that are the task's own: PAGEMAP_SCAN (6.7) where the kernel has it, else
 * the words of /proc/PID/pagemap (bit 63 present, 62 swapped, 61 of a file or shared, 58 guard page, 56 nobody else's; 2.6.25, 3.5, 6.15, 4.2).
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "kernel/caps.h"
#include "kernel/uapi.h"
#include "mem/mem.h"

enum { FIND_REGIONS = 512, FIND_WORDS = 4096, FIND_FEW = 64, FIND_PAGE = 4096 };

/* What matches want, over a range. */
static int find_scan(int pagemap, const struct pm_scan_arg *want, mem_range_found *found, void *context)
{
	struct page_region regions[FIND_REGIONS];
	struct pm_scan_arg arg = *want;
	while (arg.start < arg.end) {
		arg.vec = (uint64_t)(uintptr_t)regions;
		arg.vec_len = FIND_REGIONS;
		int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++) {
			struct mem_range range = {regions[i].start, regions[i].end,
						  regions[i].categories & PAGE_IS_HUGE};
			int r = found(context, &range);
			if (r < 0)
				return r;
		}
		/* The scan may end early, at walk_end. */
		if (arg.walk_end <= arg.start)
			return -EIO;
		arg.start = arg.walk_end;
	}
	return 0;
}

/* Bits of a word of /proc/PID/pagemap. */
#define FIND_THERE (3ull << 62)
#define FIND_PRESENT (1ull << 63)
#define FIND_FILE (1ull << 61)
#define FIND_GUARD (1ull << 58)
#define FIND_WATCHED (1ull << 57)
#define FIND_EXCLUSIVE (1ull << 56)

/* Which words count. */
struct find_want {
	uint64_t mask, wanted; /* (word & mask) == wanted */
	uint64_t some;         /* and word & some, unless 0 */
};

static int find_words(int pagemap, uint64_t start, uint64_t end, const struct find_want *want,
		      mem_range_found *found, void *context)
{
	uint64_t words[FIND_WORDS];
	struct mem_range range = {0};
	int r = 0;
	while (start < end && r >= 0) {
		size_t n = MIN((end - start) / FIND_PAGE, (uint64_t)FIND_WORDS);
		r = fd_pread_all(pagemap, words, n * sizeof(*words), start / FIND_PAGE * sizeof(*words));
		for (size_t i = 0; i < n && r >= 0; i++, start += FIND_PAGE) {
			if ((words[i] & want->mask) != want->wanted ||
			    (want->some && !(words[i] & want->some)))
				continue;
			if (range.end == start) {
				range.end += FIND_PAGE;
				continue;
			}
			r = range.end ? found(context, &range) : 0;
			range = (struct mem_range){.start = start, .end = start + FIND_PAGE};
		}
	}
	return r >= 0 && range.end ? found(context, &range) : r;
}

int mem_find(int pagemap, const struct kern_caps *caps, uint64_t start, uint64_t end, unsigned flags,
	     mem_range_found *found, void *context)
{
	uint64_t unwanted = flags & MEM_FIND_ANONYMOUS ? PAGE_IS_PFNZERO : PAGE_IS_FILE;
	/* A guard page counts as swapped. */
	if (flags & MEM_FIND_NO_GUARDS)
		unwanted |= PAGE_IS_GUARD;
	const struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = end,
		.category_inverted = unwanted,
		.category_mask = unwanted,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_HUGE, /* neighbours that differ in it are runs of their own */
	};
	if (kern_has(caps, KERN_CAP_PAGEMAP_SCAN))
		return find_scan(pagemap, &arg, found, context);
	const struct find_want want = {.mask = FIND_GUARD | (flags & MEM_FIND_ANONYMOUS ? 0 : FIND_FILE),
				       .some = FIND_THERE};
	return find_words(pagemap, start, end, &want, found, context);
}

bool mem_is_common(int pagemap, uint64_t start, uint64_t end)
{
	uint64_t words[FIND_FEW];
	while (start < end) {
		size_t n = MIN((end - start) / FIND_PAGE, (uint64_t)FIND_FEW);
		/* What cannot be known is treated with care. */
		if (fd_pread_all(pagemap, words, n * sizeof(*words), start / FIND_PAGE * sizeof(*words)) < 0)
			return true;
		for (size_t i = 0; i < n; i++)
			if (words[i] & FIND_PRESENT && !(words[i] & FIND_EXCLUSIVE))
				return true;
		start += n * FIND_PAGE;
	}
	return false;
}

int mem_find_guards(int pagemap, const struct kern_caps *caps, uint64_t start, uint64_t end,
		    mem_range_found *found, void *context)
{
	const struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = end,
		.category_mask = PAGE_IS_GUARD,
		.return_mask = PAGE_IS_GUARD,
	};
	return kern_has(caps, KERN_CAP_PAGEMAP_GUARD) ? find_scan(pagemap, &arg, found, context)
						      : -EOPNOTSUPP;
}

int mem_find_guarded(int pagemap, uint64_t start, uint64_t end, bool there, mem_range_found *found,
		     void *context)
{
	const struct find_want want = {.mask = FIND_WATCHED | (there ? 0 : FIND_THERE),
				       .wanted = FIND_WATCHED,
				       .some = there ? FIND_THERE : 0};
	return find_words(pagemap, start, end, &want, found, context);
}
