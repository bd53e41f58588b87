/* SPDX-License-Identifier: Apache-2.0 */
/* What the target program and the tests share: memory in which the target tells how it is. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TARGET_FD 3 /* the shared memory */
#define TARGET_THREADS 64

struct target_thread {
	pid_t tid;
	char name[28];
	volatile uint64_t beat; /* grows while the thread is well */
	volatile uint64_t
		eintr; /* calls that returned EINTR, of those that signal(7) says may do so after a stop */
	volatile uint64_t aux[4];
};

struct target_shared {
	volatile int ready;
	volatile int go;        /* the meaning is the mode's */
	volatile int n_threads; /* entries used in thread[] */
	volatile int finished;
	volatile int semaphore; /* System V id + 1, for the test to remove; 0 = none */
	volatile uint64_t bad;  /* wrong results seen by the target itself */
	char bad_text[200];     /* the first */
	volatile uint64_t sent, handled;
	struct target_thread thread[TARGET_THREADS];
};

/* Registers to hold, for hold.S. */
struct hold {
	uint64_t in[15], out[15]; /* rax rbx rcx rdx rsi rdi rbp r8..r15 */
	uint64_t loops, saved_rsp, flags, stack;
	uint32_t level, spare; /* 0 SSE, 1 AVX, 2 AVX-512 */
	uint32_t mxcsr_in, mxcsr_out;
	uint16_t fcw_in, fcw_out;
	uint32_t unused_[7];
	uint8_t vector_in[32][64], vector_out[32][64];
	uint64_t k_in[8], k_out[8];
	int64_t x87_in[8], x87_out[8];
} __attribute__((aligned(64)));

void hold_run(struct hold *h);
void amx_load(const void *config, const void *tiles);
void amx_store(void *tiles);
