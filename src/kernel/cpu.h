/* SPDX-License-Identifier: Apache-2.0 */
/* The processor of this machine, as it tells of itself. */
#pragma once

#include <stdint.h>

enum { KERN_CPU_WORDS = 19, KERN_CPU_NAME_BYTES = 49 };

struct kern_cpu {
	char vendor[13];
	char name[KERN_CPU_NAME_BYTES];
	uint32_t family, model, stepping;
	uint32_t words[KERN_CPU_WORDS]; /* what it can do; cpu.c says which words they are */
	uint64_t xfeatures;             /* parts of its state that XSAVE stores here */
	uint32_t xsave_bytes, xsave_bytes_max;
};

void kern_cpu_read(struct kern_cpu *ret);
