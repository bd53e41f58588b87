/* SPDX-License-Identifier: Apache-2.0 */
/* Finding and storing the memory of frozen tasks, and bringing shared objects back. */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/macros.h"
#include "base/vec.h"
#include "model/snapshot.h"

struct image_coverage;
struct image_dir;
struct kern_caps;
struct mem_lanes;
struct mem_late;
struct progress;

struct mem_stats {
	uint64_t pages_scanned; /* pages of the mappings that were looked at */
	uint64_t pages_written;
	uint64_t shmem_scanned;
	uint64_t shmem_written;
	uint64_t pages_unread; /* that a running task has, and that could not be read */
};

/* Start and end of each run of addresses, ascending. */
typedef VEC(uint64_t) mem_runs;

/* Append a run behind the others; one that touches the last becomes part of it. -ENOMEM. */
must_check int mem_runs_add(mem_runs *runs, uint64_t start, uint64_t end);

/*
 * What of a task's memory the pagemap of which task tells: of the head of a part of the family, which is the task itself or an
 * ancestor.
 */
struct mem_known {
	const struct snap_task *head;
	mem_runs ranges;
};

/* Runs of pages of a private mapping that differ from what it maps: [start, end) addresses, ascending. */
struct mem_range {
	uint64_t start, end;
	bool huge; /* of transparent huge pages */
	/* Of struct mem_past: */
	bool gone; /* the pages are not the task's any more (dropped, guard pages) */
	bool same; /* they did not change, which need be said of huge pages only */
};

typedef int mem_range_found(void *context, const struct mem_range *range);

/*
 * The round before, for an incremental dump. Pages that it has and that did not change since become references to it
 * (IMAGE_PE_PARENT); the rest is stored. Nobody who cannot tell may say "unchanged": without an answer everything is stored.
 */
struct mem_past {
	const struct image_coverage *covered; /* what that round has, by itself or from rounds before it */
	struct image_dir *
		image; /* that round: shared objects of which nothing is known are compared with it; may be NULL */
	/*
	 * Asked for each mapping, after everything that was read of the task for the round before and before anything is read for this
	 * one: who tracks writes arms again here. Returns 1 when it is known what changed since that round looked at this mapping, after
	 * found() was called for each run of pages within vma that may have changed, ascending; a negative result of found() is
	 * returned. Other pages are taken to be as that round has them: its own where it has some, none where it has none. 0: not
	 * known, and found() was not called. NULL: nothing is known.
	 */
	int (*changed)(void *context, const struct snap_task *t, const struct snap_vma *vma,
		       mem_range_found *found, void *found_context);
	/*
	 * The same for a shared object; ranges are offsets. Writes through any mapping, or by write(2), have to be among them. Nothing
	 * is known of an object whose shmid was another one then.
	 */
	int (*changed_shmem)(void *context, const struct snap_shmem *shmem, mem_range_found *found,
			     void *found_context);
	void *context;
};

/* Private memory of a task that is not stored: whoever restores it asks for it (IMAGE_PE_LAZY alone). */
struct mem_left {
	uint64_t id;     /* of its pagemap */
	pid_t pid;       /* through which it is read */
	mem_runs ranges; /* addresses */
};

struct mem_idle;

struct mem_dump {
	struct image_dir *dir;
	struct snapshot *snap;
	const struct kern_caps *caps;
	const struct fault *fault;
	const struct mem_past *past; /* NULL: a full dump, without a round before it */
	struct mem_idle *
		running; /* the tasks, which are not frozen: what cannot be read any more is left out; NULL: they are */
	bool leaves;               /* what may come late is only named, in left[] */
	VEC(struct mem_left) left; /* as lanes */
	struct mem_stats stats;
	struct mem_lanes *lanes; /* made at first use, freed by mem_dump_end() */
	struct mem_known *known; /* by index of a task; as lanes */
	/* Of mem_dump_ready(); as lanes. */
	char *room; /* NULL: everything is stored at once */
	uint64_t room_used;
	struct mem_late *late;
	size_t n_late;
	struct progress *progress; /* counts bytes that were looked at; may be NULL */
};

enum mem_find_flags {
	MEM_FIND_ANONYMOUS =
		1 << 0, /* the mapping has no file: pages of zeroes that the kernel shares count as absent */
	MEM_FIND_NO_GUARDS = 1 << 1, /* some may be guard pages, which have no contents */
};

/* Whether a mapping's pages may come when a task runs already. Who has locked memory does not want to wait for it. */
bool mem_may_come_late(const VmaEntry *vma);

/* Find them. Calls found() for each run; a negative result ends the search and is returned. */
must_check int mem_find(int pagemap, const struct kern_caps *caps, uint64_t start, uint64_t end,
			unsigned flags, mem_range_found *found, void *context);

/*
 * Whether others may have some of so few pages mapped, too: since a fork, or since equal pages were made one (bit 56 of
 * /proc/PID/pagemap, 4.2).
 */
bool mem_is_common(int pagemap, uint64_t start, uint64_t end);

/* Find guard pages (MADV_GUARD_INSTALL). -EOPNOTSUPP: this kernel does not show them. */
must_check int mem_find_guards(int pagemap, const struct kern_caps *caps, uint64_t start, uint64_t end,
			       mem_range_found *found, void *context);

/* Find places that a userfaultfd protects from writes, those with a page or those without (bit 57 of /proc/PID/pagemap, 5.13). */
must_check int mem_find_guarded(int pagemap, uint64_t start, uint64_t end, bool there, mem_range_found *found,
				void *context);

/*
 * Find the pages of private anonymous memory that each task has in common with its parent since it was forked, at the same
 * addresses; they go to its mm_extra. Pages that one of them wrote to since are not among them.
 */
must_check int mem_find_inherited(struct snapshot *snap, struct ferry_error *err);

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

/* Every task of the snapshot; many small ones side by side. */
must_check int mem_dump_tasks(struct mem_dump *d, struct ferry_error *err);

/*
 * Before the tasks stand: get ready for keeping what mem_dump_task() reads until mem_dump_late() stores it, when they run. What does
 * not fit, or has nothing in a round before, is stored at once. -ENOMEM.
 */
must_check int mem_dump_ready(struct mem_dump *d);

/* Store what was kept. The tasks may run. */
must_check int mem_dump_late(struct mem_dump *d, struct ferry_error *err);

/* Put the stored pages of a shared memory object of that size to where it is mapped. The rest is left as it is. */
must_check int mem_fill_shmem(struct image_dir *dir, uint64_t shmid, uint64_t bytes, char *at,
			      struct ferry_error *err);

/* Store a shared memory object as pagemap-shmem-SHMID. */
must_check int mem_dump_shmem(struct mem_dump *d, const struct snap_shmem *shmem, struct ferry_error *err);

void mem_dump_end(struct mem_dump *d);
