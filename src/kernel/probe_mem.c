/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the probes about memory: pagemap, userfaultfd, mapping flags. They try on a page of their own. */
#include <linux/capability.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "kernel/probe.h"
#include "kernel/syscalls.h"

enum { CAP_CHECKPOINT_RESTORE_ = 40, PAGEMAP_SOFT_DIRTY_BIT = 55 };

static size_t page_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* One written anonymous page, or NULL. */
static char *page_new(int map_type)
{
	char *page = mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, map_type | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return NULL;
	*(volatile char *)page = 1;
	return page;
}

static void page_free(char *page)
{
	if (page)
		munmap(page, page_bytes());
}

static void cleanup_page_p(char **page)
{
	page_free(*page);
}

#define _cleanup_page_ _cleanup_(cleanup_page_p)

enum kern_cap_state kern_probe_mm_map(unused struct kern_caps *caps, int *ret_reason)
{
	unsigned size;
	return probe_verdict(sys_ret(prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0)), ret_reason);
}

static enum kern_cap_state probe_scan(uint64_t categories, int *ret_reason)
{
	_cleanup_close_ int fd = fd_open(AT_FDCWD, "/proc/self/pagemap", O_RDONLY, 0);
	if (fd < 0)
		return probe_verdict(fd, ret_reason);
	struct page_region region;
	uintptr_t page = (uintptr_t)&region & ~((uintptr_t)page_bytes() - 1);
	struct pm_scan_arg arg = {
		.start = page,
		.end = page + page_bytes(),
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_anyof_mask = categories,
		.return_mask = categories,
	};
	return probe_verdict(sys_pagemap_scan(fd, &arg), ret_reason);
}

enum kern_cap_state kern_probe_pagemap_scan(struct kern_caps *caps, int *ret_reason)
{
	/* Who scans for guard pages, which came later, scans for others. */
	if (kern_caps_probe(caps, KERN_CAP_PAGEMAP_GUARD) == KERN_PRESENT)
		return KERN_PRESENT;
	return probe_scan(PAGE_IS_PRESENT | PAGE_IS_SWAPPED, ret_reason);
}

enum kern_cap_state kern_probe_pagemap_guard(unused struct kern_caps *caps, int *ret_reason)
{
	return probe_scan(PAGE_IS_PRESENT | PAGE_IS_GUARD, ret_reason);
}

enum kern_cap_state kern_probe_procmap_query(unused struct kern_caps *caps, int *ret_reason)
{
	struct procmap_query query = {.query_addr = (uintptr_t)&query};
	_cleanup_close_ int fd = fd_open(AT_FDCWD, "/proc/self/maps", O_RDONLY, 0);
	if (fd < 0)
		return probe_verdict(fd, ret_reason);
	return probe_verdict(sys_procmap_query(fd, &query), ret_reason);
}

enum kern_cap_state kern_probe_map_files(unused struct kern_caps *caps, int *ret_reason)
{
	enum kern_cap_state state = probe_verdict(sys_ret(access("/proc/self/map_files", F_OK)), ret_reason);
	return probe_privilege(state, CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE_, ret_reason);
}

/* Fill caps->uffd_*; 0 or -errno. */
static int uffd_ask(struct kern_caps *caps)
{
	struct uffdio_api api = {.api = UFFD_API};
	_cleanup_close_ int fd = sys_userfaultfd(O_CLOEXEC | O_NONBLOCK);
	caps->uffd_user_mode_only = false;
	if (fd == -EPERM) {
		fd = sys_userfaultfd(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
		caps->uffd_user_mode_only = fd >= 0;
	}
	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	caps->uffd_features = api.features;
	caps->uffd_ioctls = api.ioctls;
	return 0;
}

enum kern_cap_state kern_probe_uffd(struct kern_caps *caps, int *ret_reason)
{
	return probe_verdict(uffd_ask(caps), ret_reason);
}

static enum kern_cap_state probe_uffd_feature(struct kern_caps *caps, uint64_t feature, int *ret_reason)
{
	enum kern_cap_state state = kern_caps_probe(caps, KERN_CAP_UFFD);
	if (state != KERN_PRESENT) {
		*ret_reason = caps->reason[KERN_CAP_UFFD];
		return state;
	}
	return caps->uffd_features & feature ? KERN_PRESENT : KERN_ABSENT;
}

enum kern_cap_state kern_probe_uffd_wp(struct kern_caps *caps, int *ret_reason)
{
	return probe_uffd_feature(caps, UFFD_FEATURE_PAGEFAULT_FLAG_WP, ret_reason);
}

enum kern_cap_state kern_probe_uffd_wp_shmem(struct kern_caps *caps, int *ret_reason)
{
	return probe_uffd_feature(caps, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, ret_reason);
}

enum kern_cap_state kern_probe_uffd_wp_async(struct kern_caps *caps, int *ret_reason)
{
	return probe_uffd_feature(caps, UFFD_FEATURE_WP_ASYNC, ret_reason);
}

enum kern_cap_state kern_probe_uffd_move(struct kern_caps *caps, int *ret_reason)
{
	return probe_uffd_feature(caps, UFFD_FEATURE_MOVE, ret_reason);
}

enum kern_cap_state kern_probe_soft_dirty(unused struct kern_caps *caps, int *ret_reason)
{
	uint64_t entry;
	_cleanup_page_ char *page = page_new(MAP_PRIVATE);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, "/proc/self/pagemap", O_RDONLY, 0);
	if (!page || fd < 0)
		return probe_verdict(page ? fd : -ENOMEM, ret_reason);
	int r = fd_pread_all(fd, &entry, sizeof(entry), (uintptr_t)page / page_bytes() * sizeof(entry));
	if (r < 0)
		return probe_verdict(r, ret_reason);
	/* a page that was just written reads as dirty wherever the kernel keeps the bit at all */
	return entry >> PAGEMAP_SOFT_DIRTY_BIT & 1 ? KERN_PRESENT : KERN_ABSENT;
}

enum kern_cap_state kern_probe_guard_pages(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_page_ char *page = page_new(MAP_PRIVATE);
	if (!page)
		return probe_verdict(-ENOMEM, ret_reason);
	return probe_verdict(sys_ret(madvise(page, page_bytes(), MADV_GUARD_INSTALL)), ret_reason);
}

enum kern_cap_state kern_probe_map_droppable(unused struct kern_caps *caps, int *ret_reason)
{
	errno = 0;
	_cleanup_page_ char *page = page_new(MAP_DROPPABLE);
	return probe_verdict(page ? 0 : -errno, ret_reason);
}

enum kern_cap_state kern_probe_mseal(unused struct kern_caps *caps, int *ret_reason)
{
	/* an empty range seals nothing */
	return probe_verdict(sys_mseal(NULL, 0), ret_reason);
}

enum kern_cap_state kern_probe_anon_vma_name(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_page_ char *page = page_new(MAP_PRIVATE);
	if (!page)
		return probe_verdict(-ENOMEM, ret_reason);
	long r = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, page, page_bytes(), "probe");
	return probe_verdict(sys_ret(r), ret_reason);
}

enum kern_cap_state kern_probe_memfd_secret(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_close_ int fd = sys_memfd_secret(O_CLOEXEC);
	return probe_verdict(fd, ret_reason);
}

enum kern_cap_state kern_probe_shadow_stack(unused struct kern_caps *caps, int *ret_reason)
{
	long addr = sys_map_shadow_stack(0, page_bytes(), 0);
	if (addr > 0)
		munmap((void *)addr, page_bytes());
	return probe_verdict(addr, ret_reason);
}
