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
 * Run function in a forked worker and wait for its result. Log lines of the worker arrive at log. *ret_report is filled
 * also after a failure, as far as the worker came. A worker that is killed is INTERRUPTED.
 */
must_check int job_run(const struct options *options, job_function function, const struct log_sink *log,
		       struct engine_report *ret_report, struct ferry_error *err);
