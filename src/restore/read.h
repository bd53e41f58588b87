/* SPDX-License-Identifier: Apache-2.0 */
/* From an image directory to a plan, and comparing the plan with this machine. */
#pragma once

#include <ferry/error.h>

#include "model/kind.h"

/* Read every record and link them. r->plan is empty, r->dir open. IMAGE_BAD, IMAGE_MISSING, IMAGE_UNSUPPORTED. */
must_check int plan_read(struct reader *r, struct ferry_error *err);

/* Append each kind's calls to the tasks' scripts; numbers and holes are planned already. */
must_check int plan_scripts(struct reader *r, struct ferry_error *err);

/* Compare with the machine: files, PIDs. as_found: changed files are accepted. Nothing is created. */
must_check int plan_check(struct reader *r, bool as_found, bool new_pidns, struct ferry_error *err);
