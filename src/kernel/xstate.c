/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the layout of the XSAVE area on this machine. Kernel interface: none; CPUID leaf 13 and XGETBV.
 *
 * CPUID costs tens of microseconds in a virtual machine, so it is asked once for each job and not for each thread.
 */
#include <cpuid.h>

#include "kernel/caps.h"

static void read_xstate(struct kern_xstate *ret)
{
	uint32_t a = 0, b = 0, c = 0, d = 0, low, high;

	if (!__get_cpuid_count(13, 0, &a, &b, &c, &d))
		return;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	ret->features = low | (uint64_t)high << 32;
	ret->bytes = c;
	for (unsigned i = 2; i < KERN_XSTATE_PARTS; i++) {
		if (!(ret->features >> i & 1))
			continue;
		__cpuid_count(13, i, a, b, c, d);
		ret->part[i].bytes = a;
		ret->part[i].offset = b;
	}
}

const struct kern_xstate *kern_xstate(const struct kern_caps *caps)
{
	if (__atomic_load_n(&caps->xstate.read, __ATOMIC_ACQUIRE) || !caps->keeps)
		return &caps->xstate;
	pthread_mutex_lock(&caps->keeps->lock);
	if (!caps->xstate.read) {
		read_xstate(&caps->keeps->xstate);
		__atomic_store_n(&caps->keeps->xstate.read, true, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&caps->keeps->lock);
	return &caps->xstate;
}
