/* SPDX-License-Identifier: Apache-2.0 */
/* What the ways of tracking have in common. For src/mem only. */
#pragma once

#include "kernel/uapi.h"
#include "mem/mem.h"
#include "mem/track.h"

struct track {
	const struct kern_caps *caps;
	pid_t look;
	int fd;          /* what the way works with: a userfaultfd, or clear_refs, locked; -1 = none: plain */
	size_t watched;  /* mappings of the last look */
	bool is_settled; /* what was not written since the last look is clean */
	bool knows_huge; /* the last look that armed has told what was huge */
	mem_runs huge;   /* that */
};

/* A look under way. */
struct track_look {
	struct track *t;
	int pagemap; /* of the memory as it is now */
	bool arm;
	track_runs *runs;
	int kpageflags;      /* -1 = not open yet */
	uint64_t zero_frame; /* the kernel's page of zeroes; 0 = not met yet */
};

struct track_ops {
	const char *word;
	enum kern_cap_id needs[2];
	size_t n_needs;
	bool wants_stop; /* threads have to stand while it arms */
	/* See track_make(); NULL: nothing has to be made. */
	int (*make)(struct ferry_inject *inject, struct ferry_thread *thread, pid_t look,
		    struct ferry_error *err);
	/*
	 * Append the runs of one mapping. -EOPNOTSUPP: this mapping cannot be tracked, and nothing was appended; -ENOMEM; -ESRCH: the
	 * memory is gone.
	 */
	int (*scan)(struct track_look *l, const struct track_vma *vma);
	/* After all mappings of a look that arms; may be NULL. */
	int (*arm)(struct track_look *l);
};

extern const struct track_ops track_ops_uffd, track_ops_soft_dirty, track_ops_plain;

/* Append a run; what touches the last and is like it becomes part of it. -ENOMEM */
must_check int track_add(struct track_look *l, uint64_t start, uint64_t end, uint32_t flags);

/* What is there in a part of a mapping, all of it dirty. */
must_check int track_add_all(struct track_look *l, const struct track_vma *vma, uint64_t start, uint64_t end);

/* Words of /proc/PID/pagemap, from address start on. */
must_check int track_add_words(struct track_look *l, const struct track_vma *vma, uint64_t start,
			       const uint64_t *words, size_t n);
