/* SPDX-License-Identifier: Apache-2.0 */
/* One job, from options to a report. Runs in the worker process of the job, which has all signals blocked. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "engine/options.h"
#include "kernel/caps.h"
#include "model/kind.h"

struct obstacles;
struct frozen;
struct peers;
struct warden;

struct engine_report {
	pid_t pid;
	uint32_t tasks;
	uint32_t threads;
	uint64_t freeze_ns; /* from the first request to stop until all run again, or are dead */
	uint64_t total_ns;
	uint64_t pages_scanned;
	uint64_t pages_written;
	uint64_t bytes; /* of the image */
	int exit_status; /* restore without --restore-detached: wait(2) status of the root task */
};

struct engine {
	const struct options *options;
	const struct log_sink *log;
	struct fault fault;
	struct kern_caps caps;
	struct kind_options kinds;
	struct warden *warden;
	struct peers *peers; /* who holds what outside of the tree: read once, by the check */
	uint64_t start_ns;
	struct engine_report report;
};

/* Prepare an engine in the worker: faults, capabilities, limits. */
must_check int engine_init(struct engine *e, const struct options *options, const struct log_sink *log,
			   struct ferry_error *err);
void engine_release(struct engine *e);

/* Start the warden, once, before the first effect on the outside. */
must_check int engine_warden(struct engine *e, struct ferry_error *err);

must_check int engine_dump(struct engine *e, struct ferry_error *err);
must_check int engine_restore(struct engine *e, struct ferry_error *err);

/* Number of obstacles, each in *ret. */
must_check int engine_check(struct engine *e, struct obstacles *ret, struct ferry_error *err);
