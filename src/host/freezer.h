/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The durable hold: processes stand still by the cgroup freezer, whoever lives or dies. Each process goes into a group of
 * ours named 'name' right below the group it was in, so that limits go on to apply and the way back is the parent.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/macros.h"

struct freezer;

enum freezer_kind {
	FREEZER_ANY,
	FREEZER_V1, /* the freezer controller of cgroup v1 */
	FREEZER_V2, /* cgroup.freeze of cgroup v2 (5.2) */
};

/*
 * Reach a hierarchy that can freeze. name: of the groups, [a-z0-9-]. KERNEL_FEATURE: there is none, or it is out of reach.
 * fault may be NULL; it has to outlive the freezer.
 */
must_check int freezer_open(enum freezer_kind kind, const char *name, const struct fault *fault,
			    struct freezer **ret, struct ferry_error *err);

/* Let go of the hierarchy; what is frozen stays frozen. NULL is fine. */
void freezer_close(struct freezer *f);

/* Whether the process could be held, tried by making a group and removing it. */
must_check int freezer_try(struct freezer *f, pid_t pid, struct ferry_error *err);

/*
 * Put processes into groups and freeze them; returns when all stand. They may be stopped by ptrace before; what they
 * were stopped by may go away afterwards. On failure all are back where they were.
 */
must_check int freezer_hold(struct freezer *f, const pid_t *pids, size_t n, int timeout_ms,
			    struct ferry_error *err);

/* Adopt the groups of this name that an earlier freezer left. Returns how many there are. */
must_check int freezer_find(struct freezer *f, struct ferry_error *err);

/* The processes in the groups; the caller frees *ret_pids. */
must_check int freezer_members(struct freezer *f, pid_t **ret_pids, size_t *ret_n, struct ferry_error *err);

/* 1: every group is frozen. */
must_check int freezer_is_frozen(struct freezer *f, struct ferry_error *err);

/* Let everything run on, put it back where it was, remove the groups. */
must_check int freezer_thaw(struct freezer *f, struct ferry_error *err);

/* Kill everything in the groups without letting it run, wait until it is gone, remove the groups. */
must_check int freezer_kill(struct freezer *f, int timeout_ms, struct ferry_error *err);
