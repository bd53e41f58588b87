/* SPDX-License-Identifier: Apache-2.0 */
/* From a list of mounts to the order in which they are made and put in their places. Nothing is mounted here. */
#pragma once

#include "kind/mounts_list.h"

/* What the one who restores has to offer. */
struct mounts_facts {
	bool own_root; /* the root is not that of whoever restores, or of base; nothing is taken from its place there */
	/* File systems of these namespaces can be mounted by the tree's own processes only: proc, mqueue, sysfs. */
	bool own_pidns, own_ipcns, own_netns;
	bool detached; /* parts of a mount can be bound before it has its place (Linux 6.15) */
	/* The mounts of the namespace that it begins as a copy of, when that is another one of the tree's, their parents found; NULL. */
	const struct mounts_list *base;
};

enum mounts_do {
	MOUNTS_MAKE,  /* get hold of it, anywhere; it has its contents */
	MOUNTS_PLACE, /* put it where it belongs */
};

struct mounts_step {
	enum mounts_do what;
	uint32_t mount; /* index */
};

struct mounts_plan {
	struct mounts_step *v;
	size_t n;
	size_t n_outside; /* before the root is entered */
	size_t n_early;   /* before any process of the tree exists */
};

/* Why a mount cannot be made again, and what can be done about it. */
struct mounts_trouble {
	const struct mounts_one *mount; /* NULL: none */
	const char *why, *hint;
};

static inline struct mounts_trouble mounts_refused(const struct mounts_one *mount, const char *why,
						   const char *hint)
{
	return (struct mounts_trouble){mount, why, hint};
}

/* Whether a process of the tree's mounts it. */
bool mounts_is_of_task(const struct mounts_one *m, const struct mounts_facts *facts);

/* Fills parent and place of each mount; not every list of an image is a tree. */
must_check int mounts_find_parents(struct mounts_list *l, struct ferry_error *err);

/* Fills from, parent, place, of and below of each mount. -ENOTSUP: *ret_trouble tells. */
must_check int mounts_sources(struct mounts_list *l, const struct mounts_facts *facts,
			      struct mounts_trouble *ret_trouble, struct ferry_error *err);

/* The order, once the sources are known. */
must_check int mounts_plan(struct arena *a, const struct mounts_list *l, const struct mounts_facts *facts,
			   struct mounts_plan *ret, struct ferry_error *err);
