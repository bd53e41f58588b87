/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the order in which an image comes to be.
 *
 * While a write goes on, IMAGE_UNFINISHED_NAME stands in the directory and is locked with flock(2); after the
 * writer was killed it stands there unlocked and says that the next writer may clean up. The inventory has another
 * name until everything else is on the disk, so that no reader, CRIU included, takes half an image for a
 * whole one.
 */
#include "image/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/lanes.h"
#include "base/log.h"
#include "image/dir_private.h"
#include "image/proto/ferry.pb-c.h"

enum {
	LOCK_TRIES = 50,
	LOCK_PAUSE_NS = 20000000,
};

/* ---- beginning to write ---- */

/* What an image consists of, and what may be removed from a directory that gets another one. */
static bool is_ours_to_remove(int fd, const char *name)
{
	enum image_kind kind;
	uint64_t id;
	if (image_file_parse_name(name, &kind, &id) == 0 || !strcmp(name, IMAGE_INVENTORY_NEW) ||
	    !strcmp(name, IMAGE_SPENT_NAME))
		return true;
	struct stat st;
	return !strcmp(name, IMAGE_PARENT_NAME) && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISLNK(st.st_mode);
}

/* The links of image_dir_link_family(), and the directory when nothing else is in it. */
static int remove_family(int dir_fd)
{
	_cleanup_closedir_ DIR *listing = NULL;
	struct stat st;
	_cleanup_close_ int fd = fd_open(dir_fd, IMAGE_FAMILY_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? 0 : fd;
	int r = image_dir__open_listing(fd, &listing);
	if (r < 0)
		return r;
	for (struct dirent *e; errno = 0, (e = readdir(listing));)
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode) &&
		    unlinkat(fd, e->d_name, 0) < 0)
			return -errno;
	return errno || (unlinkat(dir_fd, IMAGE_FAMILY_NAME, AT_REMOVEDIR) < 0 && errno != ENOTEMPTY) ? -errno
												      : 0;
}

static int remove_old_image(struct image_dir *dir, struct ferry_error *err)
{
	/* The inventory first, and durably: without it nothing else counts. */
	if (unlinkat(dir->fd, IMAGE_INVENTORY_NAME, 0) < 0 && errno != ENOENT)
		return image_io_error(err, errno, "cannot remove", IMAGE_INVENTORY_NAME);
	if (!dir->create.no_sync && fsync(dir->fd) < 0)
		return image_io_error(err, errno, "cannot sync", dir->path);
	_cleanup_closedir_ DIR *listing = NULL;
	int r = image_dir__open_listing(dir->fd, &listing);
	if (r < 0)
		return image_io_error(err, -r, "cannot list", dir->path);
	for (struct dirent *e; errno = 0, (e = readdir(listing));) {
		if (!is_ours_to_remove(dir->fd, e->d_name))
			continue;
		if (unlinkat(dir->fd, e->d_name, 0) < 0 && errno != ENOENT)
			return image_io_error(err, errno, "cannot remove", e->d_name);
	}
	if (errno)
		return image_io_error(err, errno, "cannot list", dir->path);
	r = remove_family(dir->fd);
	return r < 0 ? image_io_error(err, -r, "cannot remove", IMAGE_FAMILY_NAME) : 0;
}

/* Lock the marker, made when it is not there. *ret_left: a writer that did not end had left it. */
static int lock_marker(struct image_dir *dir, bool *ret_left, struct ferry_error *err)
{
	for (int i = 0; i < LOCK_TRIES; i++) {
		bool left = false;
		_cleanup_close_ int fd =
			fd_open(dir->fd, IMAGE_UNFINISHED_NAME, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
		if (fd == -EEXIST) {
			left = true;
			fd = fd_open(dir->fd, IMAGE_UNFINISHED_NAME, O_RDWR | O_NOFOLLOW, 0);
			if (fd == -ENOENT)
				continue;
		}
		if (fd < 0)
			return image_io_error(err, -fd, "cannot create", IMAGE_UNFINISHED_NAME);
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (errno != EWOULDBLOCK)
				return image_io_error(err, errno, "cannot lock", IMAGE_UNFINISHED_NAME);
			/* A child that a killed writer had forked may hold the lock for a moment longer. */
			nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
			continue;
		}
		/* The one who had it may have removed it between our open and our lock. */
		struct stat st;
		if (fstat(fd, &st) < 0)
			return image_io_error(err, errno, "cannot examine", IMAGE_UNFINISHED_NAME);
		if (!st.st_nlink)
			continue;
		dir->marker_fd = take_fd(fd);
		*ret_left = left;
		return 0;
	}
	return error_set(err, FERRY_ERROR_IMAGE_EXISTS, EEXIST,
			 "another process is writing an image into '%s'", dir->path);
}

static int begin(struct image_dir *dir, struct ferry_error *err)
{
	bool left = false;
	int r = lock_marker(dir, &left, err);
	if (r < 0)
		return r;
	bool there = faccessat(dir->fd, IMAGE_INVENTORY_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	if (there && !dir->create.overwrite) {
		/* A whole image: the marker that stands beside it, ours or left behind, says nothing. */
		unlinkat(dir->fd, IMAGE_UNFINISHED_NAME, 0);
		cleanup_close_p(&dir->marker_fd);
		dir->marker_fd = -EBADF;
		error_set(err, FERRY_ERROR_IMAGE_EXISTS, EEXIST, "'%s' holds an image already", dir->path);
		error_hint(err, "give another directory, remove this one, or ask to overwrite it");
		return -EEXIST;
	}
	if (there || left) {
		if (left && !there)
			log_write(dir->log, LOG_INFO, "dump", "image", 0,
				  "removing an unfinished image from '%s'", dir->path);
		r = remove_old_image(dir, err);
		if (r < 0) {
			/* Half removed: the marker stays, so that the next writer goes on. */
			cleanup_close_p(&dir->marker_fd);
			dir->marker_fd = -EBADF;
		}
	} else if (unlinkat(dir->fd, IMAGE_SPENT_NAME, 0) < 0 && errno != ENOENT) {
		r = image_io_error(err, errno, "cannot remove", IMAGE_SPENT_NAME);
	}
	return r;
}

int image_dir_create(int at_fd, const char *path, const struct image_dir_create *options,
		     struct image_dir **ret, struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = image_dir__new(path);
	if (!dir)
		return error_memory(err);
	dir->create = *options;
	dir->fault = options->fault;
	dir->log = options->log;
	if (mkdirat(at_fd, path, 0700) == 0)
		dir->made = true;
	else if (errno != EEXIST)
		return image_io_error(err, errno, "cannot create the directory", path);
	dir->fd = fd_open(at_fd, path, O_RDONLY | O_DIRECTORY, 0);
	int r = dir->fd;
	if (r >= 0)
		r = dir->parent_fd = fd_open(at_fd, ".", O_RDONLY | O_DIRECTORY, 0);
	if (r < 0) {
		if (dir->made)
			unlinkat(at_fd, path, AT_REMOVEDIR);
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot open the directory '%s'", path);
	}
	dir->writing = true;
	uint64_t id[2];
	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "getrandom");
	dir->id_hi = id[0];
	dir->id_lo = id[1];
	r = begin(dir, err);
	if (r < 0)
		return r;
	*ret = take_ptr(dir);
	return 0;
}

int image_dir_adopt(struct image_dir *dir, const char *name, struct ferry_error *err)
{
	enum image_kind kind;
	uint64_t id, size;
	struct image_checksum checksum;
	if (image_file_parse_name(name, &kind, &id) < 0 || image_dir__find(dir, name))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "'%s' cannot be entered into the image",
				 name);
	_cleanup_close_ int fd = fd_open(dir->fd, name, O_RDONLY | O_NOFOLLOW, 0);
	int r = fd < 0 ? fd : image_dir__hash_file(fd, UINT64_MAX, lanes_wanted(), &size, &checksum);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot read '%s' in '%s'", name, dir->path);
	struct image_dir_entry *entry = image_dir__add(dir, name);
	if (!entry)
		return error_memory(err);
	entry->size = size;
	entry->checksum = checksum;
	entry->closed = true;
	return 0;
}

int image_dir_link_parent(struct image_dir *dir, const char *target, struct ferry_error *err)
{
	if (unlinkat(dir->fd, IMAGE_PARENT_NAME, 0) < 0 && errno != ENOENT)
		return image_io_error(err, errno, "cannot replace", IMAGE_PARENT_NAME);
	/* Entered first, so that an abort removes it; it is no image file and is left out of the manifest. */
	struct image_dir_entry *entry = image_dir__add(dir, IMAGE_PARENT_NAME);
	if (!entry)
		return error_memory(err);
	entry->closed = true;
	if (symlinkat(target, dir->fd, IMAGE_PARENT_NAME) < 0)
		return image_io_error(err, errno, "cannot create", IMAGE_PARENT_NAME);
	return 0;
}

/* One link, which may be there already: of the head's pages file, for another member. */
static int link_in_family(int fd, const char *target, const char *name)
{
	char path[IMAGE_NAME_MAX + 3];
	snprintf(path, sizeof(path), "../%s", target);
	return symlinkat(path, fd, name) < 0 && errno != EEXIST ? -errno : 0;
}

int image_dir_link_family(struct image_dir *dir, uint64_t pid, uint64_t head, uint32_t pages_id,
			  struct ferry_error *err)
{
	char member[IMAGE_NAME_MAX], map[IMAGE_NAME_MAX], pages[IMAGE_NAME_MAX];
	image_file_name(IMAGE_PAGEMAP, pid, member);
	image_file_name(IMAGE_PAGEMAP, head, map);
	image_file_name(IMAGE_PAGES, pages_id, pages);
	/* Pages that went elsewhere are no file to link to. */
	if (dir->create.pages)
		return 0;
	if (!dir->has_family) {
		if (mkdirat(dir->fd, IMAGE_FAMILY_NAME, 0700) < 0)
			return image_io_error(err, errno, "cannot create", IMAGE_FAMILY_NAME);
		dir->has_family = true;
		int r = image_dir_link_parent(dir, IMAGE_FAMILY_NAME, err);
		if (r < 0)
			return r;
	}
	_cleanup_close_ int fd = fd_open(dir->fd, IMAGE_FAMILY_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	int r = fd < 0 ? fd : link_in_family(fd, map, member);
	if (r >= 0)
		r = link_in_family(fd, pages, pages);
	return r < 0 ? image_io_error(err, -r, "cannot make links in", IMAGE_FAMILY_NAME) : 0;
}

/* ---- ending ---- */

static bool in_manifest(const struct image_dir_entry *entry)
{
	return !image_dir__is_service(entry->name) && strcmp(entry->name, IMAGE_PARENT_NAME) &&
	       strcmp(entry->name, IMAGE_MANIFEST_NAME);
}

static uint64_t realtime_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int put_manifest(struct image_dir *dir, struct image_writer *w, struct ferry_error *err)
{
	size_t n = dir->entries.n, used = 0;
	_cleanup_free_ FerryManifestFile *files = calloc(n, sizeof(*files));
	_cleanup_free_ FerryManifestFile **pointers = calloc(n, sizeof(*pointers));
	if (!files || !pointers)
		return error_memory(err);
	vec_foreach(entry, &dir->entries) {
		if (!in_manifest(entry))
			continue;
		FerryManifestFile *file = &files[used];
		ferry_manifest_file__init(file);
		file->name = entry->name;
		file->size = entry->size;
		file->xxh3_128 = (ProtobufCBinaryData){sizeof(entry->checksum.bytes), entry->checksum.bytes};
		pointers[used++] = file;
	}
	FerryManifestEntry manifest = FERRY_MANIFEST_ENTRY__INIT;
	manifest.dump_id_hi = dir->id_hi;
	manifest.dump_id_lo = dir->id_lo;
	manifest.files = pointers;
	manifest.n_files = used;
	manifest.ferry_version = (char *)FERRY_VERSION;
	manifest.created_ns = realtime_ns();
	int r = image_put(w, &manifest.base, err);
	if (r < 0)
		return r;
	XXH128_hash_t hash;
	r = image_writer__digest(w, &hash, err);
	if (r < 0)
		return r;
	struct image_checksum checksum = image_dir__checksum_from(hash);
	FerryManifestSeal seal = FERRY_MANIFEST_SEAL__INIT;
	seal.xxh3_128 = (ProtobufCBinaryData){sizeof(checksum.bytes), checksum.bytes};
	return image_put(w, &seal.base, err);
}

static int write_manifest(struct image_dir *dir, struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(dir, IMAGE_FERRY_MANIFEST, 0, &w, err);
	if (r < 0)
		return r;
	r = put_manifest(dir, w, err);
	int closed = image_close(w, err);
	return r < 0 ? r : closed;
}

static int sync_file(struct image_dir *dir, const struct image_dir_entry *entry, struct ferry_error *err)
{
	if (fault_hit(dir->fault, FAULT_IMAGE_SYNC))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "syncing '%s' failed on purpose", entry->name);
	_cleanup_close_ int fd =
		fd_open(dir->fd, image_dir__written_name(entry->name), O_RDONLY | O_NOFOLLOW, 0);
	if (fd < 0)
		return image_io_error(err, -fd, "cannot open", entry->name);
	return fsync(fd) < 0 ? image_io_error(err, errno, "cannot sync", entry->name) : 0;
}

static int sync_all(struct image_dir *dir, struct ferry_error *err)
{
	if (dir->create.no_sync)
		return 0;
	vec_foreach(entry, &dir->entries) {
		bool is_file = !entry->sent && strcmp(entry->name, IMAGE_PARENT_NAME);
		int r = is_file ? sync_file(dir, entry, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_back_file(struct image_dir *dir, const struct image_dir_entry *entry, struct ferry_error *err)
{
	if (fault_hit(dir->fault, FAULT_READ_BACK))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "reading '%s' back failed on purpose",
				 entry->name);
	_cleanup_close_ int fd =
		fd_open(dir->fd, image_dir__written_name(entry->name), O_RDONLY | O_NOFOLLOW, 0);
	if (fd < 0)
		return image_io_error(err, -fd, "cannot read back", entry->name);
	if (dir->create.read_back_cold)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	uint64_t size;
	struct image_checksum checksum;
	int r = image_dir__hash_file(fd, UINT64_MAX, lanes_wanted(), &size, &checksum);
	if (r < 0)
		return image_io_error(err, -r, "cannot read back", entry->name);
	if (size != entry->size || memcmp(&checksum, &entry->checksum, sizeof(checksum)))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EIO,
				 "'%s' in '%s' does not read back as it was written", entry->name, dir->path);
	return 0;
}

static int read_back(struct image_dir *dir, struct ferry_error *err)
{
	if (dir->create.read_back == IMAGE_READ_BACK_NONE)
		return 0;
	vec_foreach(entry, &dir->entries) {
		if (entry->sent || !strcmp(entry->name, IMAGE_PARENT_NAME))
			continue;
		if (image_dir__is_pages(entry->name) && dir->create.read_back != IMAGE_READ_BACK_ALL)
			continue;
		int r = read_back_file(dir, entry, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int sync_dir(const struct image_dir *dir, struct ferry_error *err)
{
	if (dir->create.no_sync)
		return 0;
	if (dir->has_family) {
		_cleanup_close_ int fd =
			fd_open(dir->fd, IMAGE_FAMILY_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
		if (fd < 0 || fsync(fd) < 0)
			return image_io_error(err, fd < 0 ? -fd : errno, "cannot sync", IMAGE_FAMILY_NAME);
	}
	if (fsync(dir->fd) < 0)
		return image_io_error(err, errno, "cannot sync the directory", dir->path);
	return 0;
}

/* A directory that we made has to be durable in its own parent too. */
static int sync_parent(const struct image_dir *dir, struct ferry_error *err)
{
	if (dir->create.no_sync || !dir->made)
		return 0;
	_cleanup_close_ int fd = fd_open(dir->fd, "..", O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0 || fsync(fd) < 0)
		return image_io_error(err, fd < 0 ? -fd : errno, "cannot sync the directory above",
				      dir->path);
	return 0;
}

/* The moment at which the directory becomes an image. */
static int publish(struct image_dir *dir, struct ferry_error *err)
{
	int r = sync_dir(dir, err);
	if (r == 0)
		r = sync_parent(dir, err);
	if (r < 0)
		return r;
	if (renameat(dir->fd, IMAGE_INVENTORY_NEW, dir->fd, IMAGE_INVENTORY_NAME) < 0)
		return image_io_error(err, errno, "cannot rename", IMAGE_INVENTORY_NEW);
	return sync_dir(dir, err);
}

static int finish(struct image_dir *dir, struct ferry_error *err)
{
	if (dir->writers)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY,
				 "a file of the image in '%s' is still open", dir->path);
	if (!image_dir__find(dir, IMAGE_INVENTORY_NAME))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "the image in '%s' has no inventory",
				 dir->path);
	vec_foreach(entry, &dir->entries)
		if (!entry->closed)
			return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "'%s' was not written to its end",
					 entry->name);
	int r = dir->create.no_manifest ? 0 : write_manifest(dir, err);
	if (r == 0)
		r = sync_all(dir, err);
	if (r == 0)
		r = read_back(dir, err);
	return r < 0 ? r : publish(dir, err);
}

int image_dir_finish(struct image_dir *dir, struct ferry_error *err)
{
	if (!dir->writing || dir->over)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "the image in '%s' is not being written",
				 dir->path);
	int r = finish(dir, err);
	if (r < 0) {
		image_dir_abort(dir);
		return r;
	}
	dir->over = true;
	unlinkat(dir->fd, IMAGE_UNFINISHED_NAME, 0);
	cleanup_close_p(&dir->marker_fd);
	dir->marker_fd = -EBADF;
	return 0;
}

void image_dir_abort(struct image_dir *dir)
{
	if (!dir->writing || dir->over)
		return;
	dir->over = true;
	image_writer__discard_all(dir);
	/* Without a lock on the marker nothing of this write is there. */
	if (dir->marker_fd >= 0) {
		/* The inventory first: a crash in here must not leave something that looks whole. */
		if (image_dir__find(dir, IMAGE_INVENTORY_NAME))
			unlinkat(dir->fd, IMAGE_INVENTORY_NAME, 0);
		unlinkat(dir->fd, IMAGE_INVENTORY_NEW, 0);
		vec_foreach(entry, &dir->entries)
			unlinkat(dir->fd, entry->name, 0);
		if (dir->has_family)
			remove_family(dir->fd);
		unlinkat(dir->fd, IMAGE_UNFINISHED_NAME, 0);
		cleanup_close_p(&dir->marker_fd);
		dir->marker_fd = -EBADF;
	}
	/* What others put there (a log) keeps the directory. */
	if (dir->made)
		unlinkat(dir->parent_fd, dir->path, AT_REMOVEDIR);
}
