/* SPDX-License-Identifier: Apache-2.0 */
/* Owns writing single image files: every byte is counted, and hashed where anybody will ask, on its way. */
#include "image/file.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "image/dir_private.h"

enum {
	WRITE_BUFFER = 32 << 10, /* bytes; larger pieces go straight to the file */
	COPY_BUFFER = 256 << 10,
};

int image_io_error(struct ferry_error *err, int code, const char *what, const char *name)
{
	if (code == ENOSPC || code == EDQUOT || code == EFBIG) {
		int r = error_errno(err, FERRY_ERROR_NO_SPACE, code, "%s '%s'", what, name);
		error_hint(err, "free space there, or give another directory for the image");
		return r;
	}
	return error_errno(err, FERRY_ERROR_SYSTEM, code, "%s '%s'", what, name);
}

struct image_writer {
	struct image_writer *next; /* in dir->writers */
	struct image_dir *dir;     /* NULL for a file outside of any directory */
	size_t index;              /* of its entry in dir */
	const struct fault *fault;
	char *name;
	int fd;                        /* -1 with a sink */
	const struct image_sink *sink; /* NULL = the file */
	int failed;                    /* -errno of the first failure; nothing is written after it */
	uint64_t offset;
	XXH3_state_t *hash; /* NULL when nobody wants the checksum */
	size_t used;
	uint8_t buffer[WRITE_BUFFER];
};

static void writer_unlink(struct image_writer *w)
{
	if (!w->dir)
		return;
	pthread_mutex_lock(&w->dir->lock);
	struct image_writer **p = &w->dir->writers;
	while (*p && *p != w)
		p = &(*p)->next;
	if (*p)
		*p = w->next;
	pthread_mutex_unlock(&w->dir->lock);
}

static void writer_free(struct image_writer *w)
{
	if (!w)
		return;
	writer_unlink(w);
	if (w->fd >= 0)
		close(w->fd);
	XXH3_freeState(w->hash);
	free(w->name);
	free(w);
}

static void cleanup_writer_p(struct image_writer **w)
{
	writer_free(*w);
}

void image_writer__discard_all(struct image_dir *dir)
{
	while (dir->writers)
		writer_free(dir->writers);
}

static int writer_fail(struct image_writer *w, int r, const char *what, struct ferry_error *err)
{
	w->failed = r;
	return image_io_error(err, -r, what, w->name);
}

static int writer_put(struct image_writer *w, const void *bytes, size_t n, struct ferry_error *err)
{
	if (w->sink)
		return w->failed = w->sink->write(w->sink->context, bytes, n, err);
	int r = fd_write_all(w->fd, bytes, n);
	return r < 0 ? writer_fail(w, r, "cannot write", err) : 0;
}

/* Whether more may be written at all. */
static int writer_check(struct image_writer *w, struct ferry_error *err)
{
	if (w->failed)
		return error_set(err, FERRY_ERROR_SYSTEM, -w->failed, "'%s' could not be written before",
				 w->name);
	if (fault_hit(w->fault, FAULT_IMAGE_WRITE)) {
		w->failed = -EIO;
		return error_set(err, FERRY_ERROR_FAULT, EIO, "writing '%s' failed on purpose", w->name);
	}
	return 0;
}

/* Write straight to the file. */
static int writer_write(struct image_writer *w, const void *bytes, size_t n, struct ferry_error *err)
{
	int r = writer_check(w, err);
	if (r >= 0)
		r = writer_put(w, bytes, n, err);
	if (r >= 0 && w->hash)
		XXH3_128bits_update(w->hash, bytes, n);
	return r;
}

static int writer_flush(struct image_writer *w, struct ferry_error *err)
{
	size_t n = w->used;
	w->used = 0;
	return n ? writer_write(w, w->buffer, n, err) : 0;
}

int image_put_raw(struct image_writer *w, const void *bytes, size_t n, struct ferry_error *err)
{
	bool large = n > sizeof(w->buffer) / 2;
	w->offset += n;
	/* What goes straight to the file goes there after everything before it. */
	if (large || n > sizeof(w->buffer) - w->used) {
		int r = writer_flush(w, err);
		if (r < 0)
			return r;
	}
	if (large)
		return writer_write(w, bytes, n, err);
	if (n)
		memcpy(w->buffer + w->used, bytes, n);
	w->used += n;
	return 0;
}

int image_put_iov(struct image_writer *w, const struct iovec *iov, size_t n_iov, struct ferry_error *err)
{
	for (size_t i = 0; i < n_iov; i++) {
		int r = image_put_raw(w, iov[i].iov_base, iov[i].iov_len, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int image_reserve(struct image_writer *w, const struct iovec *iov, size_t n_iov, uint64_t *ret_offset,
		  struct ferry_error *err)
{
	uint64_t n = 0;
	int r = writer_flush(w, err);
	if (r == 0)
		r = writer_check(w, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n_iov && r >= 0; i++) {
		/* A sink takes everything in order, so it takes it now. */
		if (w->sink)
			r = writer_put(w, iov[i].iov_base, iov[i].iov_len, err);
		if (w->hash)
			XXH3_128bits_update(w->hash, iov[i].iov_base, iov[i].iov_len);
		n += iov[i].iov_len;
	}
	if (r < 0)
		return r;
	/* What is put without being reserved goes behind. */
	if (!w->sink && lseek(w->fd, (off_t)(w->offset + n), SEEK_SET) < 0)
		return writer_fail(w, -errno, "cannot write", err);
	*ret_offset = w->offset;
	w->offset += n;
	return 0;
}

int image_store(const struct image_writer *w, uint64_t offset, const struct iovec *iov, size_t n_iov,
		struct ferry_error *err)
{
	int r = w->sink ? 0 : fd_pwritev_all(w->fd, iov, n_iov, offset);
	return r < 0 ? image_io_error(err, -r, "cannot write", w->name) : 0;
}

int image_put_from(struct image_writer *w, int fd, uint64_t n, struct ferry_error *err)
{
	_cleanup_free_ uint8_t *bytes = malloc(COPY_BUFFER);
	if (!bytes)
		return error_memory(err);
	while (n) {
		size_t piece = (size_t)MIN(n, (uint64_t)COPY_BUFFER);
		int r = fd_read_all(fd, bytes, piece);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot read what goes into '%s'",
					   w->name);
		r = image_put_raw(w, bytes, piece, err);
		if (r < 0)
			return r;
		n -= piece;
	}
	return 0;
}

static int put_u32(struct image_writer *w, uint32_t value, struct ferry_error *err)
{
	value = htole32(value);
	return image_put_raw(w, &value, sizeof(value), err);
}

int image_put(struct image_writer *w, const ProtobufCMessage *message, struct ferry_error *err)
{
	if (!protobuf_c_message_check(message))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
				 "a required field of a %s for '%s' is not set", message->descriptor->name,
				 w->name);
	size_t n = protobuf_c_message_get_packed_size(message);
	if (n > IMAGE_MESSAGE_MAX)
		return error_set(err, FERRY_ERROR_LIMIT, E2BIG,
				 "a %s for '%s' has %zu bytes; at most %u are possible",
				 message->descriptor->name, w->name, n, IMAGE_MESSAGE_MAX);
	int r = put_u32(w, (uint32_t)n, err);
	if (r < 0)
		return r;
	if (n <= sizeof(w->buffer) - w->used) {
		w->used += protobuf_c_message_pack(message, w->buffer + w->used);
		w->offset += n;
		return 0;
	}
	_cleanup_free_ uint8_t *bytes = malloc(n);
	if (!bytes)
		return error_memory(err);
	protobuf_c_message_pack(message, bytes);
	return image_put_raw(w, bytes, n, err);
}

static int put_header(struct image_writer *w, enum image_kind kind, struct ferry_error *err)
{
	const struct image_file_info *info = image_file_info(kind);
	int r = 0;
	if (info->header == IMAGE_HEADER_COMMON)
		r = put_u32(w, IMAGE_MAGIC_COMMON, err);
	if (info->header == IMAGE_HEADER_SERVICE)
		r = put_u32(w, IMAGE_MAGIC_SERVICE, err);
	if (r == 0 && info->header != IMAGE_HEADER_NONE)
		r = put_u32(w, info->magic, err);
	return r;
}

/* Make a writer one of the directory's; what it writes is hashed if anybody will ask. */
static int writer_join(struct image_writer *w, struct image_dir *dir, size_t index)
{
	w->dir = dir;
	w->index = index;
	w->fault = dir->fault;
	pthread_mutex_lock(&dir->lock);
	w->next = dir->writers;
	dir->writers = w;
	pthread_mutex_unlock(&dir->lock);
	if (dir->create.no_manifest && dir->create.read_back == IMAGE_READ_BACK_NONE)
		return 0;
	w->hash = XXH3_createState();
	if (!w->hash)
		return -ENOMEM;
	XXH3_128bits_reset(w->hash);
	return 0;
}

/* fd is taken over, also on failure. index: of its entry in dir. */
static int writer_new(struct image_dir *dir, size_t index, int fd, const char *name, enum image_kind kind,
		      struct image_writer **ret, struct ferry_error *err)
{
	_cleanup_close_ int owned = fd;
	_cleanup_(cleanup_writer_p) struct image_writer *w = malloc(sizeof(*w));
	if (!w)
		return error_memory(err);
	memset(w, 0, offsetof(struct image_writer, buffer));
	w->fd = take_fd(owned);
	w->name = strdup(name);
	if (!w->name || (dir && writer_join(w, dir, index) < 0))
		return error_memory(err);
	int r = put_header(w, kind, err);
	if (r < 0)
		return r;
	*ret = take_ptr(w);
	return 0;
}

int image_create_fd(int fd, const char *name, enum image_kind kind, struct image_writer **ret,
		    struct ferry_error *err)
{
	return writer_new(NULL, 0, fd, name, kind, ret, err);
}

static int create_file(struct image_dir *dir, size_t index, const char *name, enum image_kind kind,
		       struct image_writer **ret, struct ferry_error *err)
{
	const char *written = image_dir__written_name(name);
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
	int fd = fd_open(dir->fd, written, flags, 0600);
	/* A stranger's file of that name, or a link to somewhere else, must not receive what we write. */
	if (fd == -EEXIST) {
		if (unlinkat(dir->fd, written, 0) < 0 && errno != ENOENT)
			return image_io_error(err, errno, "cannot replace", written);
		fd = fd_open(dir->fd, written, flags, 0600);
	}
	if (fd < 0)
		return image_io_error(err, -fd, "cannot create", written);
	return writer_new(dir, index, fd, name, kind, ret, err);
}

/* One at a time. */
static int create_sent(struct image_dir *dir, size_t index, const char *name, enum image_kind kind,
		       struct image_writer **ret, struct ferry_error *err)
{
	const struct image_sink *sink = dir->create.pages;
	for (const struct image_writer *w = dir->writers; w; w = w->next)
		if (w->sink)
			return error_set(err, FERRY_ERROR_INTERNAL, EBUSY,
					 "'%s' would be written together with '%s'", name, w->name);
	int r = sink->begin(sink->context, name, err);
	if (r >= 0)
		r = writer_new(dir, index, -1, name, kind, ret, err);
	if (r >= 0)
		(*ret)->sink = sink;
	return r;
}

int image_create(struct image_dir *dir, enum image_kind kind, uint64_t id, struct image_writer **ret,
		 struct ferry_error *err)
{
	if (!dir->writing || dir->over)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "the image in '%s' is not being written",
				 dir->path);
	char name[IMAGE_NAME_MAX];
	bool send = kind == IMAGE_PAGES && dir->create.pages;
	size_t index = 0;
	image_file_name(kind, id, name);
	/* Entered first, so that an abort removes it. */
	int r = image_dir__enter(dir, name, send, &index);
	if (r < 0)
		return r == -ENOMEM ? error_memory(err)
				    : error_set(err, FERRY_ERROR_INTERNAL, EEXIST,
						"'%s' would be written twice", name);
	return send ? create_sent(dir, index, name, kind, ret, err)
		    : create_file(dir, index, name, kind, ret, err);
}

int image_writer__digest(struct image_writer *w, XXH128_hash_t *ret, struct ferry_error *err)
{
	int r = writer_flush(w, err);
	if (r == 0)
		*ret = XXH3_128bits_digest(w->hash);
	return r;
}

uint64_t image_writer_offset(const struct image_writer *w)
{
	return w->offset;
}

int image_close(struct image_writer *w, struct ferry_error *err)
{
	unused _cleanup_(cleanup_writer_p) struct image_writer *owned = w;
	if (!w)
		return 0;
	int r = writer_flush(w, err);
	if (r < 0)
		return r;
	if (w->failed)
		return error_set(err, FERRY_ERROR_SYSTEM, -w->failed, "'%s' could not be written before",
				 w->name);
	if (w->dir) {
		/* Start the disk now, so that the sync at the end finds little left to do. Best effort. */
		if (!w->sink && !w->dir->create.no_sync && !w->dir->in_memory)
			sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
		XXH128_hash_t none = {0};
		image_dir__set_closed(w->dir, w->index, w->offset,
				      w->hash ? XXH3_128bits_digest(w->hash) : none);
	}
	int fd = take_fd(w->fd);
	if (fd >= 0 && close(fd) < 0 && errno != EINTR)
		return image_io_error(err, errno, "cannot close", w->name);
	return 0;
}

int image_put_one(struct image_dir *dir, enum image_kind kind, uint64_t id, const ProtobufCMessage *message,
		  struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(dir, kind, id, &w, err);
	if (r < 0)
		return r;
	r = image_put(w, message, err);
	int closed = image_close(w, err);
	return r < 0 ? r : closed;
}
