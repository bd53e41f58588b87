/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns telling memory that a process has alone from what it has in common with others since a fork.
 *
 * Kernel interface: /proc/PID/smaps_rollup (4.14).
 */
#include "collect/memories.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "proc/read.h"

enum { MEMORIES_TEXT_BYTES = 4096 };

static uint64_t memories_kb(const char *text, const char *key)
{
	const char *at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) << 10 : 0;
}

int check_memory_own(const struct check_memory *m, uint64_t *ret_bytes, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int dir = proc_open(m->look, err);
	size_t n;
	int r = dir < 0 ? dir : proc_read_file(dir, "smaps_rollup", MEMORIES_TEXT_BYTES, &text, &n, err);
	if (r < 0)
		return r;
	*ret_bytes = memories_kb(text, "\nPrivate_Clean:") + memories_kb(text, "\nPrivate_Dirty:") +
		     memories_kb(text, "\nSwapPss:");
	return 0;
}
