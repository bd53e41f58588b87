/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of image files (files.def) and their names. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/macros.h"

#define IMAGE_MAGIC_COMMON 0x54564319u
#define IMAGE_MAGIC_SERVICE 0x55105940u

/* Longest file name that a kind and an id make, with its NUL. */
#define IMAGE_NAME_MAX 80

enum image_kind {
#define IMAGE_FILE(kind, name, magic, header, layout, payload, first, second, status) IMAGE_##kind,
#include "image/files.def"
#undef IMAGE_FILE
	IMAGE_KIND_COUNT,
};

enum image_header { IMAGE_HEADER_NONE, IMAGE_HEADER_BARE, IMAGE_HEADER_COMMON, IMAGE_HEADER_SERVICE };

enum image_layout {
	IMAGE_LAYOUT_RAW,
	IMAGE_LAYOUT_ONE,
	IMAGE_LAYOUT_MANY,
	IMAGE_LAYOUT_PAGEMAP,
	IMAGE_LAYOUT_SEALED,
};

enum image_payload {
	IMAGE_PAYLOAD_NONE,
	IMAGE_PAYLOAD_PIPE,   /* .bytes */
	IMAGE_PAYLOAD_PACKET, /* .length */
	IMAGE_PAYLOAD_SHM,    /* .size, padded to 4; nothing where .in_pagemaps */
	IMAGE_PAYLOAD_MSG,    /* .qnum times an ipc_msg with its .msize, padded to 8 */
	IMAGE_PAYLOAD_SEM,    /* .nsems 16-bit words, padded to 8 bytes */
	IMAGE_PAYLOAD_GHOST,  /* regular files: bytes to the end of the file, or chunks */
	IMAGE_PAYLOAD_TCP,    /* .inq_len, then .outq_len */
	IMAGE_PAYLOAD_BPF,    /* .keys_bytes, then .values_bytes */
};

enum image_status { IMAGE_STATUS_WRITTEN, IMAGE_STATUS_LEGACY, IMAGE_STATUS_PLUGIN, IMAGE_STATUS_OURS };

struct image_file_info {
	const char *word; /* "CORE" */
	const char *name; /* "core-%u.img" */
	uint32_t magic;
	enum image_header header;
	enum image_layout layout;
	enum image_payload payload;
	const ProtobufCMessageDescriptor *first;  /* NULL for RAW */
	const ProtobufCMessageDescriptor *second; /* NULL when there is one kind of message only */
	enum image_status status;
};

/* Ids of IMAGE_STATS. */
#define IMAGE_STATS_DUMP 0
#define IMAGE_STATS_RESTORE 1

const struct image_file_info *image_file_info(enum image_kind kind);

/* The file's name. id is ignored where the kind has none. */
void image_file_name(enum image_kind kind, uint64_t id, char ret_name[IMAGE_NAME_MAX]);

/* The kind and id that a name stands for; -ENOENT when it is no image file. */
must_check int image_file_parse_name(const char *name, enum image_kind *ret_kind, uint64_t *ret_id);

/* The name of a kind's magic in JSON: kinds that share one share it. */
const char *image_file_magic_word(enum image_kind kind);

/* The first kind of a magic; of a word; -ENOENT. */
must_check int image_file_by_magic(uint32_t magic, enum image_kind *ret_kind);
must_check int image_file_by_word(const char *word, enum image_kind *ret_kind);

/* Bytes of the header at the head of such a file: 0, 4 or 8. */
size_t image_file_header_bytes(enum image_kind kind);

/* Any message of the schemas by its name; NULL. */
const ProtobufCMessageDescriptor *image_message_by_name(const char *name);

/* Every message of the schemas, sorted by name. */
const ProtobufCMessageDescriptor *const *image_messages(size_t *ret_n);
