/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes and threads that share more, or less, than fork(2) and pthread_create(3) make them: what the first argument says. A
 * dump refuses each by name.
 */
#include "relations.h"

#include <pthread.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

struct state {
	struct relations all;
};

static void *unshare_files(void *argument)
{
	must(unshare(CLONE_FILES));
	note_volatile();
	for (;;)
		pause();
	return argument;
}

static void *unshare_folders(void *argument)
{
	must(unshare(CLONE_FS));
	note_volatile();
	for (;;)
		pause();
	return argument;
}

static void start_thread(void *(*run)(void *))
{
	pthread_t thread;

	pthread_create(&thread, NULL, run, NULL);
}

static int in_new_stack(void *argument)
{
	for (;;)
		pause();
	return argument == NULL;
}

static int lose_first_thread(void *argument)
{
	enum { THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM };
	static char stack[64 << 10] __attribute__((aligned(16)));

	clone(in_new_stack, stack + sizeof(stack), THREAD, argument);
	return (int)syscall(SYS_exit, 0);
}

/* A process that has this one's memory. */
static pid_t make_mate(int (*run)(void *argument))
{
	static char stack[64 << 10] __attribute__((aligned(16)));

	return must(clone(run, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL));
}

static void make(const char *word)
{
	int status;

	if (!strcmp(word, "mate-stopped")) {
		pid_t pid = make_mate(in_new_stack);
		must(kill(pid, SIGSTOP));
		must(waitpid(pid, &status, WUNTRACED));
	}
	if (!strcmp(word, "mate-leaderless"))
		make_mate(lose_first_thread);
	if (!strcmp(word, "mate-traced"))
		must(ptrace(PTRACE_SEIZE, make_mate(in_new_stack), NULL, NULL));
	if (!strcmp(word, "mate-traces")) {
		make_mate(in_new_stack);
		must(ptrace(PTRACE_SEIZE, resting_child(), NULL, NULL));
	}
	if (!strcmp(word, "thread-descriptors"))
		start_thread(unshare_files);
	if (!strcmp(word, "thread-folders"))
		start_thread(unshare_folders);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct state s;
	struct program p;

	relations_start(&p, argc, argv);
	make(argc > 2 ? argv[2] : "");
	sleep_ms(60);
	relations_look(&s.all);
	return program_serve(&p, &ops, &s);
}
