/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of an io_uring in flight at any instant: a thread keeps direct writes and reads going and waits in the
 * kernel for what ends. Proof: every request ends exactly once, with its whole length and its own data.
 */
#include "ring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { DEPTH = 16, BYTES = 65536, READ_BIT = 1 << 20 };

struct state {
	const struct program *program;
	struct ring ring;
	int fd;
	unsigned char *buffers;
	_Atomic uint64_t done, bad, held;
	_Atomic int hold; /* submit nothing new */
};

/* Memory that changes all the time. */
static void note(const struct program *p, const char *what, const void *from, size_t n)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/volatile.%s", p->folder, what);
	FILE *f = fopen(path, "we");
	if (!f)
		program_die(path);
	fprintf(f, "%d %lx %lx\n", getpid(), (unsigned long)(uintptr_t)from,
		(unsigned long)((uintptr_t)from + n));
	fclose(f);
}

static void put(struct state *s, unsigned slot, uint8_t op, uint64_t round)
{
	unsigned char *buffer = s->buffers + (size_t)slot * BYTES;

	if (op == IORING_OP_WRITE)
		pattern_fill(buffer, BYTES, round * DEPTH + slot);
	else
		memset(buffer, 0, BYTES);
	ring_put(&s->ring, op, s->fd, buffer, BYTES, (uint64_t)slot * BYTES,
		 round << 32 | (op == IORING_OP_READ ? READ_BIT : 0) | slot);
}

/* A write is followed by a read of the same place, and that by the next write. */
static void handle(struct state *s, const struct io_uring_cqe *cqe)
{
	unsigned slot = cqe->user_data & (DEPTH - 1);
	uint64_t round = cqe->user_data >> 32;

	s->done++;
	if (cqe->res != BYTES)
		s->bad++;
	if (!(cqe->user_data & READ_BIT)) {
		put(s, slot, IORING_OP_READ, round);
		return;
	}
	if (pattern_differs(s->buffers + (size_t)slot * BYTES, BYTES, round * DEPTH + slot) >= 0)
		s->bad++;
	if (s->hold)
		s->held++;
	else
		put(s, slot, IORING_OP_WRITE, round + 1);
}

static void *work(void *context)
{
	struct state *s = context;
	struct program self = program_role(s->program, "worker");
	uint32_t *head = ring_word(&s->ring, s->ring.p.cq_off.head);

	program_note_volatile(&self);
	for (unsigned i = 0; i < DEPTH; i++)
		put(s, i, IORING_OP_WRITE, 1);
	for (;;) {
		if (ring_submit(&s->ring, 1) < 0) {
			s->bad++;
			return NULL;
		}
		for (; ring_waiting(&s->ring); __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE)) {
			struct io_uring_cqe cqe;
			memcpy(&cqe, ring_cqe(&s->ring, *head), sizeof(cqe));
			handle(s, &cqe);
		}
	}
}

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	uint64_t before = s->done;

	for (int i = 0; i < 2000 && s->done < before + 4 * DEPTH; i++)
		sleep_ms(5);
	expect(p, s->done >= before + 4 * DEPTH, "requests do not end any more");
	expect_same(p, "requests that went wrong", s->bad, 0);
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;

	verify(p, s);
	s->hold = 1;
	for (int i = 0; i < 2000 && s->held < DEPTH; i++)
		sleep_ms(5);
	expect_same(p, "requests that ended at last", s->held, DEPTH);
	expect_same(p, "requests that went wrong", s->bad, 0);
	expect_same(p, "completions left", ring_waiting(&s->ring), 0);
}

static void spoil(void *context)
{
	struct state *s = context;

	s->hold = 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	s.fd = ring_file(&p, O_DIRECT);
	if (s.fd < 0)
		program_lacks("O_DIRECT");
	if (posix_memalign((void **)&s.buffers, 4096, (size_t)DEPTH * BYTES) ||
	    ftruncate(s.fd, DEPTH * BYTES) < 0)
		program_die("making room");
	ring_make(&s.ring, DEPTH * 2, 0);
	note(&p, "buffers", s.buffers, (size_t)DEPTH * BYTES);
	note(&p, "rings", s.ring.rings, s.ring.rings_bytes);
	note(&p, "sqes", s.ring.sqes, s.ring.sqes_bytes);
	note(&p, "state", &s, sizeof(s));
	s.program = &p;
	if (pthread_create(&thread, NULL, work, &s))
		program_die("pthread_create");
	return program_serve(&p, &ops, &s);
}
