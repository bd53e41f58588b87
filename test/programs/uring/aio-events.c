/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A context of Linux AIO whose completed events nobody has taken. Proof: the events with their data and results, the
 * positions of the ring, the context's id; at the end they are taken in order, and new requests read and write.
 */
#include "aio.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

enum { BYTES = 8192, EVENTS = 5, ADVANCE = 7 };

struct state {
	aio_context_t ctx;
	int fd, null;
	uint32_t head, tail, nr;
	unsigned char buffer[BYTES];
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	const struct aio_ring *ring = aio_ring(s->ctx);

	expect_same(p, "magic", ring->magic, AIO_RING_MAGIC);
	expect_same(p, "head", ring->head, s->head);
	expect_same(p, "tail", ring->tail, s->tail);
	expect_same(p, "entries", ring->nr, s->nr);
	for (unsigned i = 0; i < EVENTS; i++) {
		const struct io_event *e = &ring->events[s->head + i];
		expect_same(p, "data of an event", e->data, 100 + i);
		expect_same(p, "result of an event", e->res, 512 * (i + 1));
	}
	expect_same(p, "asking for no event", syscall(SYS_io_getevents, s->ctx, 0, 0, NULL, NULL), 0);
}

/* A write and a read through the context, with their events. */
static void work(struct program *p, struct state *s, uint64_t seed)
{
	struct io_event e[2];

	pattern_fill(s->buffer, BYTES, seed);
	expect_same(p, "submitting a write",
		    aio_io(s->ctx, IOCB_CMD_PWRITE, s->fd, s->buffer, BYTES, 0, seed), 1);
	expect_same(p, "waiting for the write", aio_take(s->ctx, 1, 2, e), 1);
	expect_same(p, "data of the write", e[0].data, seed);
	expect_same(p, "result of the write", e[0].res, BYTES);
	memset(s->buffer, 0, BYTES);
	expect_same(p, "submitting a read",
		    aio_io(s->ctx, IOCB_CMD_PREAD, s->fd, s->buffer, BYTES, 0, seed + 1), 1);
	expect_same(p, "waiting for the read", aio_take(s->ctx, 1, 2, e), 1);
	expect_same(p, "data of the read", e[0].data, seed + 1);
	expect_same(p, "result of the read", e[0].res, BYTES);
	expect(p, pattern_differs(s->buffer, BYTES, seed) < 0, "what was read differs");
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;
	struct io_event e[EVENTS + 1];

	verify(p, s);
	expect_same(p, "events that wait", aio_take(s->ctx, 0, EVENTS + 1, e), EVENTS);
	for (unsigned i = 0; i < EVENTS; i++)
		expect_same(p, "data of an event that was taken", e[i].data, 100 + i);
	/* Around the ring more than once. */
	for (unsigned i = 0; i < s->nr + 10; i++)
		work(p, s, i);
	expect_same(p, "destroying the context", syscall(SYS_io_destroy, s->ctx), 0);
}

static void spoil(void *context)
{
	struct state *s = context;
	struct io_event e;

	aio_take(s->ctx, 1, 1, &e);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	char path[200];
	struct program p;

	program_start(&p, argc, argv);
	snprintf(path, sizeof(path), "%s/data", p.folder);
	s.fd = must(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	s.null = must(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	s.ctx = aio_make(20);
	s.nr = aio_ring(s.ctx)->nr;
	aio_advance(s.ctx, s.null, ADVANCE);
	for (unsigned i = 0; i < EVENTS; i++)
		if (aio_io(s.ctx, IOCB_CMD_PREAD, s.null, s.buffer, 512 * (i + 1), 0, 100 + i) != 1)
			program_die("io_submit");
	s.head = ADVANCE;
	s.tail = ADVANCE + EVENTS;
	/* A child has the mapping, but no context: that cannot be dumped. */
	if (program_told(argc, argv, "fork") && !must(fork())) {
		pause();
		_exit(0);
	}
	return program_serve(&p, &ops, &s);
}
