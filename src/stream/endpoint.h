/* SPDX-License-Identifier: Apache-2.0 */
/* Where the other side of a migration is: "unix:PATH", "HOST:PORT", "[IPv6]:PORT"; "fd:N": a connection that is there. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

struct endpoint {
	struct sockaddr_storage address;
	socklen_t address_bytes;
	bool is_open; /* fd is connected to it */
	int fd;
	bool is_local; /* a unix socket or loopback: nobody outside this machine is behind it */
};

enum { ENDPOINT_TEXT_BYTES = 160 };

/* Read an address; a host name is looked up. USAGE when it is none. */
must_check int endpoint_parse(const char *text, struct endpoint *ret, struct ferry_error *err);

/*
 * The same for a connection that nothing protects: an address that is not on this machine is refused (USAGE) unless the user accepted it.
 * how: what to do else, for the hint.
 */
#define ENDPOINT_LISTEN_HOW "listen on loopback and forward a port with ssh, or accept that with --insecure"
must_check int endpoint_parse_plain(const char *text, bool accepted, const char *how, struct endpoint *ret,
				    struct ferry_error *err);

/* The address in the syntax that endpoint_parse() reads, numbers only. */
void endpoint_format(const struct sockaddr_storage *address, char ret[static ENDPOINT_TEXT_BYTES]);

/*
 * Listen there; returns the descriptor (non-blocking). A unix socket gets mode 0600, and replaces one that nobody listens
 * on any more. Port 0 becomes a free one: *ret_text (may be NULL) says which.
 */
must_check int endpoint_listen(const struct endpoint *e, char *ret_text, struct ferry_error *err);

/* Connect; returns the descriptor (non-blocking). PEER_GONE when nobody listens or answers. */
must_check int endpoint_connect(const struct endpoint *e, int timeout_ms, struct ferry_error *err);

/*
 * The user who holds the other end of a connection on this machine (unix or loopback): 0, and the user in *ret_uid; -ENOENT
 * when the kernel does not know (its socket is in another network namespace).
 */
must_check int endpoint_peer_uid(int fd, uid_t *ret_uid);
