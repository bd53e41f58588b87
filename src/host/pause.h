/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups that somebody froze before we came: a paused container. Who stands in one cannot be stopped by ptrace or asked anything. So
 * the groups are thawed once every thread is on its way into a stop, and frozen again before the first is let go: none of them
 * executes anything of its own meanwhile.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/macros.h"

struct pause;
struct warden;

/* Look at a group and those below. path: of a directory of the v1 freezer or of v2. USAGE: it is none; BUSY_TASK: one above it is frozen. */
must_check int pause_open(const char *path, const struct fault *fault, const struct log_sink *log,
			  struct pause **ret, struct ferry_error *err);
void pause_close(struct pause *p);

/* Refuse a process that stands in a group that is frozen (BUSY_TASK); 0: it does not, or nobody can tell. */
must_check int pause_refuse(pid_t pid, struct ferry_error *err);

/* Whether any of them is frozen. NULL: no. */
bool pause_is_on(const struct pause *p);

/* Whether this is one that was frozen when we came. */
bool pause_has(const struct pause *p, int dir);

/* Thaw them. Frozen again by the warden if the caller dies first, while it holds the threads. */
must_check int pause_lift(struct pause *p, struct warden *w, struct ferry_error *err);

/* Freeze them again, and wait until they are; nothing to do if they were not thawed. Cannot fail: what goes wrong is logged. */
void pause_put_back(struct pause *p, struct warden *w);
