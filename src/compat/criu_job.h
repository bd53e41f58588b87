/* SPDX-License-Identifier: Apache-2.0 */
/* A dump or a restore as CRIU's users ask for it, by a command line or a message: its directories, log, stages and statistics. */
#pragma once

#include <stdio.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/log.h"
#include "base/macros.h"
#include "compat/criu_options.h"
#include "engine/engine.h"

#define CRIU_VERSION "4.2"

enum { CRIU_VERSION_MAJOR = 4, CRIU_VERSION_MINOR = 2 };

enum criu_job { CRIU_DUMP, CRIU_PRE_DUMP, CRIU_RESTORE };

struct criu_log {
	struct log_sink sink; /* .write NULL: not open */
	FILE *file;           /* NULL: standard error */
};

/* Make the images directory's path one that any directory understands, and go to the work directory. */
must_check int criu_enter(struct criu_options *o, struct ferry_error *err);

/* In the work directory. To be closed also after a failure. */
must_check int criu_log_open(const struct criu_options *o, struct criu_log *ret, struct ferry_error *err);
void criu_log_close(struct criu_log *log);

/* The cause comes last, on a line of its own: tools show the end of the log. */
void criu_log_error(const struct criu_log *log, const struct ferry_error *err);

/* --address and --port as ferry names a place; host: where no address was given. CRIU's page server is plain by its nature. */
must_check int criu_place(struct criu_options *o, const char *host, char **place, struct ferry_error *err);

/* Somebody who is told of stages before the action scripts are run; as engine_at_stage(). */
struct criu_told {
	engine_stage_function *stage;
	void *context;
};

/* told may be NULL. *ret_report is filled also after a failure. */
must_check int criu_job_run(enum criu_job job, struct criu_options *o, const struct criu_log *log,
			    const struct criu_told *told, struct engine_report *ret_report,
			    struct ferry_error *err);
