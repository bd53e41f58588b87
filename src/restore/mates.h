/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that have one memory, until each is in the blob; see mates.c. For all others the functions do what their names say. */
#pragma once

#include <linux/sched.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

struct plan;
struct plan_task;
struct restore;

/* Before the region is built: who is under a tracer, and who cannot be. IMAGE_UNSUPPORTED */
must_check int mates_plan(struct plan *p, struct ferry_error *err);

/* In a process with memory of its own, a fork of ours: it has the baton, if there is to be one. t: NULL of helpers. */
void mates_begin(struct restore *r, const struct plan_task *t);

/* A mate that goes on in birth_main(); returns in the maker, as clone3(2) does: -1 and errno. */
pid_t mates_clone(struct restore *r, int member, struct clone_args *args);

/* Calls that may sleep. The second gives 0 or -errno, the third returns when there is something to read. */
void mates_futex_wait(struct restore *r, uint32_t *word, uint32_t value);
must_check int mates_waitid(struct restore *r, pid_t pid, int options);
void mates_poll(struct restore *r, int fd);
void mates_stop(struct restore *r, pid_t self);

/* Map the blob's region where the task has it in the end. -errno */
must_check int mates_place(struct restore *r, const struct plan_task *t);

/* What is executed from here on is the task's alone. */
void mates_leave(struct restore *r);
