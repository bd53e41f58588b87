/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds of a chain of images: who of a tree is tracked, what was written since the round before, and how that reaches the image.
 *
 * A round while the tree runs: rounds_join() while it stands for an instant, rounds_look(), rounds_settle() while it stands once more,
 * rounds_store(). A round while it stands: rounds_stand(), then an ordinary dump with rounds_past().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/vec.h"
#include "mem/mem.h"
#include "mem/track.h"

struct frozen;
struct image_coverage;
struct image_dir;
struct proc_mapper;

/* One memory of the tree. */
struct round_task {
	pid_t pid, look;
	struct track_identity identity;
	struct track *track;
	VEC(struct track_vma) vmas; /* of the last look */
	track_runs runs;
	bool is_looked;  /* vmas and runs are of this round */
	bool is_pinned;  /* see track_is_pinned() */
	bool is_ours;    /* tracked since this command began: all of it was read then */
	bool has_gaps;   /* some of it could not be read in a round */
	bool is_there;   /* while the tree stands: it is part of it, and the same memory */
	pid_t inner_pid; /* as the image has it */
};

struct rounds {
	struct progress *progress; /* NULL: nobody looks */
	const struct kern_caps *caps;
	const struct log_sink *log;
	const struct fault *fault;
	struct proc_mapper *mapper;           /* NULL: mappings are read from smaps */
	const struct image_coverage *covered; /* what the round before has; NULL: there is none */
	bool only_chosen;                     /* who begins to be tracked; else everybody does */
	const pid_t *chosen;
	size_t n_chosen;
	VEC(struct round_task) tasks;
	size_t last; /* that was found; as a rule the next one, too */
	struct mem_past past;
};

void rounds_release(struct rounds *rs);

/* Who is tracked already, by another process's account. fd: of track_fd(), taken over in any case. */
must_check int rounds_adopt(struct rounds *rs, pid_t pid, const struct track_identity *identity, int fd,
			    struct ferry_error *err);

/* Whether a process is tracked, by its PID. */
bool rounds_track(struct rounds *rs, pid_t pid);

/* The tree stands: forget who is no part of it any more, begin with who is new. */
must_check int rounds_join(struct rounds *rs, struct frozen *f, struct ferry_error *err);

/* Whether the tree has to stand during rounds_look(). */
bool rounds_want_stop(const struct rounds *rs);

/* Look at everybody's memory, and arm it. The tree may run. */
must_check int rounds_look(struct rounds *rs, struct ferry_error *err);

/* The tree stands again, or still: see track_settle(). */
must_check int rounds_settle(struct rounds *rs, struct frozen *f, struct ferry_error *err);

/* Look at the memory of a tree that stands, whose mappings snap has. arm: another round follows. */
must_check int rounds_stand(struct rounds *rs, struct frozen *f, const struct snapshot *snap, bool arm,
			    struct ferry_error *err);

/* Store what rounds_look() has found. The tree may run. */
must_check int rounds_store(struct rounds *rs, struct image_dir *dir, const struct fault *fault,
			    struct mem_stats *ret_stats, struct ferry_error *err);

/* Bytes that the last look found dirty: what was read for the round. */
uint64_t rounds_looked(const struct rounds *rs);

/* Bytes that were written since, by who is tracked, or are new. Arms nothing; the tree may run. */
must_check int rounds_left(struct rounds *rs, uint64_t *ret_bytes, struct ferry_error *err);

/* For mem_dump.past; lives as long as rs. */
const struct mem_past *rounds_past(struct rounds *rs);
