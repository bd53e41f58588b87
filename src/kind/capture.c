/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns taking files along that a tree has open for writing. They are those that are compared before a restore anyway (guards, regfile.c).
 *
 * Kernel interface: /proc/PID/fd. Does not handle: files that are written through a mapping alone, their descriptor closed; extended
 * attributes.
 */
#include "kind/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "image/dir.h"
#include "model/record.h"
#include "model/snapshot.h"

/* A description that somebody has for it leads there whatever its path means here. */
static int capture_open(const struct snapshot *snap, const FerryFileGuardEntry *guard)
{
	vec_foreach(file, &snap->files) {
		char path[48];
		if (file->fd < 0 || file->ino != guard->ino || file->dev != guard->dev)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", file->look, file->fd);
		return fd_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK, 0);
	}
	return fd_open(AT_FDCWD, guard->path, O_RDONLY | O_NONBLOCK, 0);
}

static bool capture_is_same(const struct stat *st, const FerryFileGuardEntry *guard)
{
	return S_ISREG(st->st_mode) && st->st_ino == guard->ino && st->st_dev == guard->dev &&
	       (uint64_t)st->st_size == guard->size &&
	       st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec == guard->mtime_ns;
}

static int capture_changed(const FerryFileGuardEntry *guard, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_FILES_CHANGED, ESTALE, "'%s' is written to from outside of the tree",
		  guard->path);
	error_hint(err,
		   "a copy of it would be of no one moment; stop the writer, or do without --files=capture");
	return -ESTALE;
}

static int capture_one(struct snapshot *snap, struct image_dir *dir, FerryFileGuardEntry *guard, uint32_t id,
		       uint64_t limit, struct ferry_error *err)
{
	struct stat st;
	_cleanup_close_ int fd = capture_open(snap, guard);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, fd < 0 ? -fd : errno, "opening '%s'",
				   guard->path);
	if (!capture_is_same(&st, guard))
		return capture_changed(guard, err);
	if (limit && guard->size > limit) {
		error_set(err, FERRY_ERROR_LIMIT, EFBIG, "'%s' has %llu bytes, more than --capture-limit",
			  guard->path, (unsigned long long)guard->size);
		error_hint(err, "raise --capture-limit, or do without --files=capture");
		return -EFBIG;
	}
	int r = image_dir_copy(dir, IMAGE_FERRY_CAPTURED, id, fd, err);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0 || !capture_is_same(&st, guard))
		return capture_changed(guard, err);
	record_set(guard, captured, id);
	record_set(guard, mode, st.st_mode & 07777);
	record_set(guard, uid, st.st_uid);
	record_set(guard, gid, st.st_gid);
	return 0;
}

int capture_files(struct snapshot *snap, struct image_dir *dir, uint64_t limit, const struct fault *fault,
		  struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < snap->guards.n && r >= 0; i++) {
		fault_effect(fault, "dump", "capture");
		r = capture_one(snap, dir, snap->guards.v[i], (uint32_t)i + 1, limit, err);
	}
	return r;
}
