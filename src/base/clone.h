/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of whole files that take no room where the file system can share it. */
#pragma once

#include "base/macros.h"

/*
 * Make to, an empty regular file, a copy of from: by sharing its blocks if both are on one file system that can, otherwise byte by byte; holes
 * stay holes. The positions of both may move. Returns 0 or -errno; then part of the copy may be there.
 */
must_check int fd_clone(int from, int to);
