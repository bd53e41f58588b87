/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the fuzz harness of the sock_diag parsers: the first byte selects the family, the rest is the payload of
 * one netlink message. Beside crashes it looks for broken promises: lengths within their arrays, *ret untouched
 * by a failure.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proc/sockdiag.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { FILL = 0x5a };

static void promise(bool kept, const char *what)
{
	if (kept)
		return;
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static bool is_filled(const void *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (((const uint8_t *)bytes)[i] != FILL)
			return false;
	}
	return true;
}

static void fuzz_inet(const uint8_t *payload, size_t n)
{
	struct inet_sock s;
	memset(&s, FILL, sizeof(s));
	int r = inet_sock_parse(payload, n, IPPROTO_TCP, &s);
	if (r) {
		promise(r == -EBADMSG && is_filled(&s, sizeof(s)), "a failure leaves the result alone");
		return;
	}
	promise(s.family == AF_INET || s.family == AF_INET6, "family");
	promise(s.has_shutdown || !s.shutdown, "shutdown only when told");
}

static void fuzz_unix(const uint8_t *payload, size_t n)
{
	struct unix_sock s;
	memset(&s, FILL, sizeof(s));
	int r = unix_sock_parse(payload, n, &s);
	if (r) {
		promise((r == -EBADMSG || r == -ENOMEM) && is_filled(&s, sizeof(s)),
			"a failure leaves the result alone");
		return;
	}
	promise(s.name_len <= sizeof(s.name) && (s.has_name || !s.name_len), "name within its array");
	promise(!s.n_pending == !s.pending, "pending connections are there");
	/* Every one can be read: a volatile copy is not optimised away. */
	for (size_t i = 0; i < s.n_pending; i++) {
		volatile uint32_t inode = s.pending[i];
		(void)inode;
	}
	unix_sock_release(&s);
}

static void fuzz_packet(const uint8_t *payload, size_t n)
{
	struct packet_sock s;
	memset(&s, FILL, sizeof(s));
	int r = packet_sock_parse(payload, n, &s);
	if (r) {
		promise((r == -EBADMSG || r == -ENOMEM) && is_filled(&s, sizeof(s)),
			"a failure leaves the result alone");
		return;
	}
	for (size_t i = 0; i < s.n_memberships; i++)
		promise(s.memberships[i].address_bytes <= sizeof(s.memberships[i].address),
			"address within its array");
	packet_sock_release(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	if (!n)
		return 0;
	/* A copy of its own, so that a sanitizer sees a read beyond the end. */
	uint8_t *payload = malloc(n - 1);
	if (!payload)
		return 0;
	memcpy(payload, bytes + 1, n - 1);
	if (bytes[0] == 2)
		fuzz_packet(payload, n - 1);
	else if (bytes[0] & 1)
		fuzz_unix(payload, n - 1);
	else
		fuzz_inet(payload, n - 1);
	free(payload);
	return 0;
}
