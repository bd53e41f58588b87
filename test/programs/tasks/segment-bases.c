/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads with a GS base of their own, set by arch_prctl(2) or by WRGSBASE where the processor lets programs use it, and with
 * DS and ES loaded with the flat segment. One more thread never leaves a loop in which its FS base is not libc's. Proof: the
 * bases and selectors, and what is read through GS and FS.
 *
 * x86-64 only.
 */
#include "program.h"

#include <asm/prctl.h>
#include <elf.h>
#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

enum { THREADS = 3, WORDS = 8, FLAT = 0x2b };

struct thread {
	const struct program *program;
	int number;
	uint64_t block[WORDS];
};

static struct loop {
	uint64_t block[WORDS], beats, wrong;
} loop;

static bool may_write_bases(void)
{
	return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
}

/* CRIU does not keep DS and ES. */
static bool loads(const struct thread *t, int number)
{
	return t->number == number && t->program->more;
}

static void verify_loop(struct program *p)
{
	uint64_t beats = __atomic_load_n(&loop.beats, __ATOMIC_SEQ_CST);

	for (int i = 0; i < 5000 && __atomic_load_n(&loop.beats, __ATOMIC_SEQ_CST) == beats; i++)
		sleep_ms(1);
	expect(p, __atomic_load_n(&loop.beats, __ATOMIC_SEQ_CST) != beats, "the loop does not go on");
	expect_same(p, "wrong words in the loop", loop.wrong, 0);
}

static void verify(struct program *p, void *state)
{
	struct thread *t = state;
	uint64_t base = 0, word;
	uint16_t ds, es;

	must(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
	expect_same(p, "GS base", base, (uintptr_t)t->block);
	for (uint64_t i = 0; i < WORDS; i++) {
		__asm__("movq %%gs:(%1), %0" : "=r"(word) : "r"(i * 8));
		expect_same(p, "a word read through GS", word, t->block[i]);
	}
	__asm__("mov %%ds, %0\n\tmov %%es, %1" : "=r"(ds), "=r"(es));
	expect_same(p, "DS", ds, loads(t, 1) ? FLAT : 0);
	expect_same(p, "ES", es, loads(t, 2) ? FLAT : 0);
	if (!t->number && may_write_bases())
		verify_loop(p);
}

static void spoil(void *state)
{
	struct thread *t = state;

	must(syscall(SYS_arch_prctl, ARCH_SET_GS, t->block + 1));
}

static int serve(struct thread *t)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	char role[16] = "thread0";
	struct program p = *t->program;

	role[6] = (char)('0' + t->number);
	if (t->number)
		p = program_role(t->program, role);
	pattern_fill(t->block, sizeof(t->block), 40 + (unsigned)t->number);
	if (t->number == 2 && may_write_bases())
		__asm__ volatile("wrgsbase %0" : : "r"(t->block));
	else
		must(syscall(SYS_arch_prctl, ARCH_SET_GS, t->block));
	if (loads(t, 1))
		__asm__ volatile("mov %0, %%ds" : : "r"(FLAT));
	if (loads(t, 2))
		__asm__ volatile("mov %0, %%es" : : "r"(FLAT));
	return program_serve(&p, &ops, t);
}

static void *thread_main(void *argument)
{
	serve(argument);
	return NULL;
}

static void *loop_main(void *argument)
{
	struct program own = program_role(argument, "loop");

	program_note_volatile(&own);
	__asm__ volatile("wrfsbase %0\n"
			 "1:\tincq %1\n\t"
			 "movq %%fs:24, %%rax\n\t"
			 "cmpq %2, %%rax\n\t"
			 "je 1b\n\t"
			 "incq %3\n\t"
			 "jmp 1b"
			 :
			 : "r"(loop.block), "m"(loop.beats), "m"(loop.block[3]), "m"(loop.wrong)
			 : "rax", "memory", "cc");
	return NULL;
}

int main(int argc, char **argv)
{
	static struct thread threads[THREADS];
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	pattern_fill(loop.block, sizeof(loop.block), 9);
	if (may_write_bases() && pthread_create(&handle, NULL, loop_main, &p))
		program_die("pthread_create");
	for (int i = 0; i < THREADS; i++)
		threads[i] = (struct thread){.program = &p, .number = i};
	for (int i = 1; i < THREADS; i++) {
		char role[16] = "thread0";
		role[6] = (char)('0' + i);
		if (pthread_create(&handle, NULL, thread_main, &threads[i]))
			program_die("pthread_create");
		program_await(&p, role);
	}
	_exit(serve(&threads[0]));
}
