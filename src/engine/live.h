/* SPDX-License-Identifier: Apache-2.0 */
/* A dump that stores memory while the tree runs, round by round, and stops it for the rest. */
#pragma once

#include "engine/chain.h"
#include "engine/pace.h"
#include "image/dir.h"

struct live {
	struct chain chain;
	VEC(pid_t) chosen;  /* whose memory gets rounds */
	uint64_t untracked; /* bytes of others, and of other memory, as far as known */
	struct pace pace;
	uint64_t read_bytes, store_ns; /* of all rounds */
	char parent[IMAGE_ROUND_NAME_BYTES];
};

/*
 * Let a dump build on the image before, and have rounds, if the kernel can track a tree, and this one has enough memory for it, of
 * which enough was written since.
 */
must_check int live_begin(struct live *l, struct engine *e, struct dump_to *to, struct ferry_error *err);
void live_end(struct live *l);
