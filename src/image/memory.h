/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A memory as an image has it: its pagemap, with every reference followed to where the bytes are. A reference leads to the pagemap of
 * the same memory in the image that this one builds on (the link 'parent'), or, where the task's own record says so (pages_of), to that
 * of another task of the same image; from there it may lead on.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/files.h"

struct image_dir;
struct image_memory;

/* A pages file that bytes come from; lives as long as the struct image_memory. */
struct image_source {
	const struct image_dir *dir; /* the image, or one that it builds on */
	uint64_t id;                 /* of the pagemap that the file belongs to */
	uint32_t pages_id;           /* its own */
	int fd;
	int user; /* the caller's; -1 at first */
};

/* A run of pages that lie one behind the other in one file. */
struct image_piece {
	uint64_t vaddr, nr_pages;
	uint64_t offset; /* of the first byte in the file */
	bool lazy;       /* may come when the task runs already (IMAGE_PE_LAZY) */
	struct image_source
		*source; /* NULL: the bytes come by a page server, only after image_memory_allow_late() */
};

/* kind, id: as for image_pages_open(). What it builds on is opened when the first reference is met. */
must_check int image_memory_open(struct image_dir *dir, enum image_kind kind, uint64_t id,
				 struct image_memory **ret, struct ferry_error *err);

/* Also hand out pieces whose bytes are not in any file. */
void image_memory_allow_late(struct image_memory *m);

/*
 * The next piece, ascending: 1, or 0 at the end. Beside the errors of image_pages_next(), -EBADMSG: a reference leads nowhere, or
 * round in a circle. IMAGE_UNSUPPORTED: pages are to come from a page server.
 */
must_check int image_memory_next(struct image_memory *m, struct image_piece *ret, struct ferry_error *err);

/*
 * Follow references as long as any of a pagemap's entries is one, whether anything of this memory needs it or not. Nothing may be read of m
 * afterwards. Then the pagemaps on the way are known, in order: the first, 0, is that of the memory itself. NULL: there are no more.
 */
must_check int image_memory_follow(struct image_memory *m, struct ferry_error *err);
const struct image_source *image_memory_step(const struct image_memory *m, size_t number);

/* Bytes of a piece, from its first_page on. */
must_check int image_memory_read(const struct image_piece *piece, uint64_t first_page, uint64_t nr_pages,
				 void *bytes, struct ferry_error *err);

/* Where the references of a pagemap lead within its image: 1 and *ret_id, or 0: to the image that it builds on. */
must_check int image_memory_pages_of(struct image_dir *dir, enum image_kind kind, uint64_t id,
				     uint64_t *ret_id, struct ferry_error *err);

/* Copy what is there of [start, end) to to + (address - start), and say how many pages that was. */
must_check int image_memory_get(struct image_dir *dir, enum image_kind kind, uint64_t id, uint64_t start,
				uint64_t end, void *to, uint64_t *ret_pages, struct ferry_error *err);

/* m may be NULL. */
void image_memory_free(struct image_memory *m);

static inline void cleanup_image_memory_p(struct image_memory **m)
{
	image_memory_free(*m);
}

#define _cleanup_image_memory_ __attribute__((cleanup(cleanup_image_memory_p)))
