/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signal handlers that are running, by the first argument: "in-use", on the alternate stack; "nested", two handlers inside each
 * other with masks of their own; "autodisarm", with a stack that is disarmed while it is used; "no-restorer", an action
 * without SA_RESTORER. The mailbox is served inside the handler. Proof: sigaltstack(2) and the mask tell where the thread
 * is; the handler returns to where it was called, and mask and stack are as before it.
 */
#include "program.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK_BYTES = 65536 };

static struct program program;
static const char *what;
static unsigned char *stack;
static int served, depth;

struct action {
	void (*handler)(int);
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

static bool on_stack(const void *address)
{
	return (const unsigned char *)address >= stack &&
	       (const unsigned char *)address < stack + STACK_BYTES;
}

static uint64_t mask_now(void)
{
	uint64_t mask = 0;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
	return mask;
}

static uint64_t bit(int number)
{
	return 1ull << (number - 1);
}

static void on_first(int number);

static void verify(struct program *p, void *state)
{
	stack_t now;
	unsigned char here;
	bool disarmed = !strcmp(what, "autodisarm");

	(void)state;
	must(sigaltstack(NULL, &now));
	if (!strcmp(what, "no-restorer")) {
		struct action action;
		syscall(SYS_rt_sigaction, SIGUSR2, NULL, &action, 8);
		expect_same(p, "flags", action.flags, SA_RESTART);
		expect(p, !action.restorer, "there is a restorer");
		expect(p, action.handler == on_first, "another handler");
		return;
	}
	expect_same(p, "flags of the stack", now.ss_flags, disarmed ? SS_DISABLE : SS_ONSTACK);
	expect(p, on_stack(&here), "not on the alternate stack");
	expect_same(p, "mask", mask_now(),
		    bit(SIGUSR1) | bit(SIGWINCH) | (depth > 1 ? bit(SIGUSR2) | bit(SIGIO) : 0));
}

static void spoil(void *state)
{
	(void)state;
	if (!strcmp(what, "no-restorer"))
		signal(SIGUSR2, SIG_IGN);
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	if (!strcmp(what, "autodisarm"))
		sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = STACK_BYTES}, NULL);
}

static void serve(void)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};

	program_serve(&program, &ops, NULL);
	served++;
}

static void on_second(int number)
{
	(void)number;
	depth = 2;
	serve();
	depth = 1;
}

static void on_first(int number)
{
	(void)number;
	depth = 1;
	if (!strcmp(what, "nested"))
		raise(SIGUSR2);
	else
		serve();
}

/* After the handler: it came back, and what it changed is undone. The quit is the handler's end, so this is its proof. */
static int look_back(void)
{
	stack_t now;

	must(sigaltstack(NULL, &now));
	bool good = served == 1 && mask_now() == 0 && now.ss_sp == stack && now.ss_size == STACK_BYTES &&
		    !(now.ss_flags & (SS_ONSTACK | SS_DISABLE));
	return good ? 0 : 3;
}

int main(int argc, char **argv)
{
	struct sigaction first = {.sa_handler = on_first, .sa_flags = SA_ONSTACK};
	struct sigaction second = {.sa_handler = on_second, .sa_flags = SA_ONSTACK};

	program_start(&program, argc, argv);
	what = argc > 2 ? argv[2] : "";
	if (!strcmp(what, "no-restorer")) {
		struct action action = {.handler = on_first, .flags = SA_RESTART};
		must(syscall(SYS_rt_sigaction, SIGUSR2, &action, NULL, 8));
		serve();
		return 0;
	}
	stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(sigaltstack(&(stack_t){.ss_sp = stack,
				    .ss_size = STACK_BYTES,
				    .ss_flags = !strcmp(what, "autodisarm") ? (int)(1u << 31) : 0},
			 NULL));
	sigaddset(&first.sa_mask, SIGWINCH);
	sigaddset(&second.sa_mask, SIGIO);
	sigaction(SIGUSR1, &first, NULL);
	sigaction(SIGUSR2, &second, NULL);
	raise(SIGUSR1);
	return look_back();
}
