/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sending side of CRIU's page server: pagemaps and pages of a dump go to another machine. Nothing is encrypted, and nobody proves
 * who he is.
 */
#pragma once

#include <stdbool.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/pages.h"

struct pageclient {
	struct image_pages_remote remote; /* for struct image_dir_create */
	int fd;
	uint64_t memory; /* that was begun last */
	bool has_parent; /* the server has something of it from the image before */
};

/*
 * Connect; an address that is not on this machine takes insecure. No wait for the other side lasts longer than timeout_ms. USAGE,
 * PEER_GONE. *ret must stay where it is until it is closed.
 */
must_check int pageclient_open(struct pageclient *ret, const char *address, bool insecure, int timeout_ms,
			       struct ferry_error *err);
void pageclient_close(struct pageclient *c);
