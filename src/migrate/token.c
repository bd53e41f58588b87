/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the one-time token. Interface: EVP_MAC of libcrypto 3.
 *
 * Linking libcrypto takes two milliseconds of every start of ferry, most of which have no token: it is loaded with the first one,
 * before anything of another mount namespace can be met.
 */
/* First: libcrypto uses "unused" as a name of its own. */
#include <openssl/evp.h>
#include <openssl/params.h>

#include "migrate/token.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"

#define TOKEN_LIBRARY "libcrypto.so.3"

#define TOKEN_SYMBOLS(X)                    \
	X(EVP_MAC_fetch)                    \
	X(EVP_MAC_free)                     \
	X(EVP_MAC_CTX_new)                  \
	X(EVP_MAC_CTX_free)                 \
	X(EVP_MAC_init)                     \
	X(EVP_MAC_update)                   \
	X(EVP_MAC_final)                    \
	X(OSSL_PARAM_construct_utf8_string) \
	X(OSSL_PARAM_construct_end)

struct token_crypto {
#define TOKEN_MEMBER(name) typeof(name) *name;
	TOKEN_SYMBOLS(TOKEN_MEMBER)
#undef TOKEN_MEMBER
};

/* It stays loaded, so it is looked for in the file system once. */
static int token_crypto_load(struct token_crypto *ret)
{
	struct token_crypto c;
	void *library = dlopen(TOKEN_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return -ELIBACC;
#define TOKEN_LOAD(name)                                \
	c.name = (typeof(name) *)dlsym(library, #name); \
	if (!c.name)                                    \
		return -ELIBBAD;
	TOKEN_SYMBOLS(TOKEN_LOAD)
#undef TOKEN_LOAD
	*ret = c;
	return 0;
}

int token_read(const char *path, struct token *ret, struct ferry_error *err)
{
	struct stat st;
	struct token_crypto crypto;
	ret->n = 0;
	if (!path)
		return 0;
	int loaded = token_crypto_load(&crypto);
	if (loaded < 0) {
		error_set(err, FERRY_ERROR_TOKEN, -loaded,
			  "--token needs " TOKEN_LIBRARY ", which cannot be loaded");
		error_hint(err, "install OpenSSL 3");
		return loaded;
	}
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_RDONLY, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_TOKEN, -fd, "--token '%s'", path);
	if (fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_TOKEN, errno, "--token '%s'", path);
	if (S_ISREG(st.st_mode) && st.st_mode & 077) {
		error_set(err, FERRY_ERROR_TOKEN, EPERM, "--token '%s' can be read by others", path);
		error_hint(err, "chmod 600 '%s'", path);
		return -EPERM;
	}
	size_t n = 0;
	ssize_t got;
	while (n < sizeof(ret->bytes) && (got = read(fd, ret->bytes + n, sizeof(ret->bytes) - n)) != 0) {
		if (got < 0 && errno != EINTR)
			return error_errno(err, FERRY_ERROR_TOKEN, errno, "--token '%s'", path);
		n += got > 0 ? (size_t)got : 0;
	}
	if (n == sizeof(ret->bytes))
		return error_set(err, FERRY_ERROR_TOKEN, EFBIG, "--token '%s' holds more than %d bytes", path,
				 TOKEN_MAX - 1);
	while (n && (ret->bytes[n - 1] == '\n' || ret->bytes[n - 1] == '\r'))
		n--;
	if (n < TOKEN_MIN) {
		error_set(err, FERRY_ERROR_TOKEN, EINVAL, "--token '%s' holds fewer than %d characters", path,
			  TOKEN_MIN);
		error_hint(err, "make one: (umask 077; head -c 24 /dev/urandom | base64 > '%s')", path);
		return -EINVAL;
	}
	ret->n = n;
	return 0;
}

int token_prove(const struct token *t, const char *label, const struct iovec *texts, int n,
		uint8_t ret[static TOKEN_PROOF_BYTES])
{
	struct token_crypto c;
	int r = token_crypto_load(&c);
	if (r < 0)
		return r;
	OSSL_PARAM params[] = {
		c.OSSL_PARAM_construct_utf8_string("digest", (char *)"SHA256", 0),
		c.OSSL_PARAM_construct_end(),
	};
	EVP_MAC *mac = c.EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MAC_CTX *ctx = mac ? c.EVP_MAC_CTX_new(mac) : NULL;
	bool good = ctx && c.EVP_MAC_init(ctx, t->bytes, t->n, params) &&
		    c.EVP_MAC_update(ctx, (const uint8_t *)label, strlen(label) + 1);
	for (int i = 0; i < n && good; i++) {
		/* Lengths go in, too: otherwise bytes could move from one text to the next. */
		uint64_t bytes = texts[i].iov_len;
		good = c.EVP_MAC_update(ctx, (const uint8_t *)&bytes, sizeof(bytes)) &&
		       c.EVP_MAC_update(ctx, texts[i].iov_base, texts[i].iov_len);
	}
	size_t out = 0;
	good = good && c.EVP_MAC_final(ctx, ret, &out, TOKEN_PROOF_BYTES) && out == TOKEN_PROOF_BYTES;
	c.EVP_MAC_CTX_free(ctx);
	c.EVP_MAC_free(mac);
	return good ? 0 : -EIO;
}

bool token_proofs_equal(const uint8_t *a, const uint8_t *b)
{
	volatile uint8_t differs = 0;
	for (size_t i = 0; i < TOKEN_PROOF_BYTES; i++)
		differs |= (uint8_t)(a[i] ^ b[i]);
	return !differs;
}

int token_fingerprint(const struct token *t, char ret[static TOKEN_FINGERPRINT_BYTES])
{
	uint8_t proof[TOKEN_PROOF_BYTES];
	ret[0] = '\0';
	if (!t->n)
		return 0;
	int r = token_prove(t, "ferry token fingerprint", NULL, 0, proof);
	for (size_t i = 0; i < sizeof(proof) && r >= 0; i++)
		snprintf(ret + 2 * i, 3, "%02x", proof[i]);
	return r;
}
