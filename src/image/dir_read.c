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
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/lanes.h"
#include "image/dir_private.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/inventory.pb-c.h"

enum {
	IMG_VERSION_1_1 = 2,
	CHECK_PIECE = 128, /* so many files are worth a thread; a large one has threads of its own */
	CHECK_KEEP_BYTES = 32 << 10, /* larger files are read again */
	CHECK_KEEP_MOST = 256 << 20, /* of all */
};
#define CHECK_NO_PLACE UINT64_MAX

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

/* What a list names into dir->entries, in its own order. */
static int take_files(struct image_dir *dir, const char *name, const FerryManifestEntry *list,
		      struct ferry_error *err)
{
	for (size_t i = 0; i < list->n_files; i++) {
		const FerryManifestFile *file = list->files[i];
		enum image_kind kind;
		uint64_t id;
		if (strlen(file->name) >= IMAGE_NAME_MAX ||
		    image_file_parse_name(file->name, &kind, &id) < 0 ||
		    file->xxh3_128.len != sizeof(struct image_checksum) || image_dir__find(dir, file->name))
			return bad(dir, err, name, "lists a file that cannot be, or lists one twice");
		struct image_dir_entry *entry = image_dir__add(dir, file->name);
		if (!entry)
			return error_memory(err);
		entry->size = file->size;
		memcpy(entry->checksum.bytes, file->xxh3_128.data, sizeof(entry->checksum.bytes));
		entry->closed = true;
	}
	dir->id_hi = list->dump_id_hi;
	dir->id_lo = list->dump_id_lo;
	dir->parent_hi = list->parent_id_hi;
	dir->parent_lo = list->parent_id_lo;
	return 0;
}

/* 1, or 0: there is none. */
static int read_list(struct image_dir *dir, enum image_kind kind, FerryManifestEntry **ret,
		     struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *r = NULL;
	_cleanup_message_ FerryManifestEntry *list = NULL;
	_cleanup_message_ FerryManifestSeal *seal = NULL;
	int ret_code = image_open_optional(dir, kind, 0, &r, err);
	if (ret_code <= 0)
		return ret_code;
	const char *name = image_reader_name(r);
	ret_code = image_need(r, &ferry_manifest_entry__descriptor, &list, err);
	if (ret_code < 0)
		return ret_code;
	uint64_t sealed = image_reader_offset(r), size;
	ret_code = image_need(r, &ferry_manifest_seal__descriptor, &seal, err);
	if (ret_code < 0)
		return ret_code;
	if (image_reader_left(r))
		return image_bad(r, err, "%" PRIu64 " bytes too many", image_reader_left(r));
	struct image_checksum checksum;
	ret_code = image_dir__hash_file(image_reader_fd(r), sealed, 1, NULL, &size, &checksum);
	if (ret_code < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -ret_code, "cannot read '%s'", name);
	if (size != sealed || seal->xxh3_128.len != sizeof(checksum) ||
	    memcmp(seal->xxh3_128.data, checksum.bytes, sizeof(checksum)))
		return bad(dir, err, name, "is damaged: its own checksum does not agree");
	/* Fields that we do not know would escape notice when the entry is compared. */
	if (seal->base.n_unknown_fields)
		return bad(dir, err, name, "is damaged: its seal holds unknown fields");
	*ret = take_ptr(list);
	return 1;
}

static int read_manifest(struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_message_ FerryManifestEntry *manifest = NULL;
	int r = read_list(dir, IMAGE_FERRY_MANIFEST, &manifest, err);
	if (r > 0)
		r = take_files(dir, IMAGE_MANIFEST_NAME, manifest, err);
	if (r < 0 || !manifest)
		return r;
	dir->has_manifest = true;
	dir->pages_elsewhere = manifest->pages_elsewhere;
	if (!image_dir__find(dir, IMAGE_INVENTORY_NAME))
		return bad(dir, err, IMAGE_MANIFEST_NAME, "does not list the inventory");
	return 0;
}

/* Of pages that a page server took: those of this image, or the directory has nothing else. */
static int read_pages_list(struct image_dir *dir, struct ferry_error *err)
{
	_cleanup_message_ FerryManifestEntry *list = NULL;
	int r = dir->has_manifest && !dir->pages_elsewhere ? 0
							   : read_list(dir, IMAGE_FERRY_PAGES, &list, err);
	if (r <= 0)
		return r;
	if (dir->has_manifest && (list->dump_id_hi != dir->id_hi || list->dump_id_lo != dir->id_lo))
		return bad(dir, err, IMAGE_PAGES_LIST_NAME, "lists pages of another image");
	r = take_files(dir, IMAGE_PAGES_LIST_NAME, list, err);
	dir->has_pages_list = true;
	dir->pages_elsewhere = false;
	return r;
}

/* A small file's bytes into memory; *ret is their checksum. */
static int read_kept(int fd, uint8_t *place, uint64_t size, struct image_checksum *ret)
{
	int r = fd_pread_all(fd, place, (size_t)size, 0);
	if (r >= 0)
		*ret = image_dir__checksum_from(XXH3_128bits(place, (size_t)size));
	return r;
}

/* lanes: threads that compute the checksum; 0 = it is not compared. place: where the bytes are to be kept, NULL */
static int check_file(struct image_dir *dir, const struct image_dir_entry *entry, unsigned lanes,
		      uint8_t *place, struct ferry_error *err)
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
	int r = place ? read_kept(fd, place, entry->size, &checksum)
		      : image_dir__hash_file(fd, UINT64_MAX, lanes, dir->progress, &size, &checksum);
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
		    image_dir__find(dir, e->d_name) || image_dir__is_unlisted(dir, kind))
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

struct check_job {
	struct image_dir *dir;
	const struct image_dir_open *options;
	uint64_t *places; /* of each file in dir->kept, or CHECK_NO_PLACE; NULL: none is kept */
	struct ferry_error *err;
};

/* Whether whoever reads the file does so by image_get() alone, and soon. */
static bool check_may_keep(const struct image_dir_entry *entry)
{
	enum image_kind kind;
	uint64_t id;
	return entry->size <= CHECK_KEEP_BYTES && image_file_parse_name(entry->name, &kind, &id) == 0 &&
	       kind != IMAGE_PAGES && image_file_info(kind)->first;
}

/* Where the bytes of each file go. Without memory for them none is kept. */
static uint64_t *check_places(struct image_dir *dir)
{
	uint64_t *places = malloc(dir->entries.n * sizeof(*places)), bytes = 0;
	for (size_t i = 0; i < dir->entries.n && places; i++) {
		bool keep = check_may_keep(&dir->entries.v[i]);
		places[i] = keep ? bytes : CHECK_NO_PLACE;
		bytes += keep ? dir->entries.v[i].size : 0;
	}
	void *kept = places && bytes && bytes <= CHECK_KEEP_MOST
			     ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
			     : MAP_FAILED;
	if (kept == MAP_FAILED) {
		free(places);
		return NULL;
	}
	dir->kept = kept;
	dir->kept_bytes = bytes;
	return places;
}

void image_dir_forget(struct image_dir *dir)
{
	vec_foreach(entry, &dir->entries)
		entry->kept = NULL;
	if (dir->kept)
		munmap(dir->kept, dir->kept_bytes);
	dir->kept = NULL;
}

static int check_entry(const struct check_job *j, struct image_dir_entry *entry, struct ferry_error *err)
{
	bool with_pages = j->options->check_pages && !j->dir->punched;
	bool with_checksum = !j->options->no_checksums && !entry->seen &&
			     (with_pages || !image_dir__is_pages(entry->name));
	size_t number = (size_t)(entry - j->dir->entries.v);
	uint8_t *place = with_checksum && j->places && j->places[number] != CHECK_NO_PLACE
				 ? j->dir->kept + j->places[number]
				 : NULL;
	int r = check_file(j->dir, entry, with_checksum ? LANES_MAX : 0, place, err);
	if (r >= 0)
		entry->kept = place;
	return r;
}

static int check_piece(void *context, struct lanes *l, unsigned lane unused, uint64_t number)
{
	const struct check_job *j = context;
	struct ferry_error err = FERRY_ERROR_INIT;
	size_t from = number * CHECK_PIECE, to = MIN(from + CHECK_PIECE, j->dir->entries.n);
	int r = 0;
	for (size_t i = from; i < to && r >= 0; i++)
		r = check_entry(j, &j->dir->entries.v[i], &err);
	if (r >= 0)
		return 0;
	/* Of several that are damaged the first in the list is named. */
	int turn = lanes_turn(l, number);
	if (turn >= 0 && j->err)
		*j->err = err;
	return turn < 0 ? turn : r;
}

static int check_files(struct image_dir *dir, const struct image_dir_open *options, struct ferry_error *err)
{
	_cleanup_free_ uint64_t *places = options->keep && dir->entries.n ? check_places(dir) : NULL;
	struct check_job j = {.dir = dir, .options = options, .places = places, .err = err};
	return lanes_run(lanes_wanted(), (dir->entries.n + CHECK_PIECE - 1) / CHECK_PIECE, check_piece, &j);
}

static int check_manifest(struct image_dir *dir, const struct image_dir_open *options,
			  struct ferry_error *err)
{
	dir->punched = faccessat(dir->fd, IMAGE_PUNCHED_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	int r = read_manifest(dir, err);
	if (r >= 0)
		r = read_pages_list(dir, err);
	if (r >= 0)
		r = check_seen(dir, options, err);
	if (r < 0)
		return r;
	r = check_files(dir, options, err);
	return r >= 0 && dir->has_manifest ? check_strangers(dir, err) : r;
}

static bool has_unseen_pages(const struct image_dir *dir, const struct image_dir_entry *entry)
{
	return !dir->punched && !entry->seen && image_dir__is_pages(entry->name);
}

int image_dir_check_pages(struct image_dir *dir, struct ferry_error *err)
{
	for (; dir; dir = dir->parent)
		vec_foreach(entry, &dir->entries) {
			int r = has_unseen_pages(dir, entry) ? check_file(dir, entry, 1, NULL, err) : 0;
			if (r < 0)
				return r;
		}
	return 0;
}

uint64_t image_dir_pages_bytes(const struct image_dir *dir)
{
	uint64_t bytes = 0;
	for (; dir; dir = dir->parent)
		vec_foreach(entry, &dir->entries)
			bytes += has_unseen_pages(dir, entry) ? entry->size : 0;
	return bytes;
}

/*
 * As long as we read nobody takes anything away. On a file system without locks nothing is asked; nor by who writes an image that builds on
 * this one, since he sees to it that nobody else changes what he works on.
 */
static void lock_for_reading(const struct image_dir *dir)
{
	for (const struct image_dir *at = dir; at; at = at->child)
		if (at->writing)
			return;
	while (flock(dir->fd, LOCK_SH) < 0 && errno == EINTR)
		continue;
}

int image_dir_open(int at_fd, const char *path, const struct image_dir_open *options, struct image_dir **ret,
		   struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = image_dir__new(path);
	if (!dir)
		return error_memory(err);
	dir->fault = options->fault;
	dir->log = options->log;
	dir->progress = options->progress;
	dir->fd = fd_open(at_fd, path, O_RDONLY | O_DIRECTORY, 0);
	if (dir->fd == -ENOENT || dir->fd == -ENOTDIR)
		return error_errno(err, FERRY_ERROR_IMAGE_MISSING, -dir->fd,
				   "cannot open the images directory '%s'", path);
	if (dir->fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -dir->fd, "cannot open the images directory '%s'",
				   path);
	lock_for_reading(dir);
	int r = check_version(dir, err);
	if (r == 0)
		r = check_manifest(dir, options, err);
	if (r < 0)
		return r;
	*ret = take_ptr(dir);
	return 0;
}

int image_dir_reserve(struct image_dir *dir, struct ferry_error *err)
{
	while (dir) {
		if (flock(dir->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
			return 0;
		int r = image_dir_parent(dir, &dir, err);
		if (r < 0)
			return r;
	}
	return 1;
}

/* ---- what the image builds on ---- */

const char *image_dir__parent_link(const struct image_dir *dir)
{
	bool own = faccessat(dir->fd, IMAGE_CHAIN_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	return own ? IMAGE_CHAIN_NAME : IMAGE_PARENT_NAME;
}

/* Whether the link leads to our own directory of links, which says nothing that pages_of does not. */
static int has_parent(const struct image_dir *dir)
{
	if (!strcmp(image_dir__parent_link(dir), IMAGE_CHAIN_NAME))
		return 1;
	char target[sizeof(IMAGE_FAMILY_NAME) + 1];
	ssize_t n = readlinkat(dir->fd, IMAGE_PARENT_NAME, target, sizeof(target));
	if (n < 0)
		return errno == ENOENT ? 0 : errno == EINVAL ? 1 : -errno;
	return (size_t)n != strlen(IMAGE_FAMILY_NAME) || memcmp(target, IMAGE_FAMILY_NAME, (size_t)n);
}

/* Going on would never end. */
static bool is_in_chain(const struct image_dir *dir, const struct image_dir *parent)
{
	struct stat ours, theirs;
	if (fstat(parent->fd, &theirs) < 0)
		return false;
	for (; dir; dir = dir->child)
		if (fstat(dir->fd, &ours) == 0 && ours.st_ino == theirs.st_ino &&
		    ours.st_dev == theirs.st_dev)
			return true;
	return false;
}

/*
 * A directory that a page server filled has no inventory, and CRIU restores images that build on it. One in which a write did not end
 * has none either.
 */
static int check_round(struct image_dir *dir, struct ferry_error *err)
{
	if (faccessat(dir->fd, IMAGE_INVENTORY_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return check_version(dir, err);
	if (faccessat(dir->fd, IMAGE_MANIFEST_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
	    faccessat(dir->fd, IMAGE_UNFINISHED_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT,
				 "'%s' holds no image (no %s): a dump into it did not end", dir->path,
				 IMAGE_INVENTORY_NAME);
	return 0;
}

static int open_parent(struct image_dir *dir, struct image_dir **ret, struct ferry_error *err)
{
	static const struct image_dir_open options = {0};
	_cleanup_free_ char *path = NULL;
	const char *link = image_dir__parent_link(dir);
	if (asprintf(&path, "%s/%s", dir->path, link) < 0)
		return error_memory(err);
	_cleanup_image_dir_ struct image_dir *parent = image_dir__new(path);
	if (!parent)
		return error_memory(err);
	parent->fault = dir->fault;
	parent->log = dir->log;
	parent->progress = dir->progress;
	parent->fd = fd_open(dir->fd, link, O_RDONLY | O_DIRECTORY, 0);
	if (parent->fd < 0) {
		error_errno(err, FERRY_ERROR_IMAGE_MISSING, -parent->fd,
			    "cannot open the image '%s' that '%s' builds on", path, dir->path);
		error_hint(err, "an incremental image needs all images before it, where its link says");
		return parent->fd;
	}
	if (is_in_chain(dir, parent))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, ELOOP,
				 "'%s' leads back to an image that builds on it", path);
	parent->child = dir;
	lock_for_reading(parent);
	int r = check_round(parent, err);
	if (r == 0)
		r = check_manifest(parent, &options, err);
	if (r == 0)
		r = image_dir_check_whole(parent, err);
	if (r < 0)
		return r;
	if ((dir->parent_hi || dir->parent_lo) &&
	    (parent->id_hi != dir->parent_hi || parent->id_lo != dir->parent_lo))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "'%s' is not the image that '%s' builds on: it is from another dump", path,
				 dir->path);
	*ret = take_ptr(parent);
	return 0;
}

int image_dir_parent(struct image_dir *dir, struct image_dir **ret, struct ferry_error *err)
{
	int has = dir->parent ? 1 : has_parent(dir);
	if (has < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -has, "reading the link '%s' in '%s'",
				   IMAGE_PARENT_NAME, dir->path);
	int r = has && !dir->parent ? open_parent(dir, &dir->parent, err) : 0;
	if (r < 0)
		return r;
	*ret = dir->parent;
	return 0;
}

int image_dir_open_chain(struct image_dir *dir, struct ferry_error *err)
{
	struct ferry_error local = FERRY_ERROR_INIT;
	int r = 0;
	while (dir && r == 0)
		r = image_dir_parent(dir, &dir, &local);
	/* Nobody may need one that is missing. Who does will tell. */
	if (r == 0 || local.id == FERRY_ERROR_IMAGE_MISSING)
		return 0;
	if (err)
		*err = local;
	return r;
}

size_t image_dir_n_parents(const struct image_dir *dir)
{
	size_t n = 0;
	for (dir = dir->parent; dir; dir = dir->parent)
		n++;
	return n;
}
