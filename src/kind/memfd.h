/* SPDX-License-Identifier: Apache-2.0 */
/* Memory files that are mapped, with or without a descriptor. */
#pragma once

#include <stdint.h>

#include "model/kind.h"

struct proc_vma;

/*
 * A record for a memfd that a task maps. proc_dir: /proc/PID; name: as the mapping shows it.
 * *ret_index: its index in the snapshot's files.
 */
must_check int memfd_collect_mapped(struct collect *c, pid_t pid, int proc_dir, const struct proc_vma *vma,
				    const char *name, uint32_t *ret_index, struct ferry_error *err);
