/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which settings of groups are stored, by the words of --cgroup-props: a few lines of YAML,
 *
 *   "memory":
 *     - "strategy": "append"
 *     - "properties": ["memory.limit_in_bytes", "memory.swappiness"]
 *
 * "replace" instead: these, and no other of the controller.
 */
#pragma once

#include <stdbool.h>

#include <ferry/error.h>

#include "base/macros.h"

struct cgroup_props_take {
	/* One controller: forget what is known of it. */
	int (*replace)(void *context, const char *controller);
	int (*property)(void *context, const char *controller, const char *name);
	void *context;
};

/* Parse all of it. USAGE: it is none of that. take may have NULL functions. The strings last as long as the call. */
must_check int cgroup_props_parse(const char *text, const struct cgroup_props_take *take,
				  struct ferry_error *err);
