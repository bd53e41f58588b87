/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts that show other ids than their file systems have. */
#pragma once

#include "image/dir.h"
#include "kind/mounts_list.h"
#include "model/kind.h"

/* Fills ids of those that are idmapped, as far as the kernel tells. proc_dir: /proc/PID of who has them. */
must_check int mounts_look_ids(struct mounts_list *l, int proc_dir, struct arena *a, struct ferry_error *err);

/* Whether two show the same. */
bool mounts_same_ids(const struct mounts_one *a, const struct mounts_one *b);

must_check int mounts_store_ids(struct dump *d, uint32_t id, const struct mounts_list *l,
				struct ferry_error *err);
must_check int mounts_load_ids(struct image_dir *dir, uint32_t id, struct arena *a, struct mounts_list *l,
			       struct ferry_error *err);

/* Let a mount, which has no place yet, show ids as m does. of: what it was copied from, which may do that already; -1. */
must_check int mounts_map_ids(const struct mounts_one *m, int fd, int of, struct ferry_error *err);
