/* SPDX-License-Identifier: Apache-2.0 */
/* --exec-cmd: a command takes the place of the process that restored, as the parent of what was restored. */
#pragma once

#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "compat/criu_options.h"

/*
 * Go on as a child of this process, which does the restore: its root becomes its sibling, and so a child of the one that stays behind. There
 * the child's PID is returned, in the child 0.
 */
must_check int criu_become_parent(struct criu_options *o, struct ferry_error *err);

/* When that child has done its work, run a command in its parent's place. 1: it failed, which it told itself. */
must_check int criu_exec(char *const *words, pid_t worker, struct ferry_error *err);
