/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the directory of a series: names, what each folder is, removing one.
 *
 * Kernel interface: flock(2) on the directory.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "image/dir.h"
#include "series/internal.h"

enum { FOLDER_DEPTH = 64 };

/* "000012-20260131T235959Z" */
static unsigned folder_number(const char *name)
{
	char *end;
	if (name[0] < '0' || name[0] > '9' || strlen(name) >= SERIES_NAME_BYTES)
		return 0;
	unsigned long n = strtoul(name, &end, 10);
	return *end == '-' && n && n < 1ul << 31 ? (unsigned)n : 0;
}

static bool folder_has(int dir, const char *name, const char *file)
{
	char path[SERIES_NAME_BYTES + 32];
	snprintf(path, sizeof(path), "%s/%s", name, file);
	return faccessat(dir, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int folder_compare(const void *a, const void *b)
{
	const struct series_item *x = a, *y = b;
	return x->number != y->number ? (x->number < y->number ? -1 : 1) : strcmp(x->name, y->name);
}

/* Opened anew, since who reads a directory moves its position. */
static DIR *folder_list(int at, const char *name)
{
	int fd = fd_open(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	DIR *listing = fd < 0 ? NULL : fdopendir(fd);
	if (!listing && fd >= 0)
		close(fd);
	else if (fd < 0)
		errno = -fd;
	return listing;
}

int series_look(struct series *s, struct ferry_error *err)
{
	_cleanup_closedir_ DIR *listing = folder_list(s->dir, ".");
	if (!listing)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "listing '%s'", s->path);
	s->items.n = 0;
	for (struct dirent *e; errno = 0, (e = readdir(listing));) {
		unsigned number = folder_number(e->d_name);
		struct series_item *item = number ? vec_push(&s->items) : NULL;
		if (number && !item)
			return error_memory(err);
		if (!number)
			continue;
		item->number = number;
		snprintf(item->name, sizeof(item->name), "%.*s", SERIES_NAME_BYTES - 1, e->d_name);
		item->restored = folder_has(s->dir, e->d_name, IMAGE_SPENT_NAME);
		item->state = !folder_has(s->dir, e->d_name, "inventory.img")     ? SERIES_UNFINISHED
			      : folder_has(s->dir, e->d_name, IMAGE_PUNCHED_NAME) ? SERIES_RETIRED
										  : SERIES_WHOLE;
	}
	if (errno)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "listing '%s'", s->path);
	if (s->items.n)
		qsort(s->items.v, s->items.n, sizeof(*s->items.v), folder_compare);
	return 0;
}

const struct series_item *series_newest(const struct series *s)
{
	const struct series_item *newest = NULL;
	vec_foreach(item, &s->items)
		if (item->state == SERIES_WHOLE)
			newest = item;
	return newest;
}

void series_next_name(const struct series *s, char ret[SERIES_NAME_BYTES])
{
	unsigned number = s->items.n ? s->items.v[s->items.n - 1].number + 1 : 1;
	time_t now = time(NULL);
	char when[24] = "";
	struct tm tm;
	if (gmtime_r(&now, &tm))
		strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm);
	snprintf(ret, SERIES_NAME_BYTES, "%06u-%s", number, when);
}

/* ------------------------------------------------------------- whole folders */

static uint64_t folder_bytes(int at, const char *name, unsigned depth)
{
	_cleanup_closedir_ DIR *listing = depth ? folder_list(at, name) : NULL;
	uint64_t bytes = 0;
	for (struct dirent *e; listing && (e = readdir(listing));) {
		struct stat st;
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
		    fstatat(dirfd(listing), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		bytes += (uint64_t)st.st_blocks * 512;
		if (S_ISDIR(st.st_mode))
			bytes += folder_bytes(dirfd(listing), e->d_name, depth - 1);
	}
	return bytes;
}

uint64_t series_bytes(const struct series *s, const char *name)
{
	return folder_bytes(s->dir, name, FOLDER_DEPTH);
}

bool series_is_full(const struct series *s, const char *name)
{
	static const struct image_dir_open options = {.no_checksums = true};
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	struct stat ours, theirs;
	struct image_dir *at;
	int r = image_dir_open(s->dir, name, &options, &dir, NULL);
	if (r < 0 || fstat(s->dir, &ours) < 0)
		return false;
	/* Rounds that it has for itself lie within it. */
	for (at = dir; image_dir_parent(at, &at, NULL) >= 0 && at;)
		if (fstatat(image_dir_fd(at), "..", &theirs, 0) < 0 ||
		    (theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev))
			return false;
	return true;
}

static int folder_remove(int at, const char *name, unsigned depth)
{
	_cleanup_closedir_ DIR *listing = depth ? folder_list(at, name) : NULL;
	if (!listing)
		return depth ? -errno : -ELOOP;
	for (struct dirent *e; errno = 0, (e = readdir(listing));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dirfd(listing), e->d_name, 0) == 0 || errno == ENOENT)
			continue;
		int r = errno == EISDIR || errno == EPERM
				? folder_remove(dirfd(listing), e->d_name, depth - 1)
				: -errno;
		if (r < 0)
			return r;
	}
	return errno ? -errno : unlinkat(at, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int series__remove_rest(const struct series *s, const char *name, struct ferry_error *err)
{
	int r = folder_remove(s->dir, name, FOLDER_DEPTH);
	return r < 0 && r != -ENOENT
		       ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "removing '%s/%s'", s->path, name)
		       : 0;
}

int series_remove(const struct series *s, const char *name, const struct fault *fault,
		  struct ferry_error *err)
{
	char gone[SERIES_NAME_BYTES + sizeof(SERIES_GONE)];
	snprintf(gone, sizeof(gone), SERIES_GONE "%s", name);
	fault_effect(fault, "retain", "rename");
	if (renameat(s->dir, name, s->dir, gone) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "removing '%s/%s'", s->path, name);
	fault_effect(fault, "retain", "remove");
	return series__remove_rest(s, gone, err);
}

/* What is in nobody's way but takes room: half removed, half merged, half written. */
static int folder_sweep(struct series *s, struct ferry_error *err)
{
	_cleanup_closedir_ DIR *listing = folder_list(s->dir, ".");
	int r = 0;
	for (struct dirent *e; listing && r >= 0 && (e = readdir(listing));)
		if (!strncmp(e->d_name, SERIES_GONE, strlen(SERIES_GONE)) ||
		    !strncmp(e->d_name, SERIES_MERGING, strlen(SERIES_MERGING)))
			r = series__remove_rest(s, e->d_name, err);
	vec_foreach(item, &s->items) {
		if (r >= 0 && item->state == SERIES_UNFINISHED)
			r = series_remove(s, item->name, NULL, err);
	}
	return r < 0 ? r : series_look(s, err);
}

int series_open(const char *path, bool to_write, struct series *ret, struct ferry_error *err)
{
	struct series s = {.path = path};
	if (to_write && mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "making the directory '%s'", path);
	s.dir = fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	if (s.dir < 0)
		return error_errno(err, FERRY_ERROR_IMAGE_MISSING, -s.dir, "opening the directory '%s'",
				   path);
	int r = 0;
	if (to_write && flock(s.dir, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
		r = error_set(err, FERRY_ERROR_IMAGE_EXISTS, EBUSY,
			      "another ferry is taking snapshots into '%s'", path);
		error_hint(err, "give another directory");
	}
	if (r >= 0)
		r = series_look(&s, err);
	if (r >= 0 && to_write)
		r = folder_sweep(&s, err);
	if (r < 0)
		series_close(&s);
	else
		*ret = s;
	return r;
}

void series_close(struct series *s)
{
	vec_release(&s->items);
	if (s->dir >= 0)
		close(s->dir);
	s->dir = -1;
}
