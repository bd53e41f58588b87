/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages: a pagemap file lists runs of pages in ascending order, a pages file holds the bytes of those that are
 * present, back to back. Each pagemap (of a task, or of a shared object) has a pages file of its own.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/dir.h"
#include "image/file.h"

#define IMAGE_PAGE_BYTES 4096u

enum image_page_flags {
	IMAGE_PE_PARENT = 1 << 0,  /* the bytes are in the parent image */
	IMAGE_PE_LAZY = 1 << 1,    /* may be brought in after the restore */
	IMAGE_PE_PRESENT = 1 << 2, /* the bytes are in this image */
};

struct image_run {
	uint64_t vaddr; /* address, or offset within the shared object; a multiple of the page size */
	uint64_t nr_pages;
	uint32_t flags;  /* enum image_page_flags */
	uint64_t offset; /* of the first byte in the pages file; only with IMAGE_PE_PRESENT */
};

struct image_coverage;

/*
 * Takes pagemaps and pages in place of files (see struct image_dir_create), those of image_pages_reserve() and
 * image_pages_add_reference(). Calls come one at a time, runs in ascending order.
 */
struct image_pages_remote {
	/* Before the first memory of an image that builds on another one: what that has, and its id; 0, 0: it has none. */
	int (*builds_on)(void *context, const struct image_coverage *covered, uint64_t id_hi, uint64_t id_lo,
			 struct ferry_error *err);
	int (*begin)(void *context, const struct image_dir *dir, enum image_kind kind, uint64_t id,
		     struct ferry_error *err);
	/* Pages of the memory that was begun last; bytes is NULL without IMAGE_PE_PRESENT. */
	int (*run)(void *context, const struct image_run *run, const void *bytes, struct ferry_error *err);
	/* That was all; 0: the other side has stored it. */
	int (*end)(void *context, struct ferry_error *err);
	void *context;
};

struct image_pages_writer;
struct image_pages_reader;

/* kind is IMAGE_PAGEMAP (id: PID) or IMAGE_SHMEM_PAGEMAP (id: shmid). Owned by dir as an image_writer is. */
must_check int image_pages_create(struct image_dir *dir, enum image_kind kind, uint64_t id,
				  struct image_pages_writer **ret, struct ferry_error *err);

/*
 * Store a run: the bytes of iov are nr_pages pages. Runs come in ascending order without overlap; neighbours
 * with the same flags become one entry. flags beside IMAGE_PE_PRESENT, which is implied: IMAGE_PE_LAZY or 0.
 */
must_check int image_pages_add(struct image_pages_writer *w, uint64_t vaddr, uint64_t nr_pages,
			       uint32_t flags, const struct iovec *iov, size_t n_iov,
			       struct ferry_error *err);

/*
 * As image_pages_add, in two steps for several threads, as image_reserve() and image_store() are. n runs (offset is not looked at), the bytes
 * of runs[i] in iov[i]; *ret_offset is where they go together. Runs whose iov[i] is empty are references, as image_pages_add_reference()
 * takes them.
 */
must_check int image_pages_reserve(struct image_pages_writer *w, const struct image_run *runs,
				   const struct iovec *iov, size_t n, uint64_t *ret_offset,
				   struct ferry_error *err);
must_check int image_pages_store(const struct image_pages_writer *w, uint64_t offset, const struct iovec *iov,
				 size_t n, struct ferry_error *err);

/*
 * The runs that image_pages_reserve() takes, from pages that lie one after the other at bytes; piece says which they are, and its
 * flags. sparse: pages full of zeros are left out: what no entry names is zero in anonymous and shared memory, but in private
 * file mappings it is as the file has it. There is room for piece->nr_pages runs; returns how many there are.
 */
size_t image_pages_split(const struct image_run *piece, bool sparse, const void *bytes,
			 struct image_run *ret_runs, struct iovec *ret_iov);

/* Store a run of nr_pages pages that is read from a descriptor (a pipe filled by vmsplice, a file). */
must_check int image_pages_add_from(struct image_pages_writer *w, uint64_t vaddr, uint64_t nr_pages,
				    uint32_t flags, int fd, struct ferry_error *err);

/* A run without bytes: flags are IMAGE_PE_PARENT, or IMAGE_PE_LAZY for pages that a page server will give. */
must_check int image_pages_add_reference(struct image_pages_writer *w, uint64_t vaddr, uint64_t nr_pages,
					 uint32_t flags, struct ferry_error *err);

/* Pages stored so far, and the id of the pages file. */
uint64_t image_pages_written(const struct image_pages_writer *w);
uint32_t image_pages_written_id(const struct image_pages_writer *w);

/* Close both files. Always frees w; w may be NULL. */
must_check int image_pages_close(struct image_pages_writer *w, struct ferry_error *err);

/*
 * Open a pagemap. -EBADMSG while reading: an entry is not aligned, not ascending, overlaps the one before, is
 * empty or wraps around; the pages file is shorter or longer than the entries say.
 */
must_check int image_pages_open(struct image_dir *dir, enum image_kind kind, uint64_t id,
				struct image_pages_reader **ret, struct ferry_error *err);

/* The next run: 1, or 0 at the end (only then was the size of the pages file compared). */
must_check int image_pages_next(struct image_pages_reader *r, struct image_run *ret_run,
				struct ferry_error *err);

/* All runs at once; the caller frees. */
must_check int image_pages_read_all(struct image_pages_reader *r, struct image_run **ret_runs, size_t *ret_n,
				    struct ferry_error *err);

/* Bytes of pages of a present run, from its first_page on. */
must_check int image_pages_read(struct image_pages_reader *r, const struct image_run *run,
				uint64_t first_page, uint64_t nr_pages, void *bytes, struct ferry_error *err);

/* Descriptor and id of the pages file. */
int image_pages_fd(const struct image_pages_reader *r);
uint32_t image_pages_id(const struct image_pages_reader *r);

void image_pages_reader_free(struct image_pages_reader *r);

static inline void cleanup_pages_reader_p(struct image_pages_reader **r)
{
	image_pages_reader_free(*r);
}

#define _cleanup_pages_reader_ __attribute__((cleanup(cleanup_pages_reader_p)))
