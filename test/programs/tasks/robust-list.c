/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child holds robust mutexes in shared memory. Proof: while it lives they are locked and its list head is the one it
 * registered; at the end the child is killed and the parent gets EOWNERDEAD for each, so the kernel walked the list.
 */
#include "program.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MUTEXES = 5 };

struct state {
	pthread_mutex_t mutexes[MUTEXES];
	void *head; /* of the child */
	size_t head_bytes;
	pid_t child;
};

static void child_verify(struct program *p, void *state)
{
	const struct state *s = state;
	void *head = NULL;
	size_t n = 0;

	syscall(SYS_get_robust_list, 0, &head, &n);
	expect(p, head == s->head, "the robust list is at %p, not %p", head, s->head);
	expect_same(p, "size of its head", n, s->head_bytes);
}

static void child_spoil(void *state)
{
	struct state *s = state;

	syscall(SYS_set_robust_list, (char *)s->head + 64, s->head_bytes);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	for (int i = 0; i < MUTEXES; i++)
		expect_same(p, "trying a mutex that the child holds", pthread_mutex_trylock(&s->mutexes[i]),
			    EBUSY);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	int status = 0;

	kill(s->child, SIGKILL);
	expect_same(p, "the child that ended", waitpid(s->child, &status, 0), s->child);
	for (int i = 0; i < MUTEXES; i++)
		expect_same(p, "locking a mutex of a dead owner", pthread_mutex_lock(&s->mutexes[i]),
			    EOWNERDEAD);
}

static int child_main(const struct program *parent, struct state *s)
{
	static const struct program_ops ops = {.verify = child_verify, .spoil = child_spoil};
	struct program p = program_role(parent, "child");

	must(syscall(SYS_get_robust_list, 0, &s->head, &s->head_bytes));
	for (int i = 0; i < MUTEXES; i++)
		if (pthread_mutex_lock(&s->mutexes[i]) != 0)
			program_die("pthread_mutex_lock");
	return program_serve(&p, &ops, s);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish};
	pthread_mutexattr_t attributes;
	struct program p;

	program_start(&p, argc, argv);
	struct state *s =
		must(mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	for (int i = 0; i < MUTEXES; i++)
		pthread_mutex_init(&s->mutexes[i], &attributes);
	/* Only the parent may write it: the memory is shared. */
	pid_t child = must(fork());
	if (!child)
		return child_main(&p, s);
	s->child = child;
	program_await(&p, "child");
	return program_serve(&p, &ops, s);
}
