/* SPDX-License-Identifier: Apache-2.0 */
/* Memory files that are executed. */
#pragma once

#include <stdint.h>

#include "model/kind.h"

/* Whether a link of /proc/PID ("exe") leads to a memfd. */
bool memfd_is_link(const char *path);

/* A record for such an executable; its id in *ret_id. path: what the link says. */
must_check int memfd_collect_exe(struct collect *c, const struct snap_task *t, const char *path,
				 uint32_t *ret_id, struct ferry_error *err);
