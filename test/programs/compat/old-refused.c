/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 32-bit program in a state that cannot be brought back, by its argument: "wide", a thread in 64-bit code; "table", a thread
 * with a selector of the local descriptor table. Proof: the thread goes on.
 */
#include "program.h"

#include <asm/ldt.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t beats, word = 0x12345678;

/* jmp to a segment of 64-bit code. The loop is the same in both widths, but for the first instruction. */
static void go_wide(void)
{
	__asm__ volatile("mov %0, %%esi\n\t"
			 "ljmp $0x33, $1f\n"
			 "1:\tlock incl (%%esi)\n\t"
			 "jmp 1b"
			 :
			 : "r"(&beats)
			 : "esi", "memory", "cc");
}

static void load_selector(void)
{
	struct user_desc d = {.entry_number = 0,
			      .base_addr = (unsigned)(uintptr_t)&word,
			      .limit = 3,
			      .seg_32bit = 1,
			      .useable = 1};

	must(syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)));
	__asm__ volatile("mov %0, %%fs" : : "r"(7));
	for (;;) {
		uint32_t seen;
		__asm__ volatile("movl %%fs:0, %0" : "=r"(seen));
		if (seen == word)
			__atomic_add_fetch(&beats, 1, __ATOMIC_SEQ_CST);
	}
}

static void *thread_main(void *argument)
{
	if (!strcmp(argument, "wide"))
		go_wide();
	else
		load_selector();
	return NULL;
}

static void verify(struct program *p, void *state)
{
	uint32_t seen = __atomic_load_n(&beats, __ATOMIC_SEQ_CST);

	(void)state;
	for (int i = 0; i < 5000 && __atomic_load_n(&beats, __ATOMIC_SEQ_CST) == seen; i++)
		sleep_ms(1);
	expect(p, __atomic_load_n(&beats, __ATOMIC_SEQ_CST) != seen, "the thread does not go on");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	if (argc < 3 || pthread_create(&handle, NULL, thread_main, argv[2]))
		program_die("pthread_create");
	while (!__atomic_load_n(&beats, __ATOMIC_SEQ_CST))
		sleep_ms(1);
	_exit(program_serve(&p, &ops, NULL));
}
