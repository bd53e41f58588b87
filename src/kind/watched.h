/* SPDX-License-Identifier: Apache-2.0 */
/* Inodes that are watched (inotify, fanotify): the kernel names them by number and handle, a restore wants a path. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/arena.h"
#include "base/macros.h"
#include "image/proto/fh.pb-c.h"
#include "model/kind.h"
#include "proc/fdinfo.h"
#include "proc/mountinfo.h"

struct watched {
	const char *who; /* "fd 7 of pid 41 (nginx)" */
	pid_t pid;       /* whose watch it is, as that is looked at (snap_task.look) */
	uint64_t ino;
	uint64_t dev; /* of the superblock */
	const struct proc_handle *handle;
	struct peers *peers; /* keeps what a search found */
	int home; /* root directory that ferry was started in, -1: it works there (kind_options.home_root) */
};

/*
 * A path of the inode: 1 and *ret_path, in the arena; 0 when the inode has no name and a descriptor of the task leads to it; DELETED_FILE
 * when nothing does.
 */
must_check int watched_find(const struct watched *w, struct arena *a, char **ret_path,
			    struct ferry_error *err);

/* The handle of a path's file, as fdinfo tells it of a watch. Returns 0 or -errno. */
must_check int watched_handle(int dir_fd, const char *path, struct proc_handle *ret_handle);

/* The inode that a handle leads to on the file system of a descriptor: O_PATH, or -errno. */
must_check int watched_open_inode(int on, const struct proc_handle *handle);

/* Its path through one mount of an overlay file system, as far as the layers tell; to be looked at. */
must_check bool watched_in_layers(const struct watched *w, const struct proc_mount *mount,
				  char path[static PATH_MAX]);

/* The handle as images have it; NULL when memory is short. */
FhEntry *watched_record(struct arena *a, const struct proc_handle *handle, const char *path);

/* Open what a record names, by its path, else by its handle: an O_PATH descriptor, which the plan keeps. */
must_check int watched_open(struct opener *o, const FhEntry *fh, uint64_t ino, uint32_t s_dev,
			    struct ferry_error *err);

/*
 * Events that wait cannot be put back. Gives a running program a moment to read them; -EBUSY when some stay. what: "inotify".
 */
must_check int watched_check_queue(const struct fd_view *view, const struct kind_options *options,
				   bool frozen, struct ferry_error *err);
