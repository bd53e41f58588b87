/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that somebody else traces, and functions that stay in a thread to serve. Not part of the library's interface.
 *
 * A remote thread is one that is held by its own tracer, inside of which a function of ours tells what it sees. It answers what
 * is asked of registers, masks and pending signals; nothing can be run in it.
 */
#pragma once

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include <ferry/error.h>

#include "base/macros.h"

struct ferry_blob;
struct ferry_thread;

enum { REMOTE_MARK_CALL = 110 /* getppid */, REMOTE_RSEQ_WORDS = 3 };

struct thread_remote {
	struct user_regs_struct regs;
	uint64_t mask;
	const uint8_t *xstate;
	size_t xstate_bytes;
	const siginfo_t *signals[2]; /* its own, its process's */
	size_t n_signals[2];
	uint64_t rseq[REMOTE_RSEQ_WORDS]; /* as PTRACE_GET_RSEQ_CONFIGURATION fills it */
	long rseq_bytes;
};

/* *remote stays the caller's, and lives longer than the thread. ferry_thread_release() frees the thread and does nothing else. */
must_check int thread_remote_new(pid_t tid, const struct thread_remote *remote, struct ferry_thread **ret,
				 struct ferry_error *err);

/* What was told of it; NULL: it is one of ours. */
const struct thread_remote *thread_remote(const struct ferry_thread *t);

/* ptrace(2), as far as it only looks. */
long remote_ptrace(const struct thread_remote *remote, int request, uintptr_t address, uintptr_t data);
must_check int remote_peek(pid_t tid, uint64_t address, uint64_t *words, size_t n);

/*
 * Run a loaded function in its owner until it makes the call REMOTE_MARK_CALL with the first argument 'mark' (not 0), and stop
 * it there. 1: it stands there; 0: it has returned. Its thread serves nothing else until it has. If nobody continues it, it goes on.
 */
must_check int inject_serve_start(struct ferry_blob *blob, struct ferry_thread *t, uint64_t mark,
				  struct ferry_error *err);
must_check int inject_serve_next(struct ferry_blob *blob, struct ferry_thread *t, struct ferry_error *err);

/* It does not come back: let it go on by itself when its thread is released. */
void inject_serve_abandon(struct ferry_thread *t);

/* Where a loaded function lies, with its data and stack. */
void inject_blob_place(const struct ferry_blob *blob, uint64_t *ret_address, uint64_t *ret_bytes);
