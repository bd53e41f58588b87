/* SPDX-License-Identifier: Apache-2.0 */
/* Owns arenas. */
#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

enum { ARENA_BLOCK_BYTES = 32 * 1024, ARENA_ALIGN = 16 };

struct arena_block {
	struct arena_block *older;
	size_t used, size;
	_Alignas(ARENA_ALIGN) char bytes[];
};

static struct arena_block *arena_block_new(size_t size, struct arena_block *older)
{
	struct arena_block *b = malloc(sizeof(*b) + size);
	if (b)
		*b = (struct arena_block){.older = older, .size = size};
	return b;
}

void *arena_alloc(struct arena *a, size_t n)
{
	n = (n + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
	if (!a->block || a->block->size - a->block->used < n) {
		struct arena_block *b = arena_block_new(MAX(n, (size_t)ARENA_BLOCK_BYTES), a->block);
		if (!b)
			return NULL;
		a->block = b;
	}
	void *p = a->block->bytes + a->block->used;
	a->block->used += n;
	return memset(p, 0, n);
}

void *arena_copy(struct arena *a, const void *bytes, size_t n)
{
	void *p = arena_alloc(a, n ? n : 1);
	if (p && n)
		memcpy(p, bytes, n);
	return p;
}

char *arena_string(struct arena *a, const char *s)
{
	return arena_copy(a, s, strlen(s) + 1);
}

void arena_release(struct arena *a)
{
	while (a->block) {
		struct arena_block *older = a->block->older;
		free(a->block);
		a->block = older;
	}
}
