/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building a script of system calls that the blob runs inside a task (blob/blob.h). Kinds append calls; the
 * host copies the finished script into memory of the task and reads results and data back from there.
 *
 *   script_call(s, "alternate stack", SYS_sigaltstack, 0, script_put(s, &ss, sizeof(ss)))->data_mask = 1 << 1;
 */
#pragma once

#include <stdint.h>

#include "base/strbuf.h"
#include "base/vec.h"
#include "blob/blob.h"

struct script_note {
	const char *what; /* static or owned by an arena that outlives the script: named in errors */
	uint64_t detail;  /* number named with it, for instance an address; 0 = none */
};

struct script {
	VEC(struct blob_call) calls;
	VEC(struct script_note) notes; /* one for each call */
	struct strbuf data;
	struct blob_call scratch; /* what script_call() returns when memory is short */
	bool failed;
};

void script_release(struct script *s);

/* Nothing follows, as a rule: give back what it has beyond its calls. */
void script_trim(struct script *s);

/* Append n bytes (zeroes when bytes is NULL) to the data, 64-byte aligned; returns their offset. */
uint64_t script_put(struct script *s, const void *bytes, size_t n);

/*
 * Append a call. The check is BLOB_CHECK_OK and no argument is an offset into the data until the caller changes
 * that in the returned call, which is valid until the next script_call(). Never NULL.
 */
struct blob_call *script_call_args(struct script *s, const char *what, uint32_t nr, const uint64_t arg[6]);
#define script_call(s, what, nr, ...) script_call_args(s, what, nr, (const uint64_t[6]){__VA_ARGS__})

/* The same for a call of the 32-bit table, whose arguments are of 32 bits: pointers into the data are not possible. */
#define script_call_i386(s, what, nr, ...) \
	script_call_i386_args(s, what, nr, (const uint64_t[6]){__VA_ARGS__})
struct blob_call *script_call_i386_args(struct script *s, const char *what, uint32_t nr,
					const uint64_t arg[6]);

/* Name a number (an address, a descriptor) in the error of the last call. */
void script_detail(struct script *s, uint64_t detail);

/* Index of the last call, to find its result later. */
static inline uint32_t script_last(const struct script *s)
{
	return (uint32_t)s->calls.n - 1;
}

/* Bytes that calls and data take in the task: both parts start 64-byte aligned. */
size_t script_calls_bytes(const struct script *s);
size_t script_bytes(const struct script *s);

/* Copy the script to `to`, which the task sees at address; *ret_head is the description that the blob wants. */
void script_place(const struct script *s, void *to, uint64_t address, struct blob_script *ret_head);
