/* SPDX-License-Identifier: Apache-2.0 */
/* Time namespaces: what their clocks are ahead of those that the machine began with. */
#pragma once

#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

struct timens_offsets {
	int64_t monotonic_ns, boottime_ns;
};

/* Of the namespace that new children of a process go to, which is its own as a rule. proc_dir: /proc/PID. Zero where a kernel has none. */
must_check int timens_read(int proc_dir, struct timens_offsets *ret, struct ferry_error *err);

/* Of the calling process. proc: a descriptor of /proc. */
must_check int timens_read_own(int proc, struct timens_offsets *ret, struct ferry_error *err);

/* New children of the calling process go to a new namespace with these offsets. proc: a descriptor of /proc. -ENOTSUP. */
must_check int timens_unshare(int proc, const struct timens_offsets *offsets, struct ferry_error *err);

/* A descriptor of the namespace that new children of the calling process go to. */
must_check int timens_open(int proc, struct ferry_error *err);
