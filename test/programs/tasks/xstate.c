/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that hold values in every register set the processor has: AVX, AVX-512 with its masks, x87 with control word,
 * MXCSR, AMX tiles, PKRU. Each loads its registers, waits inside the same block of assembly (asleep in futex(2), one
 * of them spinning in user mode), stores them again and compares. Proof: no byte differs, however long it waited.
 *
 * x86-64 only; elsewhere the program proves nothing and says so by failing to start.
 */
#include "program.h"

#include <cpuid.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif

enum { HOLD_BYTES = 8192, XFEATURE_TILE = 18, ANSWER_MS = 5000, PKRU_VALUE = 0x5540 };

struct worker {
	_Alignas(64) unsigned char want[HOLD_BYTES];
	_Alignas(64) unsigned char got[HOLD_BYTES];
	int wake; /* futex: 1 = store the registers */
	volatile unsigned rounds;
	volatile bool differs;
	const char *name;
	const struct program *program;
	bool (*present)(void);
	void (*hold)(struct worker *w);
	size_t bytes; /* how much of want and got it uses */
};

/*
 * FUTEX_WAIT on (%[wake]) until it is not zero, registers kept. The kernel clobbers rcx and r11; a restarted or
 * interrupted call just goes round.
 */
#define SLEEP_UNTIL_WOKEN         \
	"1:	cmpl $0, (%[wake])\n" \
	"	jne 2f\n"               \
	"	movl $202, %%eax\n"     \
	"	movq %[wake], %%rdi\n"  \
	"	xorl %%esi, %%esi\n"    \
	"	xorl %%edx, %%edx\n"    \
	"	xorl %%r10d, %%r10d\n"  \
	"	syscall\n"              \
	"	jmp 1b\n"               \
	"2:\n"

#define SPIN_UNTIL_WOKEN        \
	"1:	pause\n"            \
	"	cmpl $0, (%[wake])\n" \
	"	je 1b\n"

#define SLEEP_CLOBBERS "rax", "rcx", "rdx", "rsi", "rdi", "r10", "r11", "memory", "cc"

#define AVX_LOAD(n) "vmovdqu " #n "*32(%[want]), %%ymm" #n "\n"
#define AVX_STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[got])\n"
#define AVX512_LOAD(n) "vmovdqu64 " #n "*64(%[want]), %%zmm" #n "\n"
#define AVX512_STORE(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%[got])\n"
#define MASK_LOAD(n) "kmovq 2048+" #n "*8(%[want]), %%k" #n "\n"
#define MASK_STORE(n) "kmovq %%k" #n ", 2048+" #n "*8(%[got])\n"
#define EACH_8(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7)
#define EACH_16(m) EACH_8(m) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define EACH_32(m) \
	EACH_16(m) \
	m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) m(28) m(29) m(30) m(31)

#define XMM_CLOBBERS                                                                                      \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
		"xmm12", "xmm13", "xmm14", "xmm15"

static bool has_avx(void)
{
	return __builtin_cpu_supports("avx");
}

static void hold_avx(struct worker *w)
{
	__asm__ volatile(EACH_16(AVX_LOAD) SLEEP_UNTIL_WOKEN EACH_16(AVX_STORE) "vzeroupper\n"
			 :
			 : [want] "r"(w->want), [got] "r"(w->got), [wake] "r"(&w->wake)
			 : XMM_CLOBBERS, SLEEP_CLOBBERS);
}

static void hold_avx_spinning(struct worker *w)
{
	__asm__ volatile(EACH_16(AVX_LOAD) SPIN_UNTIL_WOKEN EACH_16(AVX_STORE) "vzeroupper\n"
			 :
			 : [want] "r"(w->want), [got] "r"(w->got), [wake] "r"(&w->wake)
			 : XMM_CLOBBERS, "memory", "cc");
}

static bool has_avx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

/* zmm16-31 and the masks are used by nobody else here: this file is compiled without -mavx512f. */
static void hold_avx512(struct worker *w)
{
	__asm__ volatile(EACH_32(AVX512_LOAD) EACH_8(MASK_LOAD) SLEEP_UNTIL_WOKEN EACH_32(AVX512_STORE)
				 EACH_8(MASK_STORE) "vzeroupper\n"
			 :
			 : [want] "r"(w->want), [got] "r"(w->got), [wake] "r"(&w->wake)
			 : XMM_CLOBBERS, SLEEP_CLOBBERS);
}

static bool always(void)
{
	return true;
}

/* Control word 0x0b7f rounds up with double precision cut off nowhere; three values stay on the register stack. */
static void hold_x87(struct worker *w)
{
	static const double values[3] = {3.25, -1e300, 0.1};
	const unsigned short control = 0x0b7f;
	const unsigned mxcsr = 0x7f80;
	const unsigned short plain_control = 0x037f;
	const unsigned plain_mxcsr = 0x1f80;

	memcpy(w->want, values, sizeof(values));
	memcpy(w->want + 24, &control, 2);
	memcpy(w->want + 28, &mxcsr, 4);
	__asm__ volatile("fninit\n"
			 "fldl 16(%[want])\n"
			 "fldl 8(%[want])\n"
			 "fldl (%[want])\n"
			 "fldcw 24(%[want])\n"
			 "ldmxcsr 28(%[want])\n" SLEEP_UNTIL_WOKEN "fnstcw 24(%[got])\n"
			 "stmxcsr 28(%[got])\n"
			 "fstpl (%[got])\n"
			 "fstpl 8(%[got])\n"
			 "fstpl 16(%[got])\n"
			 "fldcw %[plain_control]\n"
			 "ldmxcsr %[plain_mxcsr]\n"
			 :
			 : [want] "r"(w->want), [got] "r"(w->got), [wake] "r"(&w->wake),
			   [plain_control] "m"(plain_control), [plain_mxcsr] "m"(plain_mxcsr)
			 : "st", "st(1)", "st(2)", SLEEP_CLOBBERS);
	memcpy(w->got + 26, w->want + 26, 2);
}

static bool has_pku(void)
{
	unsigned a, b, c, d;

	/* OSPKE: the kernel has switched protection keys on. */
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c & 1 << 4;
}

static unsigned read_pkru(void)
{
	unsigned value, high;

	__asm__ volatile("rdpkru" : "=a"(value), "=d"(high) : "c"(0));
	return value;
}

static void hold_pkru(struct worker *w)
{
	unsigned value = PKRU_VALUE;

	memcpy(w->want, &value, 4);
	__asm__ volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory");
	while (!__atomic_load_n(&w->wake, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &w->wake, FUTEX_WAIT, 0, NULL, NULL, 0);
	value = read_pkru();
	memcpy(w->got, &value, 4);
}

static bool has_amx(void)
{
	unsigned a, b, c, d;
	const unsigned amx_tile = 1U << 24;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & amx_tile &&
	       syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE) == 0;
}

#define TILE_LOAD(n) "leaq " #n "*1024(%[want]), %%rax\n tileloadd (%%rax,%[stride],1), %%tmm" #n "\n"
#define TILE_STORE(n) "leaq " #n "*1024(%[got]), %%rax\n tilestored %%tmm" #n ", (%%rax,%[stride],1)\n"

/* Palette 1: eight tiles of 16 rows of 64 bytes. */
static void hold_amx(struct worker *w)
{
	_Alignas(64) unsigned char configuration[64] = {1};
	const long stride = 64;

	for (int tile = 0; tile < 8; tile++) {
		configuration[16 + tile * 2] = 64;
		configuration[48 + tile] = 16;
	}
	__asm__ volatile("ldtilecfg (%[configuration])\n" EACH_8(TILE_LOAD)
				 SLEEP_UNTIL_WOKEN EACH_8(TILE_STORE) "tilerelease\n"
			 :
			 : [want] "r"(w->want), [got] "r"(w->got), [wake] "r"(&w->wake),
			   [configuration] "r"(configuration), [stride] "r"(stride)
			 : SLEEP_CLOBBERS);
}

static struct worker workers[] = {
	{.name = "avx", .present = has_avx, .hold = hold_avx, .bytes = 512},
	{.name = "avx spinning", .present = has_avx, .hold = hold_avx_spinning, .bytes = 512},
	{.name = "avx-512", .present = has_avx512, .hold = hold_avx512, .bytes = 2048 + 64},
	{.name = "x87 and mxcsr", .present = always, .hold = hold_x87, .bytes = 32},
	{.name = "pkru", .present = has_pku, .hold = hold_pkru, .bytes = 4},
	{.name = "amx", .present = has_amx, .hold = hold_amx, .bytes = 8192},
};

static void *worker_main(void *argument)
{
	struct worker *w = argument;
	const struct program p = program_role(w->program, w->name);

	program_note_volatile(&p);
	for (;;) {
		memset(w->got, 0, sizeof(w->got));
		w->hold(w);
		w->differs = memcmp(w->want, w->got, w->bytes) != 0;
		__atomic_store_n(&w->wake, 0, __ATOMIC_RELEASE);
		w->rounds++;
	}
	return NULL;
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
		struct worker *w = &workers[i];
		if (!w->hold)
			continue;
		unsigned before = w->rounds;
		__atomic_store_n(&w->wake, 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, &w->wake, FUTEX_WAKE, 1, NULL, NULL, 0);
		for (int ms = 0; ms < ANSWER_MS && w->rounds == before; ms++)
			sleep_ms(1);
		expect(p, w->rounds != before, "%s: the thread does not wake", w->name);
		expect(p, !w->differs, "%s: a register changed", w->name);
	}
}

/* The worker holds the old bytes in its registers; the wanted ones change. */
static void spoil(void *state)
{
	(void)state;
	workers[0].want[100] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
		struct worker *w = &workers[i];
		pthread_t handle;
		if (!w->present()) {
			w->hold = NULL;
			continue;
		}
		w->program = &p;
		pattern_fill(w->want, sizeof(w->want), i);
		if (pthread_create(&handle, NULL, worker_main, w) != 0)
			program_die("pthread_create");
	}
	/* Every thread has its registers loaded before the program says ready. */
	sleep_ms(50);
	return program_serve(&p, &ops, NULL);
}
