/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults on purpose, for tests. FERRY_FAULT=name makes the fault point of that name fail; FERRY_KILL_AT=n kills
 * ferry with SIGKILL at its n-th effect, that is, right before the n-th call that changes something outside
 * ferry (a target, a socket, a table). FERRY_KILL_VICTIM says who dies: self (default), group, or a process by its number.
 * FERRY_EFFECT_LOG=FILE appends "pid number stage what" for every effect, so that a test can count them and see which
 * stage a kill hit. FERRY_FULL_COPY=DIR makes a dump store all private memory there once more, whole, in the same freeze: what its image
 * has to come back as.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"

enum fault_id {
#define FAULT(name, word, stage, text) FAULT_##name,
#include "base/faults.def"
#undef FAULT
	FAULT_COUNT,
};

struct fault_info {
	const char *word;
	const char *
		stage; /* "dump", "restore", "lazy" (restore --lazy) or "migrate": where a test must ask for it */
	const char *text;
};

struct fault {
	int wanted;       /* enum fault_id that must fail, -1 none */
	uint64_t kill_at; /* 0 = never */
	bool kill_group;
	pid_t victim;          /* 0 = ferry itself, or its group */
	int log_fd;            /* -1 = none */
	const char *full_copy; /* NULL = none */
	uint64_t *counter; /* effects so far, shared by all processes of a job; NULL when nothing counts */
};

/* Read the environment. Returns 0 or -errno (-EINVAL: FERRY_FAULT names no fault). */
must_check int fault_init(struct fault *f);
void fault_release(struct fault *f);

/* True when this point has to fail. f may be NULL. */
bool fault_hit(const struct fault *f, enum fault_id id);

/* Announce an effect on the outside, right before it happens. f may be NULL. */
void fault_effect(const struct fault *f, const char *stage, const char *what);

const struct fault_info *fault_info(enum fault_id id);
