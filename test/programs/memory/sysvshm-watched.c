/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A System V segment, and a thread that asks all the time how often it is attached: from its first instruction after a
 * restore on nobody else holds it. Proof: the number was never another than the program's own, and who attached last was a
 * process of the program.
 */
#include "program.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, ATTACHED = 2, PATIENCE = 4000 };

struct state {
	const struct program *program;
	int id;
	unsigned char *first, *second;
	_Atomic(unsigned long) most, looks; /* attachments at one time; how often it looked */
};

static void *watch(void *data)
{
	struct state *s = data;
	const struct timespec pause = {.tv_nsec = 20000};
	struct program p = program_role(s->program, "watch");
	struct shmid_ds d;

	program_note_volatile(&p);
	for (;;) {
		if (shmctl(s->id, IPC_STAT, &d) == 0 && d.shm_nattch > s->most)
			s->most = d.shm_nattch;
		s->looks++;
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	unsigned long looks = s->looks;

	for (int i = 0; i < PATIENCE && s->looks == looks; i++)
		sleep_ms(5);
	expect(p, s->looks > looks, "the thread does not look");
	expect_same(p, "attachments at one time", s->most, ATTACHED);
	expect(p, pattern_differs(s->first, PAGE, 3) < 0, "contents differ");
	s->second[PAGE] = 7;
	expect_same(p, "what is written through the other attachment", s->first[PAGE], 7);
	s->second[PAGE] = 0;
}

static void spoil(void *state)
{
	struct state *s = state;

	must(shmat(s->id, NULL, 0));
	sleep_ms(20);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	/* The counters change while nobody asks. */
	struct state *s = must(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	s->program = &p;
	s->id = must(shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600));
	s->first = must((unsigned char *)shmat(s->id, NULL, 0));
	s->second = must((unsigned char *)shmat(s->id, NULL, 0));
	pattern_fill(s->first, PAGE, 3);
	if (pthread_create(&thread, NULL, watch, s))
		program_die("pthread_create");
	return program_serve(&p, &ops, s);
}
