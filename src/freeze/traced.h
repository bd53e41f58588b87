/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of the tree that other threads of the tree trace: a program under a debugger. A thread has one tracer, so ferry works
 * in these through theirs, see blob/tracer.h. They stay what they are for their tracer all the time: nobody detaches.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>
#include <ferry/inject.h>

#include "base/macros.h"
#include "blob/tracer.h"
#include "inject/remote.h"

struct frozen;
struct frozen_task;
struct script;
struct traced_server;

/* A thread that another thread of the tree traces. */
struct frozen_tracee {
	pid_t pid, tid;
	pid_t tracer; /* the thread that traces it */
	struct ferry_thread *thread;
	struct traced_server *server; /* in its tracer, once it is held */
	uint32_t index;               /* there */
	struct blob_tracee state;
	struct blob_look look;
	struct thread_remote remote;
};

/* A thread turned out to be traced by another thread: keep it for traced_hold(). *ret: its place among the task's threads. */
must_check int traced_add(struct frozen *f, const struct frozen_task *t, pid_t tid, struct ferry_thread **ret,
			  struct ferry_error *err);

/* Everybody else stands: hold all that are not held yet, and learn what their tracers know. Returns how many there were. */
must_check int traced_hold(struct frozen *f, struct ferry_error *err);

/* What a thread is, NULL: it is none that others trace. */
const struct frozen_tracee *traced_find(const struct frozen *f, pid_t tid);

/* Run a script in a tracee, or in a thread that serves for its tracees. */
must_check int traced_run(const struct frozen_tracee *t, struct script *s, struct ferry_error *err);
must_check int traced_serve(struct traced_server *server, struct script *s, struct ferry_error *err);

/* What serves in this thread; NULL: nothing. */
struct traced_server *traced_server(const struct frozen *f, pid_t tid);

/* The memory that it takes there. */
void traced_place(const struct traced_server *server, uint64_t *ret_address, uint64_t *ret_bytes);

/* All tracees are their tracers' again as they were, unless they are dead; releases everything. Cannot fail. */
void traced_release(struct frozen *f, bool dead);
