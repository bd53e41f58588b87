/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job runs in a worker process of its own: its ptrace stops, namespaces and signal mask must not land in the caller, and
 * the warden holds the worker, not the caller.
 */
#pragma once

#include <ferry/error.h>

#include "collect/collect.h"
#include "engine/engine.h"

/* What a worker can do; each returns 0 or a count, or -errno with *err filled. */
typedef int (*job_function)(struct engine *e, struct ferry_error *err);

/*
 * Run function in a forked worker and wait for its result; with --restore-sibling in this very process, which has to end soon. Log lines of the worker arrive at log. *ret_report is filled
 * also after a failure, as far as the worker came. A worker that is killed is INTERRUPTED.
 */
struct progress;

/* Who looks at how far a job is, while it is under way, and does something at its stages; in the caller's process. */
struct job_watch {
	void (*look)(void *context, const struct progress *progress);
	/* The worker waits meanwhile. Negative, with *err filled: it does not go on. NULL: nobody wants to know. */
	engine_stage_function *stage;
	void *context;
	const int *own_fd; /* that the worker must not keep open; NULL: none */
	int every_ms;
	struct progress *progress; /* what the job counts in; NULL: nobody looks */
};

/* The same; watch may be NULL. */
must_check int job_run_watched(const struct options *options, job_function function,
			       const struct log_sink *log, const struct job_watch *watch,
			       struct engine_report *ret_report, struct ferry_error *err);

must_check int job_run(const struct options *options, job_function function, const struct log_sink *log,
		       struct engine_report *ret_report, struct ferry_error *err);
