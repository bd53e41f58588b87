/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the way from a log call to the caller's sink. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

uint64_t time_now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void log_write(const struct log_sink *sink, enum log_level level, const char *stage, const char *kind,
	       pid_t pid, const char *fmt, ...)
{
	if (!sink || !sink->write || level > sink->level)
		return;
	char text[1024];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	struct log_line line = {
		.level = level,
		.time_ns = time_now_ns(),
		.stage = stage ? stage : "",
		.kind = kind ? kind : "",
		.pid = pid,
		.text = text,
	};
	sink->write(sink->context, &line);
}
