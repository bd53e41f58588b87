/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing array of any type: VEC(struct thing) things = {0}; vec_push(&things) returns a zeroed new
 * element or NULL when memory is short. Pointers to elements do not survive the next push.
 */
#pragma once

#include <stdlib.h>
#include <string.h>

#define VEC(type)           \
	struct {            \
		type *v;    \
		size_t n;   \
		size_t cap; \
	}

/* Makes room for one more element of 'size' bytes; 0 or -1. */
static inline int vec_grow(void **v, size_t n, size_t *cap, size_t size)
{
	if (n < *cap)
		return 0;
	size_t next = *cap ? *cap * 2 : 8;
	void *bigger = reallocarray(*v, next, size);
	if (!bigger)
		return -1;
	*v = bigger;
	*cap = next;
	return 0;
}

#define vec_push(vec)                                                               \
	(vec_grow((void **)&(vec)->v, (vec)->n, &(vec)->cap, sizeof(*(vec)->v)) < 0 \
		 ? NULL                                                             \
		 : (typeof((vec)->v))memset(&(vec)->v[(vec)->n++], 0, sizeof(*(vec)->v)))

#define vec_release(vec)         \
	do {                     \
		free((vec)->v);  \
		(vec)->v = NULL; \
		(vec)->n = 0;    \
		(vec)->cap = 0;  \
	} while (0)

/* Give back what it has beyond its elements. */
#define vec_trim(vec)                                                                                \
	do {                                                                                         \
		void *fits_ = (vec)->n ? reallocarray((vec)->v, (vec)->n, sizeof(*(vec)->v)) : NULL; \
		(vec)->v = fits_ ? fits_ : (vec)->v;                                                 \
		(vec)->cap = fits_ ? (vec)->n : (vec)->cap;                                          \
	} while (0)

#define vec_foreach(item, vec) \
	for (typeof(*(vec)->v) *item = (vec)->v; item && item < (vec)->v + (vec)->n; item++)
