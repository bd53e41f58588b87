/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is read of a task that stands without its help. While one task is made to answer what only it can tell, a
 * thread reads the tasks behind it.
 */
#pragma once

#include "collect/collect.h"
#include "proc/read.h"

struct collect_reading {
	struct check_task checked; /* and found to be one that can be dumped */
	struct proc_settings settings;
	struct proc_auxv auxv;
	struct proc_maps maps;
	struct proc_fds fds;
};

/* Who is read. All of it outlives the thread. */
struct collect_from {
	const struct collect *c;
	const struct frozen *f;
	const struct proc_namespaces *of_root;
};

struct collect_ahead;

/* Releases what is still in it; what was taken out was set to zero there. */
void collect_reading_release(struct collect_reading *r);

/* Begin to read ahead. NULL: it is not worth it, or not possible. */
struct collect_ahead *collect_ahead_start(const struct collect_from *from);

/*
 * What was read of the task with this index. Each is asked for once, in ascending order. What is not there yet is read now: nobody
 * waits for the thread, which may have no processor.
 */
must_check int collect_ahead_take(struct collect_ahead *a, const struct collect_from *from, size_t index,
				  struct collect_reading *ret, struct ferry_error *err);

/* a: may be NULL. */
void collect_ahead_end(struct collect_ahead *a);
