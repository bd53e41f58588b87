/* SPDX-License-Identifier: Apache-2.0 */
/* The namespaces of a tree: check, numbers in the image, contents. */
#pragma once

#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "freeze/freeze.h"
#include "model/kind.h"

/* Whether a task's namespaces can be dumped; root: the tree's first process. */
must_check int collect_check_namespaces(pid_t pid, int proc_dir, pid_t root,
					const struct kind_options *options, struct ferry_error *err);

/* First of all: what the root's PID namespace calls everybody. */
must_check int collect_numbers(struct collect *c, const struct frozen *f, struct ferry_error *err);

/* Enter the namespaces of a task into the snapshot. Parents first. */
must_check int collect_namespaces(struct collect *c, struct snap_task *t, int proc_dir,
				  struct ferry_error *err);

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
 * the caller lead elsewhere now; 0: it is ferry's own.
 */
must_check int collect_enter_view(pid_t root, const struct kind_options *options, struct ferry_error *err);
