/* SPDX-License-Identifier: Apache-2.0 */
/* What a dump asks about the mounts of a tree. */
#pragma once

#include <sys/stat.h>

#include "model/kind.h"

/*
 * Whether a file lies on a mount of the tree that others hide, where its path leads to it; a restore that makes all of the tree's mounts
 * finds it there.
 */
bool mounts_hide(pid_t look, const char *source, const char *path, const struct stat *st,
		 const struct kind_options *options);
