/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the lists of pages that an image has, by kind and id of their pagemaps, and ferry-coverage.img. */
#include "image/coverage.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/vec.h"
#include "image/dir.h"
#include "image/memory.h"
#include "image/pages.h"
#include "image/proto/ferry.pb-c.h"

enum {
	COVERAGE_SLOTS = 64,
	COVERAGE_SPANS = 1 << 16, /* that one entry of a file has at most */
};

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

bool image_covered_has(const struct image_covered *covered, size_t *at, uint64_t start, uint64_t end)
{
	while (covered && *at < covered->n && covered->v[*at].end <= start)
		(*at)++;
	return covered && *at < covered->n && covered->v[*at].start <= start && end <= covered->v[*at].end;
}

/* ---- as a file ---- */

static int coverage_put(struct image_writer *w, const struct image_covered *covered, size_t first,
			uint64_t *pages, struct ferry_error *err)
{
	const struct image_span *v = covered->v + first;
	size_t n = MIN(covered->n - first, (size_t)COVERAGE_SPANS);
	FerryCoverageEntry entry = FERRY_COVERAGE_ENTRY__INIT;
	entry.shared = covered->kind == IMAGE_SHMEM_PAGEMAP;
	entry.id = covered->id;
	entry.start = v[0].start;
	entry.pages = pages;
	for (size_t i = 0; i < n; i++) {
		if (i)
			pages[entry.n_pages++] = (v[i].start - v[i - 1].end) / IMAGE_PAGE_BYTES;
		pages[entry.n_pages++] = (v[i].end - v[i].start) / IMAGE_PAGE_BYTES;
	}
	return image_put(w, &entry.base, err);
}

int image_coverage_write(const struct image_coverage *c, struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_free_ uint64_t *pages = calloc((size_t)2 * COVERAGE_SPANS, sizeof(*pages));
	struct image_writer *w;
	int r = pages ? image_create(dir, IMAGE_FERRY_COVERAGE, 0, &w, err) : error_memory(err);
	if (r < 0)
		return r;
	vec_foreach(covered, &c->list)
		for (size_t i = 0; i < covered->n && r >= 0; i += COVERAGE_SPANS)
			r = coverage_put(w, covered, i, pages, err);
	int closed = image_close(w, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

static int coverage_take(struct image_coverage *c, const struct image_reader *reader,
			 const FerryCoverageEntry *entry, struct ferry_error *err)
{
	enum image_kind kind = entry->shared ? IMAGE_SHMEM_PAGEMAP : IMAGE_PAGEMAP;
	uint64_t at = entry->start, bytes, end;
	int r = at % IMAGE_PAGE_BYTES ? -EINVAL : 0;
	for (size_t i = 0; i < entry->n_pages && r >= 0; i++, at = end) {
		if (!entry->pages[i] ||
		    __builtin_mul_overflow(entry->pages[i], (uint64_t)IMAGE_PAGE_BYTES, &bytes) ||
		    __builtin_add_overflow(at, bytes, &end))
			r = -EINVAL;
		else
			r = i % 2 ? 0 : image_coverage_add(c, kind, entry->id, at, end);
	}
	if (r == -ENOMEM)
		return error_memory(err);
	return r < 0 ? image_bad(reader, err, "the entry before: no such pages of %" PRIu64 " can be",
				 entry->id)
		     : 0;
}

static int coverage_load(struct image_coverage *c, struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *reader = NULL;
	int r = image_open(dir, IMAGE_FERRY_COVERAGE, 0, &reader, err);
	if (r < 0)
		return r;
	do {
		_cleanup_message_ FerryCoverageEntry *entry = NULL;
		r = image_get(reader, &ferry_coverage_entry__descriptor, &entry, err);
		if (r > 0 && coverage_take(c, reader, entry, err) < 0)
			r = -EBADMSG;
	} while (r > 0);
	return r;
}

int image_coverage_read(struct image_dir *dir, struct image_coverage **ret, struct ferry_error *err)
{
	_cleanup_image_coverage_ struct image_coverage *c = image_coverage_new();
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n = 0;
	if (!c)
		return error_memory(err);
	int r = image_dir_pages_are_elsewhere(dir) ? coverage_load(c, dir, err)
						   : image_dir_list(dir, &files, &n, err);
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
