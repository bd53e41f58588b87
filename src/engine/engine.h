/* SPDX-License-Identifier: Apache-2.0 */
/* One job, from options to a report. Runs in the worker process of the job, which has all signals blocked. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "collect/memories.h"
#include "engine/options.h"
#include "host/warden.h"
#include "kernel/caps.h"
#include "model/kind.h"
#include "proc/mountinfo.h"

struct obstacles;
struct frozen;
struct hook;
struct peers;
struct progress;
struct proc_mapper;

/* CLOCK_MONOTONIC, of the machine that made the report. */
struct engine_phase {
	char name[16];
	uint64_t start_ns, end_ns;
};

struct engine_round {
	uint64_t pages, bytes, ns;
};

enum { ENGINE_PHASES = 24, ENGINE_ROUNDS = 16 };

/* What only a migration has to tell. */
struct engine_migration {
	char id[48];
	char outcome[16];            /* committed, aborted, unknown; on the target: running, reverted */
	char source[72], target[72]; /* names of the nodes */
	uint64_t transfer_ns;
	uint64_t bytes; /* over the network, both directions */
	uint32_t n_rounds;
	struct engine_round rounds[1];
};

struct engine_report {
	pid_t pid;
	pid_t first_pid; /* restore: the root task, or the init above it */
	uint32_t tasks;
	uint32_t threads;
	uint64_t freeze_ns;    /* from the first request to stop until all run again, or are dead */
	uint64_t stopped_ns;   /* in rounds, before that */
	uint64_t throttled_ns; /* by --throttle, before that */
	uint64_t predicted_ns; /* what freeze_ns was to be, by the last round; 0: there was none */
	uint64_t total_ns;
	uint64_t pages_scanned;
	uint64_t pages_written;
	uint64_t bytes;          /* of the image */
	uint64_t pages_restored; /* of the image itself, not of those that it builds on */
	uint64_t lazy_bytes;     /* restore: of memory that still was to come */
	int exit_status;         /* restore without --restore-detached: wait(2) status of the root task */
	uint32_t n_phases;
	struct engine_phase phases[ENGINE_PHASES];
	uint32_t n_rounds; /* of a live dump */
	struct engine_round rounds[ENGINE_ROUNDS];
	struct engine_migration migration;
};

/* Instants of a job at which somebody may want to do something. */
enum engine_stage {
	ENGINE_PRE_DUMP,     /* nothing was stopped */
	ENGINE_NETWORK_LOCK, /* the tree stands, and has a network of its own, which is going to be blocked */
	ENGINE_COLLECTED,    /* the tree stands, and all of it is known */
	ENGINE_POST_DUMP,    /* the image is whole, and the tree still stands */
	ENGINE_READY,        /* --lazy-pages: memory is given to who asks for it */
	ENGINE_PRE_RESTORE,  /* the image can be restored, nothing was made */
	ENGINE_SETUP_NAMESPACES,      /* the root exists, in its namespaces; sockets do not */
	ENGINE_POST_SETUP_NAMESPACES, /* the same, once everybody has set them up */
	ENGINE_ORPHAN_PTS_MASTER, /* a terminal exists, whose program is to be outside: here is its descriptor */
	ENGINE_POST_RESTORE,      /* everything stands at the barrier */
	ENGINE_NETWORK_UNLOCK, /* the network is going to be open: a restored one, or one that the dumped tree goes on with */
	ENGINE_PRE_RESUME,  /* it is going to open, whatever anybody says */
	ENGINE_POST_RESUME, /* it is open */
	ENGINE_STAGES,
};

/* pid: of the tree's root, 0 while there is none. fd: at ENGINE_ORPHAN_PTS_MASTER, lent; else -1. */
typedef int engine_stage_function(void *context, enum engine_stage stage, pid_t pid, int fd,
				  struct ferry_error *err);

struct engine {
	const struct options *options;
	const struct log_sink *log;
	struct fault fault;
	struct kern_caps caps;
	struct kind_options kinds;
	struct warden *warden;
	char *cgroup_props;         /* of --cgroup-props and its file together */
	struct pause *pause;        /* of --freeze-cgroup; NULL = none was named */
	struct tls *tls;            /* of --tls; NULL: connections are plain */
	unsigned cpu_caps;          /* of --cpu-cap; see host/cpu.h */
	struct hook *hook;          /* NULL: nobody wants one */
	uint64_t image_bytes;       /* what the check said that an image needs at most */
	check_memories large;       /* by the same check */
	uint64_t check_ns;          /* that it took */
	struct proc_mapper *mapper; /* for trees that are worth it; NULL: smaps */
	struct peers *peers;        /* who holds what outside of the tree: read once, by the check */
	struct warden_actions warden_actions; /* .deputy may be set before engine_warden() */
	struct proc_mounts mounts;            /* of ferry's own mount namespace, when the tree has another */
	bool entered;                         /* engine_enter() was done */
	/* Where the caller's paths begin, once ours begin elsewhere, and in which mount namespace; -1 before. */
	int start_root, start_dir, start_mounts;
	uint64_t start_ns;
	struct engine_report report;
	struct throttle *throttle;      /* while the tree is slowed down */
	struct progress *progress;      /* NULL: nobody looks */
	void (*decided)(void *context); /* see engine_decided(); NULL = nobody is told */
	void *decided_context;
	/* See engine_at_stage(); NULL = nobody wants to do anything. */
	engine_stage_function *stage;
	void *stage_context;
};

/* Prepare an engine in the worker: faults, options, its namespaces. */
must_check int engine_init(struct engine *e, const struct options *options, const struct log_sink *log,
			   struct ferry_error *err);
void engine_release(struct engine *e);

/* Where to open a path that the caller named: *path is relative to the descriptor that is returned. */
/* Certificates of --tls, while paths lead to them; *ret is NULL without it. */
must_check int engine_tls(const struct options *o, struct tls **ret, struct ferry_error *err);

int engine_at(const struct engine *e, const char **path);

/* Keep what engine_at() needs, before paths lead elsewhere. */
must_check int engine_keep_start(struct engine *e, struct ferry_error *err);

/* Keep the network namespace that ferry stands in, for what goes to others and back. */
must_check int engine_keep_net(struct engine *e, struct ferry_error *err);

/* Locks for this job, none of them made yet; NULL: the caller wants none, or memory is short, which the first one says. */
struct netlocks *engine_netlocks(const struct engine *e);

/* Enter the mount namespace of the tree, once, if that is another one: its paths are looked at as it sees them. */
must_check int engine_enter(struct engine *e, struct ferry_error *err);

/* Start the warden, once, before the first effect on the outside. The first does not wait until it watches. */
must_check int engine_start_warden(struct engine *e, struct ferry_error *err);
must_check int engine_warden(struct engine *e, struct ferry_error *err);

/* From here on a failure or the death of the worker does not put anything back: tell the caller. */
void engine_decided(struct engine *e);

/* Let others do what they want to do now, and wait for it; pid: the root's, 0 where there is none. Negative: they refuse to go on. */
must_check int engine_at_stage(struct engine *e, enum engine_stage stage, pid_t pid, struct ferry_error *err);

/* The same for a terminal's descriptor. */
must_check int engine_give_terminal(struct engine *e, int fd, struct ferry_error *err);

/* Enter a phase that began at start_ns and ends now. */
void engine_phase(struct engine *e, const char *name, uint64_t start_ns);

must_check int engine_dump(struct engine *e, struct ferry_error *err);
must_check int engine_restore(struct engine *e, struct ferry_error *err);

/* Number of obstacles, each in *ret. */
must_check int engine_check(struct engine *e, struct obstacles *ret, struct ferry_error *err);
