/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS over a connection of CRIU's page server, where both sides show a certificate. A process stands between: whoever reads and writes has an
 * ordinary socket.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

struct tls;

struct tls_options {
	const char *cacert, *cacrl, *cert, *key; /* files; NULL: where CRIU has them */
	bool any_name;                           /* the server's certificate may be another host's */
};

/*
 * Read the certificates, while paths lead to them. USAGE: one of them is missing or wrong. KERNEL_FEATURE: this ferry was built without
 * TLS, or its library is not there.
 */
must_check int tls_open(const struct tls_options *o, struct tls **ret, struct ferry_error *err);
void tls_close(struct tls *t);

/*
 * What is written consists of heads and what follows them. CRIU waits for its socket also when GnuTLS has read more than it was asked for: a
 * head goes out by itself, and what follows in pieces that end where CRIU's do.
 */
struct tls_message {
	size_t head_bytes;
	uint64_t (*more_bytes)(const void *head);
};

/*
 * Shake hands over a connected socket, and return another one in its place; fd is closed in any case. host: the server that was asked for,
 * "" when nobody knows its name; NULL: this is the server. PEER_GONE: the other side does not agree, or is not who it should be.
 */
struct tls_how {
	const char *host;
	int timeout_ms;
	const struct tls_message *message; /* NULL: what is written goes out as it comes */
};
must_check int tls_start(struct tls *t, int fd, const struct tls_how *how, struct ferry_error *err);
