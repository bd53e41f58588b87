/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the clocks of a task's time namespace. */
#pragma once

#include <ferry/error.h>

#include "base/macros.h"
#include "host/timens.h"

/* Of the namespace that a process lives in, which need not be its children's; proc_dir: /proc/PID, ns_ino: its namespaces by type. */
must_check int ns_time_offsets(int proc_dir, const uint64_t *ns_ino, struct timens_offsets *ret,
			       struct ferry_error *err);
