/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One landing pad: machine code that is copied into a target, and that a thread walks through to the end
 * when nobody steers it any more. The numbers are those of struct pad_data in pad.h.
 *
 * Rules, so that it is right at every instruction:
 * - no stack (a goroutine may have a few bytes left) and no store: the pad lies in memory the task cannot
 *   write;
 * - no flag changes but around a function, thus jrcxz instead of compare: flags need no place to be restored from;
 * - no floating point;
 * - jumps go to local labels, since assemblers do not agree about how far a global one may be;
 * - what it does twice does no harm, and what it does on a failed call (close or munmap of an errno) fails.
 *
 * Of NAME(), the prefix of its labels, NARROW, CODE_SIZE and DATA_SIZE. The narrow one leads to 32-bit code alone: it loads no
 * registers that such code does not have, and where it goes on is an offset of 32 bits and a selector.
 */

#undef DATA
#undef LEAVE
#define DATA(offset) (NAME(_data) + offset)(%rip)
#if NARROW
#define LEAVE ljmpl
#else
#define LEAVE jmp
#endif

	.balign 16
	.globl NAME(), NAME(_call), NAME(_call_undo), NAME(_run), NAME(_enter), NAME(_catch), NAME(_tail), NAME(_data), NAME(_end)
	.globl NAME(_wait), NAME(_waited)
	.hidden NAME(), NAME(_call), NAME(_call_undo), NAME(_run), NAME(_enter), NAME(_catch), NAME(_tail), NAME(_data), NAME(_end)
	.hidden NAME(_wait), NAME(_waited)
#if !NARROW
	.globl NAME(_far), NAME(_eintr_far)
	.hidden NAME(_far), NAME(_eintr_far)
#endif

NAME():
	.ascii "ferrypad"		/* struct pad_head */
	.long 0
NAME(_hold):
	.long 0

/* One system call, whose number and arguments are in the registers. */
NAME(_call):
	syscall
	jmp	NAME(_out)

/* The same, for a call whose result has to be given back: close(result), munmap(result, length). */
NAME(_call_undo):
	syscall
	mov	DATA(D_RESULT_NR), %rcx
	jrcxz	NAME(_out)
	mov	%rax, %rdi
	mov	DATA(D_RESULT_ARG), %rsi
	mov	%ecx, %eax
	syscall
	jmp	NAME(_out)

/*
 * A function: rbx = its address, rbp = its argument, rsp = a stack of ours, r12 = flags to go on with. Before it a call that
 * makes its memory what it is to be; if that fails, r9 stays what it is.
 */
NAME(_run):
	syscall
	xchg	%rax, %rcx
	jrcxz	1f
	jmp	2f
1:	push	%rbp
	pop	%rdi
	cld
NAME(_enter):
	call	*%rbx
	mov	%rax, %r9
	push	%r12
	popfq
	/* Off the function's stack before it is unmapped or a signal handler needs one. */
2:	mov	DATA(D_RSP), %rsp

/*
 * A call without effect, in whose entry the tracer finds the function's result (sixth argument). Or one that lets in a
 * signal which the tracer has sent and the application ignores: it stops a traced thread behind the call, and is nothing
 * to one that is not.
 */
NAME(_catch):
	mov	DATA(D_CATCH_NR), %rax
	mov	DATA(D_CATCH_ARG), %rdi
	lea	DATA(D_CATCH_MASK), %rsi
	mov	$0, %edx
	mov	$8, %r10d
	syscall

NAME(_tail):
NAME(_out):
	/* Wait for the tracer, which has not stopped this thread behind its call; see step_held(). */
NAME(_wait):
0:	mov	NAME(_hold)(%rip), %ecx
	jrcxz	9f
	pause
	jmp	0b
NAME(_waited):
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
	mov	%ecx, %edi		/* 0 here */
	mov	%ecx, %esi
	mov	DATA(D_PROBE_NR), %rcx
	jrcxz	6f
	mov	%ecx, %eax
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
	mov	%edi, %edx		/* 0 still */
	mov	$2, %edi
	lea	DATA(D_MASK), %rsi
	mov	$8, %r10d
	syscall
7:	mov	%rbx, %rcx
#if !NARROW
	mov	DATA(D_R15), %r15
	mov	DATA(D_R14), %r14
	mov	DATA(D_R13), %r13
	mov	DATA(D_R12), %r12
	mov	DATA(D_R11), %r11
	mov	DATA(D_R10), %r10
	mov	DATA(D_R9), %r9
	mov	DATA(D_R8), %r8
#endif
	mov	DATA(D_RBP), %rbp
	mov	DATA(D_RBX), %rbx
	mov	DATA(D_RDX), %rdx
	mov	DATA(D_RSI), %rsi
	mov	DATA(D_RDI), %rdi
	jrcxz	8f
	mov	DATA(D_RCX), %rcx
	mov	DATA(D_EINTR_RAX), %rax
	LEAVE	*DATA(D_EINTR_RIP)
8:	mov	DATA(D_RCX), %rcx
	mov	DATA(D_RAX), %rax
	LEAVE	*DATA(D_RIP)

#if !NARROW
/* Where D_RIP and D_EINTR_RIP lead when the thread's own code is of 32 bits: an offset of 32 bits and a selector. */
NAME(_far):
	ljmpl	*DATA(D_FAR)
NAME(_eintr_far):
	ljmpl	*DATA(D_EINTR_FAR)
#endif

	.org	NAME() + CODE_SIZE
NAME(_data):
	.fill	DATA_SIZE / 8, 8, 0
NAME(_end):
