/* SPDX-License-Identifier: Apache-2.0 */
/* One visit to a whole target: what a checkpoint does with libferry-inject, and checks of what it returns. */
#pragma once

#include <ferry/inject.h>

#include "harness.h"

struct scenario {
	struct ferry_inject_options options;
	bool no_blob;   /* the target's seccomp filters leave no way */
	bool no_memory; /* nor to map */
};

/* Seize and stop all threads; they are in ret_threads, gone ones left out. Returns how many. */
int scenario_seize(struct target *t, const struct scenario *s,
		   struct ferry_thread *ret_threads[TARGET_THREADS]);

/* Visit all threads and let them go. Ends the process with 1 and a message when something is wrong. */
void scenario_run(struct target *t, const struct scenario *s);

/* The same from a process of its own with all signals blocked, as a worker is. Returns its wait status. */
int scenario_run_apart(struct target *t, const struct scenario *s);

/* A blob: returns gettid() + *argument. */
extern const unsigned char test_blob[], test_blob_end[];

/* Ends the process with the error's message. */
void fail_error(const char *what, const struct ferry_error *err) __attribute__((noreturn));

#define must(call, err)                           \
	({                                        \
		long result_ = (call);            \
		if (result_ < 0)                  \
			fail_error(#call, (err)); \
		result_;                          \
	})
