/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes and threads that share more, or less, than fork(2) and pthread_create(3) make them: what the first argument says. A
 * dump refuses each by name.
 */
#include "relations.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

struct state {
	struct relations all;
};

static const struct {
	const char *word;
	unsigned long flags;
} shared[] = {
	{"memory", CLONE_VM},
	{"actions", CLONE_VM | CLONE_SIGHAND},
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

static void make(const char *word)
{
	static char stack[64 << 10] __attribute__((aligned(16)));

	for (size_t i = 0; i < ARRAY_SIZE(shared); i++)
		if (!strcmp(word, shared[i].word))
			must(clone(in_new_stack, stack + sizeof(stack), (int)shared[i].flags | SIGCHLD,
				   NULL));
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
