/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The landing pads: one for 64-bit code, which 32-bit code in a 64-bit program goes through as well, and a shorter one for
 * 32-bit programs, whose vdso has less room. See pad-code.S.
 */

#define D_MASK 0
#define D_ZERO 8
#define D_RESULT_NR 24
#define D_RESULT_ARG 32
#define D_UNMAP 40
#define D_WAIT 112
#define D_RELEASE 120
#define D_CATCH_NR 128
#define D_CATCH_ARG 136
#define D_CATCH_MASK 144
#define D_PROBE_NR 152
#define D_MASK_NR 160
#define D_RIP 168
#define D_RAX 176
#define D_EINTR_RIP 184
#define D_EINTR_RAX 192
#define D_RCX 200
#define D_RBP 208
#define D_RBX 216
#define D_RDX 224
#define D_RSI 232
#define D_RDI 240
#define D_RSP 248
#define D_NARROW_SIZE 256
#define D_R15 256
#define D_R14 264
#define D_R13 272
#define D_R12 280
#define D_R11 288
#define D_R10 296
#define D_R9 304
#define D_R8 312
#define D_FAR 320
#define D_EINTR_FAR 328
#define D_SIZE 336

#define NR_MUNMAP 11

	.section .rodata.ferry_pad, "a", @progbits

/* PAD_CODE_BYTES and PAD_NARROW_CODE_BYTES of pad.h; the assembler refuses to go back. */
#define NAME(label) ferry__pad##label
#define NARROW 0
#define CODE_SIZE 408
#define DATA_SIZE D_SIZE
#include "inject/arch/x86_64/pad-code.S"
#undef NAME
#undef NARROW
#undef CODE_SIZE
#undef DATA_SIZE

#define NAME(label) ferry__narrow##label
#define NARROW 1
#define CODE_SIZE 344
#define DATA_SIZE D_NARROW_SIZE
#include "inject/arch/x86_64/pad-code.S"

	.section .note.GNU-stack, "", @progbits
