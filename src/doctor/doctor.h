/* SPDX-License-Identifier: Apache-2.0 */
/* What ferry doctor finds out: which programs container engines would start here, what does not work and what to do, and whether a process moves. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/vec.h"

enum doctor_level { DOCTOR_NOTE, DOCTOR_WARN, DOCTOR_FAIL, DOCTOR_LEVELS };

struct doctor_finding {
	enum doctor_level level;
	char about[80]; /* what it concerns, one or several */
	char text[320], fix[320];
};

/* Each text may be empty: there is none. */
struct doctor_engine {
	char name[16], path[256];
	char runtime[64], runtime_path[256]; /* that it starts */
	char criu[256], criu_version[64];    /* that this one starts, and what it says */
	char library[256];                   /* libcriu, where it loads that */
	bool is_ferry;
};

struct doctor {
	VEC(struct doctor_engine) engines;
	VEC(struct doctor_finding) findings;
	bool moved; /* the process of the self-test */
	uint64_t dump_ns, restore_ns;
};

void doctor_release(struct doctor *d);

/* One more finding; the same text once more only concerns one more. */
void doctor_find(struct doctor *d, enum doctor_level level, const char *about, const char *fix,
		 const char *fmt, ...) printf_like(5, 6);

/* Engines in PATH, by their configuration files. */
void doctor_look_at_engines(struct doctor *d);

/* Rights, limits, kernel. */
void doctor_look_at_machine(struct doctor *d);

/* Dump and restore a small process, and see whether it is the same. */
void doctor_move(struct doctor *d, const struct log_sink *log);
