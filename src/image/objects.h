/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of a whole file in memory, and file descriptions by their id; for showing and verifying. */
#pragma once

#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"
#include "image/dir.h"

struct FileEntry;

struct image_messages {
	VEC(ProtobufCMessage *) list;
};

void image_messages_release(struct image_messages *m);
#define _cleanup_messages_ __attribute__((cleanup(image_messages_release)))

/* All messages of a file; payloads are stepped over. A file that is missing gives none. */
must_check int image_messages_read(struct image_dir *dir, enum image_kind kind, uint64_t id,
				   struct image_messages *m, struct ferry_error *err);

/* Sort those of files.img by id, so that they can be found. */
void image_files_sort(struct image_messages *files);
const struct FileEntry *image_files_find(const struct image_messages *files, uint32_t id);
