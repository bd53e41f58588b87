/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listing /proc/PID/task and /proc/PID/fd. What vanishes while it is being listed is left out; for a list that
 * holds, stop the task first.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"
#include "proc/names.h"
#include "proc/task.h"

struct proc_fd {
	int32_t fd;
	uint32_t link;      /* proc_names_get(&fds->names, link); 0 = could not be read, see link_too_long */
	uint32_t mode;      /* st_mode of what it refers to */
	bool link_too_long; /* the path has more than PATH_MAX bytes */
	bool deleted;       /* the text ends in " (deleted)" (which stays) and st_nlink is 0 */
	uint64_t dev;
	uint64_t ino;
	uint64_t rdev;
	uint64_t size_bytes;
	uint64_t mnt_id; /* the id of mountinfo; 0 before 5.8 */
	uint32_t nlink;
	uint32_t uid, gid;
};

struct proc_fds {
	VEC(struct proc_fd) v; /* ascending */
	struct proc_names names;
};

void proc_fds_release(struct proc_fds *fds);
#define _cleanup_proc_fds_ __attribute__((cleanup(proc_fds_release)))

static inline const char *proc_fd_link(const struct proc_fds *fds, const struct proc_fd *fd)
{
	return proc_names_get(&fds->names, fd->link);
}

/* The descriptors of the task behind dirfd (/proc/PID or /proc/PID/task/TID). */
must_check int proc_read_fds(int dirfd, struct proc_fds *ret_fds, struct ferry_error *err);

/* One of them; its text goes into fds->names. -ENOENT when it is closed. */
must_check int proc_read_fd(int dirfd, int fd, struct proc_fds *fds, struct proc_fd *ret_fd,
			    struct ferry_error *err);

struct stat;

/*
 * As fstat(2) in the task tells it, times aside for what is no file on a disk. Only such a file is asked again: a pipe or a socket
 * has not changed what was read with the list. 0 or -errno.
 */
must_check int proc_fd_stat(int dirfd, const struct proc_fd *fd, struct stat *ret_stat);

/* The threads, ascending. */
must_check int proc_read_tasks(int dirfd, struct proc_pid_list *ret_tids, struct ferry_error *err);

/* Every process of /proc, ascending. */
must_check int proc_read_pids(struct proc_pid_list *ret_pids, struct ferry_error *err);

/*
 * Text of a link below dirfd ("exe", "cwd", "root", "fd/7"), as the kernel has it: absolute path, "pipe:[1]",
 * "path (deleted)". *ret_text is the caller's. -ENAMETOOLONG: a path beyond PATH_MAX, which readlink(2) cannot give.
 */
must_check int proc_read_link(int dirfd, const char *name, char **ret_text, struct ferry_error *err);
