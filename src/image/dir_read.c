/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what is asked of a directory before it is believed to be an image. Not handled: a directory that somebody
 * else changes while it is read.
 */
#include "image/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/lanes.h"
#include "image/dir_private.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/inventory.pb-c.h"

enum { IMG_VERSION_1_1 = 2 };

static int bad(struct image_dir *dir, struct ferry_error *err, const char *name, const char *text)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "'%s' in '%s' %s", name, dir->path, text);
}

static int check_version(struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_message_ InventoryEntry *inventory = NULL;
	_cleanup_reader_ struct image_reader *r = NULL;
	int fd = fd_open(dir->fd, IMAGE_INVENTORY_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd == -ENOENT) {
		error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT, "'%s' holds no image (no %s)", dir->path,
			  IMAGE_INVENTORY_NAME);
		if (faccessat(dir->fd, IMAGE_UNFINISHED_NAME, F_OK, 0) == 0)
			error_hint(err, "a dump into this directory did not end; dump again");
		return -ENOENT;
	}
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "cannot open '%s' in '%s'",
				   IMAGE_INVENTORY_NAME, dir->path);
	int ret = image_open_fd(fd, IMAGE_INVENTORY_NAME, IMAGE_INVENTORY, &r, err);
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
			return bad(dir, err, IMAGE_MANIFEST_NAME,
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
	if (!image_dir__find(dir, IMAGE_INVENTORY_NAME))
		return bad(dir, err, IMAGE_MANIFEST_NAME, "does not list the inventory");
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
	ret = image_dir__hash_file(image_reader_fd(r), sealed, 1, &size, &checksum);
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -ret, "cannot read '%s'", IMAGE_MANIFEST_NAME);
	if (size != sealed || seal->xxh3_128.len != sizeof(checksum) ||
	    memcmp(seal->xxh3_128.data, checksum.bytes, sizeof(checksum)))
		return bad(dir, err, IMAGE_MANIFEST_NAME, "is damaged: its own checksum does not agree");
	/* Fields that we do not know would escape notice when the entry is compared. */
	if (seal->base.n_unknown_fields)
		return bad(dir, err, IMAGE_MANIFEST_NAME, "is damaged: its seal holds unknown fields");
	return take_manifest(dir, manifest, err);
}

/* lanes: threads that compute the checksum; 0 = it is not compared */
static int check_file(struct image_dir *dir, const struct image_dir_entry *entry, unsigned lanes,
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
	if (!lanes)
		return 0;
	uint64_t size;
	struct image_checksum checksum;
	int r = image_dir__hash_file(fd, UINT64_MAX, lanes, &size, &checksum);
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
	int r = image_dir__open_listing(dir->fd, &listing);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot list '%s'", dir->path);
	for (struct dirent *e; errno = 0, (e = readdir(listing));) {
		enum image_kind kind;
		uint64_t id;
		if (image_file_parse_name(e->d_name, &kind, &id) < 0 || image_dir__is_service(e->d_name) ||
		    kind == IMAGE_FERRY_MANIFEST || image_dir__find(dir, e->d_name))
			continue;
		return bad(dir, err, e->d_name, "does not belong to this image: it is from another dump");
	}
	return errno ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "cannot list '%s'", dir->path) : 0;
}

/* Compare what was computed while the files came in: they need not be read again for that. */
static int check_seen(struct image_dir *dir, const struct image_dir_open *options, struct ferry_error *err)
{
	for (size_t i = 0; i < options->n_seen; i++) {
		const struct image_seen *seen = &options->seen[i];
		struct image_dir_entry *entry = image_dir__find(dir, seen->name);
		if (!entry)
			continue;
		if (seen->size != entry->size ||
		    memcmp(&seen->checksum, &entry->checksum, sizeof(seen->checksum)))
			return bad(dir, err, entry->name, "is not what was written: damaged on its way");
		entry->seen = true;
	}
	return 0;
}

static int check_manifest(struct image_dir *dir, const struct image_dir_open *options,
			  struct ferry_error *err)
{
	int r = read_manifest(dir, err);
	if (r >= 0 && dir->has_manifest)
		r = check_seen(dir, options, err);
	if (r < 0 || !dir->has_manifest)
		return r;
	vec_foreach(entry, &dir->entries) {
		bool with_checksum = !options->no_checksums && !entry->seen &&
				     (options->check_pages || !image_dir__is_pages(entry->name));
		r = check_file(dir, entry, with_checksum ? lanes_wanted() : 0, err);
		if (r < 0)
			return r;
	}
	return check_strangers(dir, err);
}

int image_dir_check_pages(struct image_dir *dir, struct ferry_error *err)
{
	vec_foreach(entry, &dir->entries) {
		bool unseen = image_dir__is_pages(entry->name) && !entry->seen;
		int r = unseen ? check_file(dir, entry, 1, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

uint64_t image_dir_pages_bytes(const struct image_dir *dir)
{
	uint64_t bytes = 0;
	vec_foreach(entry, &dir->entries)
		if (image_dir__is_pages(entry->name) && !entry->seen)
			bytes += entry->size;
	return bytes;
}

int image_dir_open(int at_fd, const char *path, const struct image_dir_open *options, struct image_dir **ret,
		   struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = image_dir__new(path);
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
