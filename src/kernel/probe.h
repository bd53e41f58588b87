/* SPDX-License-Identifier: Apache-2.0 */
/* Between caps.c and the probe_*.c files only. */
#pragma once

#include <errno.h>

#include "kernel/caps.h"

#define KERN_CAP(name, word, probe, version, text) \
	enum kern_cap_state kern_probe_##probe(struct kern_caps *caps, int *ret_reason);
#include "kernel/caps.def"
#undef KERN_CAP

/* The caller's effective capabilities. */
must_check int kern_capabilities(uint64_t *ret_effective);

/* What the result of trying it (>= 0 or -errno) says. */
static inline enum kern_cap_state probe_verdict(long r, int *ret_reason)
{
	if (r >= 0)
		return KERN_PRESENT;
	*ret_reason = (int)-r;
	return r == -EPERM || r == -EACCES ? KERN_DENIED : KERN_ABSENT;
}

/* As probe_verdict() for a call made so that it fails with this errno value where the interface exists. */
static inline enum kern_cap_state probe_expect(long r, int present_errno, int *ret_reason)
{
	return probe_verdict(r == -present_errno ? 0 : r, ret_reason);
}

/* KERN_PRESENT turned to KERN_DENIED unless the caller holds one of two capabilities. */
enum kern_cap_state probe_privilege(enum kern_cap_state state, unsigned cap, unsigned or_cap,
				    int *ret_reason);
