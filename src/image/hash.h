/* SPDX-License-Identifier: Apache-2.0 */
/* The checksum of an image file, computed while its bytes pass. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

/* XXH3 with 128 bits, canonical bytes. */
struct image_checksum {
	uint8_t bytes[16];
};

struct image_hash;

/* NULL when memory is short. */
struct image_hash *image_hash_new(void);
void image_hash_free(struct image_hash *h);

void image_hash_add(struct image_hash *h, const void *bytes, size_t n);

/* The checksum of everything since the last call, or since the beginning. */
struct image_checksum image_hash_end(struct image_hash *h);

static inline void cleanup_image_hash_p(struct image_hash **h)
{
	image_hash_free(*h);
}

#define _cleanup_image_hash_ __attribute__((cleanup(cleanup_image_hash_p)))
