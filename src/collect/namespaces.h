/* SPDX-License-Identifier: Apache-2.0 */
/* The namespaces of a tree: check, numbers in the image, contents. */
#pragma once

#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "freeze/freeze.h"
#include "model/kind.h"

struct check_task;

/* Whether a task's namespaces can be dumped. */
must_check int collect_check_namespaces(const struct check_task *t, struct ferry_error *err);

/* First of all, if the root has another PID namespace than ferry: what that calls everybody. */
must_check int collect_numbers(struct collect *c, const struct frozen *f, struct ferry_error *err);

/* Enter the namespaces of a task into the snapshot. Parents first. */
must_check int collect_namespaces(struct collect *c, struct snap_task *t,
				  const struct proc_namespaces *theirs, struct ferry_error *err);

/* All tasks are known: what the namespaces hold. */
must_check int collect_namespaces_end(struct collect *c, struct ferry_error *err);

/* Ids as an image gives them to the dumper's own namespaces. */
void collect_own_namespace_ids(TaskKobjIdsEntry *ids);

/*
 * In a mount namespace that nobody else sees: put a /proc with our own numbers where the tree's is; from a mount of it (negative:
 * there is none), or else by taking away what covers it.
 */
must_check int collect_own_proc(int mount);

/*
 * See paths as the root task does: enter a copy of its mount namespace that has our own /proc, for good. 1: did so, and paths of
 * the caller lead elsewhere now, and *ret_outside has the mounts that ferry came from; 0: it is ferry's own.
 */
must_check int collect_enter_view(pid_t root, const struct kind_options *options,
				  struct proc_mounts *ret_outside, struct ferry_error *err);
