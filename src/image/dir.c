/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns image directories: the order in which an image comes to be and is believed.
 *
 * While a write goes on, IMAGE_UNFINISHED_NAME stands in the directory and is locked with flock(2); after the
 * writer was killed it stands there unlocked and says that the next writer may clean up. The inventory has another
 * name until everything else is on the disk, so that no reader, CRIU included, takes half an image for a
 * whole one. Not handled: a directory that somebody else changes while it is read.
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
#include "base/log.h"
#include "image/dir_private.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/inventory.pb-c.h"

#ifndef FERRY_VERSION
#define FERRY_VERSION "0"
#endif

enum {
	IMG_VERSION_1_1 = 2,
	HASH_BUFFER = 1 << 20, /* bytes */
	LOCK_TRIES = 50,
	LOCK_PAUSE_NS = 20000000,
};

static const char inventory_name[] = "inventory.img";
static const char manifest_name[] = "ferry-manifest.img";

/* ---- the list of files ---- */

const char *image_dir__written_name(const char *name)
{
	return strcmp(name, inventory_name) ? name : IMAGE_INVENTORY_NEW;
}

static size_t slot_of(const struct image_dir *dir, const char *name)
{
	size_t mask = dir->n_slots - 1, i = XXH3_64bits(name, strlen(name)) & mask;
	while (dir->slots[i] && strcmp(dir->entries.v[dir->slots[i] - 1].name, name))
		i = (i + 1) & mask;
	return i;
}

struct image_dir_entry *image_dir__find(const struct image_dir *dir, const char *name)
{
	size_t i = dir->n_slots ? slot_of(dir, name) : 0;
	return dir->n_slots && dir->slots[i] ? &dir->entries.v[dir->slots[i] - 1] : NULL;
}

static int grow_slots(struct image_dir *dir)
{
	size_t n = dir->n_slots ? dir->n_slots * 2 : 64;
	uint32_t *slots = calloc(n, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(dir->slots);
	dir->slots = slots;
	dir->n_slots = n;
	for (size_t i = 0; i < dir->entries.n; i++)
		dir->slots[slot_of(dir, dir->entries.v[i].name)] = (uint32_t)i + 1;
	return 0;
}

struct image_dir_entry *image_dir__add(struct image_dir *dir, const char *name)
{
	if (dir->entries.n * 2 >= dir->n_slots && grow_slots(dir) < 0)
		return NULL;
	size_t slot = slot_of(dir, name);
	struct image_dir_entry *entry = vec_push(&dir->entries);
	if (!entry)
		return NULL;
	snprintf(entry->name, sizeof(entry->name), "%s", name);
	dir->slots[slot] = (uint32_t)dir->entries.n;
	return entry;
}

static struct image_checksum checksum_from(XXH128_hash_t hash)
{
	struct image_checksum checksum;
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(checksum.bytes, canonical.digest, sizeof(checksum.bytes));
	return checksum;
}

void image_dir__set_closed(struct image_dir *dir, size_t index, uint64_t size, XXH128_hash_t hash)
{
	struct image_dir_entry *entry = &dir->entries.v[index];
	entry->size = size;
	entry->checksum = checksum_from(hash);
	entry->closed = true;
}

static bool is_service(const char *name)
{
	enum image_kind kind;
	uint64_t id;
	return image_file_parse_name(name, &kind, &id) == 0 &&
	       image_file_info(kind)->header == IMAGE_HEADER_SERVICE;
}

static bool is_pages(const char *name)
{
	enum image_kind kind;
	uint64_t id;
	return image_file_parse_name(name, &kind, &id) == 0 && kind == IMAGE_PAGES;
}

/* Size and checksum of limit bytes (or all) of an open file, from its start. */
static int hash_file(int fd, uint64_t limit, uint64_t *ret_size, struct image_checksum *ret)
{
	_cleanup_free_ uint8_t *bytes = malloc(HASH_BUFFER);
	XXH3_state_t *state = XXH3_createState();
	if (!bytes || !state) {
		XXH3_freeState(state);
		return -ENOMEM;
	}
	XXH3_128bits_reset(state);
	uint64_t size = 0;
	int r = 0;
	while (size < limit) {
		ssize_t n = pread(fd, bytes, (size_t)MIN(limit - size, (uint64_t)HASH_BUFFER), (off_t)size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = -errno;
		if (n <= 0)
			break;
		XXH3_128bits_update(state, bytes, (size_t)n);
		size += (uint64_t)n;
	}
	*ret = checksum_from(XXH3_128bits_digest(state));
	*ret_size = size;
	XXH3_freeState(state);
	return r;
}

/* ---- small questions ---- */

int image_dir_fd(const struct image_dir *dir)
{
	return dir->fd;
}

const char *image_dir_path(const struct image_dir *dir)
{
	return dir->path;
}

bool image_dir_has_manifest(const struct image_dir *dir)
{
	return dir->has_manifest;
}

void image_dir_id(const struct image_dir *dir, uint64_t *ret_hi, uint64_t *ret_lo)
{
	*ret_hi = dir->id_hi;
	*ret_lo = dir->id_lo;
}

void image_dir_id_text(const struct image_dir *dir, char ret_text[37])
{
	uint64_t hi = dir->id_hi, lo = dir->id_lo;
	snprintf(ret_text, 37, "%08x-%04x-%04x-%04x-%012" PRIx64, (uint32_t)(hi >> 32),
		 (uint32_t)(hi >> 16) & 0xffff, (uint32_t)hi & 0xffff, (uint32_t)(lo >> 48),
		 lo & 0xffffffffffff);
}

uint32_t image_dir_next_pages_id(struct image_dir *dir)
{
	return ++dir->next_pages_id;
}

bool image_dir_has(const struct image_dir *dir, enum image_kind kind, uint64_t id)
{
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	if (dir->has_manifest && !is_service(name) && kind != IMAGE_FERRY_MANIFEST &&
	    !image_dir__find(dir, name))
		return false;
	return faccessat(dir->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static struct image_dir *dir_new(const char *path)
{
	struct image_dir *dir = calloc(1, sizeof(*dir));
	if (!dir)
		return NULL;
	dir->fd = dir->parent_fd = dir->marker_fd = -EBADF;
	dir->path = strdup(path);
	if (!dir->path) {
		free(dir);
		return NULL;
	}
	return dir;
}

void image_dir_free(struct image_dir *dir)
{
	if (!dir)
		return;
	if (dir->writing)
		image_dir_abort(dir);
	cleanup_close_p(&dir->fd);
	cleanup_close_p(&dir->parent_fd);
	cleanup_close_p(&dir->marker_fd);
	vec_release(&dir->entries);
	free(dir->slots);
	free(dir->path);
	free(dir);
}

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

static int open_listing(int dir_fd, DIR **ret)
{
	int fd = fd_open(dir_fd, ".", O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	*ret = fdopendir(fd);
	if (*ret)
		return 0;
	int code = errno;
	close(fd);
	return -code;
}

static int remove_old_image(struct image_dir *dir, struct ferry_error *err)
{
	/* The inventory first, and durably: without it nothing else counts. */
	if (unlinkat(dir->fd, inventory_name, 0) < 0 && errno != ENOENT)
		return image_io_error(err, errno, "cannot remove", inventory_name);
	if (!dir->create.no_sync && fsync(dir->fd) < 0)
		return image_io_error(err, errno, "cannot sync", dir->path);
	_cleanup_closedir_ DIR *listing = NULL;
	int r = open_listing(dir->fd, &listing);
	if (r < 0)
		return image_io_error(err, -r, "cannot list", dir->path);
	for (struct dirent *e; errno = 0, (e = readdir(listing));) {
		if (!is_ours_to_remove(dir->fd, e->d_name))
			continue;
		if (unlinkat(dir->fd, e->d_name, 0) < 0 && errno != ENOENT)
			return image_io_error(err, errno, "cannot remove", e->d_name);
	}
	return errno ? image_io_error(err, errno, "cannot list", dir->path) : 0;
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
	bool there = faccessat(dir->fd, inventory_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
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
	_cleanup_image_dir_ struct image_dir *dir = dir_new(path);
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
	int r = fd < 0 ? fd : hash_file(fd, UINT64_MAX, &size, &checksum);
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

/* ---- ending ---- */

static bool in_manifest(const struct image_dir_entry *entry)
{
	return !is_service(entry->name) && strcmp(entry->name, IMAGE_PARENT_NAME) &&
	       strcmp(entry->name, manifest_name);
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
	struct image_checksum checksum = checksum_from(hash);
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
		int r = strcmp(entry->name, IMAGE_PARENT_NAME) ? sync_file(dir, entry, err) : 0;
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
	int r = hash_file(fd, UINT64_MAX, &size, &checksum);
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
		if (!strcmp(entry->name, IMAGE_PARENT_NAME))
			continue;
		if (is_pages(entry->name) && dir->create.read_back != IMAGE_READ_BACK_ALL)
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
	if (renameat(dir->fd, IMAGE_INVENTORY_NEW, dir->fd, inventory_name) < 0)
		return image_io_error(err, errno, "cannot rename", IMAGE_INVENTORY_NEW);
	return sync_dir(dir, err);
}

static int finish(struct image_dir *dir, struct ferry_error *err)
{
	if (dir->writers)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY,
				 "a file of the image in '%s' is still open", dir->path);
	if (!image_dir__find(dir, inventory_name))
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
		if (image_dir__find(dir, inventory_name))
			unlinkat(dir->fd, inventory_name, 0);
		unlinkat(dir->fd, IMAGE_INVENTORY_NEW, 0);
		vec_foreach(entry, &dir->entries)
			unlinkat(dir->fd, entry->name, 0);
		unlinkat(dir->fd, IMAGE_UNFINISHED_NAME, 0);
		cleanup_close_p(&dir->marker_fd);
		dir->marker_fd = -EBADF;
	}
	/* What others put there (a log) keeps the directory. */
	if (dir->made)
		unlinkat(dir->parent_fd, dir->path, AT_REMOVEDIR);
}

/* ---- reading ---- */

static int bad(struct image_dir *dir, struct ferry_error *err, const char *name, const char *text)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "'%s' in '%s' %s", name, dir->path, text);
}

static int check_version(struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_message_ InventoryEntry *inventory = NULL;
	_cleanup_reader_ struct image_reader *r = NULL;
	int fd = fd_open(dir->fd, inventory_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd == -ENOENT) {
		error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT, "'%s' holds no image (no %s)", dir->path,
			  inventory_name);
		if (faccessat(dir->fd, IMAGE_UNFINISHED_NAME, F_OK, 0) == 0)
			error_hint(err, "a dump into this directory did not end; dump again");
		return -ENOENT;
	}
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "cannot open '%s' in '%s'", inventory_name,
				   dir->path);
	int ret = image_open_fd(fd, inventory_name, IMAGE_INVENTORY, &r, err);
	if (ret == 0)
		ret = image_need(r, &inventory_entry__descriptor, &inventory, err);
	if (ret < 0)
		return ret;
	if (image_reader_left(r))
		return image_bad(r, err, "%" PRIu64 " bytes too many", image_reader_left(r));
	if (inventory->img_version == IMG_VERSION_1_1)
		return 0;
	return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, EOPNOTSUPP,
			 "the image in '%s' has format version %u; this ferry reads version %d", dir->path,
			 inventory->img_version, IMG_VERSION_1_1);
}

/* The manifest into dir->entries, in its own order. */
static int take_manifest(struct image_dir *dir, const FerryManifestEntry *manifest, struct ferry_error *err)
{
	for (size_t i = 0; i < manifest->n_files; i++) {
		const FerryManifestFile *file = manifest->files[i];
		enum image_kind kind;
		uint64_t id;
		if (strlen(file->name) >= IMAGE_NAME_MAX ||
		    image_file_parse_name(file->name, &kind, &id) < 0 ||
		    file->xxh3_128.len != sizeof(struct image_checksum) || image_dir__find(dir, file->name))
			return bad(dir, err, manifest_name,
				   "lists a file that cannot be, or lists one twice");
		struct image_dir_entry *entry = image_dir__add(dir, file->name);
		if (!entry)
			return error_memory(err);
		entry->size = file->size;
		memcpy(entry->checksum.bytes, file->xxh3_128.data, sizeof(entry->checksum.bytes));
		entry->closed = true;
	}
	dir->id_hi = manifest->dump_id_hi;
	dir->id_lo = manifest->dump_id_lo;
	dir->has_manifest = true;
	if (!image_dir__find(dir, inventory_name))
		return bad(dir, err, manifest_name, "does not list the inventory");
	return 0;
}

static int read_manifest(struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *r = NULL;
	_cleanup_message_ FerryManifestEntry *manifest = NULL;
	_cleanup_message_ FerryManifestSeal *seal = NULL;
	int ret = image_open_optional(dir, IMAGE_FERRY_MANIFEST, 0, &r, err);
	if (ret <= 0)
		return ret;
	ret = image_need(r, &ferry_manifest_entry__descriptor, &manifest, err);
	if (ret < 0)
		return ret;
	uint64_t sealed = image_reader_offset(r), size;
	ret = image_need(r, &ferry_manifest_seal__descriptor, &seal, err);
	if (ret < 0)
		return ret;
	if (image_reader_left(r))
		return image_bad(r, err, "%" PRIu64 " bytes too many", image_reader_left(r));
	struct image_checksum checksum;
	ret = hash_file(image_reader_fd(r), sealed, &size, &checksum);
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -ret, "cannot read '%s'", manifest_name);
	if (size != sealed || seal->xxh3_128.len != sizeof(checksum) ||
	    memcmp(seal->xxh3_128.data, checksum.bytes, sizeof(checksum)))
		return bad(dir, err, manifest_name, "is damaged: its own checksum does not agree");
	/* Fields that we do not know would escape notice when the entry is compared. */
	if (seal->base.n_unknown_fields)
		return bad(dir, err, manifest_name, "is damaged: its seal holds unknown fields");
	return take_manifest(dir, manifest, err);
}

static int check_file(struct image_dir *dir, const struct image_dir_entry *entry, bool with_checksum,
		      struct ferry_error *err)
{
	struct stat st;
	_cleanup_close_ int fd = fd_open(dir->fd, entry->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd == -ENOENT)
		return error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT, "'%s' is missing in '%s'",
				 entry->name, dir->path);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, fd < 0 ? -fd : errno, "cannot open '%s' in '%s'",
				   entry->name, dir->path);
	if (!S_ISREG(st.st_mode))
		return bad(dir, err, entry->name, "is no regular file");
	if ((uint64_t)st.st_size != entry->size)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "'%s' in '%s' has %lld bytes, not the %" PRIu64
				 " that were written: truncated, or from another dump",
				 entry->name, dir->path, (long long)st.st_size, entry->size);
	if (!with_checksum)
		return 0;
	uint64_t size;
	struct image_checksum checksum;
	int r = hash_file(fd, UINT64_MAX, &size, &checksum);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot read '%s' in '%s'", entry->name,
				   dir->path);
	if (memcmp(checksum.bytes, entry->checksum.bytes, sizeof(checksum)))
		return bad(dir, err, entry->name, "is not what was written: damaged, or from another dump");
	return 0;
}

/* Files that would be read as part of the image although nobody wrote them for it. */
static int check_strangers(struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_closedir_ DIR *listing = NULL;
	int r = open_listing(dir->fd, &listing);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot list '%s'", dir->path);
	for (struct dirent *e; errno = 0, (e = readdir(listing));) {
		enum image_kind kind;
		uint64_t id;
		if (image_file_parse_name(e->d_name, &kind, &id) < 0 || is_service(e->d_name) ||
		    kind == IMAGE_FERRY_MANIFEST || image_dir__find(dir, e->d_name))
			continue;
		return bad(dir, err, e->d_name, "does not belong to this image: it is from another dump");
	}
	return errno ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "cannot list '%s'", dir->path) : 0;
}

static int check_manifest(struct image_dir *dir, const struct image_dir_open *options,
			  struct ferry_error *err)
{
	int r = read_manifest(dir, err);
	if (r < 0 || !dir->has_manifest)
		return r;
	vec_foreach(entry, &dir->entries) {
		bool with_checksum =
			!options->no_checksums && (options->check_pages || !is_pages(entry->name));
		r = check_file(dir, entry, with_checksum, err);
		if (r < 0)
			return r;
	}
	return check_strangers(dir, err);
}

int image_dir_open(int at_fd, const char *path, const struct image_dir_open *options, struct image_dir **ret,
		   struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = dir_new(path);
	if (!dir)
		return error_memory(err);
	dir->fault = options->fault;
	dir->log = options->log;
	dir->fd = fd_open(at_fd, path, O_RDONLY | O_DIRECTORY, 0);
	if (dir->fd == -ENOENT || dir->fd == -ENOTDIR)
		return error_errno(err, FERRY_ERROR_IMAGE_MISSING, -dir->fd,
				   "cannot open the images directory '%s'", path);
	if (dir->fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -dir->fd, "cannot open the images directory '%s'",
				   path);
	int r = check_version(dir, err);
	if (r == 0)
		r = check_manifest(dir, options, err);
	if (r < 0)
		return r;
	*ret = take_ptr(dir);
	return 0;
}

int image_dir_open_parent(struct image_dir *dir, const struct image_dir_open *options, struct image_dir **ret,
			  struct ferry_error *err)
{
	if (faccessat(dir->fd, IMAGE_PARENT_NAME, F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
		*ret = NULL;
		return errno == ENOENT
			       ? 0
			       : error_errno(err, FERRY_ERROR_SYSTEM, errno, "cannot find the parent image");
	}
	return image_dir_open(dir->fd, IMAGE_PARENT_NAME, options, ret, err);
}

static int compare_files(const void *a, const void *b)
{
	const struct image_dir_file *x = a, *y = b;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

int image_dir_list(struct image_dir *dir, struct image_dir_file **ret_files, size_t *ret_n,
		   struct ferry_error *err)
{
	VEC(struct image_dir_file) files = {0};
	_cleanup_closedir_ DIR *listing = NULL;
	int r = open_listing(dir->fd, &listing);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot list '%s'", dir->path);
	for (struct dirent *e; errno = 0, (e = readdir(listing));) {
		enum image_kind kind;
		uint64_t id;
		struct stat st;
		if (image_file_parse_name(e->d_name, &kind, &id) < 0 ||
		    fstatat(dir->fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
			continue;
		struct image_dir_file *file = vec_push(&files);
		if (!file) {
			vec_release(&files);
			return error_memory(err);
		}
		*file = (struct image_dir_file){kind, id, (uint64_t)st.st_size};
	}
	if (files.n)
		qsort(files.v, files.n, sizeof(*files.v), compare_files);
	*ret_files = files.v;
	*ret_n = files.n;
	return 0;
}

/* ---- an image restores once ---- */

int image_dir_mark_spent(struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_close_ int fd =
		fd_open(dir->fd, IMAGE_SPENT_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (fd == -EEXIST) {
		error_set(err, FERRY_ERROR_IMAGE_SPENT, EEXIST, "the image in '%s' was restored before",
			  dir->path);
		error_hint(err, "restoring it again runs the same work a second time");
		return -EEXIST;
	}
	if (fd < 0)
		return image_io_error(err, -fd, "cannot create", IMAGE_SPENT_NAME);
	int r = 0;
	if (fsync(fd) < 0 || fsync(dir->fd) < 0) {
		r = image_io_error(err, errno, "cannot sync", IMAGE_SPENT_NAME);
		unlinkat(dir->fd, IMAGE_SPENT_NAME, 0);
	}
	return r;
}

int image_dir_is_spent(const struct image_dir *dir)
{
	if (faccessat(dir->fd, IMAGE_SPENT_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT ? 0 : -errno;
}

int image_dir_unmark_spent(struct image_dir *dir, struct ferry_error *err)
{
	if (unlinkat(dir->fd, IMAGE_SPENT_NAME, 0) < 0 && errno != ENOENT)
		return image_io_error(err, errno, "cannot remove", IMAGE_SPENT_NAME);
	if (fsync(dir->fd) < 0)
		return image_io_error(err, errno, "cannot sync the directory", dir->path);
	return 0;
}
