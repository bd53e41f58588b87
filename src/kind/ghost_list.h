/* SPDX-License-Identifier: Apache-2.0 */
/* What a check or a dump keeps of files; between regfile.c, ghost.c and those who ask for a deleted file by its inode. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/proto/ferry.pb-c.h"
#include "image/proto/ghost-file.pb-c.h"
#include "kind/kinds.h"

struct ghost {
	struct ghost *next;
	uint64_t dev, ino;
	uint32_t id;
	const char *source; /* where it can be opened while the tree stands */
	uint64_t bytes;     /* of a regular file */
	bool has_holes;
	bool dumped;
	GhostFileEntry *entry;
	FerryGhostEntry *extra;
};

enum { REGFILE_SEEN = 256 };

/* What regular files keep during one check or collect. */
struct regfile_data {
	struct ghost *ghosts;
	struct regfile_seen *seen[REGFILE_SEEN]; /* see regfile.c */
};

/* NULL: memory is short. */
static inline struct regfile_data *regfile_data(void **kind_data, struct arena *a)
{
	if (!kind_data[KIND_regfile])
		kind_data[KIND_regfile] = arena_new(a, struct regfile_data);
	return kind_data[KIND_regfile];
}
