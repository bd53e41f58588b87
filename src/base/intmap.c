/* SPDX-License-Identifier: Apache-2.0 */
/* Owns hash tables of numbers. */
#include "base/intmap.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRST_SLOTS = 64 };

/* Where the key is, or is to be put. There is always a free slot. */
static struct intmap_slot *slot_of(const struct intmap *m, uint32_t key)
{
	size_t at = (key * 2654435761u) & (m->n_slots - 1);
	while (m->slots[at].key && m->slots[at].key != key)
		at = (at + 1) & (m->n_slots - 1);
	return &m->slots[at];
}

static int grow(struct intmap *m)
{
	struct intmap bigger = {.n = m->n, .n_slots = m->n_slots ? m->n_slots * 2 : FIRST_SLOTS};
	bigger.slots = calloc(bigger.n_slots, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < m->n_slots; i++)
		if (m->slots[i].key)
			*slot_of(&bigger, m->slots[i].key) = m->slots[i];
	free(m->slots);
	*m = bigger;
	return 0;
}

int intmap_put(struct intmap *m, uint32_t key, uint32_t value)
{
	int r = m->n * 2 >= m->n_slots ? grow(m) : 0;
	if (r < 0)
		return r;
	struct intmap_slot *slot = slot_of(m, key);
	m->n += !slot->key;
	*slot = (struct intmap_slot){key, value};
	return 0;
}

bool intmap_get(const struct intmap *m, uint32_t key, uint32_t *ret_value)
{
	if (!m->n_slots)
		return false;
	const struct intmap_slot *slot = slot_of(m, key);
	if (slot->key)
		*ret_value = slot->value;
	return slot->key;
}

void intmap_release(struct intmap *m)
{
	free(m->slots);
	*m = (struct intmap){0};
}
