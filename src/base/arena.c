/* SPDX-License-Identifier: Apache-2.0 */
/* Owns arenas. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
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

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list args, again;
	va_start(args, fmt);
	va_copy(again, args);
	int n = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	char *s = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
	if (s)
		vsnprintf(s, (size_t)n + 1, fmt, again);
	va_end(again);
	return s;
}

void arena_release(struct arena *a)
{
	while (a->block) {
		struct arena_block *older = a->block->older;
		free(a->block);
		a->block = older;
	}
}
