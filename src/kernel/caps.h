/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the running kernel and the caller's rights allow. A struct kern_caps is filled once, by the probes that a
 * job needs, and handed on as a const pointer; there is no global. Probes ask the interface itself, never the
 * version; the version in the table only tells a reader when a fallback becomes removable.
 *
 * A probe changes nothing that outlives it. Some start a child that no SIGCHLD tells of, and reap it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

enum kern_cap_id {
#define KERN_CAP(name, word, probe, version, text) KERN_CAP_##name,
#include "kernel/caps.def"
#undef KERN_CAP
	KERN_CAP_COUNT,
};

enum kern_cap_state {
	KERN_UNKNOWN = 0, /* not probed */
	KERN_ABSENT,      /* this kernel lacks it, or was built without it */
	KERN_DENIED, /* it is there, but not for the caller: a capability, a sysctl or seccomp forbids it */
	KERN_PRESENT,
};

/* More than the components of any processor so far. */
enum { KERN_XSTATE_PARTS = 20 };

struct kern_caps {
	uint8_t state[KERN_CAP_COUNT];  /* enum kern_cap_state */
	int16_t reason[KERN_CAP_COUNT]; /* errno value behind ABSENT and DENIED; 0 = none */
	uint64_t uffd_features;         /* UFFD_FEATURE_*; filled with any of the uffd probes */
	uint64_t uffd_ioctls;           /* 1 << _UFFDIO_* */
	bool uffd_user_mode_only;       /* only UFFD_USER_MODE_ONLY descriptors are allowed */
	struct kern_limits {            /* filled by kern_caps_read_limits() */
		uint64_t capabilities;  /* effective, 1 << CAP_*; in the caller's user namespace */
		uint64_t capability_bounding;
		uint32_t pid_max;
		uint32_t threads_max;
		uint32_t max_map_count;
		uint32_t nr_open;
		uint64_t file_max;
		uint32_t pipe_max_bytes;
		uint32_t cap_last;   /* highest CAP_* that this kernel knows */
		uint32_t overcommit; /* vm.overcommit_memory */
		char release[65];    /* uname -r */
	} limits;
	struct kern_xstate {       /* the XSAVE area; filled by kern_caps_read_xstate() */
		uint64_t features; /* that XCR0 enables, 1 << component */
		uint32_t bytes;    /* of an area with all of them */
		struct {
			uint32_t bytes, offset; /* in the standard format; bytes 0: this machine lacks it */
		} part[KERN_XSTATE_PARTS];
	} xstate;
};

struct kern_cap_info {
	const char *word;
	const char *version; /* first kernel with it */
	const char *text;
	/* KERN_PRESENT, or KERN_ABSENT or KERN_DENIED with *ret_reason set (an errno value). */
	enum kern_cap_state (*probe)(struct kern_caps *caps, int *ret_reason);
};

/* Table entry of a capability; NULL beyond KERN_CAP_COUNT. */
const struct kern_cap_info *kern_cap_info(enum kern_cap_id id);

/* The capability called word, or -EINVAL. */
int kern_cap_find(const char *word);

/* Probe one capability unless that was done already; returns its state. */
enum kern_cap_state kern_caps_probe(struct kern_caps *caps, enum kern_cap_id id);

/* Probe these n, all (kern_caps_probe_all). What was probed already is not probed again. */
void kern_caps_probe_some(struct kern_caps *caps, const enum kern_cap_id *ids, size_t n);
void kern_caps_probe_all(struct kern_caps *caps);

/* Read capabilities and sysctls. A sysctl that cannot be read counts as its default. */
must_check int kern_caps_read_limits(struct kern_caps *caps, struct ferry_error *err);

/* Read how this processor lays out extended state. */
void kern_caps_read_xstate(struct kern_caps *caps);

/*
 * Whether a capability can be used. What was not probed counts as absent, so a zeroed struct kern_caps means
 * "every fallback", which tests use. caps may be NULL.
 */
static inline bool kern_has(const struct kern_caps *caps, enum kern_cap_id id)
{
	return caps && caps->state[id] == KERN_PRESENT;
}

/* Whether the caller holds CAP_number (linux/capability.h); kern_caps_read_limits() was called before. */
static inline bool kern_capable(const struct kern_caps *caps, unsigned number)
{
	return caps && number < 64 && (caps->limits.capabilities >> number & 1);
}

/*
 * Fail with KERNEL_FEATURE unless kern_has(): the message names the interface, the kernel that brought it, and
 * the running one. what: what the caller wanted it for.
 */
must_check int kern_need(const struct kern_caps *caps, enum kern_cap_id id, const char *what,
			 struct ferry_error *err);
