/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that compute without any system call: one whose registers all hold values that it compares in a loop, one that goes round
 * as long as the carry flag stands. Proof: both go on, and neither ever saw another value.
 */
#include "program.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

/* What the loops say: their rounds, and that something differed. */
static struct loop {
	_Atomic(unsigned long) rounds, differed;
	const struct program *program;
	const char *name;
	unsigned long seen;
} loops[2] = {{.name = "all registers"}, {.name = "carry flag"}};

/* Where the kernel writes while the thread runs. */
static void loop_note(const struct loop *l)
{
	struct program p = program_role(l->program, l == loops ? "registers" : "carry");

	program_note_volatile(&p);
}

/* Each register is compared with the one before, which differs by one; the last with what it was set to. */
static void *all_registers(void *argument)
{
	struct loop *l = argument;

	loop_note(l);
	__asm__ volatile("push %%rbp\n"
			 "push %%rdi\n"
			 "mov $0x1234567890000001, %%rax\n"
			 "lea 1(%%rax), %%rbx\n"
			 "lea 1(%%rbx), %%rcx\n"
			 "lea 1(%%rcx), %%rdx\n"
			 "lea 1(%%rdx), %%rsi\n"
			 "lea 1(%%rsi), %%rbp\n"
			 "lea 1(%%rbp), %%r8\n"
			 "lea 1(%%r8), %%r9\n"
			 "lea 1(%%r9), %%r10\n"
			 "lea 1(%%r10), %%r11\n"
			 "lea 1(%%r11), %%r12\n"
			 "lea 1(%%r12), %%r13\n"
			 "lea 1(%%r13), %%r14\n"
			 "lea 1(%%r14), %%r15\n"
			 "1:\n"
			 "sub %%rax, %%rbx; cmp $1, %%rbx; jne 2f; add %%rax, %%rbx\n"
			 "sub %%rbx, %%rcx; cmp $1, %%rcx; jne 2f; add %%rbx, %%rcx\n"
			 "sub %%rcx, %%rdx; cmp $1, %%rdx; jne 2f; add %%rcx, %%rdx\n"
			 "sub %%rdx, %%rsi; cmp $1, %%rsi; jne 2f; add %%rdx, %%rsi\n"
			 "sub %%rsi, %%rbp; cmp $1, %%rbp; jne 2f; add %%rsi, %%rbp\n"
			 "sub %%rbp, %%r8; cmp $1, %%r8; jne 2f; add %%rbp, %%r8\n"
			 "sub %%r8, %%r9; cmp $1, %%r9; jne 2f; add %%r8, %%r9\n"
			 "sub %%r9, %%r10; cmp $1, %%r10; jne 2f; add %%r9, %%r10\n"
			 "sub %%r10, %%r11; cmp $1, %%r11; jne 2f; add %%r10, %%r11\n"
			 "sub %%r11, %%r12; cmp $1, %%r12; jne 2f; add %%r11, %%r12\n"
			 "sub %%r12, %%r13; cmp $1, %%r13; jne 2f; add %%r12, %%r13\n"
			 "sub %%r13, %%r14; cmp $1, %%r14; jne 2f; add %%r13, %%r14\n"
			 "sub %%r14, %%r15; cmp $1, %%r15; jne 2f; add %%r14, %%r15\n"
			 "incq (%%rdi)\n"
			 "jmp 1b\n"
			 "2:\n"
			 "movq $1, 8(%%rdi)\n"
			 "pop %%rdi\n"
			 "pop %%rbp\n"
			 :
			 : "D"(l)
			 : "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
			   "r15", "memory", "cc");
	return NULL;
}

/* INC leaves the carry flag alone. */
static void *carry_flag(void *argument)
{
	struct loop *l = argument;

	loop_note(l);
	__asm__ volatile("stc\n"
			 "1:\n"
			 "jnc 2f\n"
			 "incq (%0)\n"
			 "jmp 1b\n"
			 "2:\n"
			 "movq $1, 8(%0)\n"
			 :
			 : "r"(l)
			 : "memory", "cc");
	return NULL;
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(loops); i++) {
		struct loop *l = &loops[i];
		for (int tries = 0; tries < 2000 && l->rounds <= l->seen && !l->differed; tries++)
			sleep_ms(1);
		expect(p, l->rounds > l->seen, "%s: the loop stands still", l->name);
		expect(p, !l->differed, "%s: another value", l->name);
		l->seen = l->rounds;
	}
}

static void spoil(void *state)
{
	(void)state;
	loops[0].differed = 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static void *(*const mains[])(void *) = {all_registers, carry_flag};
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(mains); i++) {
		loops[i].program = &p;
		if (pthread_create(&thread, NULL, mains[i], &loops[i]))
			program_die("pthread_create");
	}
	return program_serve(&p, &ops, NULL);
}
