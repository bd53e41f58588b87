/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command of the user's that runs while a tree stands. Its process is made early, where ferry was started: later the worker may stand in
 * other namespaces and folders.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

struct hook;

/* command: for sh -c, as it is when the hook runs; it waits. */
must_check int hook_start(const char *command, struct hook **ret, struct ferry_error *err);

/*
 * Let it run, with FERRY_PID and FERRY_DIR (the path of dir) in its environment, and wait for its end: 0 when its exit status is 0. After timeout_ms it is
 * killed, with all of its process group. Once only. What it prints goes to standard error.
 */
must_check int hook_run(struct hook *h, pid_t pid, int dir, int timeout_ms, struct ferry_error *err);

/* h may be NULL; one that did not run does not run any more. */
void hook_free(struct hook *h);
