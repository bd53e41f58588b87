/* SPDX-License-Identifier: Apache-2.0 */
/* The files stats-dump and stats-restore that CRIU leaves in its work directory. Times are in microseconds. */
#pragma once

#include <stdio.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "engine/engine.h"

/* Write them below dir_fd, over older ones. */
must_check int criu_stats_dump(int dir_fd, const struct engine_report *report, struct ferry_error *err);
must_check int criu_stats_restore(int dir_fd, const struct engine_report *report, struct ferry_error *err);

/* The same for people, as --display-stats has it. */
void criu_stats_show_dump(FILE *out, const struct engine_report *report);
void criu_stats_show_restore(FILE *out, const struct engine_report *report);
