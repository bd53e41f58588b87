/* SPDX-License-Identifier: Apache-2.0 */
/* Work on mounts that nobody is to see. */
#pragma once

#include "base/macros.h"

/*
 * Run a function in a process of its own, in a copy of the mount namespace ns (-1: of the one that ferry sees), which ends with it.
 * Mounts of the copy are private. Returns the descriptor that the function returned, which the caller closes, or -errno.
 */
must_check int mounts_apart(int ns, int (*run)(void *ctx), void *ctx);
