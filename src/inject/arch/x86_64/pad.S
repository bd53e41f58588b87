/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The landing pad: machine code that is copied into a target, and that a thread walks through to the end
 * when nobody steers it any more. The numbers are those of struct pad_data in pad.h.
 *
 * Rules, so that it is right at every instruction:
 * - no stack (a goroutine may have a few bytes left) and no store: the pad lies in memory the task cannot
 *   write;
 * - no flag changes, thus jrcxz instead of compare: flags need no place to be restored from;
 * - no floating point;
 * - jumps go to local labels, since assemblers do not agree about how far a global one may be;
 * - what it does twice does no harm, and what it does on a failed call (close or munmap of an errno) fails.
 */

#define MAGIC 0
#define DATA(offset) (pad_data + offset)(%rip)

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
#define D_R15 208
#define D_R14 216
#define D_R13 224
#define D_R12 232
#define D_RBP 240
#define D_RBX 248
#define D_R11 256
#define D_R10 264
#define D_R9 272
#define D_R8 280
#define D_RDX 288
#define D_RSI 296
#define D_RDI 304
#define D_RSP 312
#define D_SIZE 320

/* PAD_CODE_BYTES of pad.h; the assembler refuses to go back. */
#define CODE_SIZE 400

#define NR_MUNMAP 11

	.section .rodata.ferry_pad, "a", @progbits
	.balign 16
	.globl ferry__pad, ferry__pad_call, ferry__pad_call_undo, ferry__pad_run, ferry__pad_catch
	.globl ferry__pad_tail, ferry__pad_data, ferry__pad_end
	.globl ferry__pad_wait, ferry__pad_waited
	.hidden ferry__pad_wait, ferry__pad_waited
	.hidden ferry__pad, ferry__pad_call, ferry__pad_call_undo, ferry__pad_run, ferry__pad_catch
	.hidden ferry__pad_tail, ferry__pad_data, ferry__pad_end

ferry__pad:
	.ascii "ferrypad"		/* struct pad_head */
	.long 0
pad_hold:
	.long 0

/* One system call, whose number and arguments are in the registers. */
ferry__pad_call:
	syscall
	jmp	.Ltail

/* The same, for a call whose result has to be given back: close(result), munmap(result, length). */
ferry__pad_call_undo:
	syscall
	mov	DATA(D_RESULT_NR), %rcx
	jrcxz	.Ltail
	mov	%rax, %rdi
	mov	DATA(D_RESULT_ARG), %rsi
	mov	%ecx, %eax
	syscall
	jmp	.Ltail

/* A function: rax = its address, rdi = its argument, rsp = a stack of ours, r12 = flags to go on with. */
ferry__pad_run:
	cld
	call	*%rax
	mov	%rax, %r9
	push	%r12
	popfq
	/* Off the function's stack before it is unmapped or a signal handler needs one. */
	mov	DATA(D_RSP), %rsp

/*
 * A call without effect, in whose entry the tracer finds the function's result (sixth argument). Or one that lets in a
 * signal which the tracer has sent and the application ignores: it stops a traced thread behind the call, and is nothing
 * to one that is not.
 */
ferry__pad_catch:
	mov	DATA(D_CATCH_NR), %rax
	mov	DATA(D_CATCH_ARG), %rdi
	lea	DATA(D_CATCH_MASK), %rsi
	mov	$0, %edx
	mov	$8, %r10d
	syscall

ferry__pad_tail:
.Ltail:
	/* Wait for the tracer, which has not stopped this thread behind its call; see step_held(). */
ferry__pad_wait:
0:	mov	pad_hold(%rip), %ecx
	jrcxz	9f
	pause
	jmp	0b
ferry__pad_waited:
9:
	/* Tell the owner of memory used here that this thread needs it no longer. */
	mov	DATA(D_RELEASE), %rcx
	jrcxz	1f
	movl	$0, (%rcx)
1:	/* Wait for the thread that uses memory owned by this one. */
	mov	DATA(D_WAIT), %rdx
2:	mov	(%rdx), %ecx
	jrcxz	3f
	pause
	jmp	2b
3:	/* Unmap what this thread owns: {length, address} up to a zero length. */
	lea	DATA(D_UNMAP), %rbx
4:	mov	(%rbx), %rcx
	jrcxz	5f
	mov	%rcx, %rsi
	mov	8(%rbx), %rdi
	mov	$NR_MUNMAP, %eax
	syscall
	lea	16(%rbx), %rbx
	jmp	4b
5:	/*
	 * ppoll(NULL, 0, {0, 0}, mask): -EINTR when a handler has run, 0 when none was due. A call that a
	 * handler interrupts (pause, poll, a timed wait) must then return EINTR and not be made again.
	 */
	mov	DATA(D_PROBE_NR), %rcx
	jrcxz	6f
	mov	%ecx, %eax
	mov	$0, %edi
	mov	$0, %esi
	lea	DATA(D_ZERO), %rdx
	lea	DATA(D_MASK), %r10
	mov	$8, %r8d
	syscall
	mov	%rax, %rcx
6:	mov	%rcx, %rbx
	/* rt_sigprocmask(SIG_SETMASK, mask) */
	mov	DATA(D_MASK_NR), %rcx
	jrcxz	7f
	mov	%ecx, %eax
	mov	$2, %edi
	lea	DATA(D_MASK), %rsi
	mov	$0, %edx
	mov	$8, %r10d
	syscall
7:	mov	%rbx, %rcx
	mov	DATA(D_R15), %r15
	mov	DATA(D_R14), %r14
	mov	DATA(D_R13), %r13
	mov	DATA(D_R12), %r12
	mov	DATA(D_RBP), %rbp
	mov	DATA(D_RBX), %rbx
	mov	DATA(D_R11), %r11
	mov	DATA(D_R10), %r10
	mov	DATA(D_R9), %r9
	mov	DATA(D_R8), %r8
	mov	DATA(D_RDX), %rdx
	mov	DATA(D_RSI), %rsi
	mov	DATA(D_RDI), %rdi
	jrcxz	8f
	mov	DATA(D_RCX), %rcx
	mov	DATA(D_EINTR_RAX), %rax
	jmp	*DATA(D_EINTR_RIP)
8:	mov	DATA(D_RCX), %rcx
	mov	DATA(D_RAX), %rax
	jmp	*DATA(D_RIP)

	.org	ferry__pad + CODE_SIZE
ferry__pad_data:
pad_data:
	.fill	D_SIZE / 8, 8, 0
ferry__pad_end:

	.section .note.GNU-stack, "", @progbits
