/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that need not be asked, since another one that is in the same state was. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct proc_looker;
struct snap_task;
struct snap_thread;

/*
 * What a snapshot takes from the status of a thread - credentials, umask, seccomp, numbers - where it is that of the thread by which the
 * process is looked at. 1: it is, 0: it has to be read, -ENOMEM.
 */
must_check int alike_status(const struct proc_looker *looker, const struct snap_task *t,
			    struct snap_thread *th);

/* Whether th would give the answers that 'asked', of the same process, has given. */
bool alike(const struct proc_looker *looker, const struct snap_task *t, const struct snap_thread *asked,
	   const struct snap_thread *th);

/* Give it these answers, and its own where they are known to differ. Only where alike() says so. */
void alike_copy(const struct proc_looker *looker, const struct snap_task *t, const struct snap_thread *asked,
		struct snap_thread *th);
