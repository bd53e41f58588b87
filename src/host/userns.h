/* SPDX-License-Identifier: Apache-2.0 */
/* Working inside a user namespace, where an ordinary user may do what root does outside. */
#pragma once

#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

/* Make a user namespace that has the caller's own ids, which stay what they are, and enter it. The caller has one thread. */
must_check int userns_new(struct ferry_error *err);

/* Enter the user namespace of a process unless it is the caller's. */
must_check int userns_enter(pid_t pid, struct ferry_error *err);
