/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 32-bit program with a thread that stands in a loop with values of its own in all general registers but ESP and ECX, in the
 * flags, the x87 stack and its control word, MXCSR and the vector registers (AVX where the processor has it). Proof: told to
 * stop, it finds them all.
 */
#include "program.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { VECTORS = 8, VECTOR_BYTES = 32, X87 = 4 };
enum { CARRY = 1, PARITY = 4, ZERO = 0x40, DIRECTION = 0x400 };

static struct hold {
	uint32_t go; /* first: the loop looks at it through ECX */
	uint32_t turns;
	uint32_t eax, ebx, edx, esi, edi, ebp, flags, mxcsr;
	uint16_t control, reserved;
	unsigned char vectors[VECTORS][VECTOR_BYTES];
	double x87[X87];
} wanted, held;

static bool has_avx;

#define EACH_VECTOR(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#define LOAD_AVX(n) __asm__ volatile("vmovdqu %0, %%ymm" #n : : "m"(wanted.vectors[n]));
#define STORE_AVX(n) __asm__ volatile("vmovdqu %%ymm" #n ", %0" : "=m"(held.vectors[n]));
#define LOAD_SSE(n) __asm__ volatile("movdqu %0, %%xmm" #n : : "m"(wanted.vectors[n]));
#define STORE_SSE(n) __asm__ volatile("movdqu %%xmm" #n ", %0" : "=m"(held.vectors[n]));

static void load_vectors(void)
{
	__asm__ volatile("ldmxcsr %0\n\tfninit\n\tfldcw %1" : : "m"(wanted.mxcsr), "m"(wanted.control));
	for (int i = X87; i-- > 0;)
		__asm__ volatile("fldl %0" : : "m"(wanted.x87[i]));
	if (has_avx) {
		EACH_VECTOR(LOAD_AVX)
	} else {
		EACH_VECTOR(LOAD_SSE)
	}
}

static void store_vectors(void)
{
	if (has_avx) {
		EACH_VECTOR(STORE_AVX)
		__asm__ volatile("vzeroupper");
	} else {
		EACH_VECTOR(STORE_SSE)
	}
	__asm__ volatile("fnstcw %0\n\tstmxcsr %1" : "=m"(held.control), "=m"(held.mxcsr));
	for (int i = 0; i < X87; i++)
		__asm__ volatile("fstpl %0" : "=m"(held.x87[i]));
}

/* The loop reads a word and changes no register: JECXZ takes no flags, XCHG restores ECX. */
static __attribute__((noinline)) void stand(void)
{
	__asm__ volatile(
		"pushal\n\t"
		"pushl %[flags]\n\t"
		"mov %[eax], %%eax\n\t"
		"mov %[ebx], %%ebx\n\t"
		"mov %[edx], %%edx\n\t"
		"mov %[esi], %%esi\n\t"
		"mov %[edi], %%edi\n\t"
		"mov %[ebp], %%ebp\n\t"
		"popfl\n"
		"1:\tmov %[turns], %%ecx\n\t"
		"lea 1(%%ecx), %%ecx\n\t"
		"mov %%ecx, %[turns]\n\t"
		"mov %[go], %%ecx\n\t"
		"jecxz 1b\n\t"
		"mov %%eax, %[eax_]\n\t"
		"mov %%ebx, %[ebx_]\n\t"
		"mov %%edx, %[edx_]\n\t"
		"mov %%esi, %[esi_]\n\t"
		"mov %%edi, %[edi_]\n\t"
		"mov %%ebp, %[ebp_]\n\t"
		"pushfl\n\t"
		"popl %[flags_]\n\t"
		"cld\n\t"
		"popal"
		: [eax_] "=m"(held.eax), [ebx_] "=m"(held.ebx), [edx_] "=m"(held.edx), [esi_] "=m"(held.esi),
		  [edi_] "=m"(held.edi), [ebp_] "=m"(held.ebp), [flags_] "=m"(held.flags),
		  [turns] "+m"(held.turns)
		: [eax] "m"(wanted.eax), [ebx] "m"(wanted.ebx), [edx] "m"(wanted.edx), [esi] "m"(wanted.esi),
		  [edi] "m"(wanted.edi), [ebp] "m"(wanted.ebp), [flags] "m"(wanted.flags), [go] "m"(held.go)
		: "memory", "cc");
}

static uint32_t turns(void)
{
	return __atomic_load_n(&held.turns, __ATOMIC_SEQ_CST);
}

static void *thread_main(void *argument)
{
	struct program own = program_role(argument, "stander");

	program_note_volatile(&own);
	for (;;) {
		load_vectors();
		stand();
		store_vectors();
		__atomic_store_n(&held.go, 2, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&held.go, __ATOMIC_SEQ_CST))
			sleep_ms(1);
	}
	return NULL;
}

static void await_turn(void)
{
	uint32_t seen = turns();

	while (turns() == seen)
		sleep_ms(1);
}

static void verify(struct program *p, void *state)
{
	size_t bytes = has_avx ? VECTOR_BYTES : 16;

	(void)state;
	await_turn();
	__atomic_store_n(&held.go, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&held.go, __ATOMIC_SEQ_CST) != 2)
		sleep_ms(1);
	expect_same(p, "EAX", held.eax, wanted.eax);
	expect_same(p, "EBX", held.ebx, wanted.ebx);
	expect_same(p, "EDX", held.edx, wanted.edx);
	expect_same(p, "ESI", held.esi, wanted.esi);
	expect_same(p, "EDI", held.edi, wanted.edi);
	expect_same(p, "EBP", held.ebp, wanted.ebp);
	expect_same(p, "flags", held.flags & (CARRY | PARITY | ZERO | DIRECTION), CARRY | ZERO | DIRECTION);
	expect_same(p, "MXCSR", held.mxcsr, wanted.mxcsr);
	expect_same(p, "x87 control word", held.control, wanted.control);
	for (int i = 0; i < VECTORS; i++)
		expect(p, !memcmp(held.vectors[i], wanted.vectors[i], bytes), "vector register %d differs",
		       i);
	expect(p, !memcmp(held.x87, wanted.x87, sizeof(held.x87)), "the x87 stack differs");
	__atomic_store_n(&held.go, 0, __ATOMIC_SEQ_CST);
	await_turn();
}

/* What it wants is not what it has. */
static void spoil(void *state)
{
	(void)state;
	wanted.vectors[5][has_avx ? VECTOR_BYTES - 1 : 15] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	has_avx = __builtin_cpu_supports("avx");
	wanted = (struct hold){
		.eax = 0xa1a2a3a4,
		.ebx = 0xb1b2b3b4,
		.edx = 0xd1d2d3d4,
		.esi = 0xe1e2e3e4,
		.edi = 0xf1f2f3f4,
		.ebp = 0x91929394,
		.flags = 0x202 | CARRY | ZERO | DIRECTION,
		.mxcsr = 0x1f80 | 0x6000,
		.control = 0x37f | 0x400,
		.x87 = {1.5, -2.25, 1e100, 3.0},
	};
	pattern_fill(wanted.vectors, sizeof(wanted.vectors), 11);
	if (pthread_create(&handle, NULL, thread_main, &p))
		program_die("pthread_create");
	await_turn();
	_exit(program_serve(&p, &ops, NULL));
}
