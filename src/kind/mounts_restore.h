/* SPDX-License-Identifier: Apache-2.0 */
/* A mount namespace out of an image; see struct ns_ops. */
#pragma once

#include "model/kind.h"

must_check int mounts_restore(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
must_check int mounts_finish(struct opener *o, struct plan_ns *ns, struct ferry_error *err);

/* Which files of the image cannot be opened before the tree's processes are there. */
must_check int mounts_read_waiting(struct reader *r, struct ferry_error *err);

/* Open a file on the mount that the image names; -EXDEV: its path leads to it as it is. */
must_check int mounts_open_file(const struct opener *o, const struct plan_file *file, int flags);
