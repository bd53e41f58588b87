/* SPDX-License-Identifier: Apache-2.0 */
/* The program that init.c is, as bytes. */
	.section .rodata
	.globl jobs_init_start, jobs_init_end
	.hidden jobs_init_start, jobs_init_end
	.balign 16
jobs_init_start:
	.incbin "job-init"
jobs_init_end:
	.section .note.GNU-stack, "", @progbits
