/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stopped process with several threads, which count in registers and on their stacks. Proof: it stays stopped, and when it goes
 * on all threads do, with what they had.
 */
#include "relations.h"

#include <pthread.h>
#include <sys/mman.h>

enum { THREADS = 4, GOES_ON = 20 };

struct shared {
	unsigned long counts[THREADS];
	unsigned long wrong;
};

struct state {
	struct relations all;
	struct shared *shared;
	struct shared seen;
};

static struct shared *counters;

/* The two counts are kept apart: one in memory, one in registers. */
static void *count(void *argument)
{
	unsigned long *own = argument;

	note_volatile();
	for (unsigned long i = *own;; i++) {
		if (__atomic_load_n(own, __ATOMIC_SEQ_CST) != i)
			counters->wrong++;
		__atomic_store_n(own, i + 1, __ATOMIC_SEQ_CST);
		if (i % 1000 == 0)
			sleep_ms(1);
	}
	return NULL;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	relations_verify(p, &s->all);
	for (int i = 0; i < THREADS; i++)
		expect_same(p, "a counter of the stopped process", s->shared->counts[i], s->seen.counts[i]);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	kill(s->all.v[1].pid, SIGCONT);
	for (int n = 0; n < THREADS; n++) {
		for (int i = 0; i < 500 && s->shared->counts[n] < s->seen.counts[n] + GOES_ON * 1000; i++)
			sleep_ms(2);
		expect(p, s->shared->counts[n] >= s->seen.counts[n] + GOES_ON * 1000,
		       "thread %d does not go on", n);
	}
	expect_same(p, "wrong counts", s->shared->wrong, 0);
}

static void spoil(void *state)
{
	struct state *s = state;

	kill(s->all.v[1].pid, SIGCONT);
	sleep_ms(50);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state s = {0};
	struct program p;

	relations_start(&p, argc, argv);
	s.shared = counters =
		mmap(NULL, sizeof(*s.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = must(fork());
	if (!child) {
		pthread_t threads[THREADS];
		for (int i = 1; i < THREADS; i++)
			pthread_create(&threads[i], NULL, count, &counters->counts[i]);
		count(&counters->counts[0]);
	}
	sleep_ms(50);
	kill(child, SIGSTOP);
	must(waitpid(child, NULL, WUNTRACED));
	s.seen = *s.shared;
	relations_settle(&s.all, 2);
	return program_serve(&p, &ops, &s);
}
