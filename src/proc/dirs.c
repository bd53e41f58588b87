/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the lists /proc/PID/task, /proc/PID/fd and /proc. Kernel interface: fs/proc/fd.c, fs/proc/base.c. What a
 * descriptor refers to is asked with statx(AT_STATX_DONT_SYNC), which a dead network file system cannot hang.
 */
#include "proc/dirs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "proc/lex.h"
#include "proc/read_error.h"

enum { DIRS_CHUNK = 16 << 10 };

void proc_fds_release(struct proc_fds *fds)
{
	vec_release(&fds->v);
	proc_names_release(&fds->names);
}

/* The name of a directory entry as a number; false for all others. */
static bool entry_number(const struct dirent64 *e, int32_t *ret_number)
{
	struct lex l = lex_new(e->d_name, strlen(e->d_name));
	return lex_i32(&l, ret_number) && lex_done(&l) && *ret_number >= 0;
}

static int compare_pids(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
	return (x > y) - (x < y);
}

static int add_numbers(const char *entries, size_t n, struct proc_pid_list *list)
{
	for (size_t at = 0; at < n;) {
		const struct dirent64 *e = (const void *)(entries + at);
		pid_t number;
		at += e->d_reclen;
		if (!entry_number(e, &number))
			continue;
		pid_t *slot = vec_push(&list->v);
		if (!slot)
			return -ENOMEM;
		*slot = number;
	}
	return 0;
}

/*
 * All entries of fd, the directory 'name' below dirfd, whose name is a number, ascending. Read without the calls that opendir(3) adds.
 */
static int list_numbers(int fd, int dirfd, const char *name, struct proc_pid_list *list,
			struct ferry_error *err)
{
	char entries[DIRS_CHUNK] __attribute__((aligned(8)));
	for (;;) {
		ssize_t n = getdents64(fd, entries, sizeof(entries));
		if (n < 0)
			return proc_read_error(dirfd, name, errno, err);
		if (!n)
			break;
		if (add_numbers(entries, (size_t)n, list) < 0)
			return error_memory(err);
	}
	if (list->v.n > 1)
		qsort(list->v.v, list->v.n, sizeof(*list->v.v), compare_pids);
	return 0;
}

static int read_numbers(int dirfd, const char *name, struct proc_pid_list *ret_list, struct ferry_error *err)
{
	struct proc_pid_list list = {0};
	_cleanup_close_ int fd = fd_open(dirfd, name, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return proc_read_error(dirfd, name, -fd, err);
	int r = list_numbers(fd, dirfd, name, &list, err);
	if (r < 0) {
		proc_pid_list_release(&list);
		return r;
	}
	*ret_list = list;
	return 0;
}

int proc_read_tasks(int dirfd, struct proc_pid_list *ret_tids, struct ferry_error *err)
{
	return read_numbers(dirfd, "task", ret_tids, err);
}

int proc_read_pids(struct proc_pid_list *ret_pids, struct ferry_error *err)
{
	return read_numbers(AT_FDCWD, "/proc", ret_pids, err);
}

/* Fill from statx; -ENOENT and -EBADF when it was closed meanwhile. */
static int fd_stat(int fd_dir, const char *name, struct proc_fd *fd)
{
	struct kern_statx st;
	int r = sys_statx(fd_dir, name, AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_MNT_ID, &st);
	if (r < 0)
		return r;
	fd->mode = st.mode;
	fd->dev = makedev(st.dev_major, st.dev_minor);
	fd->ino = st.ino;
	fd->rdev = makedev(st.rdev_major, st.rdev_minor);
	fd->size_bytes = st.size;
	fd->nlink = st.nlink;
	fd->uid = st.uid;
	fd->gid = st.gid;
	fd->mnt_id = st.mask & STATX_MNT_ID ? st.mnt_id : 0;
	return 0;
}

int proc_fd_stat(int dirfd, const struct proc_fd *fd, struct stat *ret_stat)
{
	char name[32];
	if (S_ISREG(fd->mode) || S_ISDIR(fd->mode) || S_ISBLK(fd->mode)) {
		snprintf(name, sizeof(name), "fd/%d", fd->fd);
		return fstatat(dirfd, name, ret_stat, 0) < 0 ? -errno : 0;
	}
	*ret_stat = (struct stat){
		.st_dev = fd->dev,
		.st_ino = fd->ino,
		.st_mode = fd->mode,
		.st_nlink = fd->nlink,
		.st_uid = fd->uid,
		.st_gid = fd->gid,
		.st_rdev = fd->rdev,
		.st_size = (off_t)fd->size_bytes,
	};
	return 0;
}

/* readlink(2) into a buffer of PATH_MAX + 1 bytes; the length, or -errno. */
static ssize_t read_link(int dir_fd, const char *name, char *buffer)
{
	ssize_t n = readlinkat(dir_fd, name, buffer, PATH_MAX + 1);
	if (n < 0)
		return -errno;
	return n > PATH_MAX ? -ENAMETOOLONG : n;
}

/* One entry of an open /proc/PID/fd; -ENOENT when it is closed, else -errno. */
static int fd_entry(int fd_dir, int32_t number, struct proc_names *names, struct proc_fd *ret_fd)
{
	char name[16], link[PATH_MAX + 1];
	struct proc_fd fd = {.fd = number};
	snprintf(name, sizeof(name), "%d", number);
	int r = fd_stat(fd_dir, name, &fd);
	if (r < 0)
		return r;
	ssize_t n = read_link(fd_dir, name, link);
	if (n < 0 && n != -ENAMETOOLONG)
		return (int)n;
	if (n < 0) {
		fd.link_too_long = true;
	} else {
		struct lex l = lex_new(link, (size_t)n);
		r = proc_names_add(names, link, (size_t)n, &fd.link);
		if (r < 0)
			return r;
		fd.deleted = !fd.nlink && lex_cut_deleted(&l);
	}
	*ret_fd = fd;
	return 0;
}

int proc_read_fd(int dirfd, int fd, struct proc_fds *fds, struct proc_fd *ret_fd, struct ferry_error *err)
{
	char name[32];
	_cleanup_close_ int fd_dir = fd_open(dirfd, "fd", O_RDONLY | O_DIRECTORY, 0);
	if (fd_dir < 0)
		return proc_read_error(dirfd, "fd", -fd_dir, err);
	int r = fd_entry(fd_dir, fd, &fds->names, ret_fd);
	snprintf(name, sizeof(name), "fd/%d", fd);
	return r < 0 ? proc_read_error(dirfd, name, -r, err) : 0;
}

static int read_fds(int dirfd, int fd_dir, struct proc_fds *fds, const struct proc_pid_list *numbers,
		    struct ferry_error *err)
{
	vec_foreach(number, &numbers->v) {
		struct proc_fd fd;
		int r = fd_entry(fd_dir, *number, &fds->names, &fd);
		if (r == -ENOENT && !proc_gone(dirfd))
			continue;
		if (r < 0)
			return proc_read_error(dirfd, "fd", -r, err);
		struct proc_fd *slot = vec_push(&fds->v);
		if (!slot)
			return error_memory(err);
		*slot = fd;
	}
	return 0;
}

int proc_read_fds(int dirfd, struct proc_fds *ret_fds, struct ferry_error *err)
{
	_cleanup_proc_fds_ struct proc_fds fds = {0};
	struct proc_pid_list numbers = {0};
	_cleanup_close_ int fd_dir = fd_open(dirfd, "fd", O_RDONLY | O_DIRECTORY, 0);
	if (fd_dir < 0)
		return proc_read_error(dirfd, "fd", -fd_dir, err);
	int r = list_numbers(fd_dir, dirfd, "fd", &numbers, err);
	if (r >= 0)
		r = read_fds(dirfd, fd_dir, &fds, &numbers, err);
	proc_pid_list_release(&numbers);
	if (r < 0)
		return r;
	*ret_fds = fds;
	fds = (struct proc_fds){0};
	return 0;
}

int proc_read_link(int dirfd, const char *name, char **ret_text, struct ferry_error *err)
{
	char link[PATH_MAX + 1];
	ssize_t n = read_link(dirfd, name, link);
	if (n < 0)
		return proc_read_error(dirfd, name, (int)-n, err);
	char *text = strndup(link, (size_t)n);
	if (!text)
		return error_memory(err);
	*ret_text = text;
	return 0;
}
