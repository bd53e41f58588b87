/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a task's memory were written to since they were looked at last: a tracker for each address space.
 *
 * A look (track_scan) tells what is there and what of that is dirty, and arms: what is written from then on is dirty for the next
 * look. Pages are read after it. What the kernel cannot tell about is dirty at every look, so the answer may be too large and is
 * never too small; doc/tracking.md goes through the ways in which memory changes.
 *
 * The order of a round: track_scan() with arm while the task runs, then every thread is made to stand once, or at least to leave
 * the kernel, then track_settle(), then pages are read. A system call that was under way when pages were armed may still have
 * written to them without notice, but no longer when they are read.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>
#include <ferry/inject.h>

#include "base/macros.h"
#include "base/vec.h"
#include "kernel/caps.h"
#include "proc/maps.h"

struct track;

/* What tells one memory of a PID from another: the process, and the program that it executes. */
struct track_identity {
	uint64_t start_ticks;
	uint64_t start_code, start_stack, start_env;
	uint64_t exe_dev, exe_ino;
};

/* proc_dir: of the thread through which the process is looked at. */
must_check int track_identify(int proc_dir, struct track_identity *ret, struct ferry_error *err);

enum track_way {
	TRACK_UFFD,       /* userfaultfd and PAGEMAP_SCAN */
	TRACK_SOFT_DIRTY, /* bits of the page tables */
	TRACK_PLAIN,      /* everything is dirty */
	TRACK_WAYS,
};

enum track_flags {
	TRACK_DIRTY = 1 << 0,
	TRACK_HUGE = 1 << 1, /* transparent huge pages */
};

/* Pages that are there. */
struct track_run {
	uint64_t start, end;
	uint32_t flags; /* enum track_flags */
};

typedef VEC(struct track_run) track_runs; /* ascending */

/* A mapping to look at. */
struct track_vma {
	uint64_t start, end;
	bool fit;        /* track_fits() */
	bool anonymous;  /* pages of zeroes that the kernel shares count as absent */
	bool guards;     /* some may be guard pages, which have no contents */
	bool common;     /* for who reads the pages: others have some of them mapped, too */
	bool ask_common; /* whether that is so is not known */
};

/* Whether the kernel can tell about such memory: private, anonymous, of pages that only the page tables of the task lead to. */
must_check bool track_fits(const struct proc_vma *vma);

/*
 * Make what tracks the memory of a stopped task, which does not keep it: a userfaultfd, made there, taken, and closed there; or the
 * right to clear its soft-dirty bits. The thread is left away from its place (ferry_inject_cure()). Returns a descriptor: it may be
 * handed to another process, and everything ends when the last copy of it is closed. -EBUSY: another one tracks this memory.
 */
must_check int track_make(const struct kern_caps *caps, struct ferry_inject *inject,
			  struct ferry_thread *thread, pid_t look, struct ferry_error *err);

/*
 * Begin; the first look finds everything dirty. fd: of track_make(), taken over in any case; -1: none, all is dirty at every look. look: the thread
 * through which the task is looked at. caps: what was probed of PAGEMAP_SCAN, UFFD_WP_ASYNC and SOFT_DIRTY counts; has to outlive
 * the tracker.
 */
must_check int track_new(const struct kern_caps *caps, int fd, pid_t look, struct track **ret,
			 struct ferry_error *err);

/* Ends tracking: no page stays armed. NULL is fine. */
void track_free(struct track *t);

/* Whether this kernel lets us track anything. */
bool track_is_possible(const struct kern_caps *caps);

/* How memory that fits is tracked. */
enum track_way track_way(const struct track *t);
const char *track_word(enum track_way way);

/* Whether threads have to stand still during a look that arms. */
bool track_wants_stop(const struct track *t);

/*
 * Look at n mappings, ascending. Runs are appended to *runs. arm: what is written from now on is dirty at the next look; from this
 * call on until track_settle() says otherwise, everything is dirty at the next look. -ESRCH: the memory is gone (the task ended, or
 * executes another program).
 */
must_check int track_scan(struct track *t, const struct track_vma *vmas, size_t n, bool arm, track_runs *runs,
			  struct ferry_error *err);

/*
 * After a look that armed, and before its pages are read: every thread has left the kernel since. is_pinned: something may write to
 * the memory past the page tables, see track_is_pinned(); then the next look finds everything dirty.
 */
void track_settle(struct track *t, bool is_pinned);

/* Whether the last look can be built upon. */
bool track_is_settled(const struct track *t);

/*
 * Go on with a tracker that another process had: its look was settled. The caller has made sure that it is of this
 * very memory.
 */
void track_resume(struct track *t);

/* How many mappings of the last look are watched by a userfaultfd that is not ours. */
size_t track_watched(const struct track *t);

/* What it works with. */
int track_fd(const struct track *t);

/* The memory is looked at through another thread from now on: its leader has ended. */
void track_set_look(struct track *t, pid_t look);

/*
 * Whether a process has handed its memory to something that writes to it later, past the page tables: io_uring, asynchronous I/O, or
 * pages that are pinned for a device. Asked for each process that has the memory, while its threads stand. 1, 0 or -errno.
 */
must_check int track_is_pinned(int proc_dir, const struct kern_caps *caps, struct ferry_error *err);
