/* SPDX-License-Identifier: Apache-2.0 */
/* The folders that an overlay file system is made of, as its options tell them. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"
#include "proc/fdinfo.h"

enum overlay_use { OVERLAY_LOWER, OVERLAY_UPPER, OVERLAY_WORK };

/*
 * Every folder, until each returns something else than 0, which is returned. A comma in a path ends it, and a path that is longer than
 * PATH_MAX is cut: neither leads anywhere.
 */
int overlay_each(const char *options, int (*each)(enum overlay_use use, const char *path, void *ctx),
		 void *ctx);

/* A handle of a file on an overlay holds the one that the file has in its layer. */
bool overlay_inner_handle(const struct proc_handle *outer, struct proc_handle *ret);
