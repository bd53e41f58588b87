/* SPDX-License-Identifier: Apache-2.0 */
/* The id that a linker gives a build: tells apart programs and libraries of one name and size. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { BUILDID_WORDS = 8 };

/* Of an ELF file: so many words as images have them; 0 when it has none, or none near its beginning. */
size_t buildid_read(const char *path, uint32_t ret_words[BUILDID_WORDS]);
