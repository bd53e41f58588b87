/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the lists of pages that an image has, by kind and id of their pagemaps. */
#include "image/coverage.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/vec.h"
#include "image/dir.h"
#include "image/memory.h"
#include "image/pages.h"

enum { COVERAGE_SLOTS = 64 };

struct image_coverage {
	VEC(struct image_covered) list;
	uint32_t *slots; /* hash table: index of an element + 1, 0 = free */
	size_t n_slots;  /* a power of two, or 0 */
	size_t last;     /* that was found; as a rule the next one, too */
};

struct image_coverage *image_coverage_new(void)
{
	return calloc(1, sizeof(struct image_coverage));
}

static size_t coverage_slot(const struct image_coverage *c, enum image_kind kind, uint64_t id)
{
	size_t mask = c->n_slots - 1;
	size_t i = (id * 0x9e3779b97f4a7c15ull >> 20 ^ (uint64_t)kind) & mask;
	while (c->slots[i]) {
		const struct image_covered *found = &c->list.v[c->slots[i] - 1];
		if (found->kind == kind && found->id == id)
			break;
		i = (i + 1) & mask;
	}
	return i;
}

const struct image_covered *image_coverage_find(const struct image_coverage *c, enum image_kind kind,
						uint64_t id)
{
	size_t i = c && c->n_slots ? coverage_slot(c, kind, id) : 0;
	return c && c->n_slots && c->slots[i] ? &c->list.v[c->slots[i] - 1] : NULL;
}

const struct image_covered *image_coverage_next(const struct image_coverage *c,
						const struct image_covered *last)
{
	if (!c)
		return NULL;
	size_t i = last ? (size_t)(last - c->list.v) + 1 : 0;
	return i < c->list.n ? &c->list.v[i] : NULL;
}

uint64_t image_coverage_bytes(const struct image_coverage *c)
{
	uint64_t bytes = 0;
	for (size_t i = 0; c && i < c->list.n; i++)
		for (size_t k = 0; k < c->list.v[i].n; k++)
			bytes += c->list.v[i].v[k].end - c->list.v[i].v[k].start;
	return bytes;
}

static int coverage_grow(struct image_coverage *c)
{
	size_t n = c->n_slots ? c->n_slots * 2 : COVERAGE_SLOTS;
	uint32_t *slots = calloc(n, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(c->slots);
	c->slots = slots;
	c->n_slots = n;
	for (size_t i = 0; i < c->list.n; i++)
		c->slots[coverage_slot(c, c->list.v[i].kind, c->list.v[i].id)] = (uint32_t)i + 1;
	return 0;
}

static struct image_covered *coverage_get(struct image_coverage *c, enum image_kind kind, uint64_t id)
{
	if (c->last < c->list.n && c->list.v[c->last].kind == kind && c->list.v[c->last].id == id)
		return &c->list.v[c->last];
	if (c->list.n * 2 >= c->n_slots && coverage_grow(c) < 0)
		return NULL;
	size_t slot = coverage_slot(c, kind, id);
	if (!c->slots[slot]) {
		struct image_covered *made = vec_push(&c->list);
		if (!made)
			return NULL;
		made->kind = kind;
		made->id = id;
		c->slots[slot] = (uint32_t)c->list.n;
	}
	c->last = c->slots[slot] - 1;
	return &c->list.v[c->last];
}

int image_coverage_add(struct image_coverage *c, enum image_kind kind, uint64_t id, uint64_t start,
		       uint64_t end)
{
	struct image_covered *covered = coverage_get(c, kind, id);
	if (!covered)
		return -ENOMEM;
	struct image_span *span = covered->n ? &covered->v[covered->n - 1] : NULL;
	if (span && start < span->end)
		return -EINVAL;
	if (span && start == span->end) {
		span->end = end;
		return 0;
	}
	if (vec_grow((void **)&covered->v, covered->n, &covered->cap, sizeof(*covered->v)) < 0)
		return -ENOMEM;
	covered->v[covered->n++] = (struct image_span){start, end};
	return 0;
}

static int coverage_read_one(struct image_coverage *c, struct image_dir *dir, enum image_kind kind,
			     uint64_t id, struct ferry_error *err)
{
	_cleanup_image_memory_ struct image_memory *m = NULL;
	struct image_piece piece;
	int r = image_memory_open(dir, kind, id, &m, err);
	while (r >= 0 && (r = image_memory_next(m, &piece, err)) > 0)
		if (image_coverage_add(c, kind, id, piece.vaddr,
				       piece.vaddr + piece.nr_pages * IMAGE_PAGE_BYTES) < 0)
			return error_memory(err);
	return r;
}

int image_coverage_read(struct image_dir *dir, struct image_coverage **ret, struct ferry_error *err)
{
	_cleanup_image_coverage_ struct image_coverage *c = image_coverage_new();
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n = 0;
	if (!c)
		return error_memory(err);
	int r = image_dir_list(dir, &files, &n, err);
	for (size_t i = 0; i < n && r >= 0; i++)
		if (files[i].kind == IMAGE_PAGEMAP || files[i].kind == IMAGE_SHMEM_PAGEMAP)
			r = coverage_read_one(c, dir, files[i].kind, files[i].id, err);
	if (r < 0)
		return r;
	*ret = take_ptr(c);
	return 0;
}

void image_coverage_free(struct image_coverage *c)
{
	if (!c)
		return;
	vec_foreach(covered, &c->list)
		free(covered->v);
	vec_release(&c->list);
	free(c->slots);
	free(c);
}
