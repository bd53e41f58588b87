/* SPDX-License-Identifier: Apache-2.0 */
/* The namespaces of a restored tree. */
#pragma once

#include "restore/restore.h"

/* Which namespaces the image has; the tree is read already. */
must_check int namespaces_read(struct reader *r, struct ferry_error *err);

/* Make those that are no PID namespaces, and enter the root's. The warden runs already. */
must_check int namespaces_make(struct restore *r, struct ferry_error *err);

/* All tasks exist: what only processes of the root's PID namespace can do. */
must_check int namespaces_finish(struct restore *r, struct ferry_error *err);

/*
 * What is left needs no path of the tree's but our own /proc, which the tree's may cover: go on in a copy of its mounts that
 * nobody else sees.
 */
must_check int namespaces_own_view(struct restore *r, struct ferry_error *err);

/* Our number in the PID namespace that ferry was started in. */
pid_t namespaces_real_pid(const struct restore *r);

/* The time namespaces that the coordinator makes; its children begin in the root's. host: the root keeps ferry's own clocks. */
must_check int clocks_make(struct restore *r, bool host, struct ferry_error *err);

/* In a task, of namespaces_enter(): its clocks, and those of its children. maker: as whose child it begins; NULL = the coordinator. */
must_check int clocks_enter(struct restore *r, const struct plan_task *t, const struct plan_task *maker,
			    struct ferry_error *err);

/* In a task: enter its namespaces where they are not its parent's. */
must_check int namespaces_enter(struct restore *r, const struct plan_task *t, struct ferry_error *err);

/* What clone3(2) needs for a child: ids, innermost first. */
struct namespaces_clone {
	uint64_t flags;
	pid_t tids[PROC_PID_DEPTH];
	size_t n_tids;
	int pidfd;    /* filled by clone3 with CLONE_PIDFD */
	bool restore; /* children go elsewhere for this one */
};

must_check int namespaces_before_child(struct restore *r, int member, struct namespaces_clone *c,
				       struct ferry_error *err);
must_check int namespaces_after_child(struct restore *r, int member, const struct namespaces_clone *c,
				      struct ferry_error *err);

/* In a task that has created all its children: where later ones go. */
must_check int namespaces_after_children(struct restore *r, const struct plan_task *t,
					 struct ferry_error *err);

/* The small init of a PID namespace whose first process the image lacks: reap until nobody is left. root: its child. */
__attribute__((noreturn)) void namespaces_init_main(const struct restore *r, pid_t root);
