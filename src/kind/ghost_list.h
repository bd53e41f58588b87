/* SPDX-License-Identifier: Apache-2.0 */
/* What a dump keeps of a deleted file; between ghost.c and those who ask for one by its inode. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/proto/ferry.pb-c.h"
#include "image/proto/ghost-file.pb-c.h"

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
