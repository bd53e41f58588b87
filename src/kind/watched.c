/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding a watched inode. A file handle leads to it, and where the kernel knows a name of it that is the answer; the layers of
 * an overlay tell more (watched_layers.c). What has no name by then, since nobody looked at it for long, is searched for: first below
 * the task's working directory and beside its open files, then on the whole file system. A search is done before anything
 * stops, and what it found is kept for when the tree stands.
 *
 * Kernel interface: open_by_handle_at(2), name_to_handle_at(2) AT_HANDLE_FID (6.5), /proc/PID/mountinfo, FIONREAD.
 */
#include "kind/watched.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "kind/fdcommon.h"
#include "kind/peers.h"
#include "model/record.h"
#include "proc/read.h"

#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif

enum {
	WATCHED_ENTRIES_MAX = 4 << 20, /* files that one search looks at */
	WATCHED_DEPTH_MAX = 64,
	WATCHED_HANDLE_WORDS = 16, /* of fh_entry.handle */
	WATCHED_PATIENCE_MS = 50,
};

union watched_handle {
	struct file_handle head;
	char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

struct watched_search {
	const struct watched *w;
	dev_t dev; /* st_dev of the file system that is searched */
	bool by_handle;
	size_t looked;
	char path[PATH_MAX];
};

static bool watched_put_handle(const struct proc_handle *from, union watched_handle *to)
{
	if (!from->n || from->n > MAX_HANDLE_SZ)
		return false;
	to->head.handle_bytes = from->n;
	to->head.handle_type = from->type;
	memcpy(to->head.f_handle, from->bytes, from->n);
	return true;
}

int watched_handle(int dir_fd, const char *path, struct proc_handle *ret_handle)
{
	union watched_handle h = {.head = {.handle_bytes = MAX_HANDLE_SZ}};
	int mount_id;
	int r = sys_name_to_handle_at(dir_fd, path, &h.head, &mount_id, AT_HANDLE_FID);
	if (r == -EINVAL || r == -EOPNOTSUPP) {
		h.head.handle_bytes = MAX_HANDLE_SZ;
		r = sys_name_to_handle_at(dir_fd, path, &h.head, &mount_id, 0);
	}
	if (r < 0 || h.head.handle_bytes > sizeof(ret_handle->bytes))
		return r < 0 ? r : -EOVERFLOW;
	*ret_handle = (struct proc_handle){.n = h.head.handle_bytes, .type = h.head.handle_type};
	memcpy(ret_handle->bytes, h.head.f_handle, h.head.handle_bytes);
	return 0;
}

/* Whether a path is the inode; its handle tells for sure. */
static bool watched_is(const struct watched *w, const char *path)
{
	struct proc_handle found;
	struct stat st;
	if (watched_handle(AT_FDCWD, path, &found) < 0)
		return lstat(path, &st) == 0 && st.st_ino == w->ino && st.st_dev == w->dev;
	return found.n == w->handle->n && !memcmp(found.bytes, w->handle->bytes, found.n);
}

/* ------------------------------------------------------------------------- handles */

int watched_open_inode(int on, const struct proc_handle *handle)
{
	union watched_handle h;
	return watched_put_handle(handle, &h) ? sys_open_by_handle_at(on, &h.head, O_PATH | O_CLOEXEC)
					      : -ENOENT;
}

static int watched_decode(const struct proc_mount *mount, const struct proc_handle *handle)
{
	_cleanup_close_ int fd = fd_open(AT_FDCWD, mount->point, O_RDONLY | O_NONBLOCK, 0);
	return fd < 0 ? fd : watched_open_inode(fd, handle);
}

/* The name that the kernel has for it at the moment. */
static bool watched_name(const struct watched *w, const struct proc_mount *mount, char path[PATH_MAX])
{
	_cleanup_close_ int fd = watched_decode(mount, w->handle);
	struct stat a, b;
	return fd_path(fd, path, PATH_MAX) > 0 && lstat(path, &a) == 0 && fstat(fd, &b) == 0 &&
	       a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

/* -------------------------------------------------------------------------- search */

static bool watched_walk(struct watched_search *s, int depth);

/* One name of a folder whose path stands in s->path; true: found, and s->path is it. */
static bool watched_look(struct watched_search *s, int dir, const struct dirent *d, size_t end, int depth)
{
	struct stat st;
	size_t n = strlen(d->d_name);
	if (end + n + 2 > PATH_MAX || ++s->looked > WATCHED_ENTRIES_MAX ||
	    fstatat(dir, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != s->dev)
		return false;
	s->path[end] = '/';
	memcpy(s->path + end + 1, d->d_name, n + 1);
	if ((s->by_handle || st.st_ino == s->w->ino) && watched_is(s->w, s->path))
		return true;
	if (S_ISDIR(st.st_mode) && depth && watched_walk(s, depth - 1))
		return true;
	s->path[end] = '\0';
	return false;
}

static bool watched_walk(struct watched_search *s, int depth)
{
	size_t end = strlen(s->path);
	_cleanup_closedir_ DIR *dir = opendir(end ? s->path : "/");
	for (struct dirent *d; dir && (d = readdir(dir));) {
		bool dots = d->d_name[0] == '.' && (!d->d_name[1] || !strcmp(d->d_name, ".."));
		if (!dots && watched_look(s, dirfd(dir), d, end, depth))
			return true;
	}
	return false;
}

static bool watched_search_below(struct watched_search *s, const char *root, int depth)
{
	struct stat st;
	if (stat(root, &st) < 0 || !S_ISDIR(st.st_mode))
		return false;
	s->dev = st.st_dev;
	snprintf(s->path, sizeof(s->path), "%s", root[1] ? root : "");
	return watched_is(s->w, root) || watched_walk(s, depth);
}

/* Below the working directory, and in the folders of open files. */
static bool watched_search_near(struct watched_search *s)
{
	char link[64], path[PATH_MAX];
	snprintf(link, sizeof(link), "/proc/%d/cwd", s->w->pid);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	path[MAX(n, 0)] = '\0';
	if (n > 1 && watched_search_below(s, path, WATCHED_DEPTH_MAX))
		return true;
	snprintf(link, sizeof(link), "/proc/%d/fd", s->w->pid);
	_cleanup_closedir_ DIR *dir = opendir(link);
	for (struct dirent *d; dir && (d = readdir(dir));) {
		n = readlinkat(dirfd(dir), d->d_name, path, sizeof(path) - 1);
		path[MAX(n, 0)] = '\0';
		char *slash = path[0] == '/' ? strrchr(path, '/') : NULL;
		if (!slash || slash == path)
			continue;
		*slash = '\0';
		if (watched_search_below(s, path, 1))
			return true;
	}
	return false;
}

static bool watched_on_mounts(const struct watched *w, struct watched_search *s, bool search)
{
	struct proc_mounts mounts = {0};
	bool found = false;
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	if (self < 0 || proc_read_mounts(self, &mounts, NULL) < 0)
		return false;
	for (size_t i = 0; i < mounts.v.n && !found; i++) {
		const struct proc_mount *m = &mounts.v.v[i];
		if (m->dev != w->dev)
			continue;
		bool layers = !strcmp(m->fstype, "overlay");
		s->by_handle |= layers;
		if (search)
			found = watched_search_below(s, m->point, WATCHED_DEPTH_MAX);
		else
			found = watched_name(w, m, s->path) ||
				(layers && watched_in_layers(w, m, s->path) && watched_is(w, s->path));
	}
	proc_mounts_release(&mounts);
	return found;
}

/* Whether a descriptor of the task leads to it. */
static bool watched_is_open(const struct watched *w)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd", w->pid);
	_cleanup_closedir_ DIR *dir = opendir(path);
	for (struct dirent *d; dir && (d = readdir(dir));) {
		struct stat st;
		if (d->d_name[0] != '.' && fstatat(dirfd(dir), d->d_name, &st, 0) == 0 &&
		    st.st_ino == w->ino && st.st_dev == w->dev)
			return true;
	}
	return false;
}

int watched_find(const struct watched *w, struct arena *a, char **ret_path, struct ferry_error *err)
{
	struct watched_search s = {.w = w};
	const char *known = peers_path(w->peers, w->dev, w->ino);
	bool found = known && watched_is(w, known);
	if (found)
		snprintf(s.path, sizeof(s.path), "%s", known);
	else
		found = watched_on_mounts(w, &s, false);
	if (!found && watched_is_open(w))
		return 0;
	if (!found)
		found = watched_search_near(&s) || watched_on_mounts(w, &s, true);
	if (!found) {
		error_set(err, FERRY_ERROR_DELETED_FILE, ENOENT,
			  "%s: it watches inode %llu of device %u:%u, of which no name was found", w->who,
			  (unsigned long long)w->ino, major(w->dev), minor(w->dev));
		error_hint(err, "the file was deleted while somebody outside of the tree uses it, or lies "
				"on a file system that is not mounted here");
		return -ENOENT;
	}
	*ret_path = arena_string(a, s.path[0] ? s.path : "/");
	if (!*ret_path || peers_keep_path(w->peers, w->dev, w->ino, *ret_path) < 0)
		return error_memory(err);
	return 1;
}

/* ------------------------------------------------------------------------- records */

FhEntry *watched_record(struct arena *a, const struct proc_handle *handle, const char *path)
{
	FhEntry *fh = record_new(a, FhEntry, fh_entry);
	uint64_t *words = arena_array(a, uint64_t, WATCHED_HANDLE_WORDS);
	if (!fh || !words)
		return NULL;
	fh->bytes = handle->n;
	fh->type = (uint32_t)handle->type;
	memcpy(words, handle->bytes, MIN((size_t)handle->n, WATCHED_HANDLE_WORDS * sizeof(*words)));
	fh->handle = words;
	fh->n_handle = WATCHED_HANDLE_WORDS;
	fh->path = path ? arena_string(a, path) : NULL;
	return path && !fh->path ? NULL : fh;
}

static int watched_open_handle(const FhEntry *fh, uint32_t s_dev)
{
	struct proc_handle handle = {.n = fh->bytes, .type = (int32_t)fh->type};
	struct proc_mounts mounts = {0};
	int fd = -ENOENT;
	if (!fh->bytes || fh->bytes > sizeof(handle.bytes) || fh->bytes > fh->n_handle * sizeof(uint64_t))
		return -ENOENT;
	memcpy(handle.bytes, fh->handle, fh->bytes);
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	if (self < 0 || proc_read_mounts(self, &mounts, NULL) < 0)
		return -ENOENT;
	for (size_t i = 0; i < mounts.v.n && fd < 0; i++)
		if (kern_dev(mounts.v.v[i].dev) == s_dev)
			fd = watched_decode(&mounts.v.v[i], &handle);
	proc_mounts_release(&mounts);
	return fd;
}

int watched_open(struct opener *o, const FhEntry *fh, uint64_t ino, uint32_t s_dev, struct ferry_error *err)
{
	int fd = fh && fh->path ? fd_open(AT_FDCWD, fh->path, O_PATH | O_NOFOLLOW, 0) : -ENOENT;
	if (fd < 0 && fh)
		fd = watched_open_handle(fh, s_dev);
	fd = plan_keep_source(o->plan, fd);
	if (fd < 0) {
		error_errno(err, FERRY_ERROR_FILES_CHANGED, -fd, "inode %llu, which is watched%s%s",
			    (unsigned long long)ino, fh && fh->path ? " as " : "",
			    fh && fh->path ? fh->path : "");
		error_hint(err, "put it back where it was when the dump was taken");
	}
	return fd;
}

int watched_check_queue(const struct fd_view *view, const struct kind_options *options, bool frozen,
			struct ferry_error *err)
{
	const struct timespec tick = {.tv_nsec = 1000 * 1000};
	struct fd_view copied = *view;
	char who[64];
	int waiting = 0;
	int r = options->criu_compat ? 0 : fd_view_copy(&copied, err);
	if (r < 0 || options->criu_compat)
		return r;
	for (int left = frozen ? 0 : WATCHED_PATIENCE_MS;; left--) {
		if (ioctl(copied.copy, FIONREAD, &waiting) < 0 || !waiting || left <= 0)
			break;
		nanosleep(&tick, NULL);
	}
	if (view->copy < 0)
		close(copied.copy);
	if (!waiting)
		return 0;
	fd_view_name(view, who, sizeof(who));
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, EBUSY,
		  "%s: events (%d bytes) wait to be read in '%s', and the kernel cannot put them back", who,
		  waiting, view->link);
	error_hint(err, "try again when the program has read them");
	return -EBUSY;
}
