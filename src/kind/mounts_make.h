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
	const struct mounts_maker
		*base; /* of the root's namespace, which this one began as a copy of; NULL: it is that */
	const struct plan_task *task; /* who lives in it, and mounts what only such a one can */
	int *fds;                     /* by index: the root of the mount; -1 = it is not there */
	int *groups;   /* a copy that is in the group of peers which the mount is to join; -1 */
	bool has_view; /* a /proc of ferry's lies where the tree's will be */
};

/* What comes from outside, while all mounts still are what they were there. */
must_check int mounts_make_outside(struct mounts_maker *k, struct ferry_error *err);

/* Nothing that is mounted from now on is seen outside; what is mounted there is seen here where it was to be. */
must_check int mounts_part(struct mounts_maker *k, struct ferry_error *err);

/* Before any process of the tree exists. Ferry stands below the new root then. */
must_check int mounts_make_early(struct mounts_maker *k, struct ferry_error *err);

/* The rest, when there are some. */
must_check int mounts_make_late(struct mounts_maker *k, struct ferry_error *err);
