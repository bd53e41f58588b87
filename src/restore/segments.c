/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the list of what a memory still lacks, and how it follows what a program does to its mappings. */
#include "restore/segments.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/vec.h"

size_t segments_find(const struct segments *s, uint64_t address)
{
	size_t low = 0, high = s->n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (s->v[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct segment *segments_at(const struct segments *s, uint64_t address)
{
	size_t i = segments_find(s, address);
	return i < s->n && s->v[i].start <= address ? &s->v[i] : NULL;
}

/* Make room for some before the one with this index. */
static int segments_open(struct segments *s, size_t index, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!vec_push(s))
			return -ENOMEM;
	memmove(&s->v[index + n], &s->v[index], (s->n - n - index) * sizeof(*s->v));
	return 0;
}

static void segments_remove(struct segments *s, size_t index, size_t n)
{
	memmove(&s->v[index], &s->v[index + n], (s->n - n - index) * sizeof(*s->v));
	s->n -= n;
}

int segments_add(struct segments *s, const struct segment *segment)
{
	struct segment *slot = vec_push(s);
	if (!slot)
		return -ENOMEM;
	*slot = *segment;
	return 0;
}

/* What is left of a segment from an address within it on. */
static struct segment segments_rest(const struct segment *of, uint64_t from)
{
	struct segment rest = *of;
	rest.offset += from - of->start;
	rest.start = from;
	return rest;
}

static int segments_split(struct segments *s, size_t index, uint64_t start, uint64_t end)
{
	int r = segments_open(s, index + 1, 1);
	if (r < 0)
		return r;
	s->v[index + 1] = segments_rest(&s->v[index], end);
	s->v[index].end = start;
	return 0;
}

static bool segments_spares(const struct segment *g, uint32_t batch)
{
	return batch && g->batch == batch;
}

int segments_cut(struct segments *s, uint64_t start, uint64_t end, uint32_t spared_batch)
{
	size_t i = segments_find(s, start);
	while (i < s->n && s->v[i].start < end) {
		struct segment *g = &s->v[i];
		size_t n = 0;
		if (segments_spares(g, spared_batch)) {
			i++;
		} else if (g->start < start && g->end > end) {
			return segments_split(s, i, start, end);
		} else if (g->start < start) {
			g->end = start;
			i++;
		} else if (g->end > end) {
			*g = segments_rest(g, end);
		} else {
			while (i + n < s->n && s->v[i + n].end <= end &&
			       !segments_spares(&s->v[i + n], spared_batch))
				n++;
			segments_remove(s, i, n);
		}
	}
	return 0;
}

static int segments_take(const struct segments *s, uint64_t from, uint64_t to, uint64_t bytes, uint32_t batch,
			 struct segments *pieces)
{
	int r = 0;
	for (size_t i = segments_find(s, from); i < s->n && s->v[i].start < from + bytes && r >= 0; i++) {
		struct segment piece = s->v[i];
		if (piece.start < from)
			piece = segments_rest(&piece, from);
		if (piece.end > from + bytes)
			piece.end = from + bytes;
		piece.start = piece.start - from + to;
		piece.end = piece.end - from + to;
		piece.batch = batch;
		r = segments_add(pieces, &piece);
	}
	return r;
}

int segments_move(struct segments *s, uint64_t from, uint64_t to, uint64_t bytes, uint32_t batch)
{
	struct segments pieces = {0};
	int r = segments_take(s, from, to, bytes, batch, &pieces);
	if (r >= 0)
		r = segments_cut(s, from, from + bytes, 0);
	if (r >= 0)
		r = segments_cut(s, to, to + bytes, 0);
	size_t at = segments_find(s, to);
	if (r >= 0 && pieces.n)
		r = segments_open(s, at, pieces.n);
	if (r >= 0 && pieces.n)
		memcpy(&s->v[at], pieces.v, pieces.n * sizeof(*pieces.v));
	segments_release(&pieces);
	return r;
}

int segments_copy(const struct segments *s, struct segments *ret)
{
	struct segments copy = {0};
	if (s->n) {
		copy.v = malloc(s->n * sizeof(*s->v));
		if (!copy.v)
			return -ENOMEM;
		memcpy(copy.v, s->v, s->n * sizeof(*s->v));
		copy.n = copy.cap = s->n;
	}
	*ret = copy;
	return 0;
}

/* The border that follows an address, in a list whose segment i is the first that ends behind it. */
static uint64_t segments_border(const struct segments *s, size_t i, uint64_t at)
{
	if (i == s->n)
		return UINT64_MAX;
	return s->v[i].start > at ? s->v[i].start : s->v[i].end;
}

static bool segments_continues(const struct segment *g, const struct segment *next)
{
	return g->end == next->start && g->source == next->source && g->batch == next->batch &&
	       (g->source == SEGMENT_UNKNOWN || g->offset + (g->end - g->start) == next->offset);
}

static int segments_extend(struct segments *s, const struct segment *piece)
{
	if (!s->n || !segments_continues(&s->v[s->n - 1], piece))
		return segments_add(s, piece);
	s->v[s->n - 1].end = piece->end;
	return 0;
}

int segments_blend(const struct segments *a, const struct segments *b, struct segments *ret)
{
	struct segments out = {0};
	size_t i = 0, j = 0;
	int r = 0;
	for (uint64_t at = 0; (i < a->n || j < b->n) && r >= 0;) {
		uint64_t from_a = segments_border(a, i, at), from_b = segments_border(b, j, at);
		uint64_t end = from_a < from_b ? from_a : from_b;
		bool in_a = i < a->n && a->v[i].start <= at, in_b = j < b->n && b->v[j].start <= at;
		struct segment piece = {.start = at, .end = end, .source = SEGMENT_UNKNOWN};
		if (in_a && in_b && a->v[i].source == b->v[j].source &&
		    a->v[i].offset - a->v[i].start == b->v[j].offset - b->v[j].start) {
			piece = segments_rest(&a->v[i], at);
			piece.end = end;
		}
		if (in_a || in_b)
			r = segments_extend(&out, &piece);
		at = end;
		i += i < a->n && a->v[i].end <= at;
		j += j < b->n && b->v[j].end <= at;
	}
	if (r < 0)
		segments_release(&out);
	else
		*ret = out;
	return r;
}

uint64_t segments_bytes(const struct segments *s)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < s->n; i++)
		bytes += s->v[i].end - s->v[i].start;
	return bytes;
}

void segments_release(struct segments *s)
{
	vec_release(s);
}
