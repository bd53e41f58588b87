/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is freed all at once: everything a snapshot or a plan consists of lives in one arena. */
#pragma once

#include <stddef.h>

#include "base/macros.h"

struct arena_block;

struct arena {
	struct arena_block *block; /* the one that is being filled; older ones hang behind it */
};

/* Zeroed, aligned for any type; NULL when memory is short. */
void *arena_alloc(struct arena *a, size_t n);
void *arena_copy(struct arena *a, const void *bytes, size_t n);
char *arena_string(struct arena *a, const char *s);
void arena_release(struct arena *a);

#define arena_new(a, type) ((type *)arena_alloc((a), sizeof(type)))
#define arena_array(a, type, n) ((type *)arena_alloc((a), sizeof(type) * (n)))
