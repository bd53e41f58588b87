/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several contexts of Linux AIO in two processes: of different sizes, one of them moved with mremap(2), with a gap in
 * the kernel's table where one was destroyed, and a child that has made its own after the fork. Proof: each answers
 * under its address with its own events, in each process; at the end each goes on.
 */
#include "aio.h"

#include <fcntl.h>
#include <sys/mman.h>

enum { CONTEXTS = 4, MOVED = 1 };

static const unsigned sizes[CONTEXTS] = {1, 64, 300, 1000};

struct state {
	uint64_t seed;
	aio_context_t ctx[CONTEXTS];
	uint32_t nr[CONTEXTS];
	int zero;
	char byte;
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;

	for (unsigned i = 0; i < CONTEXTS; i++) {
		const struct aio_ring *ring = aio_ring(s->ctx[i]);
		expect_same(p, "entries of a ring", ring->nr, s->nr[i]);
		expect_same(p, "head of a ring", ring->head, i * 3);
		expect_same(p, "tail of a ring", ring->tail, i * 3 + i);
		for (unsigned n = 0; n < i; n++)
			expect_same(p, "data of an event", ring->events[i * 3 + n].data, s->seed + n);
		expect_same(p, "asking a context", syscall(SYS_io_getevents, s->ctx[i], 0, 0, NULL, NULL), 0);
	}
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;
	struct io_event e[CONTEXTS];

	verify(p, s);
	for (unsigned i = 0; i < CONTEXTS; i++) {
		expect_same(p, "events of a context",
			    syscall(SYS_io_getevents, s->ctx[i], 0, CONTEXTS, e, NULL), i);
		expect_same(p, "submitting to a context",
			    aio_io(s->ctx[i], IOCB_CMD_PREAD, s->zero, &s->byte, 1, 0, 7000 + i), 1);
		expect_same(p, "waiting for a context", aio_take(s->ctx[i], 1, 1, e), 1);
		expect_same(p, "data of a new event", e[0].data, 7000 + i);
		expect_same(p, "destroying a context", syscall(SYS_io_destroy, s->ctx[i]), 0);
	}
}

static void spoil(void *context)
{
	struct state *s = context;

	syscall(SYS_io_destroy, s->ctx[CONTEXTS - 1]);
	s->ctx[CONTEXTS - 1] = aio_make(sizes[CONTEXTS - 1]);
}

static void make(struct state *s, uint64_t seed)
{
	aio_context_t gap = aio_make(10);

	s->seed = seed;
	for (unsigned i = 0; i < CONTEXTS; i++) {
		s->ctx[i] = aio_make(sizes[i]);
		s->nr[i] = aio_ring(s->ctx[i])->nr;
		if (i == 0)
			must(syscall(SYS_io_destroy, gap));
		aio_advance(s->ctx[i], s->zero, i * 3);
		for (unsigned n = 0; n < i; n++)
			if (aio_io(s->ctx[i], IOCB_CMD_PREAD, s->zero, &s->byte, 1, 0, seed + n) != 1)
				program_die("io_submit");
	}
	size_t bytes = 4096 * (size_t)((32 + 32 * (s->nr[MOVED] + 0ul) + 4095) / 4096);
	void *place = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *moved = place == MAP_FAILED ? MAP_FAILED
					  : mremap(aio_ring(s->ctx[MOVED]), bytes, bytes,
						   MREMAP_MAYMOVE | MREMAP_FIXED, place);
	if (moved == MAP_FAILED)
		program_die("mremap");
	s->ctx[MOVED] = (aio_context_t)(uintptr_t)moved;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.zero = must(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		make(&s, 500);
		return program_serve(&q, &child_ops, &s);
	}
	make(&s, 100);
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
