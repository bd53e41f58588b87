/* SPDX-License-Identifier: Apache-2.0 */
/* Contents of a file system as an archive of tar(1), which runs where ferry was started and not in the tree's root. */
#pragma once

#include "model/kind.h"

bool mounts_tar_exists(const struct kind_options *options);

/* Back to the mounts with which ferry was started, for a program of its own. In a process that does nothing else. 0 or -errno. */
must_check int mounts_tar_go_home(const struct kind_options *options);

/* dir: the root of a mount that nothing lies on; point: its name in messages. */
must_check int mounts_tar_store(struct dump *d, int dir, uint32_t dev, const char *point,
				struct ferry_error *err);
must_check int mounts_tar_unpack(struct opener *o, int dir, uint32_t dev, const char *point,
				 struct ferry_error *err);
