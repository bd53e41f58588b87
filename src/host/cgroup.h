/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups: reaching a hierarchy, moving processes, making namespaces. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

struct proc_mounts;

/*
 * A mount of a hierarchy that is attached nowhere and exists as long as the descriptor returned; its root is that of the caller's cgroup
 * namespace. controllers: as in /proc/PID/cgroup, "" for v2. Negative errno; ENODEV: this machine has no such hierarchy.
 */
must_check int cgroup_mount(const char *controllers);

/*
 * The same by a place where the hierarchy is mounted whole and writable, below root: to make a mount and to let go of it takes
 * milliseconds each. Where there is none, a mount.
 */
must_check int cgroup_reach(const struct proc_mounts *mounts, int root, const char *controllers);

/* Move a process (cgroup.procs) or a thread (cgroup.threads, and tasks in v1) into a group; pid 0 = the caller. */
must_check int cgroup_move(int dir, const char *file, pid_t pid);

/* Whether what is moved into a group would stand still: it, or one above, is frozen. */
bool cgroup_is_frozen(int dir);

/*
 * Make a namespace with these groups as its root, one of each hierarchy; dirs: descriptors that can be read, negative where it is the
 * caller's group. BUSY_TASK: a process that was to do that did not come back in time.
 */
must_check int cgroup_make_ns(const int *dirs, size_t n, int *ret_fd, struct ferry_error *err);
