/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs keep addresses inside the vdso that they were started with. Under a kernel with another one its bytes stay where they were,
 * as ordinary memory, and the entries of its functions lead to this kernel's.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "host/vdso.h"

enum { VDSO_PATCH_WORDS = 4, VDSO_PATCHES = 64 };

/* Words to store at an offset of the old code. */
struct vdso_patch {
	uint64_t offset;
	uint64_t words[VDSO_PATCH_WORDS];
	size_t n_words;
};

struct vdso_bridge {
	struct vdso_patch v[VDSO_PATCHES];
	size_t n;
};

/*
 * What makes of the n bytes of a 64-bit vdso entries into *now, whose code will be mapped at code. IMAGE_BAD when old is no such thing,
 * IMAGE_UNSUPPORTED when a function is too short to be replaced.
 */
must_check int vdso_bridge(const unsigned char *old, size_t n, const struct vdso *now, uint64_t code,
			   struct vdso_bridge *ret, struct ferry_error *err);
