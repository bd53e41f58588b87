/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding what a task and its parent share after a fork: pages that are the same page of the machine, or the same
 * place in the swap, at the same address of both; and what of that need not be stored again.
 *
 * Kernel interface: /proc/PID/pagemap (page frame numbers, which take CAP_SYS_ADMIN since 4.0; without them nothing
 * counts as shared).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lanes.h"
#include "base/vec.h"
#include "kernel/uapi.h"
#include "mem/mem.h"
#include "model/record.h"
#include "model/vma-status.h"

enum {
	INHERIT_WORDS = 4096,
	INHERIT_PAGE = 4096,
	INHERIT_LEAST = 1 << 20, /* bytes; less is stored again, so that small images are plain ones */
	INHERIT_ALONE = 8 << 20, /* of the first; less is looked at while a thread would begin */
	INHERIT_TOGETHER = 4,
};
#define INHERIT_THERE (3ull << 62)       /* present, swapped */
#define INHERIT_PLACE ((1ull << 55) - 1) /* page frame, or place in the swap */

/* What a thread works with. */
struct inherit {
	int pagemap;    /* of the parent */
	uint64_t start; /* of its words that were read */
	uint64_t words[2][INHERIT_WORDS];
};

struct inherit_child {
	struct snap_task *task;
	int pagemap;
	mem_runs ranges; /* in common with its parent */
	size_t at;       /* the first of its mappings that may matter */
};

struct inherit_group {
	const struct snap_task *parent;
	struct inherit_child *children;
	size_t n;
};

typedef VEC(struct inherit_child) inherit_children;
typedef VEC(struct inherit_group) inherit_groups;

static bool inherit_is_fit(const struct snap_vma *vma)
{
	const VmaEntry *entry = vma->entry;
	return vma->dump_pages && entry->status & VMA_STATUS_ANON_PRIVATE &&
	       !(entry->status & VMA_STATUS_KERNEL) &&
	       !(entry->flags & (MAP_HUGETLB | MAP_GROWSDOWN | MAP_DROPPABLE));
}

static uint64_t inherit_bytes(const struct snap_task *t)
{
	uint64_t bytes = 0;
	vec_foreach(vma, &t->vmas)
		bytes += inherit_is_fit(vma) ? vma->entry->end - vma->entry->start : 0;
	return bytes;
}

int mem_runs_add(mem_runs *runs, uint64_t start, uint64_t end)
{
	if (runs->n && runs->v[runs->n - 1] == start) {
		runs->v[runs->n - 1] = end;
		return 0;
	}
	for (int i = 0; i < 2; i++) {
		uint64_t *slot = vec_push(runs);
		if (!slot)
			return -ENOMEM;
		*slot = i ? end : start;
	}
	return 0;
}

static bool inherit_same(uint64_t a, uint64_t b)
{
	return a & INHERIT_THERE && (a & INHERIT_THERE) == (b & INHERIT_THERE) && a & INHERIT_PLACE &&
	       (a & INHERIT_PLACE) == (b & INHERIT_PLACE);
}

/* What a child has in common with its parent in a part of the parent's mapping, at most INHERIT_WORDS. */
static int inherit_compare(struct inherit *in, struct inherit_child *c, uint64_t start, uint64_t end)
{
	size_t n = (end - start) / INHERIT_PAGE, offset = (start - in->start) / INHERIT_PAGE;
	int r = fd_pread_all(c->pagemap, in->words[1], n * sizeof(uint64_t),
			     start / INHERIT_PAGE * sizeof(uint64_t));
	for (size_t i = 0; i < n && r >= 0; i++, start += INHERIT_PAGE)
		if (inherit_same(in->words[0][offset + i], in->words[1][i]))
			r = mem_runs_add(&c->ranges, start, start + INHERIT_PAGE);
	return r;
}

/* Those of the parent are read when the first child has a mapping there. */
static int inherit_read(struct inherit *in, uint64_t start, uint64_t end)
{
	if (in->start == start)
		return 0;
	in->start = start;
	return fd_pread_all(in->pagemap, in->words[0], (end - start) / INHERIT_PAGE * sizeof(uint64_t),
			    start / INHERIT_PAGE * sizeof(uint64_t));
}

/* A part of the parent's mapping; parts come in ascending order. */
static int inherit_part(struct inherit *in, struct inherit_child *c, const VmaEntry *theirs, uint64_t start,
			uint64_t end)
{
	const struct snap_task *t = c->task;
	int r = 0;
	while (c->at < t->vmas.n && t->vmas.v[c->at].entry->end <= start)
		c->at++;
	for (size_t i = c->at; i < t->vmas.n && t->vmas.v[i].entry->start < end && r >= 0; i++) {
		const VmaEntry *ours = t->vmas.v[i].entry;
		if (!inherit_is_fit(&t->vmas.v[i]) || ours->start < theirs->start || ours->end > theirs->end)
			continue;
		r = inherit_read(in, start, end);
		if (r >= 0)
			r = inherit_compare(in, c, MAX(start, ours->start), MIN(end, ours->end));
	}
	return r;
}

static int inherit_vma(struct inherit *in, const VmaEntry *theirs, struct inherit_child *children, size_t n)
{
	int r = 0;
	for (uint64_t at = theirs->start, end; at < theirs->end && r >= 0; at = end) {
		end = MIN(theirs->end, at + (uint64_t)INHERIT_WORDS * INHERIT_PAGE);
		for (size_t i = 0; i < n && r >= 0; i++)
			r = inherit_part(in, &children[i], theirs, at, end);
	}
	return r;
}

static int inherit_open(struct inherit *in, const struct inherit_group *g)
{
	in->pagemap = fd_openf(O_RDONLY, "/proc/%d/pagemap", g->parent->look);
	int r = in->pagemap;
	for (size_t i = 0; i < g->n && r >= 0; i++)
		r = g->children[i].pagemap =
			fd_openf(O_RDONLY, "/proc/%d/pagemap", g->children[i].task->look);
	return r;
}

static void inherit_close(const struct inherit *in, const struct inherit_group *g)
{
	if (in->pagemap >= 0)
		close(in->pagemap);
	for (size_t i = 0; i < g->n; i++)
		if (g->children[i].pagemap >= 0)
			close(g->children[i].pagemap);
}

/* One parent, and some of its children: its words are read once for all of these. */
static int inherit_piece(void *context, struct lanes *l, unsigned lane unused, uint64_t number)
{
	const struct inherit_group *g = &((const struct inherit_group *)context)[number];
	int r = lanes_turn(l, number);
	if (r < 0)
		return r;
	lanes_next(l, number);
	struct inherit *in = calloc(1, sizeof(*in));
	if (!in)
		return -ENOMEM;
	in->start = UINT64_MAX;
	r = inherit_open(in, g);
	for (size_t i = 0; i < g->parent->vmas.n && r >= 0; i++)
		if (inherit_is_fit(&g->parent->vmas.v[i]))
			r = inherit_vma(in, g->parent->vmas.v[i].entry, g->children, g->n);
	inherit_close(in, g);
	free(in);
	return MIN(r, 0);
}

static int inherit_note(struct inherit_child *c, struct arena *a)
{
	FerryMmEntry *mm = c->task->mm_extra;
	if (!c->ranges.n)
		return 0;
	mm->inherited = arena_copy(a, c->ranges.v, c->ranges.n * sizeof(uint64_t));
	mm->n_inherited = mm->inherited ? c->ranges.n : 0;
	record_set(mm, inherited_from, (uint32_t)c->task->parent->memory->inner_pid);
	return mm->inherited ? 0 : -ENOMEM;
}

static int inherit_add_group(inherit_groups *groups, struct inherit_child *child)
{
	const struct snap_task *parent = child->task->parent->memory;
	struct inherit_group *g = groups->n ? &groups->v[groups->n - 1] : NULL;
	if (!g || g->parent != parent || g->n == INHERIT_TOGETHER)
		g = vec_push(groups);
	if (!g)
		return -ENOMEM;
	if (!g->n++) {
		g->parent = parent;
		g->children = child;
	}
	return 0;
}

/* Who has a parent, in the order of tasks, and those that follow each other there. */
static int inherit_list(struct snapshot *snap, inherit_children *children, inherit_groups *groups)
{
	int r = 0;
	vec_foreach(t, &snap->tasks) {
		struct inherit_child *c = t->parent && t->memory == t ? vec_push(children) : NULL;
		if (c)
			*c = (struct inherit_child){.task = t, .pagemap = -1};
		else if (t->parent && t->memory == t)
			return -ENOMEM;
	}
	for (size_t i = 0; i < children->n && r >= 0; i++)
		r = inherit_add_group(groups, &children->v[i]);
	return r;
}

int mem_find_inherited(struct snapshot *snap, struct ferry_error *err)
{
	inherit_children children = {0};
	inherit_groups groups = {0};
	int r = inherit_list(snap, &children, &groups);
	bool many = snap->tasks.n && inherit_bytes(&snap->tasks.v[0]) >= INHERIT_ALONE;
	if (r >= 0)
		r = lanes_run(many ? lanes_wanted() : 1, groups.n, inherit_piece, groups.v);
	vec_foreach(c, &children) {
		if (r >= 0)
			r = inherit_note(c, &snap->arena);
		vec_release(&c->ranges);
	}
	vec_release(&children);
	vec_release(&groups);
	return r < 0 ? error_errno(err, r == -ENOMEM ? FERRY_ERROR_NO_MEMORY : FERRY_ERROR_SYSTEM, -r,
				   "finding what processes share with their parents")
		     : 0;
}

int mem_find_known(const struct snap_task *t, const struct mem_known *parent, struct mem_known *ret)
{
	const FerryMmEntry *mm = t->mm_extra;
	uint64_t bytes = 0;
	int r = 0;
	for (size_t i = 0, at = 0; i < mm->n_inherited && r >= 0; i += 2) {
		while (at < parent->ranges.n && parent->ranges.v[at + 1] <= mm->inherited[i])
			at += 2;
		for (size_t n = at; n < parent->ranges.n && r >= 0; n += 2) {
			uint64_t start = MAX(parent->ranges.v[n], mm->inherited[i]);
			uint64_t end = MIN(parent->ranges.v[n + 1], mm->inherited[i + 1]);
			if (start >= end)
				break;
			bytes += end - start;
			r = mem_runs_add(&ret->ranges, start, end);
		}
	}
	if (bytes < INHERIT_LEAST)
		ret->ranges.n = 0;
	if (r < 0 || !ret->ranges.n)
		return r;
	ret->head = parent->head;
	return 0;
}
