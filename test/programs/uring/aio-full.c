/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of Linux AIO that has gone round and is as full as the kernel lets it become. Proof: positions, every event,
 * and that one more request is refused until an event was taken; at the end all events come in order, and as many
 * requests as before fit in again.
 */
#include "aio.h"

#include <errno.h>
#include <fcntl.h>

enum { ADVANCE = 100 };

struct state {
	aio_context_t ctx;
	int zero;
	uint32_t head, tail, nr, count;
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	const struct aio_ring *ring = aio_ring(s->ctx);

	expect_same(p, "head", ring->head, s->head);
	expect_same(p, "tail", ring->tail, s->tail);
	for (uint32_t i = 0; i < s->count; i++)
		expect_same(p, "data of an event", ring->events[(s->head + i) % s->nr].data, 1000 + i);
	expect(p, aio_io(s->ctx, IOCB_CMD_PREAD, s->zero, NULL, 0, 0, 1) < 0 && errno == EAGAIN,
	       "one more request fits in");
}

static uint32_t fill(struct state *s)
{
	uint32_t n = 0;

	while (aio_io(s->ctx, IOCB_CMD_PREAD, s->zero, NULL, 0, 0, 1000 + n) == 1)
		n++;
	return n;
}

static void take_all(struct program *p, struct state *s)
{
	struct io_event e;

	for (uint32_t i = 0; i < s->count; i++) {
		expect_same(p, "taking an event", aio_take(s->ctx, 1, 1, &e), 1);
		expect_same(p, "data of an event that was taken", e.data, 1000 + i);
	}
	expect_same(p, "taking one more", syscall(SYS_io_getevents, s->ctx, 0, 1, &e, NULL), 0);
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;

	verify(p, s);
	take_all(p, s);
	for (int i = 0; i < 3; i++) {
		expect_same(p, "requests that fit in", fill(s), s->count);
		take_all(p, s);
	}
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
	struct program p;

	program_start(&p, argc, argv);
	s.zero = must(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	s.ctx = aio_make(150);
	s.nr = aio_ring(s.ctx)->nr;
	aio_advance(s.ctx, s.zero, s.nr * 2 + ADVANCE);
	s.head = ADVANCE;
	s.count = fill(&s);
	s.tail = (s.head + s.count) % s.nr;
	return program_serve(&p, &ops, &s);
}
