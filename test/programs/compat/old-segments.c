/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 32-bit program whose threads have segment descriptors of their own (set_thread_area(2)): one is loaded in FS, a second has
 * a limit in bytes. One more thread never leaves a loop in which ES has such a descriptor. Proof: what the descriptors and the
 * registers are, what is read through them, and that a read beyond a limit fails.
 */
#include "program.h"

#include <asm/ldt.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 3, IN_FS = 13, LIMITED = 14, BLOCK_WORDS = 16 };

struct thread {
	const struct program *program;
	int number;
	struct user_desc in_fs, limited;
	uint32_t block[BLOCK_WORDS];
};

/* What the loop reads; it counts, and stops at the first wrong value. */
static struct loop {
	struct user_desc in_es;
	uint32_t block[BLOCK_WORDS], beats, wrong;
} loop;

static sigjmp_buf beyond;

static void on_fault(int number)
{
	siglongjmp(beyond, number);
}

static uint16_t selector(unsigned entry)
{
	return (uint16_t)(entry * 8 + 3);
}

static void describe(struct user_desc *d, unsigned entry, const void *base, unsigned limit)
{
	*d = (struct user_desc){.entry_number = entry,
				.base_addr = (unsigned)(uintptr_t)base,
				.limit = limit,
				.seg_32bit = 1,
				.useable = 1};
	must(syscall(SYS_set_thread_area, d));
}

static void verify_descriptor(struct program *p, const struct user_desc *want)
{
	struct user_desc got = {.entry_number = want->entry_number};

	must(syscall(SYS_get_thread_area, &got));
	expect_same(p, "base of a descriptor", got.base_addr, want->base_addr);
	expect_same(p, "limit of a descriptor", got.limit, want->limit);
	expect(p, got.seg_32bit && got.useable && !got.limit_in_pages && !got.seg_not_present,
	       "flags of a descriptor changed");
}

static void verify(struct program *p, void *state)
{
	struct thread *t = state;
	uint16_t fs, gs;
	uint32_t word;

	verify_descriptor(p, &t->in_fs);
	verify_descriptor(p, &t->limited);
	__asm__("mov %%fs, %0\n\tmov %%gs, %1" : "=r"(fs), "=r"(gs));
	expect_same(p, "FS", fs, selector(IN_FS));
	expect_same(p, "entry in GS", gs >> 3, 12);
	for (unsigned i = 0; i < BLOCK_WORDS; i++) {
		__asm__("movl %%fs:(%1), %0" : "=r"(word) : "r"(i * 4));
		expect_same(p, "a word read through FS", word, t->block[i]);
	}
	if (t->number)
		return;
	uint32_t beats = __atomic_load_n(&loop.beats, __ATOMIC_SEQ_CST);
	for (int i = 0; i < 5000 && __atomic_load_n(&loop.beats, __ATOMIC_SEQ_CST) == beats; i++)
		sleep_ms(1);
	expect(p, __atomic_load_n(&loop.beats, __ATOMIC_SEQ_CST) != beats, "the loop does not go on");
	expect_same(p, "wrong words in the loop", loop.wrong, 0);
}

/* In the thread of the first role alone: the handler and the way out of it are the process's. */
static void finish(struct program *p, void *state)
{
	struct thread *t = state;
	struct sigaction action = {.sa_handler = on_fault}, before;
	uint32_t word = 0;

	if (t->number)
		return;
	sigaction(SIGSEGV, &action, &before);
	int number = sigsetjmp(beyond, 1);
	if (!number)
		__asm__ volatile("push %%fs\n\tmov %1, %%fs\n\tmovl %%fs:64, %0\n\tpop %%fs"
				 : "=r"(word)
				 : "r"((uint32_t)selector(LIMITED)));
	__asm__ volatile("mov %0, %%fs" : : "r"((uint32_t)selector(IN_FS)));
	expect_same(p, "signal of a read beyond the limit", number, SIGSEGV);
	sigaction(SIGSEGV, &before, NULL);
}

static void spoil(void *state)
{
	struct thread *t = state;
	struct user_desc other = t->in_fs;

	other.base_addr += 4;
	must(syscall(SYS_set_thread_area, &other));
}

static void set_up(struct thread *t)
{
	pattern_fill(t->block, sizeof(t->block), 100 + (unsigned)t->number);
	describe(&t->in_fs, IN_FS, t->block, sizeof(t->block) - 1);
	describe(&t->limited, LIMITED, t->block, sizeof(t->block) / 2 - 1);
	__asm__ volatile("mov %0, %%fs" : : "r"((uint32_t)selector(IN_FS)));
}

static int serve(struct thread *t)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	char role[16] = "main";
	struct program p = *t->program;

	if (t->number) {
		memcpy(role, "thread0", 8);
		role[6] = (char)('0' + t->number);
		p = program_role(t->program, role);
	}
	set_up(t);
	return program_serve(&p, &ops, t);
}

static void *thread_main(void *argument)
{
	serve(argument);
	return NULL;
}

/* Without a call, so that ES is what it is all the time. */
static void *loop_main(void *argument)
{
	struct program own = program_role(argument, "loop");

	program_note_volatile(&own);
	describe(&loop.in_es, LIMITED, loop.block, sizeof(loop.block) - 1);
	__asm__ volatile("mov %0, %%es\n"
			 "1:\tincl %1\n\t"
			 "movl %%es:12, %%eax\n\t"
			 "cmpl %2, %%eax\n\t"
			 "je 1b\n\t"
			 "incl %3\n\t"
			 "jmp 1b"
			 :
			 : "r"((uint32_t)selector(LIMITED)), "m"(loop.beats), "m"(loop.block[3]),
			   "m"(loop.wrong)
			 : "eax", "memory", "cc");
	return NULL;
}

int main(int argc, char **argv)
{
	static struct thread threads[THREADS];
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	pattern_fill(loop.block, sizeof(loop.block), 7);
	for (int i = 0; i < THREADS; i++)
		threads[i] = (struct thread){.program = &p, .number = i};
	if (pthread_create(&handle, NULL, loop_main, &p))
		program_die("pthread_create");
	while (!__atomic_load_n(&loop.beats, __ATOMIC_SEQ_CST))
		sleep_ms(1);
	for (int i = 1; i < THREADS; i++)
		if (pthread_create(&handle, NULL, thread_main, &threads[i]))
			program_die("pthread_create");
	for (int i = 1; i < THREADS; i++) {
		char role[16] = "thread0";
		role[6] = (char)('0' + i);
		program_await(&p, role);
	}
	_exit(serve(&threads[0]));
}
