/* SPDX-License-Identifier: Apache-2.0 */
/* The one-time token: a secret that two users put into a file on each side, so that each ferry can prove itself. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <ferry/error.h>

#include "base/macros.h"

enum {
	TOKEN_MAX = 4096,
	TOKEN_MIN = 16,
	TOKEN_PROOF_BYTES = 32,
	TOKEN_FINGERPRINT_BYTES = 65, /* hexadecimal digits and NUL */
};

struct token {
	size_t n; /* 0 = there is none */
	uint8_t bytes[TOKEN_MAX];
};

/* Read it; path NULL gives none. TOKEN: too short, too long, or others can read the file. */
must_check int token_read(const char *path, struct token *ret, struct ferry_error *err);

/* HMAC-SHA256 over the label and two texts, keyed with the token. */
must_check int token_prove(const struct token *t, const char *label, const struct iovec *texts, int n,
			   uint8_t ret[static TOKEN_PROOF_BYTES]);

/* In time that does not depend on where they differ. */
bool token_proofs_equal(const uint8_t *a, const uint8_t *b);

/* What may stand in a journal: tells whether two tokens are the same, and nothing else. */
must_check int token_fingerprint(const struct token *t, char ret[static TOKEN_FINGERPRINT_BYTES]);
