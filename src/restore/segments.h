/* SPDX-License-Identifier: Apache-2.0 */
/* Which memory still has to come out of files: ranges of addresses, ascending, none on top of another. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct segment {
	uint64_t start, end;
	uint64_t offset; /* in the file, of start */
	int32_t source;  /* descriptor of the file; SEGMENT_UNKNOWN, segment_late() */
	uint32_t batch;  /* of changes, in which it was moved here; 0 = it was not */
};

/* Whether the file has it, or nobody has, cannot be told. */
enum { SEGMENT_UNKNOWN = -1 };

/* Of a pagemap whose pages a page server gives; offset is the address there. */
static inline int32_t segment_late(int32_t id)
{
	return -2 - id;
}

/* 0: it is in a file, or nobody knows. */
static inline int32_t segment_late_id(const struct segment *g)
{
	return g->source < SEGMENT_UNKNOWN ? -2 - g->source : 0;
}

struct segments {
	struct segment *v;
	size_t n, cap;
};

/* The first that ends behind an address; n when there is none. */
size_t segments_find(const struct segments *s, uint64_t address);

/* The one that holds an address; NULL. */
const struct segment *segments_at(const struct segments *s, uint64_t address);

/* Append; they have to ascend. */
must_check int segments_add(struct segments *s, const struct segment *segment);

/* Forget what is in a range, but for what was moved there in this batch (0: all of it). */
must_check int segments_cut(struct segments *s, uint64_t start, uint64_t end, uint32_t spared_batch);

/* Memory went elsewhere, in this batch; whatever was there before is gone. On failure s is not usable any more. */
must_check int segments_move(struct segments *s, uint64_t from, uint64_t to, uint64_t bytes, uint32_t batch);

must_check int segments_copy(const struct segments *s, struct segments *ret);

/* What two lists agree on, and all that only one of them has as unknown. */
must_check int segments_blend(const struct segments *a, const struct segments *b, struct segments *ret);

uint64_t segments_bytes(const struct segments *s);

void segments_release(struct segments *s);
