/* SPDX-License-Identifier: Apache-2.0 */
/* Files that have a path: also those that are mapped, executed, or worked in without a descriptor. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "model/kind.h"

/* A record for what a link of /proc/PID refers to ("cwd", "root", "exe"); its id in *ret_id. */
must_check int regfile_collect_link(struct collect *c, pid_t pid, int proc_dir, const char *link,
				    uint32_t *ret_id, struct ferry_error *err);

/*
 * A record for a mapped file: name as the mapping shows it, fd an open O_PATH or other descriptor of it (not kept).
 * *ret_index: its index in the snapshot's files.
 */
must_check int regfile_collect_mapped(struct collect *c, pid_t pid, const char *name, int fd, uint32_t flags,
				      uint32_t *ret_index, struct ferry_error *err);

/* Whether a record of the image is the root directory of the mount namespace. */
bool regfile_is_root(const struct plan_file *file);

/* Check a file of the image against the machine: it is there, of the type and size that were recorded. */
must_check int regfile_verify(const RegFileEntry *entry, struct ferry_error *err);
