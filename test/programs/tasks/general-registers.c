/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that stand in loops with values of their own in all general registers but RSP and RCX, and in the flags: carry, zero,
 * direction. Proof: told to stop, each finds them all.
 *
 * x86-64 only.
 */
#include "program.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 2, REGISTERS = 14 };
enum { CARRY = 1, ZERO = 0x40, DIRECTION = 0x400, LOOKED_AT = CARRY | ZERO | DIRECTION };

/* The assembly knows the offsets; RCX points here while registers are stored and loaded, and is in GO while it stands. */
struct hold {
	uint64_t go, turns;                 /* 0, 8 */
	uint64_t want[REGISTERS], flags;    /* 16: rax rbx rdx rsi rdi rbp r8..r15; 128 */
	uint64_t got[REGISTERS], flags_got; /* 136, 248 */
	const struct program *program;
	int number;
};

_Static_assert(offsetof(struct hold, flags) == 128 && offsetof(struct hold, got) == 136,
	       "offsets in the assembly");

static struct hold holds[THREADS];

#define MOVES(each)                                                                                   \
	each("rax", 0) each("rbx", 8) each("rdx", 16) each("rsi", 24) each("rdi", 32) each("rbp", 40) \
		each("r8", 48) each("r9", 56) each("r10", 64) each("r11", 72) each("r12", 80)         \
			each("r13", 88) each("r14", 96) each("r15", 104)
#define LOAD(name, at) "movq 16+" #at "(%%rcx), %%" name "\n\t"
#define STORE(name, at) "movq %%" name ", 136+" #at "(%%rcx)\n\t"

/* JRCXZ takes no flags, LEA changes none. */
static __attribute__((noinline)) void stand(struct hold *h)
{
	__asm__ volatile("pushq %%rbx\n\t"
			 "pushq %%rbp\n\t"
			 "pushq %%rcx\n\t"
			 "pushq 128(%%rcx)\n\t" MOVES(LOAD) "popfq\n"
							    "1:\tmovq (%%rsp), %%rcx\n\t"
							    "movq 8(%%rcx), %%rcx\n\t"
							    "leaq 1(%%rcx), %%rcx\n\t"
							    "pushq %%rcx\n\t"
							    "movq 8(%%rsp), %%rcx\n\t"
							    "popq 8(%%rcx)\n\t"
							    "movq (%%rcx), %%rcx\n\t"
							    "jrcxz 1b\n\t"
							    "movq (%%rsp), %%rcx\n\t" MOVES(
								    STORE) "pushfq\n\t"
									   "popq 248(%%rcx)\n\t"
									   "cld\n\t"
									   "popq %%rcx\n\t"
									   "popq %%rbp\n\t"
									   "popq %%rbx"
			 : "+c"(h)
			 :
			 : "rax", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
			   "memory", "cc");
}

static uint64_t turns(const struct hold *h)
{
	return __atomic_load_n(&h->turns, __ATOMIC_SEQ_CST);
}

static void await_turn(const struct hold *h)
{
	uint64_t seen = turns(h);

	while (turns(h) == seen)
		sleep_ms(1);
}

static void *thread_main(void *argument)
{
	struct hold *h = argument;
	char role[16] = "stander0";

	role[7] = (char)('0' + h->number);
	struct program own = program_role(h->program, role);
	program_note_volatile(&own);
	for (;;) {
		stand(h);
		__atomic_store_n(&h->go, 2, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&h->go, __ATOMIC_SEQ_CST))
			sleep_ms(1);
	}
	return NULL;
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (int i = 0; i < THREADS; i++) {
		struct hold *h = &holds[i];
		await_turn(h);
		__atomic_store_n(&h->go, 1, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&h->go, __ATOMIC_SEQ_CST) != 2)
			sleep_ms(1);
		for (int n = 0; n < REGISTERS; n++)
			expect(p, h->got[n] == h->want[n], "register %d of thread %d is %#llx, not %#llx", n,
			       i, (unsigned long long)h->got[n], (unsigned long long)h->want[n]);
		expect_same(p, "flags", h->flags_got & LOOKED_AT, h->flags & LOOKED_AT);
		__atomic_store_n(&h->go, 0, __ATOMIC_SEQ_CST);
		await_turn(h);
	}
}

/* What it wants is not what it has. */
static void spoil(void *state)
{
	(void)state;
	holds[1].want[13] ^= 1ull << 63;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	for (int i = 0; i < THREADS; i++) {
		holds[i] = (struct hold){
			.program = &p, .number = i, .flags = 0x202 | (i ? DIRECTION | CARRY : ZERO)};
		pattern_fill(holds[i].want, sizeof(holds[i].want), 60 + (unsigned)i);
		if (pthread_create(&handle, NULL, thread_main, &holds[i]))
			program_die("pthread_create");
		await_turn(&holds[i]);
	}
	_exit(program_serve(&p, &ops, NULL));
}
