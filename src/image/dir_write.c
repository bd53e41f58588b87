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
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clone.h"
#include "base/fd.h"
#include "base/lanes.h"
#include "base/log.h"
#include "image/coverage.h"
#include "image/dir_private.h"
#include "image/pages.h"
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
	    !strcmp(name, IMAGE_SPENT_NAME) || !strcmp(name, IMAGE_PUNCHED_NAME) ||
	    !strcmp(name, IMAGE_PUNCHED_NEW))
		return true;
	struct stat st;
	return image_dir__is_link(name) && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISLNK(st.st_mode);
}

/* Links, and the next level. */
static int remove_links_in(int fd)
{
	_cleanup_closedir_ DIR *listing = NULL;
	struct stat st;
	int r = image_dir__open_listing(fd, &listing);
	if (r < 0)
		return r;
	for (struct dirent *e; errno = 0, (e = readdir(listing));)
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode) &&
		    unlinkat(fd, e->d_name, 0) < 0)
			return -errno;
	return errno ? -errno : image_dir__remove_links(fd, IMAGE_PARENT_NAME);
}

/* A directory of image_dir_link_family(), unless something else is in it. */
int image_dir__remove_links(int dir_fd, const char *name)
{
	_cleanup_close_ int fd = fd_open(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? 0 : fd;
	int r = remove_links_in(fd);
	if (r >= 0 && unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOTEMPTY)
		r = -errno;
	return r;
}

static int remove_family(int dir_fd)
{
	return image_dir__remove_links(dir_fd, IMAGE_FAMILY_NAME);
}

/* Of a round that the image has for itself: image files, and nothing else. */
static int remove_round(int dir_fd, const char *name)
{
	_cleanup_close_ int fd = fd_open(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	_cleanup_closedir_ DIR *listing = NULL;
	int r = fd < 0 ? fd : image_dir__open_listing(fd, &listing);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	for (struct dirent *e; errno = 0, (e = readdir(listing));) {
		bool ours = is_ours_to_remove(fd, e->d_name) || !strcmp(e->d_name, IMAGE_UNFINISHED_NAME);
		if (ours && unlinkat(fd, e->d_name, 0) < 0 && errno != ENOENT)
			return -errno;
	}
	if (errno)
		return -errno;
	return unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOTEMPTY ? -errno : 0;
}

/* The latest first: a round is nothing without those before it. */
static int remove_rounds(int dir_fd)
{
	int r = 0;
	for (unsigned number = IMAGE_ROUNDS_MAX; number && r >= 0; number--) {
		char name[IMAGE_ROUND_NAME_BYTES];
		image_dir_round_name(number, name);
		r = remove_round(dir_fd, name);
	}
	return r;
}

void image_dir_round_name(unsigned number, char ret[IMAGE_ROUND_NAME_BYTES])
{
	snprintf(ret, IMAGE_ROUND_NAME_BYTES, "ferry-round-%u", number);
}

int image_dir_create_round(struct image_dir *dir, unsigned number, const char *before,
			   struct image_coverage *coverage, bool late, struct image_dir **ret,
			   struct ferry_error *err)
{
	char name[IMAGE_ROUND_NAME_BYTES], target[PATH_MAX];
	struct image_dir_create create = dir->create;
	create.name = NULL;
	create.pages = NULL;
	create.coverage = coverage;
	_cleanup_image_dir_ struct image_dir *round = NULL;
	image_dir_round_name(number, name);
	int r = image_dir_create(dir->fd, name, &create, &round, err);
	dir->has_rounds |= r >= 0;
	if (r >= 0)
		round->late = late;
	int n = snprintf(target, sizeof(target), "%s%s", before && before[0] != '/' ? "../" : "",
			 before ?: "");
	if (r >= 0 && n >= (int)sizeof(target))
		r = error_errno(err, FERRY_ERROR_USAGE, ENAMETOOLONG, "'%s'", before);
	if (r >= 0 && before)
		r = image_dir_link_parent(round, target, err);
	if (r >= 0)
		*ret = take_ptr(round);
	return r;
}

void image_dir_add_round(struct image_dir *dir, struct image_dir *round)
{
	if (!round->late) {
		image_dir_free(round);
		return;
	}
	/* They hold descriptors, and nobody asks for them any more. */
	image_dir_free(take_ptr(round->parent));
	round->next = dir->rounds;
	dir->rounds = round;
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
	if (r < 0)
		return image_io_error(err, -r, "cannot remove", IMAGE_FAMILY_NAME);
	r = remove_rounds(dir->fd);
	return r < 0 ? image_io_error(err, -r, "cannot remove rounds of", dir->path) : 0;
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
	} else if ((unlinkat(dir->fd, IMAGE_SPENT_NAME, 0) < 0 && errno != ENOENT) ||
		   (unlinkat(dir->fd, IMAGE_PUNCHED_NAME, 0) < 0 && errno != ENOENT)) {
		r = image_io_error(err, errno, "cannot remove", IMAGE_SPENT_NAME " or " IMAGE_PUNCHED_NAME);
	}
	return r;
}

static bool is_in_memory(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

int image_dir_create(int at_fd, const char *path, const struct image_dir_create *options,
		     struct image_dir **ret, struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = image_dir__new(options->name ?: path);
	if (!dir)
		return error_memory(err);
	dir->create = *options;
	dir->fault = options->fault;
	dir->log = options->log;
	dir->progress = options->progress;
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
	dir->in_memory = is_in_memory(dir->fd);
	uint64_t id[2] = {0};
	if (options->remote && !(dir->sent = image_coverage_new()))
		return error_memory(err);
	if (!options->partial && getrandom(id, sizeof(id), 0) != sizeof(id))
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
	int r = fd < 0 ? fd
		       : image_dir__hash_file(fd, UINT64_MAX, LANES_MAX, dir->progress, &size, &checksum);
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

int image_dir_copy(struct image_dir *dir, enum image_kind kind, uint64_t id, int from,
		   struct ferry_error *err)
{
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	if (fault_hit(dir->fault, FAULT_IMAGE_WRITE))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "writing '%s' failed on purpose", name);
	/* Entered first, so that an abort removes it. */
	struct image_dir_entry *entry = image_dir__find(dir, name) ? NULL : image_dir__add(dir, name);
	if (!entry)
		return error_memory(err);
	entry->closed = entry->copied = true;
	_cleanup_close_ int fd = fd_open(dir->fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	int r = fd < 0 ? fd : fd_clone(from, fd);
	return r < 0 ? image_io_error(err, -r, "cannot write", name) : 0;
}

static int settle_copies(struct image_dir *dir, struct ferry_error *err)
{
	vec_foreach(entry, &dir->entries) {
		if (!entry->copied)
			continue;
		_cleanup_close_ int fd = fd_open(dir->fd, entry->name, O_RDONLY | O_NOFOLLOW, 0);
		int r = fd < 0 ? fd
			       : image_dir__hash_file(fd, UINT64_MAX, LANES_MAX, dir->progress, &entry->size,
						      &entry->checksum);
		if (r < 0)
			return image_io_error(err, -r, "cannot read", entry->name);
	}
	return 0;
}

bool image_dir__is_link(const char *name)
{
	return !strcmp(name, IMAGE_PARENT_NAME) || !strcmp(name, IMAGE_CHAIN_NAME);
}

int image_dir__make_link(struct image_dir *dir, const char *name, const char *target, struct ferry_error *err)
{
	if (unlinkat(dir->fd, name, 0) < 0 && errno != ENOENT)
		return image_io_error(err, errno, "cannot replace", name);
	/* Entered first, so that an abort removes it; it is no image file and is left out of the manifest. */
	struct image_dir_entry *entry = image_dir__find(dir, name);
	if (!entry)
		entry = image_dir__add(dir, name);
	if (!entry)
		return error_memory(err);
	entry->closed = true;
	if (symlinkat(target, dir->fd, name) < 0)
		return image_io_error(err, errno, "cannot create", name);
	return 0;
}

/* Ids of pages files differ over a chain, so that links to all of them can stand in one directory. */
static int skip_pages_ids(struct image_dir *dir, struct image_dir *parent, struct ferry_error *err)
{
	for (; parent; parent = parent->parent) {
		_cleanup_free_ struct image_dir_file *files = NULL;
		size_t n = 0;
		int r = image_dir_list(parent, &files, &n, err);
		if (r < 0)
			return r;
		for (size_t i = 0; i < n; i++)
			if (files[i].kind == IMAGE_PAGES && files[i].id < UINT32_MAX / 2)
				dir->next_pages_id = MAX(dir->next_pages_id, (uint32_t)files[i].id);
	}
	return 0;
}

int image_dir_link_parent(struct image_dir *dir, const char *target, struct ferry_error *err)
{
	struct image_dir *parent = NULL;
	if (!strcmp(target, IMAGE_FAMILY_NAME))
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "an image cannot build on one with the name '%s'", IMAGE_FAMILY_NAME);
	int r = image_dir__make_link(dir, IMAGE_PARENT_NAME, target, err);
	if (r == 0)
		r = image_dir_parent(dir, &parent, err);
	if (r == 0)
		r = image_dir_open_chain(parent, err);
	if (r == 0)
		r = skip_pages_ids(dir, parent, err);
	if (r < 0)
		return r;
	dir->parent_hi = parent->id_hi;
	dir->parent_lo = parent->id_lo;
	return 0;
}

/* ---- ending ---- */

static bool in_manifest(const struct image_dir_entry *entry)
{
	return !image_dir__is_service(entry->name) && !image_dir__is_link(entry->name) &&
	       strcmp(entry->name, IMAGE_MANIFEST_NAME) && strcmp(entry->name, IMAGE_PAGES_LIST_NAME);
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
	manifest.has_parent_id_hi = manifest.has_parent_id_lo = dir->parent_hi || dir->parent_lo;
	manifest.parent_id_hi = dir->parent_hi;
	manifest.parent_id_lo = dir->parent_lo;
	manifest.has_pages_elsewhere = manifest.pages_elsewhere = dir->create.remote != NULL;
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
	enum image_kind kind = dir->create.partial ? IMAGE_FERRY_PAGES : IMAGE_FERRY_MANIFEST;
	int r = image_create(dir, kind, 0, &w, err);
	if (r < 0)
		return r;
	r = put_manifest(dir, w, err);
	int closed = image_close(w, err);
	return r < 0 ? r : closed;
}

/* Faults on purpose, which are told apart from what really happens. */
static int sync_fault(struct image_dir *dir, const struct image_dir_entry *entry, bool reads,
		      struct ferry_error *err)
{
	if (!dir->create.no_sync && fault_hit(dir->fault, FAULT_IMAGE_SYNC))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "syncing '%s' failed on purpose", entry->name);
	if (reads && fault_hit(dir->fault, FAULT_READ_BACK))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "reading '%s' back failed on purpose",
				 entry->name);
	return 0;
}

static int read_back(struct image_dir *dir, int fd, const struct image_dir_entry *entry,
		     struct ferry_error *err)
{
	if (dir->create.read_back_cold)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	uint64_t size;
	struct image_checksum checksum;
	int r = image_dir__hash_file(fd, UINT64_MAX, LANES_MAX, dir->progress, &size, &checksum);
	if (r < 0)
		return image_io_error(err, -r, "cannot read back", entry->name);
	if (size != entry->size || memcmp(&checksum, &entry->checksum, sizeof(checksum)))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EIO,
				 "'%s' in '%s' does not read back as it was written", entry->name, dir->path);
	return 0;
}

static int sync_file(struct image_dir *dir, const struct image_dir_entry *entry, bool reads,
		     struct ferry_error *err)
{
	const char *name = dir->over ? entry->name : image_dir__written_name(entry->name);
	_cleanup_close_ int fd = fd_open(dir->fd, name, O_RDONLY | O_NOFOLLOW, 0);
	if (fd < 0)
		return image_io_error(err, -fd, "cannot open", entry->name);
	if (!dir->create.no_sync && fsync(fd) < 0)
		return image_io_error(err, errno, "cannot sync", entry->name);
	return reads ? read_back(dir, fd, entry, err) : 0;
}

/*
 * Writing back began when each file was closed, so the first waits for most of the disk's work and the others find it done. What
 * is written to a file system in memory is the very page that would be read, and a sync does nothing there.
 */
static int sync_all(struct image_dir *dir, struct ferry_error *err)
{
	enum image_read_back wanted = dir->create.read_back;
	bool stored = !dir->in_memory || wanted == IMAGE_READ_BACK_ALL;
	for (size_t i = 0; i < dir->entries.n; i++) {
		const struct image_dir_entry *entry = &dir->entries.v[i];
		bool reads = wanted != IMAGE_READ_BACK_NONE;
		if (entry->sent || image_dir__is_link(entry->name))
			continue;
		int r = sync_fault(dir, entry, reads, err);
		if (r == 0 && stored && (reads || !dir->create.no_sync))
			r = sync_file(dir, entry, reads, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A directory of image_dir_link_family(), and those in it. */
static int sync_links(int above, const char *name)
{
	_cleanup_close_ int fd = fd_open(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	return fsync(fd) < 0 ? -errno : sync_links(fd, IMAGE_PARENT_NAME);
}

static int sync_dir(const struct image_dir *dir, struct ferry_error *err)
{
	if (dir->create.no_sync || dir->late)
		return 0;
	int r = dir->has_family ? sync_links(dir->fd, IMAGE_FAMILY_NAME) : 0;
	if (r < 0)
		return image_io_error(err, -r, "cannot sync", IMAGE_FAMILY_NAME);
	if (fsync(dir->fd) < 0)
		return image_io_error(err, errno, "cannot sync the directory", dir->path);
	return 0;
}

/* A directory that we made has to be durable in its own parent too. */
static int sync_parent(const struct image_dir *dir, struct ferry_error *err)
{
	if (dir->create.no_sync || dir->late || !dir->made)
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
	if (r < 0 || dir->create.partial)
		return r;
	if (renameat(dir->fd, IMAGE_INVENTORY_NEW, dir->fd, IMAGE_INVENTORY_NAME) < 0)
		return image_io_error(err, errno, "cannot rename", IMAGE_INVENTORY_NEW);
	return sync_dir(dir, err);
}

/* The other side has all pages on its disk before anything here says that the image is one. */
static int finish_remote(struct image_dir *dir, struct ferry_error *err)
{
	const struct image_pages_remote *remote = dir->create.remote;
	fault_effect(dir->fault, "image", "end-pages");
	int r = remote->end(remote->context, err);
	fault_effect(dir->fault, "image", "coverage");
	return r < 0 ? r : image_coverage_write(dir->sent, dir, err);
}

/* Rounds that were late. That they are there is synced with dir. */
static int sync_rounds(struct image_dir *dir, struct ferry_error *err)
{
	int r = 0;
	for (struct image_dir *round; (round = dir->rounds) && r >= 0;) {
		dir->rounds = round->next;
		round->late = false;
		r = sync_all(round, err);
		if (r >= 0)
			r = sync_dir(round, err);
		image_dir_free(round);
	}
	return r;
}

static int finish(struct image_dir *dir, struct ferry_error *err)
{
	bool has_list = dir->create.partial ? dir->id_hi || dir->id_lo : !dir->create.no_manifest;
	if (dir->writers)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY,
				 "a file of the image in '%s' is still open", dir->path);
	if (!dir->create.partial && !image_dir__find(dir, IMAGE_INVENTORY_NAME))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "the image in '%s' has no inventory",
				 dir->path);
	vec_foreach(entry, &dir->entries)
		if (!entry->closed)
			return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "'%s' was not written to its end",
					 entry->name);
	int r = dir->create.remote ? finish_remote(dir, err) : 0;
	if (r == 0)
		r = settle_copies(dir, err);
	if (r == 0 && has_list)
		r = write_manifest(dir, err);
	if (r == 0)
		r = sync_rounds(dir, err);
	if (r == 0 && !dir->late)
		r = sync_all(dir, err);
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

static void remove_files(struct image_dir *dir)
{
	/* The inventory first: a crash in here must not leave something that looks whole. */
	if (image_dir__find(dir, IMAGE_INVENTORY_NAME))
		unlinkat(dir->fd, IMAGE_INVENTORY_NAME, 0);
	unlinkat(dir->fd, IMAGE_INVENTORY_NEW, 0);
	vec_foreach(entry, &dir->entries)
		unlinkat(dir->fd, entry->name, 0);
	if (dir->has_family)
		remove_family(dir->fd);
	if (dir->has_rounds && remove_rounds(dir->fd) < 0)
		log_write(dir->log, LOG_WARN, "dump", "image", 0, "rounds stay in '%s'", dir->path);
}

/* What others put there (a log) keeps the directory. */
static void remove_own_directory(const struct image_dir *dir)
{
	if (dir->made)
		unlinkat(dir->parent_fd, dir->path, AT_REMOVEDIR);
}

void image_dir_withdraw(struct image_dir *dir)
{
	if (!dir->writing || !dir->over)
		return;
	remove_files(dir);
	remove_own_directory(dir);
}

void image_dir_abort(struct image_dir *dir)
{
	if (!dir->writing || dir->over)
		return;
	dir->over = true;
	image_writer__discard_all(dir);
	/* Without a lock on the marker nothing of this write is there. */
	if (dir->marker_fd >= 0) {
		remove_files(dir);
		unlinkat(dir->fd, IMAGE_UNFINISHED_NAME, 0);
		cleanup_close_p(&dir->marker_fd);
		dir->marker_fd = -EBADF;
	}
	remove_own_directory(dir);
}
