/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading what the processor can do.
 *
 * Interface: CPUID and XGETBV (AMD64 Architecture Programmer's Manual, volume 3; Intel SDM, volume 2). The words are those of
 * cpuinfo.img.
 */
#include "kernel/cpu.h"

#include <cpuid.h>
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "base/macros.h"

enum cpu_register { CPU_EAX, CPU_EBX, CPU_ECX, CPU_EDX };

struct cpu_word {
	uint32_t leaf, part;
	enum cpu_register where;
};

/* Those that are not named are of processors of other makers, or kernels' own, and 0. */
static const struct cpu_word cpu_words[KERN_CPU_WORDS] = {
	[0] = {1, 0, CPU_EDX},           [1] = {0x80000001, 0, CPU_EDX},  [4] = {1, 0, CPU_ECX},
	[6] = {0x80000001, 0, CPU_ECX},  [9] = {7, 0, CPU_EBX},           [10] = {0xd, 1, CPU_EAX},
	[11] = {7, 0, CPU_ECX},          [13] = {0x80000008, 0, CPU_EBX}, [14] = {6, 0, CPU_EAX},
	[15] = {0x8000000a, 0, CPU_EDX}, [17] = {0x80000007, 0, CPU_EBX}, [18] = {7, 0, CPU_EDX},
};

/* A kernel's word: fast string instructions, long NOPs, CPUID. */
enum { CPU_WORD_KERNEL = 3, CPU_KERNEL = 1 << 16 | 1 << 20 | 1 << 25 };

enum { CPU_STATE_LEAF = 0xd, CPU_OSXSAVE = 1 << 27, CPU_WORD_1_ECX = 4 };

static bool cpu_ask(uint32_t leaf, uint32_t part, uint32_t ret[4])
{
	return __get_cpuid_count(leaf, part, &ret[CPU_EAX], &ret[CPU_EBX], &ret[CPU_ECX], &ret[CPU_EDX]);
}

static void cpu_read_name(struct kern_cpu *cpu)
{
	char text[KERN_CPU_NAME_BYTES] = "";
	uint32_t r[4];
	for (uint32_t i = 0; i < 3 && cpu_ask(0x80000002 + i, 0, r); i++)
		memcpy(text + i * sizeof(r), r, sizeof(r));
	const char *from = text;
	while (isspace((unsigned char)*from))
		from++;
	size_t n = strlen(from);
	while (n && isspace((unsigned char)from[n - 1]))
		n--;
	memcpy(cpu->name, from, n);
}

static void cpu_read_signature(struct kern_cpu *cpu)
{
	uint32_t r[4];
	if (!cpu_ask(1, 0, r))
		return;
	uint32_t family = r[CPU_EAX] >> 8 & 0xf, model = r[CPU_EAX] >> 4 & 0xf;
	cpu->family = family + (family == 0xf ? r[CPU_EAX] >> 20 & 0xff : 0);
	cpu->model = model | (cpu->family >= 6 ? (r[CPU_EAX] >> 16 & 0xf) << 4 : 0);
	cpu->stepping = r[CPU_EAX] & 0xf;
}

static void cpu_read_state(struct kern_cpu *cpu)
{
	uint32_t r[4], low, high;
	if (!(cpu->words[CPU_WORD_1_ECX] & CPU_OSXSAVE) || !cpu_ask(CPU_STATE_LEAF, 0, r))
		return;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	cpu->xfeatures = low | (uint64_t)high << 32;
	cpu->xsave_bytes = r[CPU_EBX];
	cpu->xsave_bytes_max = r[CPU_ECX];
}

void kern_cpu_read(struct kern_cpu *ret)
{
	uint32_t r[4];
	*ret = (struct kern_cpu){.words[CPU_WORD_KERNEL] = CPU_KERNEL};
	if (cpu_ask(0, 0, r)) {
		memcpy(ret->vendor, &r[CPU_EBX], 4);
		memcpy(ret->vendor + 4, &r[CPU_EDX], 4);
		memcpy(ret->vendor + 8, &r[CPU_ECX], 4);
	}
	cpu_read_signature(ret);
	cpu_read_name(ret);
	for (size_t i = 0; i < KERN_CPU_WORDS; i++)
		if (cpu_words[i].leaf && cpu_ask(cpu_words[i].leaf, cpu_words[i].part, r))
			ret->words[i] = r[cpu_words[i].where];
	cpu_read_state(ret);
}
