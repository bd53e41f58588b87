/* SPDX-License-Identifier: Apache-2.0 */
/* Files that have a path: also those that are mapped, executed, or worked in without a descriptor. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "model/kind.h"

/* A record for what a link of /proc/PID refers to ("cwd", "root", "exe"); its id in *ret_id. */
must_check int regfile_collect_link(struct collect *c, const struct snap_task *t, int proc_dir,
				    const char *link, uint32_t *ret_id, struct ferry_error *err);

/* For kinds whose descriptions have a name in the file system: can it be found again; a record for one, by its index. */
must_check int regfile_check_name(const struct fd_view *view, const struct kind_options *options,
				  struct ferry_error *err);
must_check int regfile_collect_name(struct collect *c, const struct fd_view *view, uint32_t *ret_index,
				    struct ferry_error *err);

/* Whether a record of the image is the root directory of the mount namespace. */
bool regfile_is_root(const struct plan_file *file);

/* What of a file is compared with the image, beside that it is there and of the same type. */
struct regfile_checks {
	bool sizes;      /* of every file ... */
	bool but_append; /* ... that is written to otherwise than at its end */
	bool programs;   /* size and build of what is executed */
	bool rights;     /* read, write, execute, for whom */
};

/* Check a file of the image against the machine. */
must_check int regfile_verify(const struct plan *p, const struct plan_file *file,
			      const struct regfile_checks *checks, struct ferry_error *err);

/* Open the file of a record with these flags, wherever it is; for kinds that refer to one (FIFOs). */
must_check int regfile_open(struct opener *o, struct plan_file *file, int flags, int *ret_fd,
			    struct ferry_error *err);
