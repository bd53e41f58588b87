/* SPDX-License-Identifier: Apache-2.0 */
/* The landing pads' layout; the code is in pad-code.S, how it is used in inject/slot.c. */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

#include "base/macros.h"

#define PAD_MAGIC 0x6461707972726566u        /* "ferrypad" */
#define PAD_NARROW_MAGIC 0x6e61707972726566u /* "ferrypan" */
#define PAD_UNMAPS 4
#define PAD_SYSCALL_BYTES 2
/* clang-format off */
#define PAD_NOP {0x66, 0x90}
/* clang-format on */

/* First in a slot: tells a later ferry what it has found. */
struct pad_head {
	uint64_t magic;
	uint32_t tid;
	uint32_t hold; /* 1: the thread waits behind the call that it makes */
};

/* Read by pad.S: the offsets are repeated there. */
struct pad_data {
	uint64_t mask;
	uint64_t zero[2];
	uint64_t
		result_nr; /* call that gives back the result of the call at ferry__pad_call_undo; 0 = none */
	uint64_t result_arg; /* its second argument */
	struct {
		uint64_t bytes, address;
	} unmap[PAD_UNMAPS];
	uint64_t unmap_end;
	uint64_t wait;    /* address of a 32-bit word that must be zero before anything is unmapped */
	uint64_t release; /* address of a word of another thread to clear; 0 = none */
	uint64_t catch_nr, catch_arg;
	uint64_t catch_mask; /* signals that are unblocked when a function has returned */
	uint64_t probe_nr;   /* ppoll or 0 */
	uint64_t mask_nr;    /* rt_sigprocmask or 0 */
	uint64_t rip, rax;
	uint64_t eintr_rip, eintr_rax; /* the same, when a signal handler has run on the way out */
	uint64_t rcx, rbp, rbx, rdx, rsi, rdi, rsp;
	/* Up to here the narrow pad has it, with an offset of 32 bits and a selector in rip and in eintr_rip. */
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
	/* Where 32-bit code goes on; rip and eintr_rip lead to the jumps that read this. */
	uint64_t far, eintr_far;
};

#define PAD_DATA_AT(field, offset) \
	static_assert(offsetof(struct pad_data, field) == (offset), "pad.S reads " #field " elsewhere")

static_assert(offsetof(struct pad_head, hold) == 12, "pad.S reads hold elsewhere");
PAD_DATA_AT(unmap, 40);
PAD_DATA_AT(wait, 112);
PAD_DATA_AT(catch_nr, 128);
PAD_DATA_AT(catch_mask, 144);
PAD_DATA_AT(rip, 168);
PAD_DATA_AT(rcx, 200);
PAD_DATA_AT(rsp, 248);
PAD_DATA_AT(r15, 256);
PAD_DATA_AT(far, 320);
PAD_DATA_AT(eintr_far, 328);
static_assert(sizeof(struct pad_head) == 16, "pad.S has a head of 16 bytes");
static_assert(sizeof(struct pad_data) == 336, "pad.S has 336 bytes of data");

/* The labels of both, by name. */
#define PAD_LABELS(pad)                                                                                      \
	extern const unsigned char ferry__##pad[], ferry__##pad##_call[], ferry__##pad##_call_undo[],        \
		ferry__##pad##_run[], ferry__##pad##_enter[], ferry__##pad##_catch[], ferry__##pad##_tail[], \
		ferry__##pad##_data[], ferry__##pad##_end[], ferry__##pad##_wait[], ferry__##pad##_waited[]
PAD_LABELS(pad);
PAD_LABELS(narrow);
extern const unsigned char ferry__pad_far[], ferry__pad_eintr_far[];

#define PAD_OFFSET(label) ((uint64_t)((label)-ferry__pad))
#define PAD_NARROW_OFFSET(label) ((uint64_t)((label)-ferry__narrow))

/* Bytes of one slot, multiples of 8. Checked against pad.S by a unit test. */
#define PAD_CODE_BYTES 408
#define PAD_BYTES (PAD_CODE_BYTES + sizeof(struct pad_data))
#define PAD_NARROW_CODE_BYTES 344
#define PAD_NARROW_DATA_BYTES offsetof(struct pad_data, r15)
#define PAD_NARROW_BYTES (PAD_NARROW_CODE_BYTES + PAD_NARROW_DATA_BYTES)

/*
 * Fill the register part: 'normal' is where the thread goes on, 'eintr' where when a handler has run. 'pad' is the
 * address of a slot with the wide pad, 0 for the narrow one.
 */
void pad_data_set_regs(struct pad_data *data, uint64_t pad, const struct user_regs_struct *normal,
		       const struct user_regs_struct *eintr);
