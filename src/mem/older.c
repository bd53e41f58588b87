/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns comparing memory with what the round before has of it. Shared memory may be written through any mapping and by write(2), which no
 * tracker sees; reading its old bytes takes less time than writing the new ones, and no space.
 */
#include "mem/older.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/vec.h"
#include "image/dir.h"
#include "image/memory.h"
#include "image/pages.h"

struct mem_older {
	struct image_memory *memory;
	VEC(struct image_piece) pieces;
};

static int older_read_all(struct mem_older *o, struct ferry_error *err)
{
	struct image_piece piece;
	int r;
	while ((r = image_memory_next(o->memory, &piece, err)) > 0) {
		struct image_piece *slot = vec_push(&o->pieces);
		if (!slot)
			return error_memory(err);
		*slot = piece;
	}
	return r;
}

int mem_older_open(struct image_dir *dir, enum image_kind kind, uint64_t id, struct mem_older **ret,
		   struct ferry_error *err)
{
	*ret = NULL;
	if (!image_dir_has(dir, kind, id))
		return 0;
	struct mem_older *o = calloc(1, sizeof(*o));
	if (!o)
		return error_memory(err);
	int r = image_memory_open(dir, kind, id, &o->memory, err);
	if (r >= 0)
		r = older_read_all(o, err);
	if (r < 0) {
		mem_older_free(o);
		return r;
	}
	*ret = o;
	return 0;
}

void mem_older_free(struct mem_older *o)
{
	if (!o)
		return;
	image_memory_free(o->memory);
	vec_release(&o->pieces);
	free(o);
}

static uint64_t older_end(const struct image_piece *piece)
{
	return piece->vaddr + piece->nr_pages * IMAGE_PAGE_BYTES;
}

/* The first piece that ends behind an address. */
static size_t older_first(const struct mem_older *o, uint64_t address)
{
	size_t low = 0, high = o->pieces.n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (older_end(&o->pieces.v[middle]) <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int mem_older_compare(const struct mem_older *o, uint64_t address, uint64_t n_pages, const char *bytes,
		      char *scratch, bool *ret_same, struct ferry_error *err)
{
	uint64_t end = address + n_pages * IMAGE_PAGE_BYTES;
	memset(ret_same, 0, n_pages * sizeof(*ret_same));
	for (size_t i = older_first(o, address); i < o->pieces.n && o->pieces.v[i].vaddr < end; i++) {
		const struct image_piece *piece = &o->pieces.v[i];
		uint64_t from = MAX(piece->vaddr, address), to = MIN(older_end(piece), end);
		int r = image_memory_read(piece, (from - piece->vaddr) / IMAGE_PAGE_BYTES,
					  (to - from) / IMAGE_PAGE_BYTES, scratch, err);
		if (r < 0)
			return r;
		for (uint64_t at = from; at < to; at += IMAGE_PAGE_BYTES)
			ret_same[(at - address) / IMAGE_PAGE_BYTES] =
				!memcmp(scratch + (at - from), bytes + (at - address), IMAGE_PAGE_BYTES);
	}
	return 0;
}
