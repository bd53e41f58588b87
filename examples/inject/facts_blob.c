/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A blob: a function that runs inside another process. It is built freestanding, position-independent and
 * with general registers only, and becomes a flat file whose first byte is its entry (blob.lds). It has no
 * libc, no globals, and a stack of 64 KiB that is not the application's.
 */
#include <stddef.h>
#include <stdint.h>

#include "facts.h"

enum {
	NR_getpid = 39,
	NR_sigaltstack = 131,
	NR_prctl = 157,
	NR_gettid = 186,

	GET_PDEATHSIG = 2,
	GET_TIMERSLACK = 30,
	GET_TID_ADDRESS = 40,
};

/* stack_t of the kernel. */
struct alternate_stack {
	uint64_t pointer;
	int32_t flags;
	uint32_t pad;
	uint64_t bytes;
};

static long call(long nr, uint64_t a, uint64_t b)
{
	register uint64_t zero __asm__("r10") = 0;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(nr), "D"(a), "S"(b), "d"(0l), "r"(zero)
			 : "rcx", "r11", "memory");
	return r;
}

static void note(struct facts *facts, long r)
{
	if (r < 0 && !facts->first_error)
		facts->first_error = (int32_t)-r;
}

/* The entry: section and order are the linker script's. */
__attribute__((section(".entry"), used)) long blob_main(struct facts *facts);

long blob_main(struct facts *facts)
{
	struct alternate_stack stack = {0, 0, 0, 0};

	facts->pid = (int32_t)call(NR_getpid, 0, 0);
	facts->tid = (int32_t)call(NR_gettid, 0, 0);
	note(facts, call(NR_sigaltstack, 0, (uint64_t)&stack));
	facts->stack_pointer = stack.pointer;
	facts->stack_bytes = stack.bytes;
	facts->stack_flags = stack.flags;
	note(facts, call(NR_prctl, GET_PDEATHSIG, (uint64_t)&facts->death_signal));
	note(facts, call(NR_prctl, GET_TID_ADDRESS, (uint64_t)&facts->clear_tid));
	facts->timer_slack_ns = (uint64_t)call(NR_prctl, GET_TIMERSLACK, 0);
	return facts->first_error ? -1 : 0;
}
