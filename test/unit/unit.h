/* SPDX-License-Identifier: Apache-2.0 */
/* What every unit test includes first: cmocka wants these headers before its own. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

/* A name for mkstemp(3) or mkdtemp(3), in the folder that the driver gives each test. */
static inline void unit_temporary(char *ret, size_t n, const char *stem)
{
	const char *folder = getenv("TMPDIR");

	snprintf(ret, n, "%s/%s-XXXXXX", folder ? folder : "/tmp", stem);
}
