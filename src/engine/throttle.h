/* SPDX-License-Identifier: Apache-2.0 */
/* Slowing down a tree that runs, while its memory is being stored. */
#pragma once

#include <stdint.h>

#include "base/macros.h"

enum { THROTTLE_MOST = 99 };

struct engine;
struct ferry_error;
struct throttle;

/*
 * From now on the tree stands still for percent of the time (1 to THROTTLE_MOST), at most stop_ns at a time, until throttle_end(), or
 * ferry ends. Nobody else may stop it meanwhile. It belongs to the engine, of which there is one.
 */
must_check int throttle_begin(struct engine *e, unsigned percent, uint64_t stop_ns, struct ferry_error *err);

/* The tree runs as it likes, if it did not; how long it stood still is in the report. */
void throttle_end(struct engine *e);
