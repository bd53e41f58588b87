/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal of migrations: a directory with one small JSON file for each migration and side, replaced as a whole and
 * synced before any call returns. It holds the one record that decides which copy runs:
 *
 *   source:  OPEN -> HELD -> COMMITTED | ABORTED;  COMMITTED -> REVERTED (on the target's word only)
 *   target:  PREPARED -> RUN_INTENT -> RUNNING;    PREPARED, RUN_INTENT -> REVERTED
 *
 * Whoever changes a record holds its lock; only the warden of a dead holder acts in the holder's stead.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/macros.h"

enum journal_side { JOURNAL_SOURCE, JOURNAL_TARGET };

enum journal_state {
#define JOURNAL_STATE(name, word, side, advice) JOURNAL_##name,
#include "store/states.def"
#undef JOURNAL_STATE
	JOURNAL_STATE_COUNT,
};

enum {
	JOURNAL_ID_MAX = 40, /* characters of an id */
	JOURNAL_ADDRESSES = 16,
	JOURNAL_ADDRESS_BYTES = 80,
};

struct journal_record {
	char id[JOURNAL_ID_MAX + 1]; /* [A-Za-z0-9-] */
	enum journal_side side;
	uint32_t epoch;
	enum journal_state state;
	bool confirmed;       /* source: the target said that the work runs there */
	bool settled;         /* nothing is left to do on this side */
	uint64_t sequence;    /* of the last change */
	int64_t changed_s;    /* when, CLOCK_REALTIME */
	pid_t pid;            /* root task of the tree */
	uint64_t start_ticks; /* of that task, with pid its identity; 0 = not known */
	char comm[32];        /* its name */
	char boot_id[40];     /* of the boot in which the record was written */
	char peer[160];       /* address of the other side, as its user gave it */
	char token[72];       /* fingerprint of the one-time token, "" = none was used */
	char reason[512];     /* why it ended as it did */
	size_t n_addresses;   /* that move along, "ADDRESS/PREFIX@DEVICE" */
	char addresses[JOURNAL_ADDRESSES][JOURNAL_ADDRESS_BYTES];
};

struct journal;

/* Open the journal; make the directory (0700) when make is set. fault may be NULL and has to outlive it. */
must_check int journal_open(const char *path, bool make, const struct fault *fault, struct journal **ret,
			    struct ferry_error *err);
void journal_close(struct journal *j);

const char *journal_path(const struct journal *j);

/* Whether a text can be an id. */
bool journal_id_valid(const char *id);

const char *journal_state_word(enum journal_state state);

/*
 * Become the one who drives a migration. The descriptor is the lock; closing it, or the end of the process, gives it
 * back. -EBUSY: another process drives it.
 */
must_check int journal_lock(struct journal *j, enum journal_side side, const char *id,
			    struct ferry_error *err);

/* NO_SUCH_MIGRATION; IMAGE_BAD when the file is damaged. */
must_check int journal_read(struct journal *j, enum journal_side side, const char *id,
			    struct journal_record *ret, struct ferry_error *err);

/* Enter a new migration: -EEXIST when there is one of that id. */
must_check int journal_create(struct journal *j, struct journal_record *r, struct ferry_error *err);

/*
 * Compare and swap: the record on disk must have r's epoch and state; then it becomes r with the new state, is synced and
 * read back. -ESTALE when it differs: *r is then what is on disk. After any other failure the result is unknown until
 * the record is read.
 */
must_check int journal_swap(struct journal *j, struct journal_record *r, enum journal_state state,
			    struct ferry_error *err);

/* All records, by id; the caller frees *ret. A file that cannot be read is skipped and counted in *ret_bad. */
must_check int journal_list(struct journal *j, struct journal_record **ret, size_t *ret_n, size_t *ret_bad,
			    struct ferry_error *err);

/* Read a record from its text. -EBADMSG when it is none. */
must_check int journal_parse(const char *text, struct journal_record *ret);

/* Whether the record was written in this boot: only then its processes can still be there. */
bool journal_is_this_boot(const struct journal_record *r);
