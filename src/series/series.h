/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A series: snapshots of one tree in one directory, each in a folder of its own, NUMBER-TIME. A snapshot is an image as any other, which
 * builds on the one before; it restores by itself as long as those that it builds on stay where they are.
 *
 * Of the oldest only so much is kept as the others need. A snapshot that is not to be kept any more is *retired*: marked as one that
 * pages are missing of, and everything that the oldest of the others does not need is taken out of it. Now and then the retired ones are
 * merged into that one and removed. So the disk holds one copy of the memory, and what changed from one snapshot to the next.
 *
 * What a folder is shows in itself (its inventory, its mark), so ferry may be killed between any two steps.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/vec.h"
#include "engine/options.h"

struct fault;
struct job_watch;

enum { SERIES_NAME_BYTES = 64 };

enum series_state {
	SERIES_UNFINISHED, /* being written, or what is left of that */
	SERIES_WHOLE,
	SERIES_RETIRED, /* others may need what is left of it */
};

struct series_item {
	unsigned number; /* from 1 */
	enum series_state state;
	bool restored; /* it ran again */
	char name[SERIES_NAME_BYTES];
};

struct series {
	int dir;
	const char *path;
	VEC(struct series_item) items; /* the oldest first */
};

/*
 * Look at a directory. to_write: it is made if need be, nobody else writes to it at the same time (-EBUSY), and what somebody left there
 * who was killed is removed.
 */
must_check int series_open(const char *path, bool to_write, struct series *ret, struct ferry_error *err);
void series_close(struct series *s);

/* Look again. */
must_check int series_look(struct series *s, struct ferry_error *err);

/* The newest that is whole; NULL: there is none. */
const struct series_item *series_newest(const struct series *s);

/* Make up the name of the next one. */
void series_next_name(const struct series *s, char ret[SERIES_NAME_BYTES]);

/* What a folder takes on its file system, in bytes. */
uint64_t series_bytes(const struct series *s, const char *name);

/* Whether a snapshot has all of its memory by itself. */
bool series_is_full(const struct series *s, const char *name);

/* Remove a folder; at no instant it looks whole and is not. */
must_check int series_remove(const struct series *s, const char *name, const struct fault *fault,
			     struct ferry_error *err);

/* What was done to keep no more than wanted. */
struct series_retained {
	unsigned removed, retired, merged; /* folders; merged: that went into another one */
	bool waits;                        /* somebody reads an image: next time */
	uint64_t copied_bytes;
	char into[SERIES_NAME_BYTES]; /* what was merged into */
};

/* Keep the newest ones, so many. The others are of no use any more but for what those need of them. */
must_check int series_retain(struct series *s, unsigned keep, const struct fault *fault,
			     const struct log_sink *log, struct series_retained *ret,
			     struct ferry_error *err);

/* ------------------------------------------------------------------- taking them */

enum series_event_type { SERIES_STORED, SERIES_FAILED, SERIES_RETAINED, SERIES_ENDED };

struct series_event {
	enum series_event_type type;
	unsigned number;
	int64_t time_s; /* CLOCK_REALTIME */
	const char *name;
	uint64_t bytes;   /* on the file system */
	uint64_t stop_ns; /* the tree stood so long */
	uint64_t total_ns;
	uint64_t pages;   /* that were stored while it stood */
	bool full;        /* it builds on none before */
	unsigned skipped; /* times that passed since the last one, while that was being taken */
	const struct ferry_error *error;        /* SERIES_FAILED; SERIES_RETAINED: may be NULL */
	const struct series_retained *retained; /* SERIES_RETAINED */
	const char *reason;                     /* SERIES_ENDED: "tree", "signal", "done" */
	unsigned count;                         /* SERIES_ENDED: how many were stored */
};

struct series_run {
	const struct options *options; /* .tree and .images_dir are not looked at */
	pid_t pid;
	const char *path;
	const struct log_sink *log;
	const struct job_watch *watch; /* NULL: nobody looks */
	void (*event)(void *context, const struct series_event *event);
	void *context;
};

/*
 * Take one snapshot, or with options->every one each time, until the tree ends or a signal comes. A failed one is an event; with only
 * one to take it is the error.
 */
must_check int series_run(const struct series_run *run, struct ferry_error *err);
