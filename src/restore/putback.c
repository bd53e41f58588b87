/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns files that an image has the contents of (--files=put-back). A file is replaced by another one, whole, that gets its permissions and
 * owner; what was there stands beside it until the restore is decided. So a restore that fails changes nothing; one that is killed may leave
 * files as they were at the dump, and those of before beside them.
 *
 * Kernel interface: renameat2(2) RENAME_EXCHANGE (3.15). Does not handle: extended attributes, hard links (other names keep what was there).
 */
#include "restore/putback.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clone.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "image/dir.h"
#include "model/plan.h"

static bool putback_is_there(const FerryFileGuardEntry *guard)
{
	struct stat st;
	return stat(guard->path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == guard->size &&
	       st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec == guard->mtime_ns;
}

static int putback_error(const FerryFileGuardEntry *guard, int code, struct ferry_error *err)
{
	return error_errno(err, code == ENOSPC || code == EDQUOT ? FERRY_ERROR_NO_SPACE : FERRY_ERROR_SYSTEM,
			   code, "putting back '%s'", guard->path);
}

/* Its directory and name. */
static int putback_find(struct putback_file *f, const FerryFileGuardEntry *guard, struct ferry_error *err)
{
	const char *slash = strrchr(guard->path, '/');
	if (guard->path[0] != '/' || !slash[1])
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "'%s' is no path of a file",
				 guard->path);
	_cleanup_free_ char *folder =
		strndup(guard->path, slash == guard->path ? 1 : (size_t)(slash - guard->path));
	f->name = strdup(slash + 1);
	if (!folder || !f->name || asprintf(&f->beside, "%s" PUTBACK_SUFFIX, slash + 1) < 0) {
		f->beside = NULL;
		return error_memory(err);
	}
	f->dir = fd_open(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY, 0);
	return f->dir < 0 ? putback_error(guard, -f->dir, err) : 0;
}

/* As the one that is there, or, if none is, as it was. */
static int putback_dress(const struct putback_file *f, const FerryFileGuardEntry *guard, int fd)
{
	struct stat st = {.st_mode = guard->mode & 07777, .st_uid = guard->uid, .st_gid = guard->gid};
	struct stat there;
	if (fstatat(f->dir, f->name, &there, AT_SYMLINK_NOFOLLOW) == 0)
		st = there;
	const struct timespec times[] = {{.tv_nsec = UTIME_OMIT},
					 {.tv_sec = (time_t)(guard->mtime_ns / 1000000000),
					  .tv_nsec = (long)(guard->mtime_ns % 1000000000)}};
	if (fchown(fd, st.st_uid, st.st_gid) < 0 || fchmod(fd, st.st_mode & 07777) < 0 ||
	    futimens(fd, times) < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

static int putback_write(struct putback_file *f, const FerryFileGuardEntry *guard, struct image_dir *dir,
			 struct ferry_error *err)
{
	char name[IMAGE_NAME_MAX];
	struct stat st;
	image_file_name(IMAGE_FERRY_CAPTURED, guard->captured, name);
	_cleanup_close_ int from = fd_open(image_dir_fd(dir), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (!image_dir_has(dir, IMAGE_FERRY_CAPTURED, guard->captured) || from < 0 || fstat(from, &st) < 0 ||
	    (uint64_t)st.st_size != guard->size)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "the contents of '%s' are not in '%s'",
				 guard->path, image_dir_path(dir));
	_cleanup_close_ int to = fd_open(f->dir, f->beside, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (to == -EEXIST) {
		error_set(err, FERRY_ERROR_FILES_CHANGED, EEXIST, "'%s" PUTBACK_SUFFIX "' is there",
			  guard->path);
		error_hint(
			err,
			"a restore was killed that had put the file back: remove the one that you do not want");
		free(f->beside);
		f->beside = NULL; /* not ours */
		return -EEXIST;
	}
	int r = to < 0 ? to : fd_clone(from, to);
	if (r >= 0)
		r = putback_dress(f, guard, to);
	return r < 0 ? putback_error(guard, -r, err) : 0;
}

/* 0 or -errno. */
static int putback_place(struct putback_file *f)
{
	int r = renameat2(f->dir, f->beside, f->dir, f->name, RENAME_EXCHANGE);
	f->was = r == 0;
	if (r < 0 && errno == ENOENT)
		r = renameat2(f->dir, f->beside, f->dir, f->name, RENAME_NOREPLACE);
	f->placed = r == 0;
	return r < 0 ? -errno : 0;
}

static int putback_prepare(struct putback *p, const FerryFileGuardEntry *guard, struct image_dir *dir,
			   struct ferry_error *err)
{
	struct putback_file *f = vec_push(&p->files);
	if (!f)
		return error_memory(err);
	f->dir = -1;
	int r = putback_find(f, guard, err);
	return r < 0 ? r : putback_write(f, guard, dir, err);
}

int putback_files(struct putback *p, const struct plan *plan, struct image_dir *dir,
		  const struct fault *fault, struct ferry_error *err)
{
	VEC(const FerryFileGuardEntry *) chosen = {0};
	int r = 0;
	vec_foreach(guard, &plan->guards) {
		if (r < 0 || !(*guard)->has_captured || putback_is_there(*guard))
			continue;
		const FerryFileGuardEntry **slot = vec_push(&chosen);
		if (slot)
			*slot = *guard;
		fault_effect(fault, "restore", "put-back-write");
		r = slot ? putback_prepare(p, *guard, dir, err) : error_memory(err);
	}
	for (size_t i = 0; i < chosen.n && r >= 0; i++) {
		fault_effect(fault, "restore", "put-back");
		r = putback_place(&p->files.v[i]);
		if (r < 0)
			putback_error(chosen.v[i], -r, err);
	}
	vec_release(&chosen);
	return r;
}

void putback_keep(struct putback *p)
{
	vec_foreach(f, &p->files)
		if (f->beside && f->was)
			unlinkat(f->dir, f->beside, 0);
	putback_release(p);
}

static int putback_undo_one(const struct putback_file *f)
{
	if (f->dir < 0 || !f->beside)
		return 0;
	if (f->placed && !f->was)
		return unlinkat(f->dir, f->name, 0) < 0 ? -errno : 0;
	if (f->placed && renameat2(f->dir, f->beside, f->dir, f->name, RENAME_EXCHANGE) < 0)
		return -errno;
	return unlinkat(f->dir, f->beside, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int putback_undo(struct putback *p)
{
	int ret = 0;
	vec_foreach(f, &p->files) {
		int r = putback_undo_one(f);
		ret = ret < 0 ? ret : r;
	}
	putback_release(p);
	return ret;
}

void putback_release(struct putback *p)
{
	vec_foreach(f, &p->files) {
		if (f->dir >= 0)
			close(f->dir);
		free(f->name);
		free(f->beside);
	}
	vec_release(&p->files);
}
