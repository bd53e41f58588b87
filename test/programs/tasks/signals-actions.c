/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signal actions with flags and masks, ignored signals, alternate stacks of two threads. Proof: rt_sigaction(2) gives
 * back every field, handlers run where and how they should.
 */
#include "program.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ALTSTACK_BYTES = 65536 };

/* As the kernel defines it (signal(7) calls the library's): the restorer belongs to the state. */
struct kernel_action {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

struct state {
	const struct program *program;
	struct kernel_action actions[NSIG];
	stack_t main_stack, thread_stack;
};

/* Written by handlers. */
static volatile int handled_number, handled_value;
static volatile uintptr_t handled_at;

static void on_signal(int number)
{
	handled_number = number;
	handled_at = (uintptr_t)__builtin_frame_address(0);
}

static void on_info(int number, siginfo_t *info, void *context)
{
	(void)context;
	handled_value = info->si_value.sival_int;
	on_signal(number);
}

static int get_action(int number, struct kernel_action *ret)
{
	return (int)syscall(SYS_rt_sigaction, number, NULL, ret, 8);
}

static void verify_actions(struct program *p, const struct state *s)
{
	for (int n = 1; n < NSIG; n++) {
		struct kernel_action now = {0};

		if (get_action(n, &now) < 0)
			continue;
		expect(p, now.handler == s->actions[n].handler, "signal %d: another handler", n);
		expect_same(p, "flags of an action", now.flags, s->actions[n].flags);
		expect(p, now.restorer == s->actions[n].restorer, "signal %d: another restorer", n);
		expect(p, now.mask == s->actions[n].mask, "signal %d: another mask", n);
	}
}

static void verify_stack(struct program *p, const stack_t *wanted)
{
	stack_t now;

	sigaltstack(NULL, &now);
	expect(p, now.ss_sp == wanted->ss_sp, "the alternate stack moved");
	expect_same(p, "its size", now.ss_size, wanted->ss_size);
	expect_same(p, "its flags", now.ss_flags, wanted->ss_flags);
}

static bool inside(const stack_t *stack, uintptr_t at)
{
	return at >= (uintptr_t)stack->ss_sp && at < (uintptr_t)stack->ss_sp + stack->ss_size;
}

static void verify_handlers(struct program *p, const stack_t *stack)
{
	handled_number = 0;
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1);
	expect_same(p, "signal handled", handled_number, SIGUSR1);
	expect(p, inside(stack, handled_at), "the handler did not run on the alternate stack");
	raise(SIGPIPE); /* ignored: nothing happens */
}

static void main_verify(struct program *p, void *state)
{
	struct state *s = state;

	verify_actions(p, s);
	verify_stack(p, &s->main_stack);
	verify_handlers(p, &s->main_stack);
	sigqueue(getpid(), SIGRTMIN + 4, (union sigval){.sival_int = 4711});
	expect_same(p, "value handled", handled_value, 4711);
	expect(p, !inside(&s->main_stack, handled_at), "a plain handler ran on the alternate stack");
	handled_value = 0;
}

static void thread_verify(struct program *p, void *state)
{
	struct state *s = state;

	verify_stack(p, &s->thread_stack);
	verify_handlers(p, &s->thread_stack);
}

static void spoil(void *state)
{
	(void)state;
	signal(SIGHUP, SIG_IGN);
}

static void use_stack(stack_t *stack, void *memory)
{
	*stack = (stack_t){.ss_sp = memory, .ss_size = ALTSTACK_BYTES};
	must(sigaltstack(stack, NULL));
}

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {.verify = thread_verify};
	static unsigned char memory[ALTSTACK_BYTES];
	struct state *s = argument;
	struct program p = program_role(s->program, "thread");

	/* Takes no signal meant for the process. */
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 4);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	use_stack(&s->thread_stack, memory);
	program_serve(&p, &ops, s);
	return NULL;
}

static void set_actions(void)
{
	struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};

	sigemptyset(&a.sa_mask);
	sigaddset(&a.sa_mask, SIGALRM);
	must(sigaction(SIGUSR1, &a, NULL));
	a = (struct sigaction){.sa_sigaction = on_info, .sa_flags = SA_SIGINFO | SA_NODEFER};
	sigfillset(&a.sa_mask);
	must(sigaction(SIGRTMIN + 4, &a, NULL));
	a = (struct sigaction){.sa_handler = on_signal,
			       .sa_flags = (int)SA_RESETHAND | SA_NOCLDSTOP | SA_NOCLDWAIT};
	must(sigaction(SIGCHLD, &a, NULL));
	must(signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0);
	must(signal(SIGRTMAX, SIG_IGN) == SIG_ERR ? -1 : 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = main_verify, .spoil = spoil};
	static unsigned char memory[ALTSTACK_BYTES];
	static struct state s;
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	s.program = &p;
	set_actions();
	use_stack(&s.main_stack, memory);
	if (pthread_create(&handle, NULL, thread_main, &s) != 0)
		program_die("pthread_create");
	program_await(&p, "thread");
	for (int n = 1; n < NSIG; n++)
		if (get_action(n, &s.actions[n]) < 0 && errno != EINVAL)
			program_die("rt_sigaction");
	return program_serve(&p, &ops, &s);
}
