/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The giving side of CRIU's lazy pages: memory of frozen tasks is handed out page by page to whoever runs them by now.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

struct tls;

/* What may be asked for. */
struct pagesource_memory {
	uint64_t id;
	int mem;                /* descriptor that is read at an address */
	const uint64_t *ranges; /* start and end of each, ascending, none touches another */
	size_t n_ranges;        /* numbers in ranges, two for each */
};

struct pagesource {
	const struct pagesource_memory *memories;
	size_t n;
	struct tls *tls; /* NULL: nothing is encrypted, and nobody proves who he is */
	int timeout_ms;  /* a connection over which so long nothing gets through is broken */
	/*
	 * Called once, before the last page is given, or when the other side says that it wants no more: from here on nobody can
	 * tell whether it got it. Then whatever the pages belong to may not go on by itself.
	 */
	void (*settle)(void *context);
	void *context;
};

struct pagesource_done {
	uint64_t pages, given; /* in all, and those that were given at least once */
	bool settled;
	int fd; /* waits for pagesource_confirm() */
};

/*
 * Serve, over a listening socket, the first connection that asks for a page, until it says that this was all. A connection that asks for
 * nothing is closed, and the next one awaited. PEER_GONE: it ended before that. PROTOCOL. *ret is set in any case; when it was settled
 * and failed, nobody knows whether the tasks run elsewhere.
 */
must_check int pagesource_serve(const struct pagesource *s, int listening, struct pagesource_done *ret,
				struct ferry_error *err);

/* Tell the other side that whatever the pages belonged to is gone. Closes the connection. */
void pagesource_confirm(struct pagesource_done *done);
