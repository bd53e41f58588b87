/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 64-bit program whose threads have gone to 32-bit code by a far return: one counts, one makes system calls of the 32-bit
 * table that sleep. Proof: both go on, with their segments, and come back to 64-bit code at the end, where the registers that
 * 32-bit code does not have and the thread's own area are as before.
 */
#include "program.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, STACK_AT = 2048, CALLS = 2 };
enum { COUNT, SLEEP };

/* First in a page below 4 GiB; the code in it knows the offsets. */
struct low {
	uint32_t beats, stop;
	uint32_t seconds, nanoseconds; /* 8: what one call sleeps */
	uint64_t stack, back;          /* 16, 24: of 64-bit code */
	uint32_t wrong; /* 32: calls with another result, data segments with another selector */
	uint32_t spare;
	unsigned char code[512];
};

struct thread {
	const struct program *program;
	struct low *low;
	int what;
	uint64_t kept; /* a register that 32-bit code does not have */
	uint32_t done;
};

static __thread uint64_t own_area;

extern const unsigned char mixed_count[], mixed_sleep[], mixed_home[], mixed_end[];

/* ESI = struct low. Data segments are those of 32-bit programs. */
__asm__(".pushsection .rodata\n"
	"mixed_count:\n"
	".code32\n"
	"	mov $0x2b, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	"1:	incl (%esi)\n"
	"	mov %ds, %ecx\n"
	"	mov %es, %edx\n"
	"	cmp %ecx, %edx\n"
	"	je 2f\n"
	"	incl 32(%esi)\n"
	"2:	cmp $0x2b, %ecx\n"
	"	je 3f\n"
	"	incl 32(%esi)\n"
	"3:	cmpl $0, 4(%esi)\n"
	"	je 1b\n"
	"	lret\n"
	"mixed_sleep:\n"
	"	mov $0x2b, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	"1:	incl (%esi)\n"
	"	mov $162, %eax\n" /* nanosleep */
	"	lea 8(%esi), %ebx\n"
	"	xor %ecx, %ecx\n"
	"	int $0x80\n"
	"	test %eax, %eax\n"
	"	jz 2f\n"
	"	incl 32(%esi)\n"
	"2:	cmpl $0, 4(%esi)\n"
	"	je 1b\n"
	"	lret\n"
	".code64\n"
	"mixed_home:\n" /* RSI = struct low, in 64-bit code again */
	"	mov %esi, %esi\n"
	"	xor %eax, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	"	mov 16(%rsi), %rsp\n"
	"	jmp *24(%rsi)\n"
	"mixed_end:\n"
	".popsection\n");

static uint64_t code_at(const struct low *l, const unsigned char *label)
{
	return (uint64_t)(uintptr_t)l->code + (uint64_t)(label - mixed_count);
}

/* To 32-bit code and back; the value of R15 there and back. */
static __attribute__((noinline)) uint64_t go_there(struct low *l, const unsigned char *label, uint64_t value)
{
	uint32_t *stack = (uint32_t *)(void *)((char *)l + PAGE - 64);

	stack[0] = (uint32_t)code_at(l, mixed_home);
	stack[1] = 0x33;
	__asm__ volatile("push %%rbx\n\t"
			 "push %%rbp\n\t"
			 "mov %%rsp, 16(%%rsi)\n\t"
			 "lea 1f(%%rip), %%rax\n\t"
			 "mov %%rax, 24(%%rsi)\n\t"
			 "mov %[value], %%r15\n\t"
			 "mov %[stack], %%rsp\n\t"
			 "sub $16, %%rsp\n\t"
			 "movq $0x23, 8(%%rsp)\n\t"
			 "mov %[code], (%%rsp)\n\t"
			 "lretq\n"
			 "1:\tpop %%rbp\n\t"
			 "pop %%rbx\n\t"
			 "mov %%r15, %[value]"
			 : [value] "+&r"(value)
			 : [stack] "r"(stack), [code] "r"(code_at(l, label)), "S"(l)
			 : "rax", "rcx", "rdx", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r15",
			   "memory", "cc");
	return value;
}

static void *thread_main(void *argument)
{
	struct thread *t = argument;
	struct program own = program_role(t->program, t->what == COUNT ? "counter" : "sleeper");

	program_note_volatile(&own);
	own_area = 0x1122334455667788 + (uint64_t)t->what;
	t->kept = go_there(t->low, t->what == COUNT ? mixed_count : mixed_sleep, 0xabcdef0123456789);
	if (own_area != 0x1122334455667788 + (uint64_t)t->what)
		t->kept = 0;
	__atomic_store_n(&t->done, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
	return NULL;
}

static void verify(struct program *p, void *state)
{
	struct thread *threads = state;

	for (int i = 0; i < CALLS; i++) {
		struct low *l = threads[i].low;
		uint32_t beats = __atomic_load_n(&l->beats, __ATOMIC_SEQ_CST);
		for (int n = 0; n < 5000 && __atomic_load_n(&l->beats, __ATOMIC_SEQ_CST) == beats; n++)
			sleep_ms(1);
		expect(p, __atomic_load_n(&l->beats, __ATOMIC_SEQ_CST) != beats, "thread %d does not go on",
		       i);
		expect_same(p, "what went wrong there", l->wrong, 0);
	}
}

static void finish(struct program *p, void *state)
{
	struct thread *threads = state;

	for (int i = 0; i < CALLS; i++) {
		__atomic_store_n(&threads[i].low->stop, 1, __ATOMIC_SEQ_CST);
		for (int n = 0; n < 5000 && !__atomic_load_n(&threads[i].done, __ATOMIC_SEQ_CST); n++)
			sleep_ms(1);
		expect(p, threads[i].done, "thread %d does not come back", i);
		expect_same(p, "a register that came back", threads[i].kept, 0xabcdef0123456789);
	}
}

static void spoil(void *state)
{
	((struct thread *)state)->low->wrong = 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct thread threads[CALLS];
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	for (int i = 0; i < CALLS; i++) {
		struct low *l = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
		if (l == MAP_FAILED)
			program_die("mmap");
		l->nanoseconds = 150000000;
		memcpy(l->code, mixed_count, (size_t)(mixed_end - mixed_count));
		threads[i] = (struct thread){.program = &p, .low = l, .what = i};
		if (pthread_create(&handle, NULL, thread_main, &threads[i]))
			program_die("pthread_create");
	}
	_exit(program_serve(&p, &ops, threads));
}
