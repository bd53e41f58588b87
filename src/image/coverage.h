/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Coverage: which pages an image has, of each memory that it holds, by itself or from the images that it builds on. Who writes the
 * next round of a chain refers to these, and to no others.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/files.h"

struct image_coverage;
struct image_dir;

struct image_span {
	uint64_t start, end; /* addresses, or offsets in a shared object */
};

/* Of one pagemap; spans ascend and do not touch. */
struct image_covered {
	enum image_kind kind; /* IMAGE_PAGEMAP, IMAGE_SHMEM_PAGEMAP */
	uint64_t id;
	struct image_span *v;
	size_t n, cap;
};

/* An empty one, for image_dir_create.coverage. NULL: memory is short. */
struct image_coverage *image_coverage_new(void);

/*
 * What an image has; all its references are followed, errors are those of image_memory_next(). Of an image whose pages went elsewhere: what
 * its own list says (image_coverage_write()).
 */
must_check int image_coverage_read(struct image_dir *dir, struct image_coverage **ret,
				   struct ferry_error *err);

/* What a pagemap has; NULL when there is none, or c is NULL. Valid until something is added. */
const struct image_covered *image_coverage_find(const struct image_coverage *c, enum image_kind kind,
						uint64_t id);

/* All pagemaps, one after the other: the one behind last, which is NULL before the first; NULL behind the last one. */
const struct image_covered *image_coverage_next(const struct image_coverage *c,
						const struct image_covered *last);

/* How much memory it has in all; 0 when c is NULL. */
uint64_t image_coverage_bytes(const struct image_coverage *c);

/* Whether an image has all pages of a range; *at is a position in covered, 0 at first, for calls that ascend. covered may be NULL. */
bool image_covered_has(const struct image_covered *covered, size_t *at, uint64_t start, uint64_t end);

/* Write it into a directory that is being written, whose pages go elsewhere. */
must_check int image_coverage_write(const struct image_coverage *c, struct image_dir *dir,
				    struct ferry_error *err);

/* Enter pages, behind those that are there. */
must_check int image_coverage_add(struct image_coverage *c, enum image_kind kind, uint64_t id, uint64_t start,
				  uint64_t end);

/* c may be NULL. */
void image_coverage_free(struct image_coverage *c);

static inline void cleanup_image_coverage_p(struct image_coverage **c)
{
	image_coverage_free(*c);
}

#define _cleanup_image_coverage_ __attribute__((cleanup(cleanup_image_coverage_p)))
