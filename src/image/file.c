/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns single image files: writers that count and hash every byte on its way, readers that believe nothing.
 * Reading uses pread(2) only, so that a reader's descriptor may be shared with whoever maps or splices it.
 */
#include "image/file.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "image/dir_private.h"
#include "image/proto/bpfmap-data.pb-c.h"
#include "image/proto/ghost-file.pb-c.h"
#include "image/proto/ipc-msg.pb-c.h"
#include "image/proto/ipc-sem.pb-c.h"
#include "image/proto/ipc-shm.pb-c.h"
#include "image/proto/pipe-data.pb-c.h"
#include "image/proto/sk-packet.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"

enum {
	WRITE_BUFFER = 32 << 10, /* bytes; larger pieces go straight to the file */
	READ_BUFFER = 32 << 10,
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

/* ---- writing ---- */

struct image_writer {
	struct image_writer *next; /* in dir->writers */
	struct image_dir *dir;     /* NULL for a file outside of any directory */
	size_t index;              /* of its entry in dir */
	const struct fault *fault;
	char *name;
	int fd;
	int failed; /* -errno of the first failure; nothing is written after it */
	uint64_t offset;
	XXH3_state_t *hash; /* NULL when nobody wants the checksum */
	size_t used;
	uint8_t buffer[WRITE_BUFFER];
};

static void writer_unlink(struct image_writer *w)
{
	if (!w->dir)
		return;
	for (struct image_writer **p = &w->dir->writers; *p; p = &(*p)->next) {
		if (*p == w) {
			*p = w->next;
			return;
		}
	}
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

/* Write straight to the file. */
static int writer_write(struct image_writer *w, const void *bytes, size_t n, struct ferry_error *err)
{
	if (w->failed)
		return error_set(err, FERRY_ERROR_SYSTEM, -w->failed, "'%s' could not be written before",
				 w->name);
	if (fault_hit(w->fault, FAULT_IMAGE_WRITE)) {
		w->failed = -EIO;
		return error_set(err, FERRY_ERROR_FAULT, EIO, "writing '%s' failed on purpose", w->name);
	}
	int r = fd_write_all(w->fd, bytes, n);
	if (r < 0)
		return writer_fail(w, r, "cannot write", err);
	if (w->hash)
		XXH3_128bits_update(w->hash, bytes, n);
	return 0;
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
static int writer_join(struct image_writer *w, struct image_dir *dir)
{
	w->dir = dir;
	w->index = dir->entries.n - 1; /* just added */
	w->fault = dir->fault;
	w->next = dir->writers;
	dir->writers = w;
	if (dir->create.no_manifest && dir->create.read_back == IMAGE_READ_BACK_NONE)
		return 0;
	w->hash = XXH3_createState();
	if (!w->hash)
		return -ENOMEM;
	XXH3_128bits_reset(w->hash);
	return 0;
}

/* fd is taken over, also on failure. */
static int writer_new(struct image_dir *dir, int fd, const char *name, enum image_kind kind,
		      struct image_writer **ret, struct ferry_error *err)
{
	_cleanup_close_ int owned = fd;
	_cleanup_(cleanup_writer_p) struct image_writer *w = malloc(sizeof(*w));
	if (!w)
		return error_memory(err);
	memset(w, 0, offsetof(struct image_writer, buffer));
	w->fd = take_fd(owned);
	w->name = strdup(name);
	if (!w->name || (dir && writer_join(w, dir) < 0))
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
	return writer_new(NULL, fd, name, kind, ret, err);
}

int image_create(struct image_dir *dir, enum image_kind kind, uint64_t id, struct image_writer **ret,
		 struct ferry_error *err)
{
	if (!dir->writing || dir->over)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "the image in '%s' is not being written",
				 dir->path);
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	if (image_dir__find(dir, name))
		return error_set(err, FERRY_ERROR_INTERNAL, EEXIST, "'%s' would be written twice", name);
	const char *written = image_dir__written_name(name);
	/* A stranger's file of that name, or a link to somewhere else, must not receive what we write. */
	if (unlinkat(dir->fd, written, 0) < 0 && errno != ENOENT)
		return image_io_error(err, errno, "cannot replace", written);
	if (!image_dir__add(dir, name))
		return error_memory(err);
	int fd = fd_open(dir->fd, written, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (fd < 0)
		return image_io_error(err, -fd, "cannot create", written);
	return writer_new(dir, fd, name, kind, ret, err);
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
		if (!w->dir->create.no_sync)
			sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
		XXH128_hash_t none = {0};
		image_dir__set_closed(w->dir, w->index, w->offset,
				      w->hash ? XXH3_128bits_digest(w->hash) : none);
	}
	int fd = take_fd(w->fd);
	if (close(fd) < 0 && errno != EINTR)
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

/* ---- reading ---- */

struct image_reader {
	char *name;
	int fd;
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
	int ret = fd_pread_all(r->fd, bytes, n, offset);
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

static int reader_new(int fd, const char *name, const struct fault *fault, struct image_reader **ret,
		      struct ferry_error *err)
{
	_cleanup_close_ int owned = fd;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "cannot examine '%s'", name);
	if (!S_ISREG(st.st_mode))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s: no regular file", name);
	struct image_reader *r = malloc(sizeof(*r));
	char *copy = strdup(name);
	if (!r || !copy) {
		free(r);
		free(copy);
		return error_memory(err);
	}
	memset(r, 0, offsetof(struct image_reader, buffer));
	r->name = copy;
	r->fd = take_fd(owned);
	r->fault = fault;
	r->size = (uint64_t)st.st_size;
	*ret = r;
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

int image_open_optional(struct image_dir *dir, enum image_kind kind, uint64_t id, struct image_reader **ret,
			struct ferry_error *err)
{
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	*ret = NULL;
	/* What the manifest does not list is no part of this image, whoever put it there. */
	if (dir->has_manifest && kind != IMAGE_FERRY_MANIFEST &&
	    image_file_info(kind)->header != IMAGE_HEADER_SERVICE && !image_dir__find(dir, name))
		return 0;
	int fd = fd_open(dir->fd, dir->writing && !dir->over ? image_dir__written_name(name) : name,
			 O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "cannot open '%s' in '%s'", name, dir->path);
	_cleanup_reader_ struct image_reader *r = NULL;
	int ret_code = reader_new(fd, name, dir->fault, &r, err);
	if (ret_code == 0)
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

/* ---- messages ---- */

struct wire {
	const uint8_t *p, *end;
};

/* A varint of at most 10 bytes; false when the bytes end inside it. */
static bool wire_varint(struct wire *w, uint64_t *ret)
{
	uint64_t value = 0;
	for (unsigned shift = 0; shift < 70 && w->p < w->end; shift += 7) {
		uint8_t byte = *w->p++;
		value |= (uint64_t)(byte & 0x7f) << MIN(shift, 63u);
		if (!(byte & 0x80)) {
			*ret = value;
			return true;
		}
	}
	return false;
}

static bool wire_skip(struct wire *w, uint64_t n)
{
	if (n > (uint64_t)(w->end - w->p))
		return false;
	w->p += n;
	return true;
}

/*
 * protobuf-c unpacks nested messages by recursion without a limit and cuts strings at a NUL; both are found here,
 * before it sees the bytes. Returns NULL or what is wrong. Recursion is bounded by depth.
 */
static const char *wire_check(struct wire w, const ProtobufCMessageDescriptor *type, unsigned depth)
{
	if (depth > IMAGE_DEPTH_MAX)
		return "messages are nested too deeply";
	while (w.p < w.end) {
		uint64_t tag, n = 0;
		if (!wire_varint(&w, &tag))
			return "a field's tag is cut off";
		bool ok = true;
		switch (tag & 7) {
		case 0: ok = wire_varint(&w, &n); break;
		case 1: ok = wire_skip(&w, 8); break;
		case 2: ok = wire_varint(&w, &n) && wire_skip(&w, n); break;
		case 5: ok = wire_skip(&w, 4); break;
		default: return "a field has an unknown wire type";
		}
		if (!ok)
			return "a field is longer than its message";
		if ((tag & 7) != 2 || tag >> 3 > UINT32_MAX)
			continue;
		const ProtobufCFieldDescriptor *field =
			protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
		const char *wrong = NULL;
		if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
			wrong = wire_check((struct wire){w.p - n, w.p}, field->descriptor, depth + 1);
		else if (field && field->type == PROTOBUF_C_TYPE_STRING && n && memchr(w.p - n, 0, (size_t)n))
			wrong = "a string holds a NUL";
		if (wrong)
			return wrong;
	}
	return NULL;
}

int image_unpack(const char *name, uint64_t offset, const ProtobufCMessageDescriptor *type,
		 const uint8_t *bytes, size_t n, ProtobufCMessage **ret_message, struct ferry_error *err)
{
	/* An empty message has no bytes to point to. */
	const uint8_t *from = bytes ? bytes : (const uint8_t *)"";
	const char *wrong = wire_check((struct wire){from, from + n}, type, 1);
	ProtobufCMessage *message = NULL;
	if (!wrong) {
		message = protobuf_c_message_unpack(type, NULL, n, from);
		if (!message)
			wrong = "a required field is missing or a field is damaged";
	}
	if (wrong)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "%s, offset %" PRIu64 ": no valid %s (%zu bytes): %s", name, offset,
				 type->name, n, wrong);
	*ret_message = message;
	return 0;
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

int image_payload_bytes(enum image_payload payload, const ProtobufCMessage *message, uint64_t *ret_bytes,
			uint32_t *ret_pad)
{
	uint64_t n = 0, grain = 1;
	switch (payload) {
	case IMAGE_PAYLOAD_PIPE: n = ((const PipeDataEntry *)message)->bytes; break;
	case IMAGE_PAYLOAD_PACKET: n = ((const SkPacketEntry *)message)->length; break;
	case IMAGE_PAYLOAD_SHM:
		n = ((const IpcShmEntry *)message)->in_pagemaps ? 0 : ((const IpcShmEntry *)message)->size;
		grain = 4;
		break;
	case IMAGE_PAYLOAD_MSG:
		/* Of an ipc_msg; the queue's own entry is followed by messages. */
		n = message->descriptor == &ipc_msg__descriptor ? ((const IpcMsg *)message)->msize : 0;
		grain = 8;
		break;
	case IMAGE_PAYLOAD_SEM:
		n = (uint64_t)((const IpcSemEntry *)message)->nsems * 2;
		grain = 8;
		break;
	case IMAGE_PAYLOAD_GHOST:
		/* Of a chunk; without chunks the file itself says where its bytes end. */
		n = message->descriptor == &ghost_chunk_entry__descriptor
			    ? ((const GhostChunkEntry *)message)->len
			    : 0;
		break;
	case IMAGE_PAYLOAD_TCP:
		n = (uint64_t)((const TcpStreamEntry *)message)->inq_len +
		    ((const TcpStreamEntry *)message)->outq_len;
		break;
	case IMAGE_PAYLOAD_BPF:
		n = (uint64_t)((const BpfmapDataEntry *)message)->keys_bytes +
		    ((const BpfmapDataEntry *)message)->values_bytes;
		break;
	case IMAGE_PAYLOAD_NONE: break;
	}
	if (n > INT64_MAX)
		return -EBADMSG;
	*ret_pad = (uint32_t)(align_up(n, grain) - n);
	*ret_bytes = n + *ret_pad;
	return 0;
}

/* A deleted file's bytes go on to the end of the image file, unless they come in chunks. */
bool image_has_payload(enum image_payload payload, const ProtobufCMessage *message)
{
	if (payload == IMAGE_PAYLOAD_GHOST && message->descriptor == &ghost_file_entry__descriptor)
		return !((const GhostFileEntry *)message)->chunks;
	return payload != IMAGE_PAYLOAD_NONE;
}

bool image_payload_is_tail(enum image_payload payload, const ProtobufCMessage *message)
{
	return payload == IMAGE_PAYLOAD_GHOST && message->descriptor == &ghost_file_entry__descriptor &&
	       !((const GhostFileEntry *)message)->chunks;
}

static int skip_one(struct image_reader *r, enum image_payload payload, const ProtobufCMessage *message,
		    struct ferry_error *err)
{
	uint64_t n = 0;
	uint32_t pad;
	if (image_payload_bytes(payload, message, &n, &pad) < 0)
		return image_bad(r, err, "the length of what follows cannot be");
	return image_skip_raw(r, n, err);
}

int image_skip_payload(struct image_reader *r, const struct image_file_info *info,
		       const ProtobufCMessage *message, struct ferry_error *err)
{
	if (image_payload_is_tail(info->payload, message))
		return image_skip_raw(r, image_reader_left(r), err);
	if (info->payload != IMAGE_PAYLOAD_MSG)
		return skip_one(r, info->payload, message, err);
	for (uint32_t i = 0; i < ((const IpcMsgEntry *)message)->qnum; i++) {
		_cleanup_message_ IpcMsg *msg = NULL;
		int ret = image_need(r, &ipc_msg__descriptor, &msg, err);
		if (ret == 0)
			ret = skip_one(r, info->payload, &msg->base, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

const ProtobufCMessageDescriptor *image_type_at(const struct image_file_info *info, size_t index)
{
	return index && info->second && info->layout != IMAGE_LAYOUT_MANY ? info->second : info->first;
}
