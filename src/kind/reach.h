/* SPDX-License-Identifier: Apache-2.0 */
/* How a file is found again: by its path, by what was recorded of a deleted one, or by another way to its inode. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include <ferry/error.h>

#include "base/arena.h"
#include "base/macros.h"
#include "image/proto/ferry.pb-c.h"

struct kind_options;

/* A file of the tree, as check and collect meet it. */
struct file_object {
	const char *who;    /* "fd 7 of pid 41 (nginx)" */
	const char *link;   /* its name as /proc shows it */
	const char *source; /* a path in /proc that leads to it while the tree stands */
	struct stat st;
	bool remade; /* its file system is the tree's alone, and a restore makes another with the same files */
};

enum reach_way {
	REACH_PATH,  /* its name leads to it */
	REACH_GHOST, /* it has no name any more */
	REACH_OTHER, /* its name does not lead to it, but it has one */
};

/* The process in whose folder of /proc the source is; 0: in none. */
pid_t reach_pid(const struct file_object *o);

/* Whether a process has another mount namespace than the one whose paths ferry sees. */
bool reach_is_elsewhere(pid_t look, const struct kind_options *options);

/* *ret_name: the link without the kernel's " (deleted)". */
enum reach_way reach_way(const struct file_object *o, char ret_name[PATH_MAX]);

/* For REACH_OTHER: a record of how to come to it, in the arena; id is left to the caller. DELETED_FILE when there is no way. */
must_check int reach_find(const struct file_object *o, const char *name, struct arena *a,
			  FerryFileEntry **ret_entry, struct ferry_error *err);

/*
 * The file of such a record, opened with these flags; a descriptor. moved: the image comes from another machine, where inodes had
 * other numbers.
 */
must_check int reach_open(const FerryFileEntry *entry, int flags, bool moved, struct ferry_error *err);
