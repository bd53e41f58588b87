/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Floating point state that compilers do not use: an x87 exception that is pending and unmasked, values of 80 bits on the x87
 * stack, MXCSR with other rounding and sticky flags. Proof: control and status words read back by instructions
 * that do not wait; at the end a waiting instruction raises SIGFPE, and the values are popped.
 */
#include "program.h"

#include <signal.h>
#include <string.h>
#include <ucontext.h>

enum {
	CONTROL = 0x0c7b, /* rounds to zero, extended precision is off, division by zero is not masked */
	STATUS_PENDING = 0x8084,  /* busy, summary, division by zero */
	MXCSR = 0x7fbf & ~0x0200, /* rounds to zero; flags are set; division by zero is not masked */
};

static const long double values[] = {3.14159265358979323846L, -2.5e4000L};

static uint16_t control_word(void)
{
	uint16_t word;

	__asm__ volatile("fnstcw %0" : "=m"(word));
	return word;
}

static uint16_t status_word(void)
{
	uint16_t word;

	__asm__ volatile("fnstsw %0" : "=a"(word));
	return word;
}

static uint32_t mxcsr(void)
{
	uint32_t word;

	__asm__ volatile("stmxcsr %0" : "=m"(word));
	return word;
}

static void verify(struct program *p, void *state)
{
	const uint32_t *wanted = state;

	expect_same(p, "control word", control_word(), CONTROL);
	expect_same(p, "status word", status_word() & STATUS_PENDING, STATUS_PENDING);
	expect_same(p, "top of the stack", status_word() >> 11 & 7, 4);
	expect_same(p, "MXCSR", mxcsr(), *wanted);
}

static void spoil(void *state)
{
	(void)state;
	__asm__ volatile("fnclex");
}

static volatile sig_atomic_t raised;

/* A handler has a fresh unit; in the state that it returns to nothing is pending any more. */
static void on_fpe(int number, siginfo_t *info, void *context)
{
	ucontext_t *state = context;

	(void)number;
	(void)info;
	state->uc_mcontext.fpregs->swd &= (uint16_t)~0x80ff;
	raised = 1;
}

static bool wait_raises(void)
{
	const struct sigaction action = {.sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO};

	sigaction(SIGFPE, &action, NULL);
	__asm__ volatile("fwait");
	return raised;
}

static void finish(struct program *p, void *state)
{
	long double popped[ARRAY_SIZE(values)] = {0};

	verify(p, state);
	expect(p, wait_raises(), "the pending exception is not raised");
	/* The division that failed has left its operands on top. */
	__asm__ volatile("fnclex\n\tfstp %%st(0)\n\tfstp %%st(0)\n\tfstpt %0\n\tfstpt %1"
			 : "=m"(popped[1]), "=m"(popped[0]));
	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		expect(p, !memcmp(&popped[i], &values[i], 10), "value %zu differs", i);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct program p;
	static uint32_t wanted = MXCSR;
	const uint16_t control = CONTROL;

	program_start(&p, argc, argv);
	__asm__ volatile("fninit\n\tfldt %0\n\tfldt %1" : : "m"(values[0]), "m"(values[1]));
	__asm__ volatile("fld1\n\tfldz\n\tfldcw %0\n\tfdivrp %%st, %%st(1)" : : "m"(control));
	__asm__ volatile("ldmxcsr %0" : : "m"(wanted));
	wanted = mxcsr();
	return program_serve(&p, &ops, &wanted);
}
