/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the decision where each mount of a namespace comes from, and the order in which mounts are made and put in place. It sees
 * lists alone, so that a dump knows what its restore will do, and a test can ask it anything.
 *
 * A mount is placed by a path below its parent's root, which other mounts must not hide yet: of two that hang on the same parent
 * the deeper one comes first. Parts of a file system are taken as soon as that is there, before anything is placed in it. An overlay
 * is made of folders that have paths, so its root, or that of its base, has to be the one of whoever makes it.
 */
#include "kind/mounts_plan.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "kind/overlay.h"

static const char mounts_deleted[] = "//deleted";

/* --------------------------------------------------------------------- sources */

static int mounts_bad(const struct mounts_one *m, const char *what, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "the mount %u at '%.200s' %s", m->id, m->point,
			 what);
}

/* Absolute, and every part of it is a name. Roots that are no paths are those of file systems without folders ("net:[1]"). */
static bool mounts_is_plain(const char *path)
{
	if (path[0] != '/')
		return false;
	for (const char *at = path + 1; *at; at += strcspn(at, "/"), at += *at == '/') {
		size_t n = strcspn(at, "/");
		if (!n || (n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
			return false;
	}
	return true;
}

static bool mounts_is_deleted(const struct mounts_one *m)
{
	size_t n = strlen(m->root), end = sizeof(mounts_deleted) - 1;
	return n >= end && !strcmp(m->root + n - end, mounts_deleted);
}

static int mounts_find_parent(struct mounts_list *l, struct mounts_one *m, struct ferry_error *err)
{
	m->parent = MOUNTS_NONE;
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].id == m->parent_id && &l->v[i] != m)
			m->parent = (int)i;
	m->place = m->parent == MOUNTS_NONE ? "" : mounts_below(m->point, l->v[m->parent].point);
	if (!m->place)
		return mounts_bad(m, "does not lie below its parent", err);
	return mounts_is_plain(m->point) ? 0 : mounts_bad(m, "has a path that leads elsewhere", err);
}

int mounts_find_parents(struct mounts_list *l, struct ferry_error *err)
{
	for (size_t i = 0; i < l->n; i++) {
		int r = mounts_find_parent(l, &l->v[i], err);
		if (r >= 0 && l->v[i].parent == MOUNTS_NONE && i > 0)
			r = mounts_bad(&l->v[i], "hangs on none of the others", err);
		for (size_t k = 0; k < i && r >= 0; k++)
			if (l->v[k].id == l->v[i].id)
				r = mounts_bad(&l->v[i], "is there twice", err);
		for (size_t k = 1; k < i && r >= 0; k++)
			if (l->v[k].parent == l->v[i].parent && !strcmp(l->v[k].place, l->v[i].place))
				r = mounts_bad(&l->v[i], "has the place of another", err);
		if (r < 0)
			return r;
	}
	if (!l->n || strcmp(l->v[0].point, "/") != 0)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "no mount is the root of the others");
	return 0;
}

/* What shows it in the namespace that this one begins as a copy of, where nothing hides that. */
static bool mounts_find_base(struct mounts_one *m, const struct mounts_list *base)
{
	for (size_t i = 0; i < base->n; i++) {
		const struct mounts_one *other = &base->v[i];
		const char *below = other->dev == m->dev && mounts_is_plain(m->root)
					    ? mounts_below(m->root, other->root)
					    : NULL;
		if (!below || mounts_at(base, other->point) != other)
			continue;
		m->of = (int)i;
		m->below = below;
		return true;
	}
	return false;
}

/* What needs no other mount of the namespace. */
static enum mounts_from mounts_own_source(const struct mounts_list *l, struct mounts_one *m,
					  const struct mounts_facts *facts)
{
	if (!facts->own_root && m->known)
		return MOUNTS_HERE;
	if (facts->own_root && m == l->v && !facts->base)
		return MOUNTS_ROOT;
	if (facts->base && !mounts_is_deleted(m) && mounts_find_base(m, facts->base))
		return MOUNTS_BASE;
	if (m->key)
		return MOUNTS_EXTERNAL;
	if (m->ns_id)
		return MOUNTS_NSFS;
	/* Which cgroup one shows is a matter of where the tree is. */
	bool whole = !strcmp(m->root, "/") || m->type == FSTYPE__CGROUP || m->type == FSTYPE__CGROUP2;
	return mounts_can_be_made(m) && whole && mounts_is_plain(m->root) ? MOUNTS_NEW : MOUNTS_UNKNOWN;
}

/* Another that shows it, too, and is there by itself; of several the first. */
static void mounts_find_other(struct mounts_list *l, struct mounts_one *m)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct mounts_one *other = &l->v[i];
		bool by_itself = other->from != MOUNTS_UNKNOWN && other->from != MOUNTS_BIND;
		const char *below = other->dev == m->dev && mounts_is_plain(m->root)
					    ? mounts_below(m->root, other->root)
					    : NULL;
		if (other == m || !by_itself || !below)
			continue;
		/* A file system is made once; what shows all of it later is a second sight. */
		if (m->from == MOUNTS_NEW && other > m)
			continue;
		m->from = MOUNTS_BIND;
		m->of = (int)i;
		m->below = below;
		return;
	}
}

static struct mounts_trouble mounts_trouble_of(const struct mounts_one *m)
{
	if (mounts_is_deleted(m))
		return mounts_refused(m, "shows a file or folder that was deleted",
				      "unmount it in the tree's mount namespace");
	if (m->fstype && !strcmp(m->fstype, MOUNTS_NSFS_TYPE))
		return mounts_refused(m, "is a namespace that no process of the tree lives in",
				      "unmount it in the tree's mount namespace (ip netns delete)");
	if (strcmp(m->root, "/") != 0)
		return mounts_refused(
			m, "shows a part of a file system that is mounted nowhere else in the tree",
			"say that it comes from outside: --external mnt[MOUNTPOINT]:NAME");
	if (m->type == FSTYPE__UNSUPPORTED)
		return mounts_refused(m, "has contents of its own, which no image has",
				      "say that it comes from outside: --external mnt[MOUNTPOINT]:NAME");
	return mounts_refused(m, "is mounted for the tree alone and cannot be mounted again",
			      "say that it comes from outside: --external mnt[MOUNTPOINT]:NAME");
}

int mounts_sources(struct mounts_list *l, const struct mounts_facts *facts,
		   struct mounts_trouble *ret_trouble, struct ferry_error *err)
{
	*ret_trouble = (struct mounts_trouble){0};
	int r = mounts_find_parents(l, err);
	for (size_t i = 0; i < l->n && r >= 0; i++) {
		l->v[i].of = MOUNTS_NONE;
		l->v[i].below = "";
		l->v[i].from = mounts_own_source(l, &l->v[i], facts);
	}
	for (size_t i = 0; i < l->n && r >= 0; i++) {
		struct mounts_one *m = &l->v[i];
		if ((m->from == MOUNTS_UNKNOWN && !mounts_is_deleted(m)) || m->from == MOUNTS_NEW)
			mounts_find_other(l, m);
		if (m->from != MOUNTS_UNKNOWN)
			continue;
		*ret_trouble = mounts_trouble_of(m);
		return -ENOTSUP;
	}
	return r;
}

/* ----------------------------------------------------------------------- order */

enum planner_phase {
	PLANNER_OUTSIDE, /* the root is another one */
	PLANNER_ENTERED,
	PLANNER_LATE, /* processes of the tree are there */
	PLANNER_PHASES
};

struct mounts_planner {
	const struct mounts_list *l;
	const struct mounts_facts *facts;
	struct mounts_plan plan;
	bool *made, *placed;
	uint32_t *deeper; /* how many that hang on the same parent it would hide, and are not placed yet */
	enum planner_phase phase;
};

static void planner_add(struct mounts_planner *p, enum mounts_do what, size_t i)
{
	p->plan.v[p->plan.n++] = (struct mounts_step){what, (uint32_t)i};
	(what == MOUNTS_MAKE ? p->made : p->placed)[i] = true;
}

bool mounts_is_of_task(const struct mounts_one *m, const struct mounts_facts *facts)
{
	return (m->type == FSTYPE__PROC && facts->own_pidns) ||
	       (m->type == FSTYPE__MQUEUE && facts->own_ipcns) ||
	       (m->type == FSTYPE__SYSFS && facts->own_netns);
}

/* Whether a layer of an overlay is not to be seen yet. */
static int planner_misses(enum overlay_use use unused, const char *path, void *ctx)
{
	const struct mounts_planner *p = ctx;
	const struct mounts_one *on = mounts_at(p->l, path);
	return !on || !p->placed[on - p->l->v];
}

static bool planner_can_lay(struct mounts_planner *p, const struct mounts_one *m)
{
	if (p->facts->base)
		return p->phase == PLANNER_OUTSIDE;
	return p->phase != PLANNER_OUTSIDE && !overlay_each(m->options, planner_misses, p);
}

static bool planner_can_make(struct mounts_planner *p, const struct mounts_one *m)
{
	if (m->from == MOUNTS_NEW && mounts_is_of_task(m, p->facts))
		return p->phase == PLANNER_LATE;
	if (m->from == MOUNTS_NEW && m->type == FSTYPE__OVERLAYFS)
		return planner_can_lay(p, m);
	if (m->from != MOUNTS_BIND)
		return true;
	return p->made[m->of] &&
	       (p->facts->detached || p->placed[m->of] || p->l->v[m->of].from == MOUNTS_HERE);
}

/* Everything that can be had: before anything more is placed, which might hide it. */
static bool planner_make(struct mounts_planner *p)
{
	bool any = false, more = true;
	while (more) {
		more = false;
		for (size_t i = 0; i < p->l->n; i++) {
			if (p->made[i] || !planner_can_make(p, &p->l->v[i]))
				continue;
			planner_add(p, MOUNTS_MAKE, i);
			any = more = true;
		}
	}
	return any;
}

static bool planner_can_place(const struct mounts_planner *p, size_t i)
{
	const struct mounts_one *m = &p->l->v[i];
	return p->made[i] && !p->placed[i] && !p->deeper[i] &&
	       (m->parent == MOUNTS_NONE || p->placed[m->parent]);
}

static bool mounts_hides(const struct mounts_one *above, const struct mounts_one *m)
{
	const char *below = above->parent == m->parent ? mounts_below(m->point, above->point) : NULL;
	return below && *below && above->parent != MOUNTS_NONE;
}

static void planner_place(struct mounts_planner *p, size_t i)
{
	planner_add(p, MOUNTS_PLACE, i);
	for (size_t k = 0; k < p->l->n; k++)
		p->deeper[k] -= k != i && mounts_hides(&p->l->v[k], &p->l->v[i]);
	if (!p->facts->detached)
		planner_make(p);
}

static bool planner_round(struct mounts_planner *p)
{
	bool any = planner_make(p);
	for (size_t i = 0; i < p->l->n; i++) {
		if (!planner_can_place(p, i))
			continue;
		planner_place(p, i);
		any = true;
	}
	return any;
}

int mounts_plan(struct arena *a, const struct mounts_list *l, const struct mounts_facts *facts,
		struct mounts_plan *ret, struct ferry_error *err)
{
	struct mounts_planner p = {
		.l = l,
		.facts = facts,
		.plan.v = arena_array(a, struct mounts_step, 2 * l->n + 1),
		.made = arena_array(a, bool, l->n + 1),
		.placed = arena_array(a, bool, l->n + 1),
		.deeper = arena_array(a, uint32_t, l->n + 1),
	};
	if (!p.plan.v || !p.made || !p.placed || !p.deeper)
		return error_memory(err);
	for (size_t i = 0; i < l->n; i++)
		for (size_t k = 0; k < l->n; k++)
			p.deeper[i] += i != k && mounts_hides(&l->v[i], &l->v[k]);
	size_t ends[PLANNER_PHASES] = {0};
	for (; p.phase < PLANNER_PHASES; p.phase++) {
		while (planner_round(&p))
			continue;
		ends[p.phase] = p.plan.n;
	}
	p.plan.n_outside = ends[PLANNER_OUTSIDE];
	p.plan.n_early = ends[PLANNER_ENTERED];
	for (size_t i = 0; i < l->n; i++)
		if (!p.placed[i])
			return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
					 "the mount at '%.200s' would hide what it is needed for",
					 l->v[i].point);
	*ret = p.plan;
	return 0;
}
