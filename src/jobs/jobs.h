/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Long jobs that are ready to move. Each has a folder of its own in the state directory: its record (job.json), its log, the
 * small init that is its first process (init), its images (image-N), a lock.
 *
 * What a job is doing is not believed from the record but looked at: it runs if a process executes the init of its folder; it
 * is saved if its newest complete image was not restored yet, and has ended if its init left a status. If none of that is
 * so it is lost: it went without a word, killed from outside or with the machine. So ferry may be killed between any two steps.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/log.h"
#include "base/macros.h"
#include "engine/options.h"

/* Where snapshots of a job are, in its folder. */
#define JOBS_SNAPSHOTS_NAME "snapshots"

enum { JOBS_NAME_BYTES = 64, JOBS_PATH_BYTES = 512 };

enum jobs_state { JOBS_RUNNING, JOBS_SAVED, JOBS_ENDED, JOBS_LOST };

struct jobs_record {
	char name[JOBS_NAME_BYTES];
	char *command; /* words with blanks between; owned */
	bool user_ns;
	bool tty;                   /* has a terminal of its own */
	int64_t created_s, since_s; /* CLOCK_REALTIME: first start; last start, save or end */
	/* found by looking */
	enum jobs_state state;
	pid_t pid;              /* running: the first process; 0 */
	unsigned image;         /* newest complete image, 0 = none */
	unsigned highest_image; /* also of those that are not complete */
	int status;             /* ended: exit status of the command as the shell tells it; -1 = not known */
	int dir, lock;          /* the folder, and the lock on it; -1 */
	char path[JOBS_PATH_BYTES];
};

struct jobs_list {
	struct jobs_record *v; /* oldest first */
	size_t n;
};

const char *jobs_state_word(enum jobs_state state);

/* The state directory: what the options say, or that of the caller. */
must_check int jobs_dir(const struct options *options, char ret_path[JOBS_PATH_BYTES],
			struct ferry_error *err);

/* All jobs, or the one of this name (NO_SUCH_JOB). lock: hold each; one that another ferry holds waits. */
must_check int jobs_read(const struct options *options, const char *name, bool lock, struct jobs_list *ret,
			 struct ferry_error *err);
void jobs_release(struct jobs_list *list);

/* Look again at what a job is doing. */
void jobs_look(struct jobs_record *j);

/* Write the record, whole or not at all. */
must_check int jobs_write(const struct jobs_record *j, struct ferry_error *err);

/* Start a job; words end with NULL. *ret is released with jobs_release(). */
must_check int jobs_run(const struct options *options, char *const words[], struct jobs_list *ret,
			struct ferry_error *err);

/* A new image of a running job, which ends; the older image goes when the new one is whole. */
must_check int jobs_save(const struct options *options, struct jobs_record *j, const struct log_sink *log,
			 struct ferry_error *err);

/* Run a saved job on; with --again also one that is lost, from its newest image. */
must_check int jobs_restore(const struct options *options, struct jobs_record *j, const struct log_sink *log,
			    struct ferry_error *err);

/* End a running job: SIGTERM, after --timeout SIGKILL. */
must_check int jobs_stop(const struct options *options, struct jobs_record *j, struct ferry_error *err);

/* Remove all that is left of a job that does not run; one that an image can bring back only with --force. */
must_check int jobs_remove(const struct options *options, struct jobs_record *j, struct ferry_error *err);

/*
 * Show what a running job writes from now on, and hand what is typed on to its terminal, until --detach-keys, a signal, or the
 * job's end; *j is looked at again then.
 */
must_check int jobs_attach(const struct options *options, struct jobs_record *j, struct ferry_error *err);

/* Copy the log to a descriptor; follow: until the job ends. */
must_check int jobs_log(const struct options *options, struct jobs_record *j, int to,
			struct ferry_error *err);
