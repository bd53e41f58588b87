/* SPDX-License-Identifier: Apache-2.0 */
/* Files of an image that come back by other means than their path; between ghost_read.c and ghost_restore.c. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/vec.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/ghost-file.pb-c.h"
#include "model/plan.h"

/* A ghost of the image. */
struct ghost_plan {
	struct ghost_plan *next;
	uint32_t id;
	GhostFileEntry *entry;
	FerryGhostEntry *extra; /* NULL: CRIU wrote it */
	int fd;                 /* O_PATH; a source of the plan; -1 = not made yet */
	VEC(struct plan_file *) files;
};

/* How a file of the image comes back. */
struct ghost_remap {
	struct ghost_remap *next;
	struct plan_file *file;
	struct ghost_plan *ghost;
	const FerryFileEntry *reach; /* another way to it */
	const char *linked;          /* a link that a dump made for this; goes in the end */
	pid_t process;               /* it shows a process that had ended */
};

struct ghost_image {
	struct ghost_plan *ghosts;
	struct ghost_remap *remaps;
};

struct ghost_image *ghost_image(const struct plan *p);

/* How a file comes back; NULL: by its path. */
struct ghost_remap *ghost_remap_of(const struct plan *p, const struct plan_file *file);
