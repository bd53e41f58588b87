/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that count in per-CPU counters inside restartable sequences, most of their time within one. Proof: the
 * counters add up to what the threads did, so no sequence was continued where it had to be aborted; and the rseq area
 * is still registered with the kernel.
 *
 * Interface: rseq(2) (4.18) as glibc 2.35 registers it. x86-64 only.
 */
#include "program.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 2, CPUS = 1024, ANSWER_MS = 5000 };

struct counter {
	_Alignas(64) long value;
};

struct worker {
	long done;             /* increments that this thread committed */
	volatile bool resting; /* while the main thread adds up */
	volatile bool registered;
};

struct state {
	struct counter counters[CPUS];
	struct worker workers[THREADS];
	volatile bool rest;
};

static struct rseq *own_rseq(void)
{
	uintptr_t base;

	__asm__("mov %%fs:0, %0" : "=r"(base));
	return (struct rseq *)(base + (uintptr_t)__rseq_offset);
}

/*
 * Add one to the counter of this CPU; false when the sequence was aborted. Between the load and the store of the
 * counter a short loop runs, so that an interruption nearly always comes inside: continued on another CPU or after
 * another thread counted here, the store would lose counts.
 */
static bool count_here(struct rseq *r, struct counter *counters)
{
	unsigned cpu = __atomic_load_n(&r->cpu_id_start, __ATOMIC_RELAXED);
	long *counter = &counters[cpu % CPUS].value;

	__asm__ goto(
		".pushsection __rseq_cs, \"aw\"\n"
		".balign 32\n"
		"1: .long 0, 0\n"
		"   .quad 2f, 3f - 2f, 4f\n"
		".popsection\n"
		"   leaq 1b(%%rip), %%rax\n"
		"   movq %%rax, %[section]\n"
		"2: cmpl %[cpu], %[current]\n"
		"   jne %l[aborted]\n"
		"   movq (%[counter]), %%rax\n"
		"   movl $200, %%ecx\n"
		"5: decl %%ecx\n"
		"   jnz 5b\n"
		"   incq %%rax\n"
		"   movq %%rax, (%[counter])\n"
		"3:\n"
		".pushsection __rseq_failure, \"ax\"\n"
		"   .byte 0x0f, 0xb9, 0x3d\n"
		"   .long 0x53053053\n"
		"4: jmp %l[aborted]\n"
		".popsection\n"
		:
		: [section] "m"(r->rseq_cs), [current] "m"(r->cpu_id), [cpu] "r"(cpu), [counter] "r"(counter)
		: "rax", "rcx", "memory", "cc"
		: aborted);
	return true;
aborted:
	return false;
}

/* The kernel refuses a second registration of the same area with EBUSY; were it gone, this call would succeed. */
static bool is_registered(void)
{
	return syscall(SYS_rseq, own_rseq(), __rseq_size < 32 ? 32 : __rseq_size, 0, RSEQ_SIG) < 0 &&
	       errno == EBUSY;
}

struct start {
	const struct program *program;
	struct state *state;
	struct worker *worker;
};

static void *worker_main(void *argument)
{
	const struct start *start = argument;
	struct worker *w = start->worker;
	struct rseq *r = own_rseq();
	char role[16];

	snprintf(role, sizeof(role), "worker-%d", (int)(w - start->state->workers));
	const struct program p = program_role(start->program, role);
	program_note_volatile(&p);
	for (;;) {
		while (start->state->rest) {
			w->registered = is_registered();
			w->resting = true;
			sleep_ms(1);
		}
		w->resting = false;
		for (int i = 0; i < 1000; i++)
			w->done += count_here(r, start->state->counters);
		/* Two CPUs are shared with everything else that runs in parallel. */
		if (w->done % 16 == 0)
			sleep_ms(1);
	}
	return NULL;
}

static void add_up(struct program *p, struct state *s)
{
	long counted = 0, done = 0;

	for (int i = 0; i < CPUS; i++)
		counted += s->counters[i].value;
	for (int i = 0; i < THREADS; i++)
		done += s->workers[i].done;
	expect(p, done > 0, "nothing was counted");
	expect_same(p, "the sum of the counters", counted, done);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, is_registered(), "the main thread's rseq area is not registered");
	s->rest = true;
	for (int i = 0; i < THREADS; i++) {
		for (int ms = 0; ms < ANSWER_MS && !s->workers[i].resting; ms++)
			sleep_ms(1);
		expect(p, s->workers[i].resting, "thread %d does not answer", i);
		expect(p, s->workers[i].registered, "the rseq area of thread %d is not registered", i);
	}
	if (!p->bad)
		add_up(p, s);
	s->rest = false;
	for (int i = 0; i < THREADS; i++)
		for (int ms = 0; ms < ANSWER_MS && s->workers[i].resting; ms++)
			sleep_ms(1);
}

static void spoil(void *state)
{
	struct state *s = state;

	s->counters[CPUS - 1].value++;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct state s;
	static struct start starts[THREADS];
	struct program p;

	program_start(&p, argc, argv);
	for (int i = 0; i < THREADS; i++) {
		pthread_t handle;
		starts[i] = (struct start){.program = &p, .state = &s, .worker = &s.workers[i]};
		if (pthread_create(&handle, NULL, worker_main, &starts[i]) != 0)
			program_die("pthread_create");
	}
	for (int i = 0; i < THREADS; i++)
		while (!__atomic_load_n(&s.workers[i].done, __ATOMIC_RELAXED))
			sleep_ms(1);
	return program_serve(&p, &ops, &s);
}
