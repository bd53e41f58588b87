/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the checksum for whoever has an image file pass through its hands. */
#include "image/hash.h"

#include <stdlib.h>
#include <xxhash.h>

#include "image/dir_private.h"

struct image_hash {
	XXH3_state_t *state;
};

struct image_hash *image_hash_new(void)
{
	struct image_hash *h = calloc(1, sizeof(*h));
	if (h)
		h->state = XXH3_createState();
	if (!h || !h->state) {
		free(h);
		return NULL;
	}
	XXH3_128bits_reset(h->state);
	return h;
}

void image_hash_free(struct image_hash *h)
{
	if (h)
		XXH3_freeState(h->state);
	free(h);
}

void image_hash_add(struct image_hash *h, const void *bytes, size_t n)
{
	XXH3_128bits_update(h->state, bytes, n);
}

struct image_checksum image_hash_end(struct image_hash *h)
{
	struct image_checksum checksum = image_dir__checksum_from(XXH3_128bits_digest(h->state));
	XXH3_128bits_reset(h->state);
	return checksum;
}
