/* SPDX-License-Identifier: Apache-2.0 */
/* Finding and storing the memory of frozen tasks, and bringing shared objects back. */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/macros.h"
#include "base/vec.h"
#include "model/snapshot.h"

struct image_dir;
struct kern_caps;
struct mem_lanes;

struct mem_stats {
	uint64_t pages_scanned; /* pages of the mappings that were looked at */
	uint64_t pages_written;
	uint64_t shmem_scanned;
	uint64_t shmem_written;
};

/* Start and end of each run of addresses, ascending. */
typedef VEC(uint64_t) mem_runs;

/* Append a run behind the others; one that touches the last becomes part of it. -ENOMEM. */
must_check int mem_runs_add(mem_runs *runs, uint64_t start, uint64_t end);

/*
 * What of a task's memory is in the pages file of which task: the head of a part of the family, which is the task itself or an
 * ancestor.
 */
struct mem_known {
	const struct snap_task *head;
	uint32_t pages_id; /* of the head's pages file */
	mem_runs ranges;
};

struct mem_dump {
	struct image_dir *dir;
	struct snapshot *snap;
	const struct kern_caps *caps;
	const struct fault *fault;
	struct mem_stats stats;
	struct mem_lanes *lanes; /* made at first use, freed by mem_dump_end() */
	struct mem_known *known; /* by index of a task; as lanes */
	/* Called with the bytes stored so far, by one thread at a time; may be NULL. */
	void (*progress)(void *context, uint64_t bytes);
	void *context;
	uint64_t bytes;
};

/* Runs of pages of a private mapping that differ from what it maps: [start, end) addresses, ascending. */
struct mem_range {
	uint64_t start, end;
	bool huge; /* of transparent huge pages */
};

enum mem_find_flags {
	MEM_FIND_ANONYMOUS =
		1 << 0, /* the mapping has no file: pages of zeroes that the kernel shares count as absent */
	MEM_FIND_NO_GUARDS = 1 << 1, /* some may be guard pages, which have no contents */
};

/* Find them. Calls found() for each run; a negative result ends the search and is returned. */
must_check int mem_find(int pagemap, const struct kern_caps *caps, uint64_t start, uint64_t end,
			unsigned flags, int (*found)(void *context, const struct mem_range *range),
			void *context);

/* Find guard pages (MADV_GUARD_INSTALL). -EOPNOTSUPP: this kernel does not show them. */
must_check int mem_find_guards(int pagemap, const struct kern_caps *caps, uint64_t start, uint64_t end,
			       int (*found)(void *context, const struct mem_range *range), void *context);

/* Find places that a userfaultfd protects from writes, those with a page or those without (bit 57 of /proc/PID/pagemap, 5.13). */
must_check int mem_find_guarded(int pagemap, uint64_t start, uint64_t end, bool there,
				int (*found)(void *context, const struct mem_range *range), void *context);

/*
 * Find the pages of private anonymous memory that a task has in common with its parent since it was forked, at the same
 * addresses; they go to t->mm_extra. Pages that one of them wrote to since are not among them.
 */
must_check int mem_find_inherited(struct snap_task *t, struct arena *a, struct ferry_error *err);

/*
 * Ranges of both: what a task inherited (as mem_find_inherited() tells) of what is known of its parent. What is not worth
 * a reference leaves *ret empty.
 */
must_check int mem_find_known(const struct snap_task *t, const struct mem_known *parent,
			      struct mem_known *ret);

/*
 * Store the private memory of a task as pagemap-PID and pages-N; notes where it has huge pages. Pages that it has in common with
 * an ancestor that was stored before become references; parents come first. Nothing of a task that has the memory of another.
 */
must_check int mem_dump_task(struct mem_dump *d, struct snap_task *t, struct ferry_error *err);

/* Put the stored pages of a shared memory object of that size to where it is mapped. The rest is left as it is. */
must_check int mem_fill_shmem(struct image_dir *dir, uint64_t shmid, uint64_t bytes, char *at,
			      struct ferry_error *err);

/* Store a shared memory object as pagemap-shmem-SHMID. */
must_check int mem_dump_shmem(struct mem_dump *d, const struct snap_shmem *shmem, struct ferry_error *err);

void mem_dump_end(struct mem_dump *d);
