/* SPDX-License-Identifier: Apache-2.0 */
/* The mappings of many tasks, or of tasks with much memory, with their flags, without the kernel's walk over all page tables. */
#pragma once

#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "proc/maps.h"

struct kern_caps;
struct proc_mapper;
struct vma_words;

/*
 * Get ready, which takes some milliseconds. root: a directory below which sys/kernel/btf/vmlinux is the kernel's own, AT_FDCWD: "/".
 * -errno, without a message: this kernel, or the caller's rights, do not allow it.
 */
must_check int proc_mapper_new(const struct kern_caps *caps, int root, struct proc_mapper **ret);
void proc_mapper_free(struct proc_mapper *m);

/*
 * As proc_read_smaps() of the task look, whose folder is dirfd, but for swapped and pkey, which are 0, and common_bytes, which
 * is 0 where nobody else can have pages of a mapping, else PROC_COMMON_UNKNOWN. Falls back to smaps where anything is not certain. m: NULL means smaps. Several threads may read.
 */
must_check int proc_mapper_read(struct proc_mapper *m, int dirfd, pid_t look, struct proc_maps *ret_maps,
				struct ferry_error *err);

/* How many were not read from smaps, for tests. */
uint64_t proc_mapper_count(const struct proc_mapper *m);
