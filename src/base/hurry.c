/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns being first while a tree stands still. Where processors are busy, a thread that has waited for something comes back to one only
 * when somebody else's slice is over, some milliseconds later, and what ferry does with a tree that stands is many short waits.
 *
 * Kernel interface: sched_setscheduler(2), SCHED_FIFO. Does not handle: who may not (CAP_SYS_NICE, RLIMIT_RTPRIO), and who was started with
 * a policy that is not the ordinary one: both stay as they are.
 */
#include "base/hurry.h"

#include <sched.h>
#include <stddef.h>

enum { HURRY_PRIORITY = 1 };

bool hurry_begin(void)
{
	const struct sched_param first = {.sched_priority = HURRY_PRIORITY};
	return sched_getscheduler(0) == SCHED_OTHER && sched_setscheduler(0, SCHED_FIFO, &first) >= 0;
}

void hurry_end(bool began)
{
	if (began)
		(void)sched_setscheduler(0, SCHED_OTHER, &(const struct sched_param){0});
}
