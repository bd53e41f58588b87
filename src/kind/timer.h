/* SPDX-License-Identifier: Apache-2.0 */
/* What a pending signal and the timer that sent it have to do with each other. */
#pragma once

#include <signal.h>
#include <stdbool.h>

struct plan_task;

/*
 * Whether a pending signal comes from a timer of the task that goes on ticking. The kernel stops such a timer until its signal
 * is taken, so the restored timer sends it anew and nobody else may.
 */
bool timer_sends(const struct plan_task *t, const siginfo_t *info);
