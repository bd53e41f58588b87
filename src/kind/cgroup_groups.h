/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups as an image has them: directories with their settings and permissions. */
#pragma once

#include <stdbool.h>

#include <ferry/error.h>

#include "base/arena.h"
#include "base/macros.h"
#include "image/proto/cgroup.pb-c.h"

struct pause;

/* What is read of a hierarchy: the file names of settings, in the order in which they are written again. NULL ends them. */
typedef const char **cgroup_names;

/* hierarchy: as /proc/PID/cgroup calls it, "" for v2. props: others instead, or beside them (kind/cgroup_props.h); may be NULL. */
must_check int cgroup_names_of(struct arena *a, const char *hierarchy, const char *props, cgroup_names *ret,
			       struct ferry_error *err);

struct cgroup_reading {
	struct arena *arena;
	cgroup_names names;
	const struct pause *pause; /* groups that are frozen but for us */
};

/* The group behind a descriptor, with all below it; name: as the record has it. Takes nothing over. */
must_check int cgroup_read_group(const struct cgroup_reading *r, int dir, const char *name,
				 CgroupDirEntry **ret, struct ferry_error *err);

/* That of a hierarchy's root, which nobody made and nobody makes again: without settings, and nothing below it. */
must_check int cgroup_read_root(struct arena *a, int dir, CgroupDirEntry **ret, struct ferry_error *err);

/* Whether the group has threads of processes that are in another one (v2). */
bool cgroup_is_threaded(int dir);

/* When a setting counts: some shape the group before anybody is in it, limits would hinder those who are still being made. */
enum cgroup_when { CGROUP_EARLY, CGROUP_LATE };

/* What a setting was before it was changed; may be refused. */
struct cgroup_undo {
	int (*note)(void *context, int dir, const char *file, const char *was, struct ferry_error *err);
	void *context;
};

/*
 * Give a group the settings of a record, and, with the early ones, its permissions. What is the same already is not written. undo: NULL
 * for a group that goes away by itself.
 */
must_check int cgroup_write_group(int dir, const CgroupDirEntry *record, enum cgroup_when when,
				  const struct cgroup_undo *undo, struct ferry_error *err);

/* Whether a record says that the group was frozen, itself. */
bool cgroup_was_frozen(const CgroupDirEntry *record);

/* Freeze it. Negative errno. */
must_check int cgroup_freeze(int dir);

/* A new group of cpuset has no processors and memory of its own, and takes nobody in without: those of the one above. */
must_check int cgroup_inherit_cpuset(int above, int dir, struct ferry_error *err);

/* Text into a file of a group, also a rule for each line where the file takes them one by one. Negative errno. */
must_check int cgroup_put(int dir, const char *file, const char *text);
