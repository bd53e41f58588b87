/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Syscall user dispatch, as emulators use it: a thread whose system calls from outside a range become SIGSYS while a byte
 * says so, and one that has it without a byte for a range that holds everything. Proof: the byte lets calls through and
 * stops them, as before.
 */
#include "program.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Holds the program and its libraries; as many bytes from address 0 on would not hold the libraries. */
static const unsigned long DISPATCH_START = 0x200000000000, DISPATCH_END = 0x7fffffff0000;

static volatile char selector = SYSCALL_DISPATCH_FILTER_ALLOW;
static volatile sig_atomic_t caught;

static void on_sigsys(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	selector = SYSCALL_DISPATCH_FILTER_ALLOW;
	caught = info->si_syscall;
}

static void verify(struct program *p, void *state)
{
	(void)state;
	caught = -1;
	selector = SYSCALL_DISPATCH_FILTER_BLOCK;
	syscall(SYS_getppid);
	expect_same(p, "the call that was dispatched", caught, SYS_getppid);
	caught = -1;
	expect(p, syscall(SYS_getppid) > 0, "an allowed call fails");
	expect_same(p, "calls that were dispatched then", caught, -1);
}

static void spoil(void *state)
{
	(void)state;
	prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
}

static void wide_verify(struct program *p, void *state)
{
	(void)state;
	expect(p, syscall(SYS_getppid) > 0, "a call from the range fails");
}

static void *wide_main(void *argument)
{
	static const struct program_ops ops = {.verify = wide_verify};
	struct program p = program_role(argument, "wide");

	must(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, DISPATCH_START,
		   DISPATCH_END - DISPATCH_START, 0));
	program_serve(&p, &ops, NULL);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	const struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	sigaction(SIGSYS, &action, NULL);
	if (pthread_create(&thread, NULL, wide_main, &p) != 0)
		program_die("pthread_create");
	program_await(&p, "wide");
	must(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector));
	return program_serve(&p, &ops, NULL);
}
