/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns regular files, directories and device nodes: whatever can be opened again by its path. A description is
 * brought back with its flags, position and owner; contents stay in the file system, so size, times and handle
 * of files that are written to are recorded and compared before a restore (guard).
 *
 * Kernel interface: /proc/PID/fd, /proc/PID/fdinfo, stat(2), open(2), lseek(2), fcntl(2) F_SETOWN_EX.
 * Does not handle yet: deleted files, files under other mounts, locks, leases; they are refused by name.
 */
#include "kind/regfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/vma-status.h"
#include "proc/read.h"

/* Flags that belong to open(2) once, not to a description. */
enum { REGFILE_FLAGS_DROP = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC };

/* Character devices without state: major 1 (mem, null, zero, full, random, urandom, kmsg excluded). */
static bool regfile_device_is_stateless(dev_t rdev)
{
	static const unsigned minors[] = {3, 5, 7, 8, 9};
	if (major(rdev) != 1)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(minors); i++)
		if (minor(rdev) == minors[i])
			return true;
	return false;
}

static bool regfile_owns(const struct fd_view *view)
{
	if (view->link[0] != '/')
		return false;
	return S_ISREG(view->stat.st_mode) || S_ISDIR(view->stat.st_mode) || S_ISBLK(view->stat.st_mode) ||
	       (S_ISCHR(view->stat.st_mode) && regfile_device_is_stateless(view->stat.st_rdev));
}

/* Why a file cannot be dumped by its path: 0 when it can. */
static int regfile_check_path(const char *who, const char *path, const struct stat *st,
			      struct ferry_error *err)
{
	static const char deleted[] = " (deleted)";
	size_t n = strlen(path);
	struct stat now;
	if (stat(path, &now) == 0 && now.st_ino == st->st_ino && now.st_dev == st->st_dev)
		return 0;
	if (!st->st_nlink || (n > sizeof(deleted) && !strcmp(path + n - sizeof(deleted) + 1, deleted))) {
		error_set(err, FERRY_ERROR_DELETED_FILE, ENOTSUP, "%s: '%s' was deleted", who, path);
		error_hint(
			err,
			"let the program close the file, or restart it so that it uses the file of that name");
		return -ENOTSUP;
	}
	error_set(err, FERRY_ERROR_DELETED_FILE, ENOTSUP, "%s: '%s' does not lead to the file that is open",
		  who, path);
	error_hint(err, "the path lies in another mount namespace, under another mount, or was renamed");
	return -ENOTSUP;
}

/* The process of /proc/PID/NAME; 0: the path is none of that form. */
static pid_t regfile_proc_pid(const char *path)
{
	static const char proc[] = "/proc/", letters[] = "abcdefghijklmnopqrstuvwxyz_";
	const char *number = path + sizeof(proc) - 1;
	char *end;
	if (strncmp(path, proc, sizeof(proc) - 1) != 0 || number[0] < '1' || number[0] > '9')
		return 0;
	long pid = strtol(number, &end, 10);
	if (*end != '/' || !end[1] || end[1 + strspn(end + 1, letters)] || pid > INT_MAX)
		return 0;
	return (pid_t)pid;
}

/*
 * Programs look at themselves every now and then (redis at its stat, ten times a second). Such a file can be opened again
 * once the process exists. Who may read it must not depend on who opened it.
 */
static bool regfile_is_proc(const struct fd_view *view)
{
	bool reads = (view->info->flags & (O_ACCMODE | O_PATH)) == O_RDONLY;
	return regfile_proc_pid(view->link) && reads && S_ISREG(view->stat.st_mode) &&
	       view->stat.st_mode & S_IROTH;
}

static int regfile_check_proc(const struct collect *c, const struct fd_view *view, struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	vec_foreach(task, &c->snap->tasks) {
		if (task->inner_pid == regfile_proc_pid(view->link))
			return 0;
	}
	return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			 "%s: '%s' is of a process outside of the tree", who, view->link);
}

static int regfile_check(const struct fd_view *view, const struct kind_options *options unused,
			 struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	if (view->info->locks.n) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' carries a file lock or lease",
			  who, view->link);
		error_hint(err, "file locks are not dumped yet");
		return -ENOTSUP;
	}
	if (regfile_is_proc(view))
		return 0;
	if (!strncmp(view->link, "/proc/", 6))
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "%s: '%s' has no path to be opened again by", who, view->link);
	return regfile_check_path(who, view->link, &view->stat, err);
}

/* What must not change until the restore: a file somebody can write to through this description. */
static int regfile_guard(struct collect *c, const char *path, const struct stat *st, struct ferry_error *err)
{
	vec_foreach(known, &c->snap->guards) {
		if ((*known)->ino == st->st_ino && (*known)->dev == st->st_dev)
			return 0;
	}
	FerryFileGuardEntry *guard = record_new(&c->snap->arena, FerryFileGuardEntry, ferry_file_guard_entry);
	FerryFileGuardEntry **slot = guard ? vec_push(&c->snap->guards) : NULL;
	if (!slot)
		return error_memory(err);
	guard->path = arena_string(&c->snap->arena, path);
	guard->size = (uint64_t)st->st_size;
	guard->mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
	guard->ctime_ns = st->st_ctim.tv_sec * 1000000000ll + st->st_ctim.tv_nsec;
	guard->dev = st->st_dev;
	guard->ino = st->st_ino;
	*slot = guard;
	return guard->path ? 0 : error_memory(err);
}

static RegFileEntry *regfile_record(struct arena *a, const char *path, const struct stat *st, uint32_t flags,
				    uint64_t pos)
{
	RegFileEntry *reg = record_new(a, RegFileEntry, reg_file_entry);
	if (!reg)
		return NULL;
	reg->fown = fdcommon_no_owner(a);
	reg->name = arena_string(a, path);
	reg->flags = flags & ~(uint32_t)REGFILE_FLAGS_DROP;
	reg->pos = pos;
	record_set(reg, mode, st->st_mode);
	if (S_ISREG(st->st_mode))
		record_set(reg, size, (uint64_t)st->st_size);
	return reg->fown && reg->name ? reg : NULL;
}

static int regfile_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			   struct ferry_error *err)
{
	int r = regfile_check(view, c->options, err);
	if (r >= 0 && regfile_is_proc(view))
		r = regfile_check_proc(c, view, err);
	if (r < 0)
		return r;
	RegFileEntry *reg =
		regfile_record(&c->snap->arena, view->link, &view->stat, view->info->flags, view->info->pos);
	if (!reg)
		return error_memory(err);
	reg->id = file->entry->id;
	r = fdcommon_owner(c, view, &reg->fown, err);
	if (r < 0)
		return r;
	file->entry->reg = reg;
	bool writes = (reg->flags & O_ACCMODE) != O_RDONLY && !(reg->flags & O_PATH);
	return S_ISREG(view->stat.st_mode) && writes ? regfile_guard(c, view->link, &view->stat, err) : 0;
}

/* One record for each file that is in no descriptor table. */
static int regfile_collect_path(struct collect *c, pid_t pid, const char *path, const struct stat *st,
				uint32_t flags, uint32_t *ret_index, struct ferry_error *err)
{
	for (size_t i = 0; i < c->snap->files.n; i++) {
		const struct snap_file *known = &c->snap->files.v[i];
		if (known->fd < 0 && known->entry->reg && !strcmp(known->entry->reg->name, path) &&
		    known->entry->reg->flags == flags) {
			*ret_index = (uint32_t)i;
			return 0;
		}
	}
	FileEntry *entry = record_new(&c->snap->arena, FileEntry, file_entry);
	RegFileEntry *reg = entry ? regfile_record(&c->snap->arena, path, st, flags, 0) : NULL;
	struct snap_file *file = reg ? vec_push(&c->snap->files) : NULL;
	if (!file)
		return error_memory(err);
	entry->type = FD_TYPES__REG;
	entry->id = reg->id = ++c->snap->next_file_id;
	entry->reg = reg;
	*file = (struct snap_file){.entry = entry, .kind = &kind_regfile, .copy = -1, .pid = pid, .fd = -1};
	*ret_index = (uint32_t)(c->snap->files.n - 1);
	return 0;
}

static int regfile_collect_mapped(struct collect *c, pid_t pid, const char *name, int fd, uint32_t flags,
				  uint32_t *ret_index, struct ferry_error *err)
{
	struct stat st;
	char who[64];
	snprintf(who, sizeof(who), "mapped file of pid %d", pid);
	if (fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at '%s', which pid %d maps", name,
				   pid);
	int r = regfile_check_path(who, name, &st, err);
	if (r < 0)
		return r;
	r = regfile_collect_path(c, pid, name, &st, flags, ret_index, err);
	if (r >= 0 && flags != O_RDONLY && S_ISREG(st.st_mode))
		r = regfile_guard(c, name, &st, err);
	return r;
}

int regfile_collect_link(struct collect *c, pid_t pid, int proc_dir, const char *link, uint32_t *ret_id,
			 struct ferry_error *err)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;
	char who[64];
	snprintf(who, sizeof(who), "%s of pid %d", link, pid);
	int r = proc_read_link(proc_dir, link, &path, err);
	if (r < 0)
		return r;
	if (fstatat(proc_dir, link, &st, 0) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at the %s", who);
	r = regfile_check_path(who, path, &st, err);
	uint32_t index;
	if (r >= 0)
		r = regfile_collect_path(c, pid, path, &st, O_RDONLY, &index, err);
	if (r < 0)
		return r;
	*ret_id = c->snap->files.v[index].entry->id;
	return 0;
}

bool regfile_is_root(const struct plan_file *file)
{
	return file && file->entry->reg && !strcmp(file->entry->reg->name, "/");
}

int regfile_verify(const RegFileEntry *entry, struct ferry_error *err)
{
	struct stat st;
	if (regfile_proc_pid(entry->name))
		return 0; /* of a process that is still to come */
	if (stat(entry->name, &st) < 0) {
		error_errno(err, FERRY_ERROR_FILES_CHANGED, errno, "'%s' is needed by the image",
			    entry->name);
		error_hint(err, "put the file back where it was when the dump was taken");
		return -errno;
	}
	if (entry->has_mode && (st.st_mode & S_IFMT) != (entry->mode & S_IFMT))
		return error_set(err, FERRY_ERROR_FILES_CHANGED, EBADF,
				 "'%s' is of another type than when the dump was taken", entry->name);
	if (entry->has_size && S_ISREG(st.st_mode) && (uint64_t)st.st_size != entry->size) {
		error_set(err, FERRY_ERROR_FILES_CHANGED, EBADF,
			  "'%s' had %llu bytes when the dump was taken and has %llu now", entry->name,
			  (unsigned long long)entry->size, (unsigned long long)st.st_size);
		error_hint(err,
			   "restore the file from the time of the dump, or restore with --files=as-found");
		return -EBADF;
	}
	return 0;
}

static int regfile_restore(struct opener *o unused, struct plan_file *file, int *ret_fd,
			   struct ferry_error *err)
{
	const RegFileEntry *reg = file->entry->reg;
	if (!reg)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "file id %u has no record of its own",
				 file->entry->id);
	int flags = (int)(reg->flags & ~(uint32_t)REGFILE_FLAGS_DROP);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, reg->name, flags | O_NOCTTY, 0);
	if (fd < 0) {
		error_errno(err, FERRY_ERROR_FILES_CHANGED, -fd, "opening '%s'", reg->name);
		error_hint(err, "the file must be there with the rights that it had");
		return fd;
	}
	if (reg->pos && !(flags & O_PATH) && lseek(fd, (off_t)reg->pos, SEEK_SET) < 0 && errno != ESPIPE)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "seeking in '%s' to %llu", reg->name,
				   (unsigned long long)reg->pos);
	*ret_fd = take_fd(fd);
	return 0;
}

static bool regfile_is_last(const struct plan_file *file)
{
	return file->entry->reg && regfile_proc_pid(file->entry->reg->name);
}

static int regfile_settle(struct settle *s unused, struct plan_file *file, int fd, struct ferry_error *err)
{
	return fdcommon_settle_owner(file->entry->reg->fown, fd, err);
}

/* ------------------------------------------------------------------------- mappings */

static bool regfile_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_FILE;
}

static int regfile_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	if (!view->vma->deleted)
		return 0;
	error_set(err, FERRY_ERROR_DELETED_FILE, ENOTSUP, "pid %d maps '%s' at %llx, which was deleted",
		  view->pid, view->name, (unsigned long long)view->vma->start);
	error_hint(err, "restart the program so that it maps the file of that name");
	return -ENOTSUP;
}

static int regfile_collect_vma(struct collect *c, struct snap_task *t, const struct vma_view *view,
			       struct snap_vma *vma, struct ferry_error *err)
{
	_cleanup_close_ int fd = proc_open_vma_file(view->proc_dir, view->vma, O_PATH, err);
	int r = fd < 0 ? fd
		       : regfile_collect_mapped(c, t->pid, view->name, fd, fdcommon_mapped_flags(view),
						&vma->file, err);
	if (r >= 0)
		fdcommon_mapped(c, view, vma);
	return r;
}

/* What is not of a kind before us in the list. */
static bool regfile_owns_record(const VmaEntry *entry)
{
	return entry->status & (VMA_STATUS_FILE_PRIVATE | VMA_STATUS_FILE_SHARED);
}

const struct kind_ops kind_regfile = {
	.name = "regfile",
	.what = "regular files, directories, stateless device nodes",
	.fd_type = FD_TYPES__REG,
	.image_file = -1,
	.is_last = regfile_is_last,
	.owns = regfile_owns,
	.check = regfile_check,
	.collect = regfile_collect,
	.restore = regfile_restore,
	.settle = regfile_settle,
	.owns_vma = regfile_owns_vma,
	.check_vma = regfile_check_vma,
	.collect_vma = regfile_collect_vma,
	.owns_record = regfile_owns_record,
	.map = fdcommon_map,
};
