/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the pool of interned strings. */
#include "proc/names.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_FIRST_SLOTS = 64 };

/* FNV-1a: the strings are short and nobody gains by collisions, which only cost time. */
static uint32_t names_hash(const char *s, size_t n)
{
	uint32_t h = 2166136261u;
	for (size_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)s[i]) * 16777619u;
	return h;
}

static bool names_equal(const struct proc_names *names, uint32_t id, const char *s, size_t n)
{
	/* the pool is NUL-terminated, and s holds no NUL */
	return !strncmp(names->text + id, s, n) && !names->text[id + n];
}

/* The slot that holds s, or the free one where it belongs. */
static uint32_t *names_slot(const struct proc_names *names, const char *s, size_t n)
{
	size_t mask = names->n_slots - 1;
	for (size_t i = names_hash(s, n) & mask;; i = (i + 1) & mask)
		if (!names->slots[i] || names_equal(names, names->slots[i], s, n))
			return &names->slots[i];
}

static int names_more_slots(struct proc_names *names)
{
	size_t n_old = names->n_slots, n_slots = n_old ? n_old * 2 : NAMES_FIRST_SLOTS;
	uint32_t *old = names->slots, *slots = calloc(n_slots, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	names->slots = slots;
	names->n_slots = n_slots;
	for (size_t i = 0; i < n_old; i++)
		if (old[i])
			*names_slot(names, names->text + old[i], strlen(names->text + old[i])) = old[i];
	free(old);
	return 0;
}

static int names_more_text(struct proc_names *names, size_t n)
{
	size_t cap = names->cap ? names->cap : 1024;
	while (cap - names->n <= n)
		cap *= 2;
	if (cap > UINT32_MAX)
		return -EOVERFLOW;
	if (cap == names->cap)
		return 0;
	char *text = realloc(names->text, cap);
	if (!text)
		return -ENOMEM;
	names->text = text;
	names->cap = cap;
	if (!names->n)
		names->text[names->n++] = '\0';
	return 0;
}

int proc_names_add(struct proc_names *names, const char *s, size_t n, uint32_t *ret_id)
{
	if (!n) {
		*ret_id = 0;
		return 0;
	}
	if (memchr(s, '\0', n))
		return -EBADMSG;
	if (names->last && names_equal(names, names->last, s, n)) {
		*ret_id = names->last;
		return 0;
	}
	int r = names->n_used * 2 >= names->n_slots ? names_more_slots(names) : 0;
	if (r < 0)
		return r;
	uint32_t *slot = names_slot(names, s, n);
	if (!*slot) {
		r = names_more_text(names, n + 1);
		if (r < 0)
			return r;
		memcpy(names->text + names->n, s, n);
		names->text[names->n + n] = '\0';
		*slot = (uint32_t)names->n;
		names->n += n + 1;
		names->n_used++;
	}
	names->last = *slot;
	*ret_id = *slot;
	return 0;
}

const char *proc_names_get(const struct proc_names *names, uint32_t id)
{
	return id && id < names->n ? names->text + id : "";
}

void proc_names_release(struct proc_names *names)
{
	free(names->text);
	free(names->slots);
	*names = (struct proc_names){0};
}
