/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/mountinfo. All strings lie in one copy of the text, decoded in place. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"

struct proc_mount {
	int32_t id;
	int32_t parent_id;
	uint64_t dev;
	const char *root;    /* of the mount within its file system; "//deleted" may end it */
	const char *point;   /* relative to the task's root */
	const char *options; /* of the mount */
	const char *fstype;  /* "fuse.sshfs": type and subtype */
	const char *source;  /* "" for none */
	const char *super_options;
	uint32_t shared; /* peer group; 0 = not shared */
	uint32_t master; /* 0 = no slave */
	uint32_t propagate_from;
	bool unbindable;
};

struct proc_mounts {
	VEC(struct proc_mount) v;
	char *text;
};

void proc_mounts_release(struct proc_mounts *mounts);

/* Release *ret_mounts also after an error. */
must_check int proc_mounts_parse(const char *text, size_t n, struct proc_mounts *ret_mounts,
				 struct ferry_error *err);

/* The mount with this id, or NULL. */
const struct proc_mount *proc_mounts_find(const struct proc_mounts *mounts, int32_t id);

/* Whether the comma-separated options hold this one, whole ("ro"). */
bool proc_mount_has_option(const char *options, const char *option);
