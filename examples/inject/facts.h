/* SPDX-License-Identifier: Apache-2.0 */
/* What the blob of this example finds out about the thread that it runs in. */
#pragma once

#include <assert.h>
#include <stdint.h>

struct facts {
	int32_t pid, tid;       /* as the thread itself sees them, in its PID namespace */
	uint64_t stack_pointer; /* sigaltstack(2) */
	uint64_t stack_bytes;
	int32_t stack_flags;
	int32_t death_signal;    /* PR_GET_PDEATHSIG */
	uint64_t clear_tid;      /* PR_GET_TID_ADDRESS */
	uint64_t timer_slack_ns; /* PR_GET_TIMERSLACK */
	int32_t first_error;     /* errno of the first call that failed; 0 = none */
	int32_t spare;
};

static_assert(sizeof(struct facts) == 56, "both sides were built from the same header");
