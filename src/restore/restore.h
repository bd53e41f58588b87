/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turning a plan into running tasks. The coordinator (the worker of the job) prepares everything in memory that it
 * shares with the tasks, creates the root task, hands descriptors out and opens the barrier. Each task is
 * at first a fork of the coordinator; it creates its children, takes its descriptors, and then enters the blob, which
 * replaces its memory, creates its threads and leads them to the barrier.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "blob/blob.h"
#include "host/vdso.h"
#include "model/kind.h"
#include "model/plan.h"

struct warden;

/* Steps that the coordinator lets the tasks take together. */
enum restore_stage {
	RESTORE_STAGE_CREATE = 0, /* tasks fork their children and become session leaders */
	RESTORE_STAGE_GROUPS,     /* all exist: process groups are joined */
	RESTORE_STAGE_FILL,       /* descriptors arrive, memory is built */
};

/* First in the memory that coordinator and tasks share; has pages of its own. */
struct restore_shared {
	struct blob_control control;
	uint32_t stage;   /* enum restore_stage; futex word */
	uint32_t arrived; /* tasks that are done with the stage; futex word */
	uint32_t init;    /* PID of our small init; 0 = none */
	uint32_t failing; /* 1: a task is writing its error, 2: it is written */
	struct ferry_error error;
	uint32_t created[]; /* by task index: its PID in ferry's PID namespace, once the task exists */
};

struct restore {
	struct plan *plan;
	struct reader *reader;
	struct opener *opener;
	const struct fault *fault;
	const struct log_sink *log;
	struct warden *warden;
	struct vdso vdso;
	uint64_t gadget_offset;        /* of the exit gadget from the start of the vdso block */
	struct restore_shared *shared; /* start of the shared region */
	uint64_t shared_bytes;         /* of its head */
	uint64_t region_bytes;         /* of all of it */
	int (*channels)[2]; /* by task index: [0] the coordinator's end, [1] the task's until it exists */
	int proc;                /* a /proc with the numbers that we work with; tasks inherit it */
	int home[PROC_NS_COUNT]; /* ferry's own namespaces, of types that tasks have others of */
	bool new_pidns;          /* the root's PID namespace is made with it */
	bool own_init;           /* and its first process is ours */
	bool sibling;       /* the root becomes a child of our parent (--restore-sibling) */
	pid_t root_pid;     /* in ferry's PID namespace */
	pid_t first_pid;    /* whose end we are told: the root, or the init above it */
};

/* Find the hole for each task's blob, park and final place of the vdso, temporary descriptor numbers. */
must_check int layout_plan(struct restore *r, struct ferry_error *err);

/* Append to t->memory everything that rebuilds the task's address space. */
must_check int memory_plan(struct restore *r, struct plan_task *t, struct ferry_error *err);

/* Size the shared region, map it, place blob, scripts, frames and states of all tasks in it. */
must_check int region_build(struct restore *r, struct ferry_error *err);
void region_release(struct restore *r);

/* The blob's argument for a task, as the coordinator sees it. */
struct blob_task *region_task(const struct restore *r, const struct plan_task *t);
struct blob_thread *region_thread(const struct restore *r, const struct plan_task *t, size_t index);

/* Create the root task, wait until all tasks exist and are grouped. On failure everything created is killed. */
must_check int tasks_create(struct restore *r, struct ferry_error *err);

/* Open files, and hand descriptors out. */
enum files_when {
	FILES_FIRST, /* before there are tasks */
	FILES_LATE,  /* those that need tasks */
	FILES_LAST,  /* and those that need what is mounted for the tasks' PID namespace */
};
must_check int files_open(struct restore *r, enum files_when when, struct ferry_error *err);
must_check int files_send(struct restore *r, struct ferry_error *err);

/* Wait until all tasks stand at the barrier. */
must_check int tasks_wait_ready(struct restore *r, struct ferry_error *err);

/* opener.in_task: run a function in a task that waits for its descriptors. */
must_check int files_call(struct opener *o, const struct plan_task *t, struct opener_call *call,
			  struct ferry_error *err);

/* From here on the restored tasks are what runs, whatever happens to us. Cannot fail. */
void tasks_commit(struct restore *r);

/* Open the barrier. Cannot fail. */
void tasks_go(struct restore *r);

/*
 * After the barrier opened: look until no task has anything of ours mapped any more, so that whoever looks at the tasks next
 * sees only what is theirs. Changes nothing and does not last; the tasks are on their own.
 */
void tasks_wait_left(struct restore *r);

/* Kill and reap everything that was created. */
void tasks_kill(struct restore *r);

/* In a fork of the coordinator: become the task. Never returns. */
__attribute__((noreturn)) void task_main(struct restore *r, struct plan_task *t);

/* One message on a channel: so many descriptors ride along, in this order. */
enum { FILES_BATCH = 200 };

enum files_type { FILES_DESCRIPTORS = 1, FILES_CALL };

struct files_message {
	uint32_t type; /* enum files_type, first in both messages */
	uint32_t n;
	uint32_t last; /* 1: no more follow */
	struct {
		int32_t number; /* ascending, over all messages */
		uint32_t cloexec;
	} fds[FILES_BATCH];
};

/* Run a function and send its arguments, result and descriptors back. */
struct files_call {
	uint32_t type;
	int32_t result;
	opener_function *run;
	char arguments[OPENER_CALL_BYTES] __attribute__((aligned(16)));
};

/* In a task: run what it is asked to run, then take all descriptors from the channel and give them their numbers. */
must_check int files_receive(struct plan_task *t, int channel, struct ferry_error *err);
