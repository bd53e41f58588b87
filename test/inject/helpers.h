/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs of tests share beyond the harness: small children, seizing, calls that must fail. */
#pragma once

#include <ferry/inject.h>

#include "harness.h"
#include "scenario.h"

extern struct ferry_error error;
extern const struct ferry_inject_options plain;

/* Forget the error of a call that had to fail. */
struct ferry_error *fresh(void);

#define MUST(call) must(call, &error)

/* The call fails with this identifier. */
#define refused(call, want)                                                                              \
	do {                                                                                             \
		fresh();                                                                                 \
		long result_ = (call);                                                                   \
		check(result_ < 0, "%s did not fail", #call);                                            \
		check(error.id == FERRY_ERROR_##want, "%s: error %d (%s), not %s", #call, (int)error.id, \
		      error.message, #want);                                                             \
		check(error.message[0], "%s: no message", #call);                                        \
	} while (0)

/* A small child without a program of its own; it has had 20 ms to begin. */
pid_t spawn(void (*function)(void));
void reap(pid_t pid);
void wait_for_ever(void) __attribute__((noreturn));

struct ferry_thread *seize_stopped(pid_t tid, const struct ferry_inject_options *options, int want);
struct ferry_inject *open_at(struct ferry_thread *thread, const struct ferry_inject_options *options);
int64_t call(struct ferry_inject *inject, struct ferry_thread *thread, long nr);

/* The task comes to this state within some seconds. */
void check_state(pid_t tid, char want, const char *when);

struct test {
	const char *name;
	void (*run)(void);
};

/* Run those that argv names after the target, or all. */
int run_tests(const struct test *tests, size_t n, int argc, char **argv);
