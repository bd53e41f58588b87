/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of libferry-inject share: start a target, and look at it from outside. Failures end the
 * test.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "target.h"

struct target {
	pid_t pid;
	const char *mode;
	struct target_shared *shared;
	int n;
	unsigned maps;                    /* mappings before anything was done */
	uint64_t blocked[TARGET_THREADS]; /* signal masks, likewise */
	uint64_t beats[TARGET_THREADS];
};

/* Print where and why, clean up, exit with 1. */
void fail(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

#define check(condition, ...)              \
	do {                               \
		if (!(condition))          \
			fail(__VA_ARGS__); \
	} while (0)

/* Where the target program lies; main() calls it with its first argument. */
void harness_init(const char *target_path);

/* Start the target in a mode and wait until all its threads beat. */
void target_start(struct target *t, const char *mode);
void target_stop(struct target *t);

/* In a child: a failure here does not end the target. */
void harness_disown(void);

/*
 * The target has gone back to normal: nobody traces it, it runs, its threads beat, nothing is left, nothing
 * went wrong.
 */
void target_check(struct target *t, const char *when);

/*
 * The same; eintr_ok: calls may have returned EINTR that do so after any stop, see signal(7). Forgets that
 * they did.
 */
void target_check_eintr(struct target *t, const char *when, bool eintr_ok);

/* Every thread beats again, within a few seconds. */
void target_check_beats(struct target *t, const char *when);

/* One field of /proc/TID/status: its first word as it stands; empty when it is not there. */
void status_word(pid_t tid, const char *key, char word[static 32]);

unsigned count_maps(pid_t pid);

/* Entry of a thread by its name. */
struct target_thread *target_thread(struct target *t, const char *name);

uint64_t clock_ns(void);
void sleep_us(long us);

/* Number in the environment, or a default. */
unsigned env_number(const char *name, unsigned otherwise);
