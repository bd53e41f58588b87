/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds known values in every register of a thread for a while and hands back what is in them afterwards.
 * Offsets are those of struct hold in target.h. While it holds, the stack pointer may stand in memory of
 * the caller's choice: the two words above it are used, nothing else.
 */
#define IN(i) (8 * (i))(%rdi)
#define OUT 120
#define LOOPS 240
#define SAVED_RSP 248
#define FLAGS 256
#define STACK 264
#define LEVEL 272
#define MXCSR_IN 280
#define MXCSR_OUT 284
#define FCW_IN 288
#define FCW_OUT 290
#define VECTOR_IN 320
#define VECTOR_OUT 2368
#define K_IN 4416
#define K_OUT 4480
#define X87_IN 4544
#define X87_OUT 4608

	.text
	.globl	hold_run
	.type	hold_run, @function
hold_run:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	pushfq
	mov	%rsp, SAVED_RSP(%rdi)

	ldmxcsr	MXCSR_IN(%rdi)
	fninit
	fldcw	FCW_IN(%rdi)
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7
	fildq	X87_IN + 8 * \i(%rdi)
	.endr
	cmpl	$1, LEVEL(%rdi)
	ja	13f
	je	12f
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	movdqu	VECTOR_IN + 64 * \i(%rdi), %xmm\i
	.endr
	jmp	14f
12:	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	VECTOR_IN + 64 * \i(%rdi), %ymm\i
	.endr
	jmp	14f
13:	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64 VECTOR_IN + 64 * \i(%rdi), %zmm\i
	.endr
	.irp i, 1, 2, 3, 4, 5, 6, 7
	kmovq	K_IN + 8 * \i(%rdi), %k\i
	.endr
14:
	mov	STACK(%rdi), %rax
	test	%rax, %rax
	cmovz	%rsp, %rax
	mov	LOOPS(%rdi), %rcx
	mov	%rax, %rsp
	push	%rdi
	push	%rcx
	mov	IN(0), %rax
	mov	IN(1), %rbx
	mov	IN(2), %rcx
	mov	IN(3), %rdx
	mov	IN(4), %rsi
	mov	IN(6), %rbp
	mov	IN(7), %r8
	mov	IN(8), %r9
	mov	IN(9), %r10
	mov	IN(10), %r11
	mov	IN(11), %r12
	mov	IN(12), %r13
	mov	IN(13), %r14
	mov	IN(14), %r15
	mov	IN(5), %rdi
	stc
	std
1:	decq	(%rsp)			/* leaves the carry alone */
	jnz	1b
	/* The counter's place becomes scratch: nothing else of the stack may be touched. */
	mov	%rax, (%rsp)
	mov	8(%rsp), %rax
	mov	%rbx, OUT + 8 * 1(%rax)
	mov	%rcx, OUT + 8 * 2(%rax)
	mov	%rdx, OUT + 8 * 3(%rax)
	mov	%rsi, OUT + 8 * 4(%rax)
	mov	%rdi, OUT + 8 * 5(%rax)
	mov	%rbp, OUT + 8 * 6(%rax)
	mov	%r8, OUT + 8 * 7(%rax)
	mov	%r9, OUT + 8 * 8(%rax)
	mov	%r10, OUT + 8 * 9(%rax)
	mov	%r11, OUT + 8 * 10(%rax)
	mov	%r12, OUT + 8 * 11(%rax)
	mov	%r13, OUT + 8 * 12(%rax)
	mov	%r14, OUT + 8 * 13(%rax)
	mov	%r15, OUT + 8 * 14(%rax)
	mov	(%rsp), %rbx
	mov	%rbx, OUT(%rax)
	mov	%rax, %rdi
	mov	SAVED_RSP(%rdi), %rsp
	pushfq
	pop	FLAGS(%rdi)
	cld

	stmxcsr	MXCSR_OUT(%rdi)
	fnstcw	FCW_OUT(%rdi)
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7
	fistpq	X87_OUT + 8 * \i(%rdi)
	.endr
	cmpl	$1, LEVEL(%rdi)
	ja	23f
	je	22f
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	movdqu	%xmm\i, VECTOR_OUT + 64 * \i(%rdi)
	.endr
	jmp	24f
22:	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	%ymm\i, VECTOR_OUT + 64 * \i(%rdi)
	.endr
	vzeroupper
	jmp	24f
23:	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64 %zmm\i, VECTOR_OUT + 64 * \i(%rdi)
	.endr
	.irp i, 1, 2, 3, 4, 5, 6, 7
	kmovq	%k\i, K_OUT + 8 * \i(%rdi)
	.endr
	vzeroupper
24:
	fninit
	popfq
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret
	.size	hold_run, . - hold_run

/*
 * amx_load(config, tiles): 8 tiles of 1 KiB; amx_store(tiles). Tiles keep their contents across other code.
 */
	.globl	amx_load, amx_store
	.type	amx_load, @function
amx_load:
	ldtilecfg (%rdi)
	mov	$64, %eax
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7
	tileloadd 1024 * \i(%rsi, %rax), %tmm\i
	.endr
	ret
	.size	amx_load, . - amx_load

	.type	amx_store, @function
amx_store:
	mov	$64, %eax
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7
	tilestored %tmm\i, 1024 * \i(%rdi, %rax)
	.endr
	tilerelease
	ret
	.size	amx_store, . - amx_store

	.section .note.GNU-stack, "", @progbits
