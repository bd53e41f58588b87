/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One image file: a header, then messages ([u32 size][protobuf]) and raw bytes. All words are little-endian.
 *
 *	struct image_writer *w = NULL;
 *	r = image_create(dir, IMAGE_CORE, tid, &w, err);
 *	r = image_put(w, &core.base, err);
 *	r = image_close(w, err);
 *
 *	_cleanup_reader_ struct image_reader *r = NULL;
 *	_cleanup_message_ CoreEntry *core = NULL;
 *	ret = image_open(dir, IMAGE_CORE, tid, &r, err);
 *	ret = image_get(r, &core_entry__descriptor, &core, err);	1 = got one, 0 = end of the file
 *
 * Whatever a reader hands out was checked against the schema: required fields are there, strings hold no NUL,
 * messages nest at most IMAGE_DEPTH_MAX deep. Every failure names the file, the offset and the cause.
 * Functions are not thread-safe for one object (but image_store() is); different files of one directory may be used by different
 * threads only for reading.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <protobuf-c/protobuf-c.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/files.h"

struct image_dir;
struct image_writer;
struct image_reader;

#define IMAGE_DEPTH_MAX 64
#define IMAGE_MESSAGE_MAX (256u << 20) /* bytes */

/*
 * Start a file of the directory; its header is written. The writer belongs to the directory: what is still
 * open when the directory is aborted is discarded and freed, so that an error path needs no clean-up of its own.
 * -EEXIST: this write of the directory has made that file already.
 */
must_check int image_create(struct image_dir *dir, enum image_kind kind, uint64_t id,
			    struct image_writer **ret, struct ferry_error *err);

/* Start a file outside of any directory on an open descriptor (taken over, also on failure); name is for messages. */
must_check int image_create_fd(int fd, const char *name, enum image_kind kind, struct image_writer **ret,
			       struct ferry_error *err);

/* Append one message. -EINVAL: a required field is NULL. */
must_check int image_put(struct image_writer *w, const ProtobufCMessage *message, struct ferry_error *err);

/* Append raw bytes; iov may have any number of elements. */
must_check int image_put_raw(struct image_writer *w, const void *bytes, size_t n, struct ferry_error *err);
must_check int image_put_iov(struct image_writer *w, const struct iovec *iov, size_t n_iov,
			     struct ferry_error *err);

/* Append n bytes of another file (or pipe or socket) from its position; -ENODATA when it ends early. */
must_check int image_put_from(struct image_writer *w, int fd, uint64_t n, struct ferry_error *err);

/*
 * The same in two steps, so that large amounts can be written by several threads. image_reserve() hashes the bytes and says
 * where they go; its calls come one after the other, in the order of the bytes. image_store() writes them there, from any thread
 * and in any order, before the writer is closed.
 */
must_check int image_reserve(struct image_writer *w, const struct iovec *iov, size_t n_iov,
			     uint64_t *ret_offset, struct ferry_error *err);
must_check int image_store(const struct image_writer *w, uint64_t offset, const struct iovec *iov,
			   size_t n_iov, struct ferry_error *err);

/* Bytes written so far, the header included. */
uint64_t image_writer_offset(const struct image_writer *w);

/* Flush and close; size and checksum enter the directory's list. Always frees w. w may be NULL. */
must_check int image_close(struct image_writer *w, struct ferry_error *err);

/* image_create, image_put, image_close in one, for kinds with one message. */
must_check int image_put_one(struct image_dir *dir, enum image_kind kind, uint64_t id,
			     const ProtobufCMessage *message, struct ferry_error *err);

/*
 * Open a file and check its header. A file that is missing is -ENOENT and IMAGE_MISSING; image_open_optional
 * returns 0 then and *ret is NULL (1 = opened).
 */
must_check int image_open(struct image_dir *dir, enum image_kind kind, uint64_t id, struct image_reader **ret,
			  struct ferry_error *err);
must_check int image_open_optional(struct image_dir *dir, enum image_kind kind, uint64_t id,
				   struct image_reader **ret, struct ferry_error *err);

/* Open a file outside of any directory, by descriptor (taken over, also on failure); name is for messages. */
must_check int image_open_fd(int fd, const char *name, enum image_kind kind, struct image_reader **ret,
			     struct ferry_error *err);

/* As image_open_fd, and finds the kind by the magic (and by the name, where kinds share a magic or have none). */
must_check int image_open_any(int fd, const char *name, enum image_kind *ret_kind, struct image_reader **ret,
			      struct ferry_error *err);

void image_reader_free(struct image_reader *r);

/*
 * The next message, as a protobuf-c structure: ret_message points to a pointer of its type. 1 = got one (free
 * with image_message_free), 0 = end of the file, -EBADMSG and IMAGE_BAD.
 */
must_check int image_get(struct image_reader *r, const ProtobufCMessageDescriptor *type, void *ret_message,
			 struct ferry_error *err);

/* As image_get, and the end of the file is an error too. */
must_check int image_need(struct image_reader *r, const ProtobufCMessageDescriptor *type, void *ret_message,
			  struct ferry_error *err);

/* image_open, image_need, and nothing may follow. */
must_check int image_get_one(struct image_dir *dir, enum image_kind kind, uint64_t id, void *ret_message,
			     struct ferry_error *err);

/* Raw bytes: exactly n, or -EBADMSG. */
must_check int image_get_raw(struct image_reader *r, void *bytes, size_t n, struct ferry_error *err);
must_check int image_skip_raw(struct image_reader *r, uint64_t n, struct ferry_error *err);

/* Position, bytes from there to the end, and the descriptor (for pread, mmap, splice; it keeps no position). */
uint64_t image_reader_offset(const struct image_reader *r);
uint64_t image_reader_left(const struct image_reader *r);
int image_reader_fd(const struct image_reader *r);
const char *image_reader_name(const struct image_reader *r);

/* A failure of the caller's own checks: IMAGE_BAD, "<file>, offset <n>: <text>"; returns -EBADMSG. */
int image_bad(const struct image_reader *r, struct ferry_error *err, const char *fmt, ...) printf_like(3, 4);

/* Bytes that follow a message of this kind (before the next message); *ret_pad of them are padding. */
must_check int image_payload_bytes(enum image_payload payload, const ProtobufCMessage *message,
				   uint64_t *ret_bytes, uint32_t *ret_pad);

/*
 * Whether anything follows a message (it may still be empty); whether that goes on to the end of the file; and
 * stepping over it.
 */
bool image_has_payload(enum image_payload payload, const ProtobufCMessage *message);
bool image_payload_is_tail(enum image_payload payload, const ProtobufCMessage *message);
must_check int image_skip_payload(struct image_reader *r, const struct image_file_info *info,
				  const ProtobufCMessage *message, struct ferry_error *err);

/* The type of the index-th message of a file, from 0. */
const ProtobufCMessageDescriptor *image_type_at(const struct image_file_info *info, size_t index);

/* Check bytes against a schema and unpack them; offset and name are for messages. */
must_check int image_unpack(const char *name, uint64_t offset, const ProtobufCMessageDescriptor *type,
			    const uint8_t *bytes, size_t n, ProtobufCMessage **ret_message,
			    struct ferry_error *err);

static inline void image_message_free(void *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}

static inline void cleanup_message_p(void *message)
{
	image_message_free(*(void **)message);
}

static inline void cleanup_reader_p(struct image_reader **r)
{
	image_reader_free(*r);
}

#define _cleanup_message_ __attribute__((cleanup(cleanup_message_p)))
#define _cleanup_reader_ __attribute__((cleanup(cleanup_reader_p)))
