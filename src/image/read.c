/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading single image files. Reading uses pread(2) only, so that a reader's descriptor may be shared with
 * whoever maps or splices it.
 */
#include "image/file.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "image/dir_private.h"

enum { READ_BUFFER = 32 << 10 };

struct image_reader {
	char *name;
	int fd;              /* -1: it is kept */
	const uint8_t *kept; /* the bytes of the file; NULL: it is read */
	const struct fault *fault;
	uint64_t offset; /* of the next byte that is handed out */
	uint64_t size;   /* of the file when it was opened */
	uint64_t buffer_offset;
	size_t buffer_n;
	uint8_t buffer[READ_BUFFER];
};

int image_bad(const struct image_reader *r, struct ferry_error *err, const char *fmt, ...)
{
	char text[320];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s, offset %" PRIu64 ": %s", r->name,
			 r->offset, text);
}

void image_reader_free(struct image_reader *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	free(r->name);
	free(r);
}

uint64_t image_reader_offset(const struct image_reader *r)
{
	return r->offset;
}

uint64_t image_reader_left(const struct image_reader *r)
{
	return r->size - r->offset;
}

int image_reader_fd(const struct image_reader *r)
{
	return r->fd;
}

const char *image_reader_name(const struct image_reader *r)
{
	return r->name;
}

/* Bytes from the file, past the buffer. */
static int reader_pread(struct image_reader *r, void *bytes, size_t n, uint64_t offset,
			struct ferry_error *err)
{
	if (fault_hit(r->fault, FAULT_IMAGE_READ))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "reading '%s' failed on purpose", r->name);
	int ret = 0;
	if (r->kept)
		memcpy(bytes, r->kept + offset, n);
	else
		ret = fd_pread_all(r->fd, bytes, n, offset);
	if (ret == -ENODATA)
		return image_bad(r, err, "the file became shorter while it was read");
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -ret, "cannot read '%s' at offset %" PRIu64,
				   r->name, offset);
	return 0;
}

int image_get_raw(struct image_reader *r, void *bytes, size_t n, struct ferry_error *err)
{
	if (n > image_reader_left(r))
		return image_bad(r, err, "truncated: %zu bytes should follow, %" PRIu64 " do", n,
				 image_reader_left(r));
	uint8_t *out = bytes;
	while (n) {
		uint64_t into = r->offset - r->buffer_offset;
		if (r->offset >= r->buffer_offset && into < r->buffer_n) {
			size_t piece = MIN(n, r->buffer_n - (size_t)into);
			memcpy(out, r->buffer + into, piece);
			out += piece;
			n -= piece;
			r->offset += piece;
			continue;
		}
		size_t want =
			n >= sizeof(r->buffer) ? n : (size_t)MIN(image_reader_left(r), sizeof(r->buffer));
		int ret = reader_pread(r, n >= sizeof(r->buffer) ? out : r->buffer, want, r->offset, err);
		if (ret < 0)
			return ret;
		if (n >= sizeof(r->buffer)) {
			r->offset += n;
			return 0;
		}
		r->buffer_offset = r->offset;
		r->buffer_n = want;
	}
	return 0;
}

int image_skip_raw(struct image_reader *r, uint64_t n, struct ferry_error *err)
{
	if (n > image_reader_left(r))
		return image_bad(r, err, "truncated: %" PRIu64 " bytes should follow, %" PRIu64 " do", n,
				 image_reader_left(r));
	r->offset += n;
	return 0;
}

static int get_u32(struct image_reader *r, uint32_t *ret, struct ferry_error *err)
{
	uint32_t value;
	int ret_code = image_get_raw(r, &value, sizeof(value), err);
	if (ret_code < 0)
		return ret_code;
	*ret = le32toh(value);
	return 0;
}

/* What a magic belongs to, for messages. */
static const char *magic_word(uint32_t magic)
{
	enum image_kind kind;
	if (magic == IMAGE_MAGIC_COMMON)
		return "the common magic";
	if (magic == IMAGE_MAGIC_SERVICE)
		return "the service magic";
	return image_file_by_magic(magic, &kind) < 0 ? "unknown" : image_file_info(kind)->word;
}

static int expect_magic(struct image_reader *r, uint32_t want, struct ferry_error *err)
{
	uint32_t found;
	uint64_t at = r->offset;
	int ret = get_u32(r, &found, err);
	if (ret < 0 || found == want)
		return ret;
	r->offset = at;
	return image_bad(r, err, "wrong magic: expected 0x%08x (%s), found 0x%08x (%s)", want,
			 magic_word(want), found, magic_word(found));
}

static int check_header(struct image_reader *r, enum image_kind kind, struct ferry_error *err)
{
	const struct image_file_info *info = image_file_info(kind);
	int ret = 0;
	if (info->header == IMAGE_HEADER_COMMON)
		ret = expect_magic(r, IMAGE_MAGIC_COMMON, err);
	if (info->header == IMAGE_HEADER_SERVICE)
		ret = expect_magic(r, IMAGE_MAGIC_SERVICE, err);
	if (ret == 0 && info->header != IMAGE_HEADER_NONE)
		ret = expect_magic(r, info->magic, err);
	return ret;
}

static int reader_alloc(const char *name, const struct fault *fault, struct image_reader **ret,
			struct ferry_error *err)
{
	struct image_reader *r = malloc(sizeof(*r));
	char *copy = strdup(name);
	if (!r || !copy) {
		free(r);
		free(copy);
		return error_memory(err);
	}
	memset(r, 0, offsetof(struct image_reader, buffer));
	r->name = copy;
	r->fd = -1;
	r->fault = fault;
	*ret = r;
	return 0;
}

static int reader_new(int fd, const char *name, const struct fault *fault, struct image_reader **ret,
		      struct ferry_error *err)
{
	_cleanup_close_ int owned = fd;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "cannot examine '%s'", name);
	if (!S_ISREG(st.st_mode))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s: no regular file", name);
	int r = reader_alloc(name, fault, ret, err);
	if (r < 0)
		return r;
	(*ret)->fd = take_fd(owned);
	(*ret)->size = (uint64_t)st.st_size;
	return 0;
}

static int reader_kept(const struct image_dir *dir, const struct image_dir_entry *entry,
		       struct image_reader **ret, struct ferry_error *err)
{
	int r = reader_alloc(entry->name, dir->fault, ret, err);
	if (r < 0)
		return r;
	(*ret)->kept = entry->kept;
	(*ret)->size = entry->size;
	return 0;
}

int image_open_fd(int fd, const char *name, enum image_kind kind, struct image_reader **ret,
		  struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *r = NULL;
	int ret_code = reader_new(fd, name, NULL, &r, err);
	if (ret_code == 0)
		ret_code = check_header(r, kind, err);
	if (ret_code == 0)
		*ret = take_ptr(r);
	return ret_code;
}

int image_open_any(int fd, const char *name, enum image_kind *ret_kind, struct image_reader **ret,
		   struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *r = NULL;
	enum image_kind kind, by_magic = IMAGE_KIND_COUNT;
	uint64_t id;
	int ret_code = reader_new(fd, name, NULL, &r, err);
	if (ret_code < 0)
		return ret_code;
	uint32_t word = 0;
	if (r->size >= 4 && (ret_code = get_u32(r, &word, err)) < 0)
		return ret_code;
	if (r->size >= 8 && (word == IMAGE_MAGIC_COMMON || word == IMAGE_MAGIC_SERVICE) &&
	    (ret_code = get_u32(r, &word, err)) < 0)
		return ret_code;
	bool known = image_file_by_magic(word, &by_magic) == 0;
	r->offset = 0;
	/* The name decides between kinds that share a magic, and for those without one. */
	const char *base = strrchr(name, '/');
	bool named = image_file_parse_name(base ? base + 1 : name, &kind, &id) == 0;
	if (!named || (known && image_file_info(kind)->magic != word &&
		       image_file_info(kind)->header != IMAGE_HEADER_NONE))
		kind = by_magic;
	if (!known && !named)
		return image_bad(r, err, "no image file: 0x%08x is no magic that is known", word);
	ret_code = check_header(r, kind, err);
	if (ret_code < 0)
		return ret_code;
	*ret_kind = kind;
	*ret = take_ptr(r);
	return 0;
}

/* 1, or 0: there is none. */
static int reader_open(const struct image_dir *dir, const char *name, struct image_reader **ret,
		       struct ferry_error *err)
{
	int fd = fd_open(dir->fd, dir->writing && !dir->over ? image_dir__written_name(name) : name,
			 O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "cannot open '%s' in '%s'", name, dir->path);
	int r = reader_new(fd, name, dir->fault, ret, err);
	return r < 0 ? r : 1;
}

int image_open_optional(struct image_dir *dir, enum image_kind kind, uint64_t id, struct image_reader **ret,
			struct ferry_error *err)
{
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	*ret = NULL;
	const struct image_dir_entry *entry = dir->has_manifest ? image_dir__find(dir, name) : NULL;
	/* What the manifest does not list is no part of this image, whoever put it there. */
	if (dir->has_manifest && image_file_info(kind)->header != IMAGE_HEADER_SERVICE && !entry &&
	    !image_dir__is_unlisted(dir, kind))
		return 0;
	_cleanup_reader_ struct image_reader *r = NULL;
	int ret_code = 0;
	if (entry && entry->kept)
		ret_code = reader_kept(dir, entry, &r, err);
	else if ((ret_code = reader_open(dir, name, &r, err)) == 0)
		return 0;
	if (ret_code >= 0)
		ret_code = check_header(r, kind, err);
	if (ret_code < 0)
		return ret_code;
	*ret = take_ptr(r);
	return 1;
}

int image_open(struct image_dir *dir, enum image_kind kind, uint64_t id, struct image_reader **ret,
	       struct ferry_error *err)
{
	int r = image_open_optional(dir, kind, id, ret, err);
	if (r != 0)
		return r < 0 ? r : 0;
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	return error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT, "'%s' is missing in '%s'", name, dir->path);
}

int image_get(struct image_reader *r, const ProtobufCMessageDescriptor *type, void *ret_message,
	      struct ferry_error *err)
{
	if (!image_reader_left(r))
		return 0;
	uint64_t at = r->offset;
	uint32_t n;
	int ret = get_u32(r, &n, err);
	if (ret < 0)
		return ret;
	if (n > IMAGE_MESSAGE_MAX || n > image_reader_left(r)) {
		uint64_t left = image_reader_left(r);
		r->offset = at;
		return image_bad(r, err, "truncated: %u bytes of %s should follow, %" PRIu64 " do", n,
				 type->name, left);
	}
	uint8_t small[4096];
	_cleanup_free_ uint8_t *large = n > sizeof(small) ? malloc(n) : NULL;
	if (n > sizeof(small) && !large)
		return error_memory(err);
	uint8_t *bytes = large ? large : small;
	ret = image_get_raw(r, bytes, n, err);
	if (ret < 0)
		return ret;
	ProtobufCMessage *message;
	ret = image_unpack(r->name, at, type, bytes, n, &message, err);
	if (ret < 0)
		return ret;
	*(void **)ret_message = message;
	return 1;
}

int image_need(struct image_reader *r, const ProtobufCMessageDescriptor *type, void *ret_message,
	       struct ferry_error *err)
{
	int ret = image_get(r, type, ret_message, err);
	if (ret != 0)
		return ret < 0 ? ret : 0;
	return image_bad(r, err, "truncated: %s should follow", type->name);
}

int image_get_one(struct image_dir *dir, enum image_kind kind, uint64_t id, void *ret_message,
		  struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *r = NULL;
	_cleanup_message_ ProtobufCMessage *message = NULL;
	int ret = image_open(dir, kind, id, &r, err);
	if (ret == 0)
		ret = image_need(r, image_file_info(kind)->first, &message, err);
	if (ret < 0)
		return ret;
	if (image_reader_left(r))
		return image_bad(r, err, "%" PRIu64 " bytes too many", image_reader_left(r));
	*(void **)ret_message = take_ptr(message);
	return 0;
}
