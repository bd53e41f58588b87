/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the running kernel and the caller's rights allow. A struct kern_caps is handed on as a const pointer; there is
 * no global. What somebody asks for is found out then, and kept; several threads may ask. Probes ask the interface itself, never the version; the
 * version in the table only tells a reader when a fallback becomes removable.
 *
 * A probe changes nothing that outlives it. Some start a child that no SIGCHLD tells of, and reap it.
 */
#pragma once

#include <pthread.h>
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

/* Sysctls. */
enum kern_limit {
	KERN_LIMIT_PID_MAX,
	KERN_LIMIT_MAX_MAP_COUNT,
	KERN_LIMIT_CAP_LAST, /* highest CAP_* that this kernel knows */
	KERN_LIMIT_COUNT,
};

struct kern_caps {
	struct kern_caps *keeps; /* itself: what is not known yet is looked at; NULL: it counts as absent */
	pthread_mutex_t lock;    /* of who finds something out; recursive, a probe may need another */
	uint8_t state[KERN_CAP_COUNT];     /* enum kern_cap_state */
	int16_t reason[KERN_CAP_COUNT];    /* errno value behind ABSENT and DENIED; 0 = none */
	uint64_t uffd_features;            /* UFFD_FEATURE_*; filled with any of the uffd probes */
	uint64_t uffd_ioctls;              /* 1 << _UFFDIO_* */
	bool uffd_user_mode_only;          /* only UFFD_USER_MODE_ONLY descriptors are allowed */
	uint32_t limits[KERN_LIMIT_COUNT]; /* 0 = not read yet; for kern_limit() */
	struct kern_rights {               /* 1 << CAP_*; in the caller's user namespace */
		bool read;
		uint64_t effective, bounding;
	} rights;
	struct kern_xstate { /* the XSAVE area */
		bool read;
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

/* Nothing is known; what is asked for will be found out. */
void kern_caps_init(struct kern_caps *caps);

/* A sysctl; one that cannot be read counts as the kernel's default, and so do all of a zeroed struct kern_caps. */
uint32_t kern_limit(const struct kern_caps *caps, enum kern_limit limit);

/* The caller's capabilities; none of a zeroed struct kern_caps. */
const struct kern_rights *kern_rights(const struct kern_caps *caps);

/* How this processor lays out extended state. */
const struct kern_xstate *kern_xstate(const struct kern_caps *caps);

/* enum kern_cap_state, found out if nobody has asked before. caps may be NULL. */
enum kern_cap_state kern_cap_state(const struct kern_caps *caps, enum kern_cap_id id);

/* Whether a capability can be used. A zeroed struct kern_caps means "every fallback", which tests use. caps may be NULL. */
static inline bool kern_has(const struct kern_caps *caps, enum kern_cap_id id)
{
	return kern_cap_state(caps, id) == KERN_PRESENT;
}

/* Whether it is there, but not for the caller. */
static inline bool kern_denied(const struct kern_caps *caps, enum kern_cap_id id)
{
	return kern_cap_state(caps, id) == KERN_DENIED;
}

/* Whether the caller holds CAP_number (linux/capability.h). */
static inline bool kern_capable(const struct kern_caps *caps, unsigned number)
{
	return number < 64 && (kern_rights(caps)->effective >> number & 1);
}

/*
 * Fail with KERNEL_FEATURE unless kern_has(): the message names the interface, the kernel that brought it, and
 * the running one. what: what the caller wanted it for.
 */
must_check int kern_need(const struct kern_caps *caps, enum kern_cap_id id, const char *what,
			 struct ferry_error *err);
