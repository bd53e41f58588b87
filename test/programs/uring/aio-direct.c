/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of Linux AIO in flight at any instant: a thread keeps direct writes and reads going (O_DIRECT), and counts
 * what it has submitted and taken. Proof: every request ends exactly once, with its whole length and its own data.
 */
#include "aio.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 16, BYTES = 65536, READ_BIT = 1 << 20 };

struct state {
	const struct program *program;
	aio_context_t ctx;
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

static void submit(struct state *s, unsigned slot, int op, uint64_t round)
{
	unsigned char *buffer = s->buffers + (size_t)slot * BYTES;

	if (op == IOCB_CMD_PWRITE)
		pattern_fill(buffer, BYTES, round * DEPTH + slot);
	else
		memset(buffer, 0, BYTES);
	if (aio_io(s->ctx, op, s->fd, buffer, BYTES, (long long)slot * BYTES,
		   round << 32 | (op == IOCB_CMD_PREAD ? READ_BIT : 0) | slot) != 1)
		s->bad++;
}

/* A write is followed by a read of the same place, and that by the next write. */
static void handle(struct state *s, const struct io_event *e)
{
	unsigned slot = e->data & (DEPTH - 1);
	uint64_t round = e->data >> 32;

	s->done++;
	if (e->res != BYTES)
		s->bad++;
	if (!(e->data & READ_BIT)) {
		submit(s, slot, IOCB_CMD_PREAD, round);
		return;
	}
	if (pattern_differs(s->buffers + (size_t)slot * BYTES, BYTES, round * DEPTH + slot) >= 0)
		s->bad++;
	if (s->hold)
		s->held++;
	else
		submit(s, slot, IOCB_CMD_PWRITE, round + 1);
}

static void *work(void *context)
{
	struct state *s = context;
	struct io_event e[DEPTH] = {0};
	struct program self = program_role(s->program, "worker");
	program_note_volatile(&self);
	note(s->program, "events", e, sizeof(e));
	for (unsigned i = 0; i < DEPTH; i++)
		submit(s, i, IOCB_CMD_PWRITE, 1);
	for (;;) {
		long n = syscall(SYS_io_getevents, s->ctx, 1, DEPTH, e, NULL);
		if (n < 0) {
			s->bad++;
			return NULL;
		}
		for (long i = 0; i < n; i++)
			handle(s, &e[i]);
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
	const struct aio_ring *ring = aio_ring(s->ctx);
	expect_same(p, "events left", ring->tail, ring->head);
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
	char path[200];
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	snprintf(path, sizeof(path), "%s/data", p.folder);
	s.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0600);
	if (s.fd < 0)
		program_lacks("O_DIRECT");
	if (posix_memalign((void **)&s.buffers, 4096, (size_t)DEPTH * BYTES) ||
	    ftruncate(s.fd, DEPTH * BYTES) < 0)
		program_die("making room");
	s.ctx = aio_make(DEPTH * 2);
	note(&p, "buffers", s.buffers, (size_t)DEPTH * BYTES);
	note(&p, "ring", aio_ring(s.ctx), 4096);
	note(&p, "state", &s, sizeof(s));
	s.program = &p;
	if (pthread_create(&thread, NULL, work, &s))
		program_die("pthread_create");
	return program_serve(&p, &ops, &s);
}
