/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what reading and writing an image directory have in common: the list of files, and the mark of a spent one. */
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
#include "base/progress.h"
#include "image/coverage.h"
#include "image/dir_private.h"

enum {
	HASH_BUFFER = 1 << 20, /* bytes */
	HASH_ALONE = 8 << 20,  /* smaller files are not worth a second thread */
	HASH_PIECE = 32 << 10, /* at a time by one thread: touching a new page takes longer than hashing it */
};

/* ---- the list of files ---- */

const char *image_dir__written_name(const char *name)
{
	return strcmp(name, IMAGE_INVENTORY_NAME) ? name : IMAGE_INVENTORY_NEW;
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

struct image_checksum image_dir__checksum_from(XXH128_hash_t hash)
{
	struct image_checksum checksum;
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(checksum.bytes, canonical.digest, sizeof(checksum.bytes));
	return checksum;
}

int image_dir__enter(struct image_dir *dir, const char *name, bool sent, size_t *ret_index)
{
	pthread_mutex_lock(&dir->lock);
	int r = image_dir__find(dir, name) ? -EEXIST : 0;
	struct image_dir_entry *entry = r < 0 ? NULL : image_dir__add(dir, name);
	if (entry) {
		entry->sent = sent;
		*ret_index = dir->entries.n - 1;
	}
	pthread_mutex_unlock(&dir->lock);
	return r < 0 || entry ? r : -ENOMEM;
}

void image_dir__set_closed(struct image_dir *dir, size_t index, uint64_t size, XXH128_hash_t hash)
{
	pthread_mutex_lock(&dir->lock);
	struct image_dir_entry *entry = &dir->entries.v[index];
	entry->size = size;
	entry->checksum = image_dir__checksum_from(hash);
	entry->closed = true;
	pthread_mutex_unlock(&dir->lock);
}

bool image_dir__is_service(const char *name)
{
	enum image_kind kind;
	uint64_t id;
	return image_file_parse_name(name, &kind, &id) == 0 &&
	       image_file_info(kind)->header == IMAGE_HEADER_SERVICE;
}

bool image_dir__is_pages(const char *name)
{
	enum image_kind kind;
	uint64_t id;
	return image_file_parse_name(name, &kind, &id) == 0 && kind == IMAGE_PAGES;
}

/* A file being hashed: blocks are read by several threads and hashed in order. */
struct hash_job {
	int fd;
	uint64_t bytes, block_bytes;
	uint8_t *buffers; /* block_bytes for each lane */
	XXH3_state_t *state;
	uint64_t size; /* hashed so far */
	struct progress *progress;
};

static int hash_block(void *context, struct lanes *l, unsigned lane, uint64_t number)
{
	struct hash_job *j = context;
	uint8_t *bytes = j->buffers + lane * j->block_bytes;
	uint64_t at = number * j->block_bytes, wanted = MIN(j->bytes - at, j->block_bytes), n = 0;
	while (n < wanted) {
		ssize_t got = pread(j->fd, bytes + n, (size_t)(wanted - n), (off_t)(at + n));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break; /* shorter than it was a moment ago: the size tells */
		n += (uint64_t)got;
	}
	int r = lanes_turn(l, number);
	if (r < 0)
		return r;
	XXH3_128bits_update(j->state, bytes, (size_t)n);
	j->size += n;
	progress_add(j->progress, n);
	return 0;
}

int image_dir__hash_file(int fd, uint64_t limit, unsigned lanes, struct progress *progress,
			 uint64_t *ret_size, struct image_checksum *ret)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	struct hash_job j = {.fd = fd, .progress = progress, .bytes = MIN(limit, (uint64_t)st.st_size)};
	lanes = j.bytes < HASH_ALONE ? 1 : MIN(lanes, lanes_wanted());
	j.block_bytes = MAX(MIN(j.bytes, lanes > 1 ? (uint64_t)HASH_BUFFER : HASH_PIECE), 1);
	_cleanup_free_ uint8_t *buffers = malloc(lanes * j.block_bytes);
	j.buffers = buffers;
	j.state = XXH3_createState();
	if (!buffers || !j.state) {
		XXH3_freeState(j.state);
		return -ENOMEM;
	}
	XXH3_128bits_reset(j.state);
	int r = lanes_run(lanes, (j.bytes + j.block_bytes - 1) / j.block_bytes, hash_block, &j);
	*ret = image_dir__checksum_from(XXH3_128bits_digest(j.state));
	*ret_size = j.size;
	XXH3_freeState(j.state);
	return r;
}

int image_dir__open_listing(int dir_fd, DIR **ret)
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

/* ---- small questions ---- */

int image_dir_fd(const struct image_dir *dir)
{
	return dir->fd;
}

uint64_t image_dir_bytes(const struct image_dir *dir)
{
	uint64_t bytes = 0;
	vec_foreach(entry, &dir->entries)
		bytes += entry->size;
	return bytes;
}

uint64_t image_dir_unsynced_bytes(const struct image_dir *dir)
{
	uint64_t bytes = image_dir_bytes(dir);
	for (const struct image_dir *round = dir->rounds; round; round = round->next)
		bytes += image_dir_bytes(round);
	return bytes;
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

bool image_dir_takes_several(const struct image_dir *dir)
{
	return !dir->create.pages && !dir->create.remote && !dir->create.coverage && !dir->sent;
}

uint32_t image_dir_next_pages_id(struct image_dir *dir)
{
	return __atomic_add_fetch(&dir->next_pages_id, 1, __ATOMIC_RELAXED);
}

bool image_dir__is_unlisted(const struct image_dir *dir, enum image_kind kind)
{
	bool pages = kind == IMAGE_PAGEMAP || kind == IMAGE_SHMEM_PAGEMAP || kind == IMAGE_PAGES;
	return kind == IMAGE_FERRY_MANIFEST ||
	       (kind == IMAGE_FERRY_PAGES && (dir->pages_elsewhere || dir->has_pages_list)) ||
	       (pages && dir->pages_elsewhere);
}

bool image_dir_pages_are_elsewhere(const struct image_dir *dir)
{
	return dir->pages_elsewhere;
}

void image_dir_set_id(struct image_dir *dir, uint64_t hi, uint64_t lo)
{
	dir->id_hi = hi;
	dir->id_lo = lo;
}

bool image_dir_has(const struct image_dir *dir, enum image_kind kind, uint64_t id)
{
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	const struct image_dir_entry *entry = dir->has_manifest ? image_dir__find(dir, name) : NULL;
	if (entry && entry->kept)
		return true;
	if (dir->has_manifest && !image_dir__is_service(name) && !entry && !image_dir__is_unlisted(dir, kind))
		return false;
	return faccessat(dir->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

struct image_dir *image_dir__new(const char *path)
{
	struct image_dir *dir = calloc(1, sizeof(*dir));
	if (!dir)
		return NULL;
	dir->fd = dir->parent_fd = dir->marker_fd = -EBADF;
	pthread_mutex_init(&dir->lock, NULL);
	dir->path = strdup(path);
	if (!dir->path) {
		free(dir);
		return NULL;
	}
	return dir;
}

static void free_one(struct image_dir *dir)
{
	if (dir->writing)
		image_dir_abort(dir);
	for (struct image_dir *round; (round = dir->rounds);) {
		dir->rounds = round->next;
		image_dir_free(round);
	}
	cleanup_close_p(&dir->fd);
	cleanup_close_p(&dir->parent_fd);
	cleanup_close_p(&dir->marker_fd);
	image_coverage_free(dir->sent);
	image_dir_forget(dir);
	vec_release(&dir->entries);
	free(dir->slots);
	free(dir->path);
	pthread_mutex_destroy(&dir->lock);
	free(dir);
}

void image_dir_free(struct image_dir *dir)
{
	for (struct image_dir *parent; dir; dir = parent) {
		parent = dir->parent;
		free_one(dir);
	}
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
	int r = image_dir__open_listing(dir->fd, &listing);
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

/* ---- pages that were taken out ---- */

enum { PUNCHED_TEXT = 40 };

static bool has_id(const struct image_dir *dir)
{
	return dir->has_manifest || (dir->writing && !dir->create.no_manifest && !dir->create.partial);
}

static int write_punched(const struct image_dir *dir, const char *text)
{
	_cleanup_close_ int fd =
		fd_open(dir->fd, IMAGE_PUNCHED_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
	int r = fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
	if (r >= 0 &&
	    (fsync(fd) < 0 || renameat(dir->fd, IMAGE_PUNCHED_NEW, dir->fd, IMAGE_PUNCHED_NAME) < 0 ||
	     fsync(dir->fd) < 0))
		r = -errno;
	return r;
}

int image_dir_mark_punched(const struct image_dir *dir, const struct image_dir *younger,
			   struct ferry_error *err)
{
	char text[PUNCHED_TEXT];
	if (younger && has_id(younger))
		image_dir_id_text(younger, text);
	else
		snprintf(text, sizeof(text), "%s", younger ? "any" : "none");
	int r = write_punched(dir, text);
	return r < 0 ? image_io_error(err, -r, "cannot write", IMAGE_PUNCHED_NAME) : 0;
}

/* Whether a chain that dir is in leads through the image that the mark names. */
static bool leads_through(const struct image_dir *dir, const char *text)
{
	char id[PUNCHED_TEXT];
	if (!strcmp(text, "any"))
		return dir->child;
	for (dir = dir->child; dir; dir = dir->child) {
		image_dir_id_text(dir, id);
		if (has_id(dir) && !strcmp(id, text))
			return true;
	}
	return false;
}

int image_dir_check_whole(const struct image_dir *dir, struct ferry_error *err)
{
	char text[PUNCHED_TEXT];
	_cleanup_close_ int fd = fd_open(dir->fd, IMAGE_PUNCHED_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd == -ENOENT)
		return 0;
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, fd < 0 ? -fd : errno, "cannot read '%s' in '%s'",
				   IMAGE_PUNCHED_NAME, dir->path);
	text[n] = '\0';
	if (leads_through(dir, text))
		return 0;
	if (!strcmp(text, "none"))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pages of the image in '%s' were taken out when it was restored", dir->path);
	error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
		  "pages of the image in '%s' were taken out, since a later image has them", dir->path);
	error_hint(err, "only that image restores (%s), and those that build on it", text);
	return -EBADMSG;
}
