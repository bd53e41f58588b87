/* SPDX-License-Identifier: Apache-2.0 */
/* One job, from options to a report. Runs in the worker process of the job, which has all signals blocked. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "engine/options.h"
#include "host/warden.h"
#include "kernel/caps.h"
#include "model/kind.h"
#include "proc/mountinfo.h"

struct obstacles;
struct frozen;
struct peers;

/* CLOCK_MONOTONIC, of the machine that made the report. */
struct engine_phase {
	char name[16];
	uint64_t start_ns, end_ns;
};

struct engine_round {
	uint64_t pages, bytes, ns;
};

enum { ENGINE_PHASES = 24, ENGINE_ROUNDS = 1 };

/* What only a migration has to tell. */
struct engine_migration {
	char id[48];
	char outcome[16];            /* committed, aborted, unknown; on the target: running, reverted */
	char source[72], target[72]; /* names of the nodes */
	uint64_t transfer_ns;
	uint64_t bytes; /* over the network, both directions */
	uint32_t n_rounds;
	struct engine_round rounds[ENGINE_ROUNDS];
};

struct engine_report {
	pid_t pid;
	pid_t first_pid; /* restore: the root task, or the init above it */
	uint32_t tasks;
	uint32_t threads;
	uint64_t freeze_ns; /* from the first request to stop until all run again, or are dead */
	uint64_t total_ns;
	uint64_t pages_scanned;
	uint64_t pages_written;
	uint64_t bytes;  /* of the image */
	int exit_status; /* restore without --restore-detached: wait(2) status of the root task */
	uint32_t n_phases;
	struct engine_phase phases[ENGINE_PHASES];
	struct engine_migration migration;
};

struct engine {
	const struct options *options;
	const struct log_sink *log;
	struct fault fault;
	struct kern_caps caps;
	struct kind_options kinds;
	struct warden *warden;
	struct peers *peers; /* who holds what outside of the tree: read once, by the check */
	struct warden_actions warden_actions; /* .deputy may be set before engine_warden() */
	struct proc_mounts mounts; /* of the mount namespace that ferry was started in, as far as needed */
	int start_root, start_dir; /* where the caller's paths begin, once ours begin elsewhere; -1 before */
	uint64_t start_ns;
	struct engine_report report;
	void (*decided)(void *context); /* see engine_decided(); NULL = nobody is told */
	void *decided_context;
};

/* Prepare an engine in the worker: faults, capabilities, limits. */
must_check int engine_init(struct engine *e, const struct options *options, const struct log_sink *log,
			   struct ferry_error *err);
void engine_release(struct engine *e);

/* Where to open a path that the caller named: *path is relative to the descriptor that is returned. */
int engine_at(const struct engine *e, const char **path);

/* Keep what engine_at() needs, before paths lead elsewhere. */
must_check int engine_keep_start(struct engine *e, struct ferry_error *err);

/* Start the warden, once, before the first effect on the outside. */
must_check int engine_warden(struct engine *e, struct ferry_error *err);

/* From here on a failure or the death of the worker does not put anything back: tell the caller. */
void engine_decided(struct engine *e);

/* Enter a phase that began at start_ns and ends now. */
void engine_phase(struct engine *e, const char *name, uint64_t start_ns);

must_check int engine_dump(struct engine *e, struct ferry_error *err);
must_check int engine_restore(struct engine *e, struct ferry_error *err);

/* Number of obstacles, each in *ret. */
must_check int engine_check(struct engine *e, struct obstacles *ret, struct ferry_error *err);
