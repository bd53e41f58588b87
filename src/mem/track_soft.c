/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns tracking by soft-dirty bits: all bits of a task are cleared at once, and a write to a page sets its own.
 *
 * Kernel interface: "4" to /proc/PID/clear_refs, bit 55 of the words of /proc/PID/pagemap (3.11, CONFIG_MEM_SOFT_DIRTY). A new
 * mapping has the bit everywhere, and so have pages that mremap(2) has moved.
 *
 * A page that was only read since it was dropped is the kernel's page of zeroes, and not dirty. Whether it is that one is asked of
 * /proc/kpageflags (bit 24, 4.0); who may not know counts it as dirty.
 *
 * Between reading bits and clearing them a write would go unnoticed, so threads stand still meanwhile.
 * Two who clear the bits of one task would each take them from the other, so whoever does holds a lock on the file (flock(2)).
 * Does not handle: one who clears the bits of the same task without that lock, or through another mount of /proc.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "mem/track_way.h"

enum { SOFT_WORDS = 4096, SOFT_PAGE = 4096 };

#define SOFT_DIRTY (1ull << 55)
#define SOFT_EXCLUSIVE (1ull << 56) /* mapped once; 4.2 */
#define SOFT_GUARD (1ull << 58)
#define SOFT_FILE (1ull << 61)
#define SOFT_SWAPPED (1ull << 62)
#define SOFT_PRESENT (1ull << 63)
#define SOFT_PLACE ((1ull << 55) - 1) /* page frame; 0 for who may not know */
#define SOFT_ZERO_PAGE (1ull << 24)   /* of kpageflags */

/* 1: it is the kernel's page of zeroes. -errno: that is not known. */
static int soft_is_zero(struct track_look *l, uint64_t frame)
{
	uint64_t flags;
	if (frame && frame == l->zero_frame)
		return 1;
	if (l->kpageflags < 0)
		l->kpageflags = fd_open(AT_FDCWD, "/proc/kpageflags", O_RDONLY, 0);
	int r = !frame ? -EPERM : l->kpageflags;
	if (r >= 0)
		r = fd_pread_all(l->kpageflags, &flags, sizeof(flags), frame * sizeof(flags));
	if (r >= 0 && flags & SOFT_ZERO_PAGE)
		l->zero_frame = frame;
	return r < 0 ? r : !!(flags & SOFT_ZERO_PAGE);
}

int track_add_words(struct track_look *l, const struct track_vma *vma, uint64_t start, const uint64_t *words,
		    size_t n)
{
	uint64_t unwanted = SOFT_GUARD | (vma->anonymous ? 0 : SOFT_FILE);
	int r = 0;
	for (size_t i = 0; i < n && r >= 0; i++, start += SOFT_PAGE) {
		uint64_t word = words[i];
		bool dirty = word & SOFT_DIRTY;
		if (!(word & (SOFT_PRESENT | SOFT_SWAPPED)) || word & unwanted)
			continue;
		int zero = 0;
		if (!dirty && word & SOFT_PRESENT && !(word & (SOFT_EXCLUSIVE | SOFT_FILE)))
			zero = soft_is_zero(l, word & SOFT_PLACE);
		if (zero <= 0)
			r = track_add(l, start, start + SOFT_PAGE, dirty || zero < 0 ? TRACK_DIRTY : 0);
	}
	return r;
}

static int soft_scan(struct track_look *l, const struct track_vma *vma)
{
	uint64_t words[SOFT_WORDS];
	int r = 0;
	for (uint64_t at = vma->start; at < vma->end && r >= 0;) {
		size_t n = MIN((vma->end - at) / SOFT_PAGE, (uint64_t)SOFT_WORDS);
		r = fd_pread_all(l->pagemap, words, n * sizeof(*words), at / SOFT_PAGE * sizeof(*words));
		if (r >= 0)
			r = track_add_words(l, vma, at, words, n);
		at += n * SOFT_PAGE;
	}
	return r;
}

static int soft_arm(struct track_look *l)
{
	return fd_write_all(l->t->fd, "4", 1);
}

static int soft_make(struct ferry_inject *inject unused, struct ferry_thread *thread unused, pid_t look,
		     struct ferry_error *err)
{
	_cleanup_close_ int fd = fd_openf(O_WRONLY, "/proc/%d/clear_refs", look);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening clear_refs of pid %d", look);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY,
							"a ferry-keeper of another image tracks pid %d", look)
					    : error_errno(err, FERRY_ERROR_SYSTEM, errno,
							  "locking clear_refs of pid %d", look);
	return take_fd(fd);
}

const struct track_ops track_ops_soft_dirty = {
	.word = "soft-dirty",
	.needs = {KERN_CAP_SOFT_DIRTY},
	.n_needs = 1,
	.wants_stop = true,
	.make = soft_make,
	.scan = soft_scan,
	.arm = soft_arm,
};
