/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's vdso in a process: the code, and the data mappings (vvar) that it reaches relative to itself. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

enum { VDSO_PARTS = 4, VDSO_MAX_BYTES = 16384 };

struct vdso_part {
	uint64_t start, bytes;
};

struct vdso {
	uint64_t start, end; /* all parts: the vvar mappings, then the code */
	uint64_t code, code_bytes;
	uint64_t slack;             /* offset within the code where nothing of the vdso's own begins */
	const unsigned char *image; /* the code's bytes, readable here */
	size_t n_parts;
	struct vdso_part parts[VDSO_PARTS]; /* as the kernel maps them, ascending */
};

/* The vdso of 32-bit programs; v.image is bytes. */
struct vdso32 {
	struct vdso v;
	unsigned char bytes[VDSO_MAX_BYTES];
};

/* The calling process's vdso. -ENOENT and KERNEL_FEATURE when it has none. */
must_check int vdso_find(struct vdso *ret, struct ferry_error *err);

/*
 * The vdso that the kernel maps into 32-bit programs, as it lies in a process that is made for the look; unchanged
 * and KERNEL_FEATURE when this kernel runs none.
 */
must_check int vdso_find_32(struct vdso32 *ret, struct ferry_error *err);

/* Whether the bytes are an ELF image of 32 bits. */
bool vdso_is_32(const unsigned char *code, size_t n);

/* Bytes that belong to the vdso's ELF image; what follows in the last page is slack. 0 = not an ELF image. */
size_t vdso_elf_bytes(const unsigned char *code, size_t n);

/* Write n bytes into the slack of the calling process's vdso (copy on write); the address within *v. */
must_check int vdso_write_slack(const struct vdso *v, const void *bytes, size_t n, uint64_t *ret_offset,
				struct ferry_error *err);
