/* SPDX-License-Identifier: Apache-2.0 */
/* What somebody else may know of landing pads, and do to those of a tracer that is about to die. Not part of the library. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct ferry_inject;

/* How many threads of the task can be away at a time. */
unsigned inject_room(const struct ferry_inject *inject);

/* Where the pads of an injection are in the target. */
uint64_t inject_pads(const struct ferry_inject *inject);

/*
 * The tracer stands at its end, its tracees stand still: make the pads call nothing any more but what brings their threads
 * home, because the filters that forbid it come back with the tracer's death.
 */
void inject_defuse(pid_t tid, uint64_t pads);
