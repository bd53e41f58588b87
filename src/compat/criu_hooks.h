/* SPDX-License-Identifier: Apache-2.0 */
/* Action scripts: programs that CRIU's users have run at stages of a job. */
#pragma once

#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "engine/engine.h"

struct criu_hooks {
	const struct text_list *scripts;
	int images; /* the images directory, which stays open while they run */
	int output; /* where they print to */
};

/* CRIU's word for a stage. */
const char *criu_hooks_word(enum engine_stage stage);

/*
 * Run all of them, the last one first as CRIU does, with CRTOOLS_SCRIPT_ACTION (the stage), CRTOOLS_IMAGE_DIR and, where the tree has a root,
 * CRTOOLS_INIT_PID (pid; 0 = none) in their environment. HOOK when one does not end with status 0, after all of them have run.
 */
must_check int criu_hooks_run(const struct criu_hooks *h, enum engine_stage stage, pid_t pid,
			      struct ferry_error *err);
