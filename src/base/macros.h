/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the few compiler attributes and arithmetic helpers that every room uses. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define must_check __attribute__((warn_unused_result))
#define printf_like(fmt, args) __attribute__((format(printf, fmt, args)))
#define unused __attribute__((unused))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

static inline uint64_t align_down(uint64_t value, uint64_t grain)
{
	return value / grain * grain;
}

static inline uint64_t align_up(uint64_t value, uint64_t grain)
{
	return align_down(value + grain - 1, grain);
}
