/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exit gadget: the last instructions of ferry that a restored thread executes. It lives in the slack at the end
 * of the vdso, so nothing of ours stays mapped. Entered with rsp on the frame (enum blob_frame_word) and the
 * arguments of FUTEX_WAIT in rdi, rsi, rdx, r10; sleeps at the barrier; then unmaps the blob (leader), sets
 * the signal mask and loads all registers. A signal that arrives after the mask was set lands below the
 * frame, like one that arrives a moment later. iretq takes rip, cs, rflags, rsp and ss in one go, so no register
 * is needed for the jump.
 */
	.section .rodata
	.globl ferry_gadget, ferry_gadget_bytes
	.hidden ferry_gadget, ferry_gadget_bytes
	.balign 16
ferry_gadget:
1:	mov $202, %eax			/* futex */
	syscall
	cmp $-4, %eax			/* EINTR: the barrier is still closed */
	je 1b
	pop %rdi			/* BLOB_FRAME_UNMAP_ADDRESS */
	pop %rsi
	test %rsi, %rsi
	jz 2f
	mov $11, %eax			/* munmap */
	syscall
2:	mov %rsp, %rsi			/* BLOB_FRAME_SIGMASK */
	mov $2, %edi			/* SIG_SETMASK */
	xor %edx, %edx
	mov $8, %r10d
	mov $14, %eax			/* rt_sigprocmask */
	syscall
	pop %rax
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rax
	pop %rcx
	pop %rdx
	pop %rsi
	pop %rdi
	iretq
3:
	.balign 8
ferry_gadget_bytes:
	.quad 3b - ferry_gadget

	.globl ferry_blob, ferry_blob_bytes
	.hidden ferry_blob, ferry_blob_bytes
	.balign 16
ferry_blob:
	.incbin "blob.bin"
4:
	.balign 8
ferry_blob_bytes:
	.quad 4b - ferry_blob
	.section .note.GNU-stack, "", @progbits
