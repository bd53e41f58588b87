/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns which pages of older images nobody needs any more, and taking them out.
 *
 * The mark comes first and is on the disk before the first hole. It names the image for whose sake pages were taken out: a chain
 * holds all that it needs if it leads through that one.
 *
 * Kernel interface: fallocate(2) FALLOC_FL_PUNCH_HOLE (2.6.38; tmpfs 3.5).
 */
#include "image/dedup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/vec.h"
#include "image/dir_private.h"
#include "image/memory.h"
#include "image/pages.h"

/* Bytes of a pages file. */
struct dedup_range {
	const struct image_dir *dir;
	uint32_t pages_id;
	uint64_t start, end;
};

typedef VEC(struct dedup_range) dedup_ranges;

struct dedup {
	struct image_dir *dir;
	const struct fault *fault;
	struct ferry_error *err;
	dedup_ranges again;  /* what dir has again */
	dedup_ranges needed; /* what references of dir's lead to, in older images */
	struct image_dedup done;
};

static int dedup_add(struct dedup *d, dedup_ranges *to, const struct dedup_range *add)
{
	struct dedup_range *range = vec_push(to);
	if (!range)
		return error_memory(d->err);
	*range = *add;
	return 0;
}

/* ---- finding ---- */

/* What a pagemap of an older image has of the runs of the youngest. Both ascend. */
static int dedup_compare_pagemaps(struct dedup *d, const struct image_run *runs, size_t n,
				  struct image_dir *dir, struct image_pages_reader *theirs)
{
	struct image_run run;
	size_t at = 0;
	int r;
	while ((r = image_pages_next(theirs, &run, d->err)) > 0) {
		uint64_t end = run.vaddr + run.nr_pages * IMAGE_PAGE_BYTES;
		while (at < n && runs[at].vaddr + runs[at].nr_pages * IMAGE_PAGE_BYTES <= run.vaddr)
			at++;
		for (size_t i = at; i < n && runs[i].vaddr < end && run.flags & IMAGE_PE_PRESENT; i++) {
			uint64_t ours_end = runs[i].vaddr + runs[i].nr_pages * IMAGE_PAGE_BYTES;
			uint64_t from = MAX(runs[i].vaddr, run.vaddr), to = MIN(ours_end, end);
			if (!(runs[i].flags & IMAGE_PE_PRESENT))
				continue;
			r = dedup_add(d, &d->again,
				      &(struct dedup_range){dir, image_pages_id(theirs),
							    run.offset + (from - run.vaddr),
							    run.offset + (to - run.vaddr)});
			if (r < 0)
				return r;
		}
	}
	return r;
}

/* Candidates: what all older images have where the youngest has pages of its own. */
static int dedup_find_again(struct dedup *d, enum image_kind kind, uint64_t id)
{
	_cleanup_pages_reader_ struct image_pages_reader *ours = NULL;
	_cleanup_free_ struct image_run *runs = NULL;
	size_t n = 0;
	int r = image_pages_open(d->dir, kind, id, &ours, d->err);
	if (r >= 0)
		r = image_pages_read_all(ours, &runs, &n, d->err);
	if (r < 0)
		return r;
	/* These bytes are the only ones soon. */
	if (fsync(image_pages_fd(ours)) < 0)
		return error_errno(d->err, FERRY_ERROR_SYSTEM, errno, "syncing pages-%u.img in '%s'",
				   image_pages_id(ours), d->dir->path);
	for (struct image_dir *dir = d->dir->parent; dir && r >= 0; dir = dir->parent) {
		_cleanup_pages_reader_ struct image_pages_reader *theirs = NULL;
		if (!image_dir_has(dir, kind, id))
			continue;
		r = image_pages_open(dir, kind, id, &theirs, d->err);
		if (r >= 0)
			r = dedup_compare_pagemaps(d, runs, n, dir, theirs);
	}
	return r;
}

/* What is needed of older images: that of a family may be found under another number there. */
static int dedup_find_needed(struct dedup *d, enum image_kind kind, uint64_t id)
{
	_cleanup_image_memory_ struct image_memory *m = NULL;
	struct image_piece piece;
	int r = image_memory_open(d->dir, kind, id, &m, d->err);
	while (r >= 0 && (r = image_memory_next(m, &piece, d->err)) > 0)
		if (piece.source->dir != d->dir)
			r = dedup_add(
				d, &d->needed,
				&(struct dedup_range){piece.source->dir, piece.source->pages_id, piece.offset,
						      piece.offset + piece.nr_pages * IMAGE_PAGE_BYTES});
	return r;
}

static int dedup_find(struct dedup *d)
{
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n = 0;
	int r = image_dir_list(d->dir, &files, &n, d->err);
	for (size_t i = 0; i < n && r >= 0; i++) {
		if (files[i].kind != IMAGE_PAGEMAP && files[i].kind != IMAGE_SHMEM_PAGEMAP)
			continue;
		r = dedup_find_again(d, files[i].kind, files[i].id);
		if (r >= 0)
			r = dedup_find_needed(d, files[i].kind, files[i].id);
	}
	return r;
}

static int dedup_order(const void *a, const void *b)
{
	const struct dedup_range *x = a, *y = b;
	if (x->dir != y->dir)
		return x->dir < y->dir ? -1 : 1;
	if (x->pages_id != y->pages_id)
		return x->pages_id < y->pages_id ? -1 : 1;
	return x->start < y->start ? -1 : x->start > y->start;
}

static void dedup_sort(dedup_ranges *ranges)
{
	if (ranges->n)
		qsort(ranges->v, ranges->n, sizeof(*ranges->v), dedup_order);
}

/* ---- taking out ---- */

/* A file that stands in other directories, too, belongs to other images. */
static int dedup_open_pages(const struct image_dir *dir, const char *name, int *ret_fd,
			    struct ferry_error *err)
{
	struct stat st;
	_cleanup_close_ int fd = fd_open(dir->fd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, fd < 0 ? -fd : errno, "opening '%s' in '%s'",
				   name, dir->path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "'%s' in '%s' is no regular file", name,
				 dir->path);
	if (st.st_nlink > 1)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, EPERM,
				 "'%s' in '%s' has %lu links: other images may need its pages", name,
				 dir->path, (unsigned long)st.st_nlink);
	*ret_fd = take_fd(fd);
	return 0;
}

static uint64_t dedup_disk_bytes(int fd)
{
	struct stat st;
	return fstat(fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

static int dedup_punch(struct dedup *d, const struct image_dir *dir, int fd, uint64_t start, uint64_t end)
{
	if (start >= end)
		return 0;
	fault_effect(d->fault, "dedup", "punch");
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start, (off_t)(end - start)) ==
	    0)
		return 0;
	return error_errno(d->err, FERRY_ERROR_SYSTEM, errno, "taking pages out of the image in '%s'",
			   dir->path);
}

/* Ranges of one file, without what is needed. */
static int dedup_file(struct dedup *d, size_t first, size_t n, size_t *needed)
{
	const struct dedup_range *range = &d->again.v[first];
	_cleanup_close_ int fd = -1;
	char name[IMAGE_NAME_MAX];
	image_file_name(IMAGE_PAGES, range->pages_id, name);
	int r = dedup_open_pages(range->dir, name, &fd, d->err);
	uint64_t before = r < 0 ? 0 : dedup_disk_bytes(fd);
	for (size_t i = 0; i < n && r >= 0; i++, range++) {
		uint64_t at = range->start;
		/* What lies before this range lies before all that follow. */
		while (*needed < d->needed.n && dedup_order(&d->needed.v[*needed], range) < 0 &&
		       (d->needed.v[*needed].dir != range->dir ||
			d->needed.v[*needed].pages_id != range->pages_id ||
			d->needed.v[*needed].end <= range->start))
			++*needed;
		for (size_t k = *needed; k < d->needed.n && r >= 0; k++) {
			const struct dedup_range *keep = &d->needed.v[k];
			if (keep->dir != range->dir || keep->pages_id != range->pages_id ||
			    keep->start >= range->end)
				break;
			r = dedup_punch(d, range->dir, fd, at, MIN(keep->start, range->end));
			at = MAX(at, keep->end);
		}
		if (r >= 0)
			r = dedup_punch(d, range->dir, fd, at, range->end);
	}
	uint64_t after = r < 0 ? before : dedup_disk_bytes(fd);
	d->done.bytes += before > after ? before - after : 0;
	return r;
}

static int dedup_take_out(struct dedup *d)
{
	const struct image_dir *marked = NULL;
	size_t needed = 0;
	int r = 0;
	dedup_sort(&d->again);
	dedup_sort(&d->needed);
	for (size_t i = 0, n; i < d->again.n && r >= 0; i += n) {
		const struct dedup_range *range = &d->again.v[i];
		for (n = 1; i + n < d->again.n && d->again.v[i + n].dir == range->dir &&
			    d->again.v[i + n].pages_id == range->pages_id;)
			n++;
		if (range->dir != marked) {
			fault_effect(d->fault, "dedup", "mark");
			r = image_dir_mark_punched(range->dir, d->dir, d->err);
			d->done.images++;
		}
		marked = range->dir;
		if (r >= 0)
			r = dedup_file(d, i, n, &needed);
	}
	return r;
}

static int dedup_do(struct dedup *d, int (*find)(struct dedup *d), struct image_dedup *ret)
{
	struct image_dir *parent = d->dir;
	int r = image_dir_check_whole(d->dir, d->err);
	while (r >= 0 && parent)
		r = image_dir_parent(parent, &parent, d->err);
	if (r >= 0)
		r = find(d);
	if (r >= 0)
		r = dedup_take_out(d);
	vec_release(&d->again);
	vec_release(&d->needed);
	if (r >= 0)
		*ret = d->done;
	return r < 0 ? r : 0;
}

int image_dedup(struct image_dir *dir, const struct fault *fault, struct image_dedup *ret,
		struct ferry_error *err)
{
	struct dedup d = {.dir = dir, .fault = fault, .err = err};
	return dedup_do(&d, dedup_find, ret);
}

/* All pages of an image, needed or not. */
static int dedup_add_all(struct dedup *d, struct image_dir *dir)
{
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n = 0;
	int r = image_dir_list(dir, &files, &n, d->err);
	for (size_t i = 0; i < n && r >= 0; i++)
		if (files[i].kind == IMAGE_PAGES && files[i].size)
			r = dedup_add(d, &d->again,
				      &(struct dedup_range){dir, (uint32_t)files[i].id, 0, files[i].size});
	return r;
}

static int dedup_find_unneeded(struct dedup *d)
{
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n = 0;
	int r = image_dir_list(d->dir, &files, &n, d->err);
	for (size_t i = 0; i < n && r >= 0; i++)
		if (files[i].kind == IMAGE_PAGEMAP || files[i].kind == IMAGE_SHMEM_PAGEMAP)
			r = dedup_find_needed(d, files[i].kind, files[i].id);
	for (struct image_dir *dir = d->dir->parent; dir && r >= 0; dir = dir->parent) {
		fault_effect(d->fault, "dedup", "mark");
		r = image_dir_mark_punched(dir, d->dir, d->err);
		if (r >= 0)
			r = dedup_add_all(d, dir);
	}
	return r;
}

int image_dedup_unneeded(struct image_dir *dir, const struct fault *fault, struct image_dedup *ret,
			 struct ferry_error *err)
{
	struct dedup d = {.dir = dir, .fault = fault, .err = err};
	return dedup_do(&d, dedup_find_unneeded, ret);
}

static int dedup_empty(struct dedup *d, const struct image_dir *dir, const struct image_dir_file *file)
{
	_cleanup_close_ int fd = -1;
	char name[IMAGE_NAME_MAX];
	image_file_name(IMAGE_PAGES, file->id, name);
	int r = dedup_open_pages(dir, name, &fd, d->err);
	uint64_t before = r < 0 ? 0 : dedup_disk_bytes(fd);
	if (r >= 0)
		r = dedup_punch(d, dir, fd, 0, file->size);
	if (r >= 0)
		d->done.bytes += before - MIN(before, dedup_disk_bytes(fd));
	return r;
}

int image_dedup_all(struct image_dir *dir, const struct fault *fault, struct image_dedup *ret,
		    struct ferry_error *err)
{
	struct dedup d = {.dir = dir, .fault = fault, .err = err};
	int r = 0;
	for (; dir && r >= 0; dir = dir->parent) {
		_cleanup_free_ struct image_dir_file *files = NULL;
		size_t n = 0;
		fault_effect(fault, "dedup", "mark");
		r = image_dir_mark_punched(dir, NULL, err);
		if (r >= 0)
			r = image_dir_list(dir, &files, &n, err);
		for (size_t i = 0; i < n && r >= 0; i++)
			if (files[i].kind == IMAGE_PAGES)
				r = dedup_empty(&d, dir, &files[i]);
		d.done.images++;
	}
	if (r >= 0)
		*ret = d.done;
	return r < 0 ? r : 0;
}
