/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ghosts: files that are in use and have no name. Their contents go into the image, and a restore makes a file, opens
 * it wherever it is needed, and removes its name again.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/proto/regfile.pb-c.h"
#include "kind/reach.h"
#include "model/kind.h"

struct ghost;

/* The ghost of an inode, made when it is met first; lives in the snapshot's arena. */
must_check int ghost_collect(struct collect *c, const struct file_object *o, struct ghost **ret_ghost,
			     struct ferry_error *err);

/* The record that a file is this ghost; its contents when they are not in the image yet. */
must_check int ghost_dump(struct dump *d, struct ghost *g, uint32_t file_id, struct ferry_error *err);

/* The record that a file shows a process that has ended. */
must_check int ghost_dump_ended(struct dump *d, pid_t pid, uint32_t file_id, struct ferry_error *err);

/* remap-fpath.img and what belongs to it. */
must_check int ghost_read(struct reader *r, struct ferry_error *err);

/* Whether a file of the image comes back by other means than its path. */
bool ghost_is(const struct plan *p, const struct plan_file *file);

/* Open such a file with these flags. */
must_check int ghost_open(struct opener *o, struct plan_file *file, int flags, int *ret_fd,
			  struct ferry_error *err);

/* The undo log: links that a dump left for the restore go once that is sure. */
must_check int ghost_ready(struct opener *o, struct ferry_error *err);
void ghost_before_run(struct opener *o);
