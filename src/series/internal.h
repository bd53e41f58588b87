/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share. */
#pragma once

#include "series/series.h"

/* How folders begin that are no snapshots: removed by whoever comes next. */
#define SERIES_GONE ".gone-"
#define SERIES_MERGING ".merging-"

/* Remove what is no snapshot; not there is as good. */
must_check int series__remove_rest(const struct series *s, const char *name, struct ferry_error *err);
