/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads, each with its own name, thread-local value, signal mask, stack contents, and a share in a mutex. Proof: each
 * answers for itself; the main thread counts them and sees each one work.
 */
#include "program.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 9, STACK_BYTES = 20000 };

struct state {
	const struct program *program;
	pthread_mutex_t lock;
	unsigned long work[THREADS]; /* under lock */
	unsigned long seen[THREADS];
	pthread_t idle; /* ends in the end */
};

struct thread {
	struct state *shared;
	int number;
	pid_t tid;
	pthread_t handle;
	unsigned char *stack;
};

static __thread uint64_t thread_local_value;

static uint64_t value_of(int number)
{
	return 0x1234567800000000u + (uint64_t)number * 0x10001;
}

static void mask_of(int number, sigset_t *ret)
{
	sigemptyset(ret);
	sigaddset(ret, SIGRTMIN + number);
	if (number % 2)
		sigaddset(ret, SIGHUP);
}

static void thread_verify(struct program *p, void *state)
{
	struct thread *t = state;
	char name[16] = "", want[16];
	sigset_t mask, wanted;

	expect_same(p, "thread-local value", thread_local_value, value_of(t->number));
	expect_same(p, "tid", syscall(SYS_gettid), t->tid);
	expect(p, pthread_equal(pthread_self(), t->handle), "pthread_self() changed");
	snprintf(want, sizeof(want), "worker %d", t->number);
	prctl(PR_GET_NAME, name);
	expect(p, !strcmp(name, want), "name is '%s', not '%s'", name, want);
	mask_of(t->number, &wanted);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	expect(p, !memcmp(&mask, &wanted, 8), "signal mask differs");
	expect(p, pattern_differs(t->stack, STACK_BYTES, (uint64_t)t->number) < 0, "stack differs");
}

static void thread_step(void *state)
{
	struct thread *t = state;

	pthread_mutex_lock(&t->shared->lock);
	t->shared->work[t->number]++;
	pthread_mutex_unlock(&t->shared->lock);
}

static void thread_spoil(void *state)
{
	(void)state;
	thread_local_value++;
}

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {
		.verify = thread_verify, .spoil = thread_spoil, .step = thread_step};
	struct thread *t = argument;
	unsigned char stack[STACK_BYTES];
	char text[16];
	sigset_t mask;

	t->stack = stack;
	t->tid = (pid_t)syscall(SYS_gettid);
	t->handle = pthread_self();
	thread_local_value = value_of(t->number);
	pattern_fill(stack, sizeof(stack), (uint64_t)t->number);
	snprintf(text, sizeof(text), "worker %d", t->number);
	prctl(PR_SET_NAME, text);
	mask_of(t->number, &mask);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	snprintf(text, sizeof(text), "thread-%d", t->number);
	struct program p = program_role(t->shared->program, text);
	program_serve(&p, &ops, t);
	return NULL;
}

static int count_tasks(void)
{
	DIR *dir = opendir("/proc/self/task");
	int n = -2;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect_same(p, "number of tasks", count_tasks(), THREADS + 2);
	for (int i = 0; i < THREADS; i++) {
		unsigned long now = 0;
		for (int tries = 0; tries < 2000 && now <= s->seen[i]; tries++) {
			sleep_ms(1);
			pthread_mutex_lock(&s->lock);
			now = s->work[i];
			pthread_mutex_unlock(&s->lock);
		}
		expect(p, now > s->seen[i], "thread %d does nothing", i);
		s->seen[i] = now;
	}
}

/* Who waits for a thread is told by the kernel that it is over. */
static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	must(pthread_cancel(s->idle) ? -1 : 0);
	expect_same(p, "joining the thread that ended", pthread_join(s->idle, NULL), 0);
	/* It stays in /proc a moment longer than it keeps others waiting. */
	for (int i = 0; i < 1000 && count_tasks() != THREADS + 1; i++)
		sleep_ms(1);
	expect_same(p, "number of tasks then", count_tasks(), THREADS + 1);
}

static void *idle_main(void *argument)
{
	(void)argument;
	for (;;)
		pause();
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish};
	static struct state s = {.lock = PTHREAD_MUTEX_INITIALIZER};
	static struct thread threads[THREADS];
	char role[24];
	struct program p;

	program_start(&p, argc, argv);
	s.program = &p;
	if (pthread_create(&s.idle, NULL, idle_main, NULL) != 0)
		program_die("pthread_create");
	for (int i = 0; i < THREADS; i++) {
		pthread_t handle;
		threads[i] = (struct thread){.shared = &s, .number = i};
		if (pthread_create(&handle, NULL, thread_main, &threads[i]) != 0)
			program_die("pthread_create");
		snprintf(role, sizeof(role), "thread-%d", i);
		program_await(&p, role);
	}
	return program_serve(&p, &ops, &s);
}
