/* SPDX-License-Identifier: Apache-2.0 */
/* Making records (protobuf-c structures) in an arena. */
#pragma once

#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"

/* record_new(&snap->arena, FsEntry, fs_entry): an initialised record, NULL when memory is short. */
#define record_new(arena, type, name)                   \
	({                                              \
		type *record_ = arena_new(arena, type); \
		if (record_)                            \
			name##__init(record_);          \
		record_;                                \
	})

/* A bytes field that owns a copy in the arena; .data is NULL when memory is short. */
static inline ProtobufCBinaryData record_bytes(struct arena *a, const void *bytes, size_t n)
{
	return (ProtobufCBinaryData){.len = n, .data = arena_copy(a, bytes, n)};
}

#define record_set(record, field, value)   \
	do {                               \
		(record)->has_##field = 1; \
		(record)->field = (value); \
	} while (0)
