/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns storing files that have no name any more: contents without holes, owner, mode, times, extended attributes. An inode is
 * stored once, however many descriptors and mappings refer to it.
 *
 * Kernel interface: /proc/PID/fd, /proc/PID/map_files; lseek(2) SEEK_DATA, SEEK_HOLE (3.1); listxattr(2).
 * Does not handle: the change and birth times of the inode, which nobody can set; flags of FS_IOC_SETFLAGS; whether a file
 * of O_TMPFILE was made with O_EXCL, which the kernel does not tell: it can be given a name after the restore.
 */
#include "kind/ghost.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/ghost-file.pb-c.h"
#include "image/proto/remap-file-path.pb-c.h"
#include "kernel/syscalls.h"
#include "kind/fdcommon.h"
#include "kind/ghost_list.h"
#include "kind/kinds.h"
#include "model/record.h"

enum {
	GHOST_WHOLE_BYTES = 64 << 10, /* smaller ones without holes are stored in one piece */
	GHOST_XATTRS_BYTES = 64 << 10,
	GHOST_STAT_BLOCK = 512,
};

/* Attributes that belong to the file, and not to the security module or the file system that it happens to lie on. */
static const char *const ghost_xattr_prefixes[] = {"user.", "trusted.", "system.posix_acl_",
						   "security.capability"};

static bool ghost_keeps_xattr(const char *name)
{
	if (!strncmp(name, "trusted.overlay.", 16))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(ghost_xattr_prefixes); i++)
		if (!strncmp(name, ghost_xattr_prefixes[i], strlen(ghost_xattr_prefixes[i])))
			return true;
	return false;
}

static int ghost_take_xattr(struct arena *a, const char *source, const char *name, FerryGhostEntry *extra)
{
	_cleanup_free_ char *value = malloc(GHOST_XATTRS_BYTES);
	ssize_t n = value ? getxattr(source, name, value, GHOST_XATTRS_BYTES) : -1;
	if (!value)
		return -ENOMEM;
	if (n < 0)
		return errno == ENODATA ? 0 : -errno;
	FerryXattr *x = record_new(a, FerryXattr, ferry_xattr);
	if (!x)
		return -ENOMEM;
	x->name = arena_string(a, name);
	x->value = record_bytes(a, value, (size_t)n);
	if (!x->name || (n && !x->value.data))
		return -ENOMEM;
	extra->xattrs[extra->n_xattrs++] = x;
	return 0;
}

static int ghost_take_xattrs(struct arena *a, const char *source, FerryGhostEntry *extra)
{
	_cleanup_free_ char *names = malloc(GHOST_XATTRS_BYTES);
	ssize_t n = names ? listxattr(source, names, GHOST_XATTRS_BYTES) : -1;
	if (!names)
		return -ENOMEM;
	if (n <= 0)
		return n < 0 && errno != ENOTSUP ? -errno : 0;
	size_t count = 0;
	for (const char *name = names; name < names + n; name += strlen(name) + 1)
		count++;
	extra->xattrs = arena_array(a, FerryXattr *, count);
	int r = extra->xattrs ? 0 : -ENOMEM;
	for (const char *name = names; name < names + n && r >= 0; name += strlen(name) + 1)
		if (ghost_keeps_xattr(name))
			r = ghost_take_xattr(a, source, name, extra);
	return r;
}

static Timeval *ghost_time(struct arena *a, const struct timespec *ts)
{
	Timeval *tv = record_new(a, Timeval, timeval);
	if (!tv)
		return NULL;
	tv->tv_sec = (uint64_t)ts->tv_sec;
	tv->tv_usec = (uint64_t)ts->tv_nsec / 1000;
	return tv;
}

static int ghost_describe(struct arena *a, const struct file_object *o, const struct stat *st,
			  struct ghost *g)
{
	GhostFileEntry *entry = g->entry = record_new(a, GhostFileEntry, ghost_file_entry);
	FerryGhostEntry *extra = g->extra = record_new(a, FerryGhostEntry, ferry_ghost_entry);
	if (!entry || !extra)
		return -ENOMEM;
	entry->uid = st->st_uid;
	entry->gid = st->st_gid;
	entry->mode = st->st_mode;
	record_set(entry, dev, kern_dev(st->st_dev));
	record_set(entry, ino, st->st_ino);
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
		record_set(entry, rdev, (uint32_t)st->st_rdev);
	entry->atim = ghost_time(a, &st->st_atim);
	entry->mtim = ghost_time(a, &st->st_mtim);
	extra->id = g->id;
	record_set(extra, atime_ns, st->st_atim.tv_sec * 1000000000ll + st->st_atim.tv_nsec);
	record_set(extra, mtime_ns, st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec);
	if (S_ISLNK(st->st_mode)) {
		char target[PATH_MAX];
		_cleanup_close_ int fd = fd_open(AT_FDCWD, o->source, O_PATH, 0);
		ssize_t n = fd < 0 ? fd : readlinkat(fd, "", target, sizeof(target) - 1);
		if (n < 0)
			return fd < 0 ? fd : -errno;
		target[n] = '\0';
		entry->symlnk_target = arena_string(a, target);
		if (!entry->symlnk_target)
			return -ENOMEM;
	}
	return entry->atim && entry->mtim ? ghost_take_xattrs(a, o->source, extra) : -ENOMEM;
}

int ghost_collect(struct collect *c, const struct file_object *o, struct ghost **ret_ghost,
		  struct ferry_error *err)
{
	struct regfile_data *data = regfile_data(c->kind_data, &c->snap->arena);
	for (struct ghost *g = data ? data->ghosts : NULL; g; g = g->next) {
		if (g->ino != o->st.st_ino || g->dev != o->st.st_dev)
			continue;
		*ret_ghost = g;
		return 0;
	}
	struct ghost *g = arena_new(&c->snap->arena, struct ghost);
	struct stat st; /* with times, which the look at a descriptor may lack */
	if (!g || !data)
		return error_memory(err);
	if (stat(o->source, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "%s: looking at '%s'", o->who, o->link);
	g->ino = st.st_ino;
	g->dev = st.st_dev;
	g->id = ++c->snap->next_object_id;
	g->bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
	g->has_holes = g->bytes > (uint64_t)st.st_blocks * GHOST_STAT_BLOCK;
	g->source = arena_string(&c->snap->arena, o->source);
	int r = g->source ? ghost_describe(&c->snap->arena, o, &st, g) : -ENOMEM;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "%s: looking at '%s'", o->who, o->link);
	g->next = data->ghosts;
	data->ghosts = *ret_ghost = g;
	return 0;
}

/* ---------------------------------------------------------------------------- dump */

static int ghost_put_chunk(struct image_writer *w, int fd, uint64_t start, uint64_t end,
			   struct ferry_error *err)
{
	GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
	chunk.off = start;
	chunk.len = end - start;
	if (lseek(fd, (off_t)start, SEEK_SET) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "seeking in a deleted file");
	int r = image_put(w, &chunk.base, err);
	return r < 0 ? r : image_put_from(w, fd, end - start, err);
}

/* Extent by extent; a file system without SEEK_DATA shows one. */
static int ghost_put_extents(struct image_writer *w, int fd, uint64_t bytes, struct ferry_error *err)
{
	for (uint64_t at = 0; at < bytes;) {
		off_t start = lseek(fd, (off_t)at, SEEK_DATA);
		if (start < 0 && errno == ENXIO)
			return 0;
		off_t end = start < 0 ? start : lseek(fd, start, SEEK_HOLE);
		if (end < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno,
					   "looking for the data of a deleted file");
		at = MIN((uint64_t)end, bytes);
		int r = ghost_put_chunk(w, fd, (uint64_t)start, at, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int ghost_put_contents(struct image_writer *w, const struct ghost *g, struct ferry_error *err)
{
	_cleanup_close_ int fd = fd_open(AT_FDCWD, g->source, O_RDONLY | O_NOATIME | O_NONBLOCK, 0);
	if (fd == -EPERM)
		fd = fd_open(AT_FDCWD, g->source, O_RDONLY | O_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening the deleted file '%s'", g->source);
	return g->entry->chunks ? ghost_put_extents(w, fd, g->bytes, err)
				: image_put_from(w, fd, g->bytes, err);
}

static int ghost_put(struct dump *d, struct ghost *g, struct ferry_error *err)
{
	struct image_writer *w, *extra;
	GhostFileEntry *entry = g->entry;
	if (S_ISREG(entry->mode) && (g->has_holes || g->bytes >= GHOST_WHOLE_BYTES)) {
		record_set(entry, chunks, true);
		record_set(entry, size, g->bytes);
	}
	int r = image_create(d->dir, IMAGE_GHOST_FILE, g->id, &w, err);
	if (r >= 0)
		r = image_put(w, &entry->base, err);
	if (r >= 0 && S_ISREG(entry->mode))
		r = ghost_put_contents(w, g, err);
	if (r >= 0)
		r = image_close(w, err);
	if (r >= 0)
		r = fdcommon_writer(d, IMAGE_FERRY_GHOST, &extra, err);
	return r < 0 ? r : image_put(extra, &g->extra->base, err);
}

static int ghost_put_remap(struct dump *d, uint32_t file_id, uint32_t remap_id, RemapType type,
			   struct ferry_error *err)
{
	struct image_writer *w;
	RemapFilePathEntry remap = REMAP_FILE_PATH_ENTRY__INIT;
	remap.orig_id = file_id;
	remap.remap_id = remap_id;
	record_set(&remap, remap_type, type);
	int r = fdcommon_writer(d, IMAGE_REMAP_FPATH, &w, err);
	return r < 0 ? r : image_put(w, &remap.base, err);
}

int ghost_dump(struct dump *d, struct ghost *g, uint32_t file_id, struct ferry_error *err)
{
	int r = ghost_put_remap(d, file_id, g->id, REMAP_TYPE__GHOST, err);
	if (r < 0 || g->dumped)
		return r;
	g->dumped = true;
	return ghost_put(d, g, err);
}

int ghost_dump_ended(struct dump *d, pid_t pid, uint32_t file_id, struct ferry_error *err)
{
	return ghost_put_remap(d, file_id, (uint32_t)pid, REMAP_TYPE__PROCFS, err);
}
