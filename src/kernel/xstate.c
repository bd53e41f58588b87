/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the layout of the XSAVE area on this machine. Kernel interface: none; CPUID leaf 13 and XGETBV.
 *
 * CPUID costs tens of microseconds in a virtual machine, so it is asked once for each job and not for each thread.
 */
#include <cpuid.h>

#include "kernel/caps.h"

void kern_caps_read_xstate(struct kern_caps *caps)
{
	uint32_t a = 0, b = 0, c = 0, d = 0, low, high;

	if (!__get_cpuid_count(13, 0, &a, &b, &c, &d))
		return;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	caps->xstate.features = low | (uint64_t)high << 32;
	caps->xstate.bytes = c;
	for (unsigned i = 2; i < KERN_XSTATE_PARTS; i++) {
		if (!(caps->xstate.features >> i & 1))
			continue;
		__cpuid_count(13, i, a, b, c, d);
		caps->xstate.part[i].bytes = a;
		caps->xstate.part[i].offset = b;
	}
}
