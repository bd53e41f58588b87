/* SPDX-License-Identifier: Apache-2.0 */
/* Overlays that were mounted within the tree: made again of the same folders. */
#pragma once

#include "kind/mounts_plan.h"

/*
 * Whether an overlay that is to be made again still is what its options say: -errno, or what *ret_trouble tells. proc_dir, proc_root:
 * /proc/PID of who has it, and of the tree's root.
 */
must_check int mounts_check_overlay(const struct mounts_one *m, const struct mounts_facts *facts,
				    int proc_dir, int proc_root, struct arena *a,
				    struct mounts_trouble *ret_trouble, struct ferry_error *err);

/* Make it; a descriptor, or -errno. */
must_check int mounts_lay(const struct mounts_one *m);
