/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sending side of CRIU's page server: pagemaps and pages of a dump go to another machine. Without TLS nothing is encrypted, and nobody
 * proves who he is.
 */
#pragma once

#include <stdbool.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/pages.h"

struct tls;

struct pageclient {
	struct image_pages_remote remote; /* for struct image_dir_create */
	int fd;
	uint64_t memory; /* that was begun last */
	bool has_parent; /* the server has something of it from the image before */
};

struct pageclient_how {
	struct tls *tls; /* NULL: nothing is encrypted */
	bool insecure;   /* which is accepted */
	int timeout_ms;  /* no wait for the other side lasts longer */
};

/*
 * Connect; an address that is not on this machine takes TLS, or insecure. USAGE, PEER_GONE. *ret must stay where it is until it is
 * closed.
 */
must_check int pageclient_open(struct pageclient *ret, const char *address, const struct pageclient_how *how,
			       struct ferry_error *err);
void pageclient_close(struct pageclient *c);
