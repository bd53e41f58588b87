/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines go to a sink that the caller gives; libraries never print. A line carries job, stage, kind and
 * pid so that it can be filtered; the text is lower case, quotes 'names', and says ", ignoring" when what it
 * reports is not fatal.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"

/* LOG_PROGRESS: how far something is, for whoever waits; sent even where nobody wants to know more. */
enum log_level { LOG_ERROR_LEVEL = 1, LOG_WARN, LOG_PROGRESS, LOG_INFO, LOG_DEBUG };

struct log_line {
	enum log_level level;
	uint64_t time_ns;  /* CLOCK_MONOTONIC */
	const char *stage; /* never NULL */
	const char *kind;  /* never NULL */
	pid_t pid;         /* 0 = none */
	const char *text;
};

struct log_sink {
	void (*write)(void *context, const struct log_line *line);
	void *context;
	enum log_level level; /* lines above it are dropped before formatting */
};

/* Log one line; sink may be NULL. */
void log_write(const struct log_sink *sink, enum log_level level, const char *stage, const char *kind,
	       pid_t pid, const char *fmt, ...) printf_like(6, 7);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t time_now_ns(void);
