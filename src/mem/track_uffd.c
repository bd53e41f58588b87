/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns tracking by userfaultfd and PAGEMAP_SCAN: pages are protected from writes, the kernel takes the protection of a page away at
 * the first write, by itself, and a scan tells which pages have none any more.
 *
 * Kernel interface: userfaultfd(2) with UFFD_USER_MODE_ONLY (5.11) and UFFD_FEATURE_WP_ASYNC (6.7), PAGEMAP_SCAN with
 * PM_SCAN_WP_MATCHING and PM_SCAN_CHECK_WPASYNC (6.7). A userfaultfd needs nobody who reads it in this mode, and takes all
 * protection with it when it is closed.
 *
 * Only pages that are there are protected: protecting places without one fills the page tables, takes huge pages away from memory
 * that is written later, and makes every such place look swapped out.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/lanes.h"
#include "base/vec.h"
#include "kernel/syscalls.h"
#include "mem/track_way.h"

/*
 * UFFD_REGIONS: the kernel finds so many regions at a time. When more are asked for in one call it goes on, but says of its end only how
 * far the first of them reached; who begins again there gets regions twice, in no order, and arms what nobody is told of.
 */
enum {
	UFFD_REGIONS = 512,
	UFFD_PAGE = 4096,
	UFFD_HUGE = 2 << 20,
	UFFD_PARTS = 16,
	UFFD_PART_BYTES = 256 << 20, /* less is looked at while a thread would begin */
	UFFD_QUICK_BYTES = 4 << 20,  /* less is looked at in one go */
	UFFD_GAP_BYTES = 512 << 10,  /* are looked at in the time that a call takes */
	UFFD_SPAN_BYTES = 1 << 20,   /* spans as short as that on average are not looked at one by one */
};

static int uffd_make(struct ferry_inject *inject, struct ferry_thread *thread, pid_t look,
		     struct ferry_error *err)
{
	const uint64_t args[6] = {O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY};
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC};
	int64_t fd;
	int r = ferry_inject_call_fd(inject, thread, SYS_userfaultfd, args, &fd, err);
	if (r < 0)
		return r;
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, (int)-fd, "making a userfaultfd in pid %d", look);
	_cleanup_close_ int uffd = ferry_inject_get_fd(look, (int)fd, err);
	r = ferry_inject_call(inject, thread, SYS_close, (const uint64_t[6]){(uint64_t)fd}, NULL,
			      uffd < 0 ? NULL : err);
	if (uffd < 0 || r < 0)
		return uffd < 0 ? uffd : r;
	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		return error_errno(err, FERRY_ERROR_KERNEL_FEATURE, errno,
				   "dirty tracking by userfaultfd needs Linux 6.7");
	return take_fd(uffd);
}

/* Whether memory at an address is registered with a userfaultfd of this mode, ours or another. */
static bool uffd_is_registered(int pagemap, uint64_t address)
{
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_CHECK_WPASYNC,
		.start = address,
		.end = address + UFFD_PAGE,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	return sys_pagemap_scan(pagemap, &arg) >= 0;
}

/* Whether pages look protected. */
static int uffd_has_protected(int pagemap, const struct track_vma *vma)
{
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = vma->start,
		.end = vma->end,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.max_pages = 1,
		.category_inverted = PAGE_IS_WRITTEN,
		.category_mask = PAGE_IS_WRITTEN,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT,
	};
	for (; arg.start < vma->end; arg.start = arg.walk_end) {
		int n = sys_pagemap_scan(pagemap, &arg);
		if (n)
			return n;
		if (arg.walk_end <= arg.start)
			return -EIO;
	}
	return 0;
}

/*
 * Memory that is new to us may have marks of protection that protect nothing: before 6.13 mremap(2) takes them along. A page that has
 * one would never be armed.
 */
static int uffd_clear_marks(int uffd, int pagemap, const struct track_vma *vma)
{
	struct uffdio_writeprotect unprotect = {.range = {vma->start, vma->end - vma->start}};
	int r = uffd_has_protected(pagemap, vma);
	if (r > 0)
		r = sys_ret(ioctl(uffd, UFFDIO_WRITEPROTECT, &unprotect));
	return r;
}

/* Registering says ENOMEM also when the memory is gone; this call tells the two apart, and at worst takes a page's protection away. */
static bool uffd_is_gone(int uffd, uint64_t address)
{
	struct uffdio_writeprotect unprotect = {.range = {address, UFFD_PAGE}};
	return sys_ret(ioctl(uffd, UFFDIO_WRITEPROTECT, &unprotect)) == -ESRCH;
}

/* 1: it is ours, and was; 0: it was not. -EOPNOTSUPP: it cannot be. */
static int uffd_register(struct track_look *l, const struct track_vma *vma)
{
	struct uffdio_register reg = {.range = {vma->start, vma->end - vma->start},
				      .mode = UFFDIO_REGISTER_MODE_WP};
	bool known = uffd_is_registered(l->pagemap, vma->start);
	if (!known && !l->arm)
		return -EOPNOTSUPP;
	int r = sys_ret(ioctl(l->t->fd, UFFDIO_REGISTER, &reg));
	if (r == -ENOMEM && uffd_is_gone(l->t->fd, vma->start))
		return -ESRCH;
	if (r >= 0 && !known && uffd_clear_marks(l->t->fd, l->pagemap, vma) < 0)
		r = sys_ret(ioctl(l->t->fd, UFFDIO_UNREGISTER, &reg.range)) < 0 ? -ESRCH : -EOPNOTSUPP;
	l->t->watched += r == -EBUSY;
	/* EBUSY: somebody else has a userfaultfd there. ENOMEM: no further mapping is allowed. */
	return r >= 0 ? known : r == -ESRCH ? r : -EOPNOTSUPP;
}

/* A part of a mapping. */
struct uffd_span {
	uint64_t start, end;
};

/* Regions of a mapping that a scan tells. */
typedef VEC(struct page_region) uffd_regions;

static int uffd_push(uffd_regions *list, const struct page_region *region)
{
	struct page_region *slot = vec_push(list);
	if (!slot)
		return -ENOMEM;
	*slot = *region;
	return 0;
}

/*
 * Regions that match want. Whatever the result, *ret_end is how far the walk came: a call that fails may have armed pages that nobody
 * told of. It does where the mapping was replaced meanwhile by one that is not registered (EPERM).
 */
static int uffd_collect(struct track_look *l, const struct pm_scan_arg *want, uffd_regions *ret,
			uint64_t *ret_end)
{
	struct page_region regions[UFFD_REGIONS];
	struct pm_scan_arg arg = *want;
	arg.vec = (uintptr_t)regions;
	arg.vec_len = UFFD_REGIONS;
	for (*ret_end = arg.start; arg.start < arg.end; *ret_end = arg.start = arg.walk_end) {
		int n = sys_pagemap_scan(l->pagemap, &arg);
		for (int i = 0; i < n; i++) {
			if (uffd_push(ret, &regions[i]) < 0)
				return -ENOMEM;
		}
		/* The walk may end early, but not before what it has told. */
		if (n < 0 || arg.walk_end <= arg.start || (n && regions[n - 1].end > arg.walk_end))
			return n < 0 ? n : -EIO;
	}
	return 0;
}

/* What this kernel has for pages without contents of their own. */
static uint64_t uffd_empty(const struct track_look *l)
{
	return PAGE_IS_PFNZERO | (kern_has(l->t->caps, KERN_CAP_PAGEMAP_GUARD) ? PAGE_IS_GUARD : 0);
}

/* What is not there, or has no contents, and huge pages. A page that is swapped out is there. */
static int uffd_find_odd(struct track_look *l, const struct uffd_span *span, uffd_regions *ret)
{
	uint64_t empty = uffd_empty(l);
	const struct pm_scan_arg arg = {
		.flags = PM_SCAN_CHECK_WPASYNC,
		.start = span->start,
		.end = span->end,
		.category_inverted = PAGE_IS_PRESENT,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_HUGE | empty,
		.return_mask = PAGE_IS_SWAPPED | PAGE_IS_HUGE | empty,
	};
	uint64_t end;
	size_t kept = ret->n;
	int r = uffd_collect(l, &arg, ret, &end);
	for (size_t i = kept; i < ret->n; i++)
		if (ret->v[i].categories & (empty | PAGE_IS_HUGE) ||
		    !(ret->v[i].categories & PAGE_IS_SWAPPED))
			ret->v[kept++] = ret->v[i];
	ret->n = kept;
	return r;
}

/* What is dirty, and armed in the same go. Where the kernel does not tell of guard pages it does not mind that they are armed. */
static int uffd_find_dirty(struct track_look *l, const struct uffd_span *span, uffd_regions *ret,
			   uint64_t *ret_end)
{
	uint64_t empty = uffd_empty(l);
	const struct pm_scan_arg arg = {
		.flags = PM_SCAN_CHECK_WPASYNC | (l->arm ? PM_SCAN_WP_MATCHING : 0),
		.start = span->start,
		.end = span->end,
		.category_inverted = empty,
		.category_mask = PAGE_IS_WRITTEN | empty,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_WRITTEN | PAGE_IS_HUGE,
	};
	return uffd_collect(l, &arg, ret, ret_end);
}

/* Both in one scan, where nothing is armed and so the order does not matter. */
static int uffd_find_both(struct track_look *l, const struct uffd_span *span, uffd_regions *odd,
			  uffd_regions *dirty, uint64_t *ret_end)
{
	uint64_t empty = uffd_empty(l);
	const struct pm_scan_arg arg = {
		.flags = PM_SCAN_CHECK_WPASYNC,
		.start = span->start,
		.end = span->end,
		.category_inverted = PAGE_IS_PRESENT,
		.category_anyof_mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_HUGE | empty,
		.return_mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_HUGE | empty,
	};
	uffd_regions all = {0};
	int r = uffd_collect(l, &arg, &all, ret_end), pushed = 0;
	for (size_t i = 0; i < all.n && pushed >= 0; i++) {
		uint64_t is = all.v[i].categories;
		bool there = is & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED) && !(is & empty);
		if (there && is & PAGE_IS_WRITTEN)
			pushed = uffd_push(dirty, &all.v[i]);
		else if (!there || is & PAGE_IS_HUGE)
			pushed = uffd_push(odd, &all.v[i]);
	}
	vec_release(&all);
	return pushed < 0 ? pushed : r;
}

static uint64_t uffd_start(const uffd_regions *list, size_t *i, uint64_t at, uint64_t end)
{
	while (*i < list->n && list->v[*i].end <= at)
		(*i)++;
	return *i < list->n ? MIN(list->v[*i].start, end) : end;
}

/* Up to an address: what is dirty, else what is gone or huge, and the rest is clean. */
static int uffd_add(struct track_look *l, uint64_t at, uint64_t end, const uffd_regions *odd,
		    const uffd_regions *dirty)
{
	size_t o = 0, d = 0;
	int r = 0;
	for (uint64_t next; at < end && r >= 0; at = next) {
		uint64_t next_dirty = uffd_start(dirty, &d, at, end), next_odd = uffd_start(odd, &o, at, end);
		if (next_dirty <= at) {
			next = MIN(dirty->v[d].end, end);
			r = track_add(l, at, next,
				      TRACK_DIRTY | (dirty->v[d].categories & PAGE_IS_HUGE ? TRACK_HUGE : 0));
		} else if (next_odd > at) {
			next = MIN(next_odd, next_dirty);
			r = track_add(l, at, next, 0);
		} else {
			next = MIN(odd->v[o].end, next_dirty);
			if (!(odd->v[o].categories & uffd_empty(l)) && odd->v[o].categories & PAGE_IS_HUGE)
				r = track_add(l, at, next, TRACK_HUGE);
		}
	}
	return r;
}

/* ------------------------------------------------------------- what has to be looked at */

typedef VEC(struct uffd_span) uffd_spans;

/* Spans come in ascending order of their starts, and become one where looking at what is between them is less work than a call. */
static int uffd_add_span(uffd_spans *spans, uint64_t start, uint64_t end)
{
	struct uffd_span *last = spans->n ? &spans->v[spans->n - 1] : NULL;
	if (start >= end)
		return 0;
	if (last && start <= last->end + UFFD_GAP_BYTES) {
		last->end = MAX(last->end, end);
		return 0;
	}
	struct uffd_span *slot = vec_push(spans);
	if (!slot)
		return -ENOMEM;
	*slot = (struct uffd_span){start, end};
	return 0;
}

/* The first huge range of the last look that ends behind an address. */
static size_t uffd_first_huge(const mem_runs *huge, uint64_t address)
{
	size_t low = 0, high = huge->n / 2;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (huge->v[2 * middle + 1] <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return 2 * low;
}

/* Both lists are ascending. */
static int uffd_merge(const struct track_look *l, const struct uffd_span *all, const uffd_regions *written,
		      uffd_spans *ret)
{
	const mem_runs *huge = &l->t->huge;
	size_t h = uffd_first_huge(huge, all->start), w = 0;
	int r = 0;
	while (r >= 0) {
		bool more = h < huge->n && huge->v[h] < all->end;
		if (more && (w == written->n || huge->v[h] < written->v[w].start)) {
			r = uffd_add_span(ret, MAX(huge->v[h], all->start), MIN(huge->v[h + 1], all->end));
			h += 2;
		} else if (w < written->n) {
			r = uffd_add_span(ret, written->v[w].start, written->v[w].end);
			w++;
		} else {
			break;
		}
	}
	return r;
}

/*
 * A scan for what is not protected alone is more than twice as fast as any other, but finds also what is not there, and knows nothing
 * of huge pages. So what it does not find is clean, and of the rest only is asked what it is. Huge pages that are clean were huge when they
 * were armed: pages with a protection of their own are not made into a huge one.
 */
static int uffd_find_spans(struct track_look *l, const struct uffd_span *all, uffd_spans *ret,
			   uint64_t *ret_end)
{
	const struct pm_scan_arg arg = {
		.flags = PM_SCAN_CHECK_WPASYNC,
		.start = all->start,
		.end = all->end,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	uffd_regions written = {0};
	int r = uffd_collect(l, &arg, &written, ret_end);
	int merged = uffd_merge(l, &(struct uffd_span){all->start, *ret_end}, &written, ret);
	/* Not worth a call each. */
	if (merged >= 0 && ret->n > (all->end - all->start) / UFFD_SPAN_BYTES) {
		ret->n = 0;
		merged = uffd_add_span(ret, all->start, *ret_end);
	}
	vec_release(&written);
	return merged < 0 ? merged : r;
}

/* ------------------------------------------------------------- walking */

/* Whether what is behind a place where a scan ended has to be taken for dirty. */
static bool uffd_goes_on(int r)
{
	return r < 0 && r != -ESRCH && r != -ENOMEM;
}

/* A mapping in parts that several threads look at. */
struct uffd_parts {
	struct track_look *l;
	bool known; /* it was armed before, and what was huge then is known */
	uint64_t n;
	struct uffd_part {
		struct uffd_span all;
		uint64_t reached;
		uffd_regions odd, dirty;
		int result;
	} part[UFFD_PARTS];
};

/* Where nothing is armed the order does not matter, else what is not there is asked first: a page that comes meanwhile is dirty. */
static int uffd_look_at_span(struct track_look *l, struct uffd_part *part, const struct uffd_span *span)
{
	if (!l->arm)
		return uffd_find_both(l, span, &part->odd, &part->dirty, &part->reached);
	part->reached = span->start;
	int r = uffd_find_odd(l, span, &part->odd);
	/* Two scans that tell little are several times faster than one that tells of every page. */
	return r < 0 ? r : uffd_find_dirty(l, span, &part->dirty, &part->reached);
}

static int uffd_look_at_part(void *context, struct lanes *lanes, unsigned lane unused, uint64_t number)
{
	struct uffd_parts *p = context;
	struct uffd_part *part = &p->part[number];
	uffd_spans spans = {0};
	uint64_t end = part->all.end;
	int r = lanes_turn(lanes, number), looked = 0;
	if (r < 0)
		return r;
	/* Nobody waits for another. */
	lanes_next(lanes, number);
	if (p->known && part->all.end - part->all.start >= UFFD_QUICK_BYTES)
		r = uffd_find_spans(p->l, &part->all, &spans, &end);
	else
		r = uffd_add_span(&spans, part->all.start, end);
	for (size_t i = 0; i < spans.n && r != -ENOMEM && looked >= 0; i++)
		looked = uffd_look_at_span(p->l, part, &spans.v[i]);
	if (looked >= 0)
		part->reached = end;
	part->result = looked < 0 ? looked : r;
	vec_release(&spans);
	return 0;
}

/* While the tree runs, and needs the processors, there is one part only. */
static void uffd_split(struct uffd_parts *p, const struct track_vma *vma)
{
	uint64_t wanted = MAX(1, MIN(UFFD_PARTS, (vma->end - vma->start) / UFFD_PART_BYTES));
	if (p->l->arm)
		wanted = 1;
	uint64_t bytes = align_up((vma->end - vma->start) / wanted, UFFD_HUGE);
	for (uint64_t at = vma->start, end; at < vma->end; at = end) {
		end = p->n + 1 == wanted ? vma->end : MIN(vma->end, align_down(at + bytes, UFFD_HUGE));
		p->part[p->n++] = (struct uffd_part){.all = {at, end}, .reached = at};
	}
}

static int uffd_walk(struct track_look *l, const struct track_vma *vma, bool known)
{
	struct uffd_parts p = {.l = l, .known = known};
	uffd_split(&p, vma);
	int r = lanes_run(p.n > 1 ? lanes_wanted() : 1, p.n, uffd_look_at_part, &p);
	for (uint64_t i = 0; i < p.n; i++) {
		struct uffd_part *part = &p.part[i];
		bool failed = uffd_goes_on(part->result);
		if (r >= 0 && part->result < 0 && !failed)
			r = part->result;
		if (r >= 0)
			r = uffd_add(l, part->all.start, part->reached, &part->odd, &part->dirty);
		if (r >= 0 && failed)
			r = track_add_all(l, vma, part->reached, part->all.end);
		vec_release(&part->odd);
		vec_release(&part->dirty);
	}
	return r;
}

static int uffd_scan(struct track_look *l, const struct track_vma *vma)
{
	int r = uffd_register(l, vma);
	return r < 0 ? r : uffd_walk(l, vma, r && l->t->knows_huge);
}

const struct track_ops track_ops_uffd = {
	.word = "uffd",
	.needs = {KERN_CAP_UFFD_WP_ASYNC, KERN_CAP_PAGEMAP_SCAN},
	.n_needs = 2,
	.make = uffd_make,
	.scan = uffd_scan,
};
