/* SPDX-License-Identifier: Apache-2.0 */
/* Which words of VmFlags belong to which bits of the kernel's vm_flags, as far as examples tell. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

/* What the kernel has for a mapping, and what smaps says of it at the same time (PROC_VM(...)). */
struct vma_example {
	uint64_t raw, words;
};

struct vma_words {
	/* Of raw values that have all of bits, or none of them, it is known that they have all of words, or none. */
	struct vma_group {
		uint64_t bits, words;
	} group[64];
	size_t n;
	uint64_t known; /* all bits of all groups */
};

/* Learn. -EPROTO: the words do not follow from the bits. */
must_check int vma_words_learn(struct vma_words *ret, const struct vma_example *examples, size_t n);

/* Translate. False: that is not known. */
must_check bool vma_words_tell(const struct vma_words *w, uint64_t raw, uint64_t *ret_words);
