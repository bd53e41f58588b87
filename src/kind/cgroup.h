/* SPDX-License-Identifier: Apache-2.0 */
/* The restore side of cgroup.c: groups that threads go to, and those that are made for it. */
#pragma once

#include "image/proto/cgroup.pb-c.h"
#include "model/kind.h"

/* Whether two sets have the same groups as roots of their namespaces. */
bool cgroup_same_root(const CgSetEntry *a, const CgSetEntry *b);

/* Members of struct kind_ops and struct ns_ops. */
must_check int cgroup_read(struct reader *r, struct ferry_error *err);
must_check int cgroup_prepare(struct opener *o, struct ferry_error *err);
must_check int cgroup_make(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
must_check int cgroup_entered(const struct plan *p, const struct plan_task *t, const struct plan_task *maker,
			      struct ferry_error *err);
must_check int cgroup_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th,
				     struct script *s, struct ferry_error *err);
must_check int cgroup_ready(struct opener *o, struct ferry_error *err);
void cgroup_left(struct opener *o);
void cgroup_abandon(struct opener *o);

/*
 * Which group a mount is to show, below the root of its hierarchy: of is one of that, named what the caller says, and shown what the
 * image's mount had as its root. A caller who runs in the group that he says, or has put ferry into the tree's, or says one above
 * that, means the tree's; NULL: what he says.
 */
const char *cgroup_shown(const struct opener *o, int of, const char *named, const char *shown);

struct proc_mounts;

/* A descriptor of a hierarchy, as /proc/PID/cgroup calls it, below the root of ferry's mount namespace. Negative errno. */
must_check int cgroup_open_hierarchy(const struct cgroup_options *options, const struct proc_mounts *mounts,
				     int root, const char *name);

/* Whether a hierarchy has this controller, or is of this name; "" is v2. */
bool cgroup_is_controller(const char *hierarchy, const char *word, size_t n);

/* Whether the words of --cgroup-root and --manage-cgroups are ones that are understood. */
must_check int cgroup_check_options(const struct kind_options *options, struct ferry_error *err);
