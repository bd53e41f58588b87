/* SPDX-License-Identifier: Apache-2.0 */
/* A string that grows. After a failed allocation it stays valid and strbuf_failed() says so. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

struct strbuf {
	char *s;  /* always NUL-terminated once something was added; NULL before */
	size_t n; /* length without the NUL */
	size_t cap;
	bool failed;
};

void strbuf_release(struct strbuf *b);
void strbuf_reset(struct strbuf *b);
void strbuf_add(struct strbuf *b, const void *bytes, size_t n);
void strbuf_adds(struct strbuf *b, const char *s);
void strbuf_addf(struct strbuf *b, const char *fmt, ...) printf_like(2, 3);

/* The text, "" when empty; owned by b. */
const char *strbuf_str(const struct strbuf *b);

/* Give the text away (never NULL unless memory was short); b is empty afterwards. */
char *strbuf_take(struct strbuf *b);

#define _cleanup_strbuf_ __attribute__((cleanup(strbuf_release)))
