/* SPDX-License-Identifier: Apache-2.0 */
/* A hash table from numbers that are not 0, such as PIDs, to numbers. {0} is an empty one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct intmap_slot {
	uint32_t key, value; /* key 0 = free */
};

struct intmap {
	struct intmap_slot *slots;
	size_t n, n_slots; /* a power of two, or 0 */
};

/* Add, or replace. 0 or -ENOMEM. */
must_check int intmap_put(struct intmap *m, uint32_t key, uint32_t value);

bool intmap_get(const struct intmap *m, uint32_t key, uint32_t *ret_value);

void intmap_release(struct intmap *m);
