/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the ways to a file whose name does not lead to it: the name was removed and the file has others (hard links), or a
 * mount hides it. A file handle leads to the very inode, on the very mount that it was opened on; where a file
 * system gives none, another name in the same directory does.
 *
 * Kernel interface: name_to_handle_at(2), open_by_handle_at(2) (2.6.39; CAP_DAC_READ_SEARCH), statx(2) STATX_MNT_ID (5.8).
 * Does not handle: files on a mount that is hidden as a whole or was unmounted lazily, and hidden files of file systems
 * without handles (overlayfs without nfs_export): no interface opens a mount by its id. They are refused by name.
 */
#include "kind/reach.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "model/kind.h"
#include "model/record.h"
#include "proc/read.h"

union reach_handle {
	struct file_handle head;
	char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

static bool reach_same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

bool reach_is_elsewhere(pid_t look, const struct kind_options *options)
{
	uint64_t ino;
	_cleanup_close_ int dir = proc_open(look, NULL);
	return dir >= 0 && proc_read_namespace(dir, PROC_NS_MNT, &ino, NULL) >= 0 && ino &&
	       options->view_ns && ino != options->view_ns;
}

pid_t reach_pid(const struct file_object *o)
{
	static const char proc[] = "/proc/";
	char *end = NULL;
	long pid = strncmp(o->source, proc, sizeof(proc) - 1)
			   ? 0
			   : strtol(o->source + sizeof(proc) - 1, &end, 10);
	return end && *end == '/' && pid > 0 ? (pid_t)pid : 0;
}

/* In the mount namespace of the process that has it: there the same mount is at its path. */
static bool reach_is_there(const struct file_object *o)
{
	struct kern_statx mine, named;
	char path[PATH_MAX];
	pid_t pid = reach_pid(o);
	if (!pid || (size_t)snprintf(path, sizeof(path), "/proc/%d/root%s", pid, o->link) >= sizeof(path))
		return false;
	return sys_statx(AT_FDCWD, o->source, 0, STATX_MNT_ID | STATX_INO, &mine) >= 0 &&
	       sys_statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID | STATX_INO, &named) >= 0 &&
	       mine.mask & named.mask & STATX_MNT_ID && mine.mnt_id == named.mnt_id && mine.ino == named.ino;
}

enum reach_way reach_way(const struct file_object *o, char ret_name[PATH_MAX])
{
	static const char suffix[] = " (deleted)";
	size_t n = strlen(o->link), end = sizeof(suffix) - 1;
	struct stat now;
	bool deleted = n > end && !strcmp(o->link + n - end, suffix);
	snprintf(ret_name, PATH_MAX, "%s", o->link);
	if ((lstat(o->link, &now) == 0 && reach_same(&now, &o->st)) || reach_is_there(o))
		return REACH_PATH;
	if (deleted && n < PATH_MAX)
		ret_name[n - end] = '\0';
	return !o->st.st_nlink || (deleted && S_ISDIR(o->st.st_mode)) ? REACH_GHOST : REACH_OTHER;
}

static bool reach_mount_id(int fd, const char *path, uint64_t *ret_id)
{
	struct kern_statx st;
	if (sys_statx(fd, path, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &st) < 0 ||
	    !(st.mask & STATX_MNT_ID))
		return false;
	*ret_id = st.mnt_id;
	return true;
}

/* Where the mount that a descriptor is on can be reached, NULL when other mounts hide all of it. */
static char *reach_mount_point(int fd, struct arena *a)
{
	struct proc_mounts mounts = {0};
	uint64_t id, there;
	char *found = NULL;
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	if (self < 0 || !reach_mount_id(fd, "", &id) || proc_read_mounts(self, &mounts, NULL) < 0)
		return NULL;
	const struct proc_mount *mount = proc_mounts_find(&mounts, (int32_t)id);
	if (mount && reach_mount_id(AT_FDCWD, mount->point, &there) && there == id)
		found = arena_string(a, mount->point);
	proc_mounts_release(&mounts);
	return found;
}

static int reach_by_handle(const FerryFileEntry *e, int flags)
{
	union reach_handle handle = {.head = {.handle_bytes = (unsigned)e->file_handle.len}};
	if (!e->mount || !e->has_file_handle || e->file_handle.len > MAX_HANDLE_SZ)
		return -ENOENT;
	handle.head.handle_type = e->handle_type;
	memcpy(handle.head.f_handle, e->file_handle.data, e->file_handle.len);
	_cleanup_close_ int mount = fd_open(AT_FDCWD, e->mount, O_RDONLY | O_NONBLOCK, 0);
	int fd = mount < 0 ? mount : sys_open_by_handle_at(mount, &handle.head, flags | O_CLOEXEC);
	struct stat st;
	if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_ino != e->ino || st.st_dev != e->dev)) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

/* Whether a handle leads there; it is recorded then. */
static int reach_take_handle(const struct file_object *o, int fd, struct arena *a, FerryFileEntry *e)
{
	union reach_handle handle = {.head = {.handle_bytes = MAX_HANDLE_SZ}};
	int mount_id;
	e->mount = o->remade ? NULL : reach_mount_point(fd, a);
	if (!e->mount || sys_name_to_handle_at(fd, "", &handle.head, &mount_id, AT_EMPTY_PATH) < 0)
		return 0;
	record_set(e, file_handle, record_bytes(a, handle.head.f_handle, handle.head.handle_bytes));
	record_set(e, handle_type, handle.head.handle_type);
	if (!e->file_handle.data)
		return -ENOMEM;
	_cleanup_close_ int again = reach_by_handle(e, O_PATH);
	if (again >= 0)
		return 1;
	e->has_file_handle = e->has_handle_type = 0;
	return 0;
}

/* Another name of it in the folder where it had the removed one. */
static int reach_take_link(const struct file_object *o, const char *name, struct arena *a, FerryFileEntry *e)
{
	const char *slash = strrchr(name, '/');
	if (!slash || o->st.st_nlink < 1)
		return 0;
	_cleanup_free_ char *folder = strndup(name, (size_t)(slash - name) + (slash == name));
	_cleanup_closedir_ DIR *dir = folder ? opendir(folder) : NULL;
	for (struct dirent *d; dir && (d = readdir(dir));) {
		struct stat st;
		if (d->d_name[0] == '.' && (!d->d_name[1] || !strcmp(d->d_name, "..")))
			continue;
		if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !reach_same(&st, &o->st))
			continue;
		char path[PATH_MAX];
		int n = snprintf(path, sizeof(path), "%s/%s", folder[1] ? folder : "", d->d_name);
		e->link = n < PATH_MAX ? arena_string(a, path) : NULL;
		return e->link ? 1 : -ENOMEM;
	}
	return 0;
}

int reach_find(const struct file_object *o, const char *name, struct arena *a, FerryFileEntry **ret_entry,
	       struct ferry_error *err)
{
	FerryFileEntry *e = record_new(a, FerryFileEntry, ferry_file_entry);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, o->source, O_PATH, 0);
	if (!e)
		return error_memory(err);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "%s: opening '%s'", o->who, o->source);
	e->dev = o->st.st_dev;
	e->ino = o->st.st_ino;
	bool deleted = strcmp(name, o->link) != 0;
	int by_handle = reach_take_handle(o, fd, a, e);
	int by_link = deleted && by_handle >= 0 ? reach_take_link(o, name, a, e) : 0;
	if (by_handle < 0 || by_link < 0)
		return error_memory(err);
	if (deleted)
		record_set(e, deleted, true);
	if (o->remade)
		record_set(e, remade, true);
	if (by_handle || by_link) {
		*ret_entry = e;
		return 0;
	}
	error_set(err, FERRY_ERROR_DELETED_FILE, ENOTSUP,
		  deleted ? "%s: the name '%s' was removed, and no other name of the file was found"
			  : "%s: '%s' does not lead to the file that is open",
		  o->who, name);
	error_hint(
		err,
		deleted ? "give it a name in the same directory again"
			: "it lies on a mount that other mounts hide, or that was unmounted: mount it again");
	return -ENOTSUP;
}

static int reach_by_link(const FerryFileEntry *e, int flags, bool moved)
{
	_cleanup_close_ int fd =
		e->link ? fd_open(AT_FDCWD, e->link, flags | O_CLOEXEC | O_NOFOLLOW, 0) : -ENOENT;
	struct stat st;
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	return moved || (st.st_ino == e->ino && st.st_dev == e->dev) ? take_fd(fd) : -ESTALE;
}

int reach_open(const FerryFileEntry *e, int flags, bool moved, struct ferry_error *err)
{
	int fd = reach_by_handle(e, flags);
	if (fd < 0)
		fd = reach_by_link(e, flags, moved || e->remade);
	if (fd >= 0)
		return fd;
	error_errno(err, FERRY_ERROR_FILES_CHANGED, -fd, "inode %llu, %s%s", (unsigned long long)e->ino,
		    e->link ? "which was called " : "which had no name in its directory",
		    e->link ? e->link : "");
	error_hint(err, "the file must be where it was when the dump was taken");
	return fd;
}
