/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns pagemap and pages files. A pagemap_entry says how many pages from vaddr on are stored (or where else they
 * are); the bytes of present entries stand in the pages file in the same order, without gaps or headers.
 */
#include "image/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "image/coverage.h"
#include "image/dir_private.h"
#include "image/proto/pagemap.pb-c.h"

/* ---- writing ---- */

struct image_pages_writer {
	struct image_writer *map;
	struct image_writer *pages;
	struct image_run run; /* not written yet, because a neighbour may join it; nr_pages 0 = none */
	uint64_t next;        /* lowest address that may come next */
	uint64_t written;     /* pages */
	uint32_t pages_id;
	enum image_kind kind;
	uint64_t id;
	struct image_coverage *coverage;         /* NULL: nobody asks */
	const struct image_pages_remote *remote; /* in place of both files; NULL */
};

int image_pages_create(struct image_dir *dir, enum image_kind kind, uint64_t id,
		       struct image_pages_writer **ret, struct ferry_error *err)
{
	_cleanup_free_ struct image_pages_writer *w = calloc(1, sizeof(*w));
	if (!w)
		return error_memory(err);
	uint32_t pages_id = w->pages_id = image_dir_next_pages_id(dir);
	w->kind = kind;
	w->id = id;
	w->coverage = dir->sent ?: dir->create.coverage;
	w->remote = dir->create.remote;
	int r = w->remote ? w->remote->begin(w->remote->context, dir, kind, id, err)
			  : image_create(dir, kind, id, &w->map, err);
	if (r < 0)
		return r;
	if (w->remote) {
		*ret = take_ptr(w);
		return 0;
	}
	PagemapHead head = PAGEMAP_HEAD__INIT;
	head.pages_id = pages_id;
	r = image_put(w->map, &head.base, err);
	if (r < 0)
		return r;
	r = image_create(dir, IMAGE_PAGES, pages_id, &w->pages, err);
	if (r < 0)
		return r;
	*ret = take_ptr(w);
	return 0;
}

static int put_run(struct image_pages_writer *w, struct ferry_error *err)
{
	if (!w->run.nr_pages)
		return 0;
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;
	entry.vaddr = w->run.vaddr;
	/* CRIU from 4.2 on reads nr_pages and wants the old field, which is required, to be 0 beside it. */
	entry.compat_nr_pages = 0;
	entry.has_nr_pages = 1;
	entry.nr_pages = w->run.nr_pages;
	entry.has_flags = 1;
	entry.flags = w->run.flags;
	w->run.nr_pages = 0;
	return image_put(w->map, &entry.base, err);
}

/* Whether a run may come next, and that it does. */
static int note_run(struct image_pages_writer *w, uint64_t vaddr, uint64_t nr_pages, uint32_t flags,
		    struct ferry_error *err)
{
	uint64_t bytes, end;
	if (vaddr % IMAGE_PAGE_BYTES || vaddr < w->next || !nr_pages ||
	    __builtin_mul_overflow(nr_pages, (uint64_t)IMAGE_PAGE_BYTES, &bytes) ||
	    __builtin_add_overflow(vaddr, bytes, &end))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
				 "pages at 0x%" PRIx64 " (%" PRIu64 ") are out of order or not aligned",
				 vaddr, nr_pages);
	w->next = end;
	if (w->coverage && flags & (IMAGE_PE_PRESENT | IMAGE_PE_PARENT) &&
	    image_coverage_add(w->coverage, w->kind, w->id, vaddr, end) < 0)
		return error_memory(err);
	return 0;
}

static int add_run(struct image_pages_writer *w, uint64_t vaddr, uint64_t nr_pages, uint32_t flags,
		   struct ferry_error *err)
{
	bool joins = w->run.nr_pages && w->run.flags == flags && w->next == vaddr;
	int r = note_run(w, vaddr, nr_pages, flags, err);
	if (r >= 0 && !joins) {
		r = put_run(w, err);
		w->run = (struct image_run){.vaddr = vaddr, .flags = flags};
	}
	w->run.nr_pages += r < 0 ? 0 : nr_pages;
	return r;
}

int image_pages_add(struct image_pages_writer *w, uint64_t vaddr, uint64_t nr_pages, uint32_t flags,
		    const struct iovec *iov, size_t n_iov, struct ferry_error *err)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < n_iov; i++)
		bytes += iov[i].iov_len;
	if (bytes != nr_pages * IMAGE_PAGE_BYTES)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
				 "%" PRIu64 " bytes are not %" PRIu64 " pages", bytes, nr_pages);
	int r = add_run(w, vaddr, nr_pages, flags | IMAGE_PE_PRESENT, err);
	if (r < 0)
		return r;
	w->written += nr_pages;
	return image_put_iov(w->pages, iov, n_iov, err);
}

static int pages_send(struct image_pages_writer *w, const struct image_run *runs, const struct iovec *iov,
		      size_t n, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < n && r >= 0; i++) {
		struct image_run run = runs[i];
		bool here = iov[i].iov_len;
		run.flags |= here ? IMAGE_PE_PRESENT : 0;
		w->written += here ? run.nr_pages : 0;
		r = note_run(w, run.vaddr, run.nr_pages, run.flags, err);
		if (r >= 0)
			r = w->remote->run(w->remote->context, &run, iov[i].iov_base, err);
	}
	return r;
}

int image_pages_reserve(struct image_pages_writer *w, const struct image_run *runs, const struct iovec *iov,
			size_t n, uint64_t *ret_offset, struct ferry_error *err)
{
	if (w->remote)
		return pages_send(w, runs, iov, n, err);
	for (size_t i = 0; i < n; i++) {
		/* Lazy pages may be left out, those of the parent are. */
		bool lazy = runs[i].flags & IMAGE_PE_LAZY;
		bool here = !(runs[i].flags & IMAGE_PE_PARENT) && (!lazy || iov[i].iov_len);
		if (iov[i].iov_len != (here ? runs[i].nr_pages * IMAGE_PAGE_BYTES : 0))
			return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
					 "%zu bytes are not %" PRIu64 " pages", iov[i].iov_len,
					 runs[i].nr_pages);
		int r = add_run(w, runs[i].vaddr, runs[i].nr_pages,
				runs[i].flags | (here ? IMAGE_PE_PRESENT : 0), err);
		if (r < 0)
			return r;
		w->written += here ? runs[i].nr_pages : 0;
	}
	return image_reserve(w->pages, iov, n, ret_offset, err);
}

int image_pages_store(const struct image_pages_writer *w, uint64_t offset, const struct iovec *iov, size_t n,
		      struct ferry_error *err)
{
	return w->remote ? 0 : image_store(w->pages, offset, iov, n, err);
}

static bool page_is_zero(const uint8_t *page)
{
	/* The first word decides for nearly every page that holds anything. */
	uint64_t word;
	memcpy(&word, page, sizeof(word));
	return !word && !memcmp(page, page + sizeof(word), IMAGE_PAGE_BYTES - sizeof(word));
}

size_t image_pages_split(const struct image_run *piece, bool sparse, const void *bytes,
			 struct image_run *ret_runs, struct iovec *ret_iov)
{
	const uint8_t *p = bytes;
	size_t n = 0;
	bool open = false;
	for (uint64_t i = 0; i < piece->nr_pages; i++, p += IMAGE_PAGE_BYTES) {
		if (sparse && page_is_zero(p)) {
			open = false;
			continue;
		}
		if (!open) {
			ret_runs[n] = (struct image_run){.vaddr = piece->vaddr + i * IMAGE_PAGE_BYTES,
							 .flags = piece->flags};
			ret_iov[n++] = (struct iovec){.iov_base = (void *)p};
		}
		open = true;
		ret_runs[n - 1].nr_pages++;
		ret_iov[n - 1].iov_len += IMAGE_PAGE_BYTES;
	}
	return n;
}

int image_pages_add_from(struct image_pages_writer *w, uint64_t vaddr, uint64_t nr_pages, uint32_t flags,
			 int fd, struct ferry_error *err)
{
	int r = add_run(w, vaddr, nr_pages, flags | IMAGE_PE_PRESENT, err);
	if (r < 0)
		return r;
	w->written += nr_pages;
	return image_put_from(w->pages, fd, nr_pages * IMAGE_PAGE_BYTES, err);
}

int image_pages_add_reference(struct image_pages_writer *w, uint64_t vaddr, uint64_t nr_pages, uint32_t flags,
			      struct ferry_error *err)
{
	if (flags & IMAGE_PE_PRESENT)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "a reference to pages cannot be present");
	if (w->remote)
		return pages_send(w,
				  &(struct image_run){.vaddr = vaddr, .nr_pages = nr_pages, .flags = flags},
				  &(struct iovec){0}, 1, err);
	return add_run(w, vaddr, nr_pages, flags, err);
}

uint64_t image_pages_written(const struct image_pages_writer *w)
{
	return w->written;
}

uint32_t image_pages_written_id(const struct image_pages_writer *w)
{
	return w->pages_id;
}

int image_pages_close(struct image_pages_writer *w, struct ferry_error *err)
{
	unused _cleanup_free_ struct image_pages_writer *owned = w;
	if (!w)
		return 0;
	if (w->remote)
		return 0;
	int r = put_run(w, err);
	int map = image_close(w->map, err);
	int pages = image_close(w->pages, err);
	return r < 0 ? r : map < 0 ? map : pages;
}

/* ---- reading ---- */

struct image_pages_reader {
	struct image_reader *map;
	struct image_reader *pages;
	uint32_t pages_id;
	uint64_t next;   /* end of the entry before */
	uint64_t offset; /* of the next present entry's bytes */
};

void image_pages_reader_free(struct image_pages_reader *r)
{
	if (!r)
		return;
	image_reader_free(r->map);
	image_reader_free(r->pages);
	free(r);
}

int image_pages_open(struct image_dir *dir, enum image_kind kind, uint64_t id,
		     struct image_pages_reader **ret, struct ferry_error *err)
{
	_cleanup_pages_reader_ struct image_pages_reader *r = calloc(1, sizeof(*r));
	_cleanup_message_ PagemapHead *head = NULL;
	if (!r)
		return error_memory(err);
	int ret_code = image_open(dir, kind, id, &r->map, err);
	if (ret_code == 0)
		ret_code = image_need(r->map, &pagemap_head__descriptor, &head, err);
	if (ret_code < 0)
		return ret_code;
	r->pages_id = head->pages_id;
	ret_code = image_open(dir, IMAGE_PAGES, r->pages_id, &r->pages, err);
	if (ret_code < 0)
		return ret_code;
	*ret = take_ptr(r);
	return 0;
}

static uint32_t entry_flags(const PagemapEntry *entry)
{
	if (entry->has_flags)
		return entry->flags;
	return entry->has_in_parent && entry->in_parent ? IMAGE_PE_PARENT : IMAGE_PE_PRESENT;
}

static int check_run(struct image_pages_reader *r, const struct image_run *run, uint64_t *ret_end,
		     struct ferry_error *err)
{
	uint64_t bytes, end;
	if (run->vaddr % IMAGE_PAGE_BYTES)
		return image_bad(r->map, err, "the entry before: address 0x%" PRIx64 " is not aligned",
				 run->vaddr);
	if (!run->nr_pages || __builtin_mul_overflow(run->nr_pages, (uint64_t)IMAGE_PAGE_BYTES, &bytes) ||
	    __builtin_add_overflow(run->vaddr, bytes, &end))
		return image_bad(r->map, err,
				 "the entry before: %" PRIu64 " pages at 0x%" PRIx64 " cannot be",
				 run->nr_pages, run->vaddr);
	if (run->vaddr < r->next)
		return image_bad(r->map, err,
				 "the entry before: address 0x%" PRIx64
				 " overlaps or precedes the end of the one before it, 0x%" PRIx64,
				 run->vaddr, r->next);
	if ((run->flags & IMAGE_PE_PARENT) && (run->flags & IMAGE_PE_PRESENT))
		return image_bad(r->map, err,
				 "the entry before: pages at 0x%" PRIx64 " are both here and in the parent",
				 run->vaddr);
	if (run->flags & IMAGE_PE_PRESENT) {
		uint64_t have = image_reader_offset(r->pages) + image_reader_left(r->pages);
		if (bytes > have - r->offset)
			return image_bad(r->pages, err,
					 "truncated: pages at 0x%" PRIx64 " need %" PRIu64
					 " bytes from %" PRIu64 " on, the file has %" PRIu64,
					 run->vaddr, bytes, r->offset, have);
	}
	*ret_end = end;
	return 0;
}

int image_pages_next(struct image_pages_reader *r, struct image_run *ret_run, struct ferry_error *err)
{
	_cleanup_message_ PagemapEntry *entry = NULL;
	int ret = image_get(r->map, &pagemap_entry__descriptor, &entry, err);
	if (ret < 0)
		return ret;
	if (ret == 0) {
		uint64_t have = image_reader_offset(r->pages) + image_reader_left(r->pages);
		if (r->offset != have)
			return image_bad(r->pages, err, "%" PRIu64 " bytes, but %s lists %" PRIu64, have,
					 image_reader_name(r->map), r->offset);
		return 0;
	}
	struct image_run run = {
		.vaddr = entry->vaddr,
		.nr_pages = entry->has_nr_pages ? entry->nr_pages : entry->compat_nr_pages,
		.flags = entry_flags(entry),
		.offset = r->offset,
	};
	uint64_t end = 0;
	ret = check_run(r, &run, &end, err);
	if (ret < 0)
		return ret;
	r->next = end;
	if (run.flags & IMAGE_PE_PRESENT)
		r->offset += run.nr_pages * IMAGE_PAGE_BYTES;
	*ret_run = run;
	return 1;
}

int image_pages_read_all(struct image_pages_reader *r, struct image_run **ret_runs, size_t *ret_n,
			 struct ferry_error *err)
{
	VEC(struct image_run) runs = {0};
	struct image_run run;
	int ret;
	while ((ret = image_pages_next(r, &run, err)) > 0) {
		struct image_run *slot = vec_push(&runs);
		if (!slot) {
			ret = error_memory(err);
			break;
		}
		*slot = run;
	}
	if (ret < 0) {
		vec_release(&runs);
		return ret;
	}
	*ret_runs = runs.v;
	*ret_n = runs.n;
	return 0;
}

int image_pages_read(struct image_pages_reader *r, const struct image_run *run, uint64_t first_page,
		     uint64_t nr_pages, void *bytes, struct ferry_error *err)
{
	if (!(run->flags & IMAGE_PE_PRESENT) || first_page > run->nr_pages ||
	    nr_pages > run->nr_pages - first_page)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "pages outside of the run at 0x%" PRIx64,
				 run->vaddr);
	int ret = fd_pread_all(image_reader_fd(r->pages), bytes, (size_t)(nr_pages * IMAGE_PAGE_BYTES),
			       run->offset + first_page * IMAGE_PAGE_BYTES);
	if (ret == -ENODATA)
		return image_bad(r->pages, err, "the file became shorter while it was read");
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -ret, "cannot read '%s'",
				   image_reader_name(r->pages));
	return 0;
}

int image_pages_fd(const struct image_pages_reader *r)
{
	return image_reader_fd(r->pages);
}

uint32_t image_pages_id(const struct image_pages_reader *r)
{
	return r->pages_id;
}
