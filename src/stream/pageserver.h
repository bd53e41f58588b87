/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The receiving side of CRIU's page server: pagemaps and pages of a dump on another machine become files of a directory here. The
 * other images of the dump have to be put beside them. Nothing is encrypted, and nobody proves who he is.
 */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

struct image_dir;

struct pageserver_stats {
	uint64_t memories, pages; /* pages whose bytes came */
};

/*
 * Take what comes over a connected, blocking socket until the other side says that this was all. dir is being written, without an
 * inventory. PROTOCOL: what came makes no sense. PEER_GONE: it ended in the middle.
 */
must_check int pageserver_receive(int fd, struct image_dir *dir, struct pageserver_stats *ret,
				  struct ferry_error *err);

/* Tell the other side that all of it was stored: after the directory was synced. */
must_check int pageserver_confirm(int fd, struct ferry_error *err);
