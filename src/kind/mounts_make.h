/* SPDX-License-Identifier: Apache-2.0 */
/* Carrying out what mounts_plan() found. */
#pragma once

#include "kind/mounts_plan.h"
#include "model/kind.h"

struct mounts_maker {
	struct opener *o;
	const struct mounts_list *l, *here; /* the image's; those of whoever restores */
	struct mounts_facts facts;
	struct mounts_plan plan;
	int *fds;      /* by index: the root of the mount; -1 = it is not there */
	bool has_view; /* a /proc of ferry's lies where the tree's will be */
};

/* Before any process of the tree exists. Ferry stands in the new namespace then, and below its root. */
must_check int mounts_make_early(struct mounts_maker *k, struct ferry_error *err);

/* The rest, when there are some. */
must_check int mounts_make_late(struct mounts_maker *k, struct ferry_error *err);
