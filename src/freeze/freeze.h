/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stopping a process tree and letting it go. The hold is volatile: threads are stopped by ptrace, so they run on by
 * themselves when ferry dies.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>
#include <ferry/inject.h>

#include "base/fault.h"
#include "base/intmap.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/vec.h"
#include "freeze/traced.h"

#define FROZEN_ZOMBIE UINT32_MAX

struct pause;
struct proc_looker;
struct warden;

struct frozen_task {
	pid_t pid, ppid;
	pid_t look;     /* pid, or the first thread when the leader has ended: proc_look() */
	uint32_t order; /* among tasks and zombies, in which they were found */
	int proc_dir;   /* /proc/PID of look */
	VEC(struct ferry_thread *) threads; /* look first; a leader that has ended is none of them */
	struct ferry_inject *inject;        /* opened by freeze_inject() */
};

/* A process that has ended and that its parent has not waited for. */
struct frozen_zombie {
	pid_t pid, ppid;
	uint32_t order; /* as frozen_task's */
	int proc_dir;
};

struct frozen {
	VEC(struct frozen_task) tasks; /* parents before children */
	VEC(struct frozen_zombie) zombies;
	VEC(struct frozen_tracee *) tracees;
	VEC(struct traced_server *) servers;
	struct intmap numbers; /* of tasks, to their index, and of zombies, to FROZEN_ZOMBIE */
	bool in_vfork;         /* somebody could not be stopped for that reason */
	bool hurries;          /* see hurry_begin() */
	uint64_t since_ns;     /* CLOCK_MONOTONIC: when the first thread was asked to stop */
	uint64_t all_ns;       /* when the last one stood */
	struct ferry_inject_options options;
};

struct freeze_options {
	int timeout_ms;
	const struct fault *fault;
	const struct log_sink *log;
	struct proc_looker *looker; /* for processes of many threads; may be NULL */
	bool hurry;                 /* the tree runs on soon: until then we come before everybody else */
	struct pause *pause;        /* of groups that it stands in, frozen by somebody else; NULL = none */
	struct warden *warden;      /* for that */
};

/*
 * Seize and stop every thread of root and of its descendants. On failure everything runs again.
 * NO_SUCH_TASK, BUSY_TASK, TIMEOUT, TARGET_CHANGED (the tree kept growing).
 */
must_check int freeze_tree(pid_t root, const struct freeze_options *options, struct frozen *ret,
			   struct ferry_error *err);

/* Let every thread go on exactly where it was; releases f. */
void freeze_release(struct frozen *f);

/* Every task is to stop, as by kill -STOP, before it executes anything once it is released. */
void freeze_stop(struct frozen *f);

/* Kill every task of the tree: whatever becomes of the caller, none runs on. */
must_check int freeze_kill(struct frozen *f, struct ferry_error *err);

/* Wait until none of those that were killed is left; releases f. */
must_check int freeze_await_end(struct frozen *f, struct ferry_error *err);

/* The task's injection context, opened at first use. */
must_check int freeze_inject(struct frozen *f, struct frozen_task *t, struct ferry_inject **ret,
			     struct ferry_error *err);
