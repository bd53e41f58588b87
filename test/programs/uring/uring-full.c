/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An io_uring whose ring of completions is full and has gone round, and more completions than fit in. Proof: positions, each
 * completion in the ring, the flag that says that there are more; at the end all come, in order, with their
 * results, and the ring works on.
 */
#include "ring.h"

enum { ENTRIES = 8, COMPLETIONS = 16, MORE = 5, ADVANCE = 11 };

struct state {
	struct ring ring;
	int fd, zero;
};

static int result_of(uint32_t i)
{
	return (int)(10 + i);
}

static void verify(struct program *p, void *context)
{
	struct state *s = context;

	ring_verify_positions(p, &s->ring, ADVANCE + COMPLETIONS + MORE, ADVANCE, ADVANCE + COMPLETIONS);
	expect(p, *ring_word(&s->ring, s->ring.p.sq_off.flags) & IORING_SQ_CQ_OVERFLOW,
	       "nothing says that there are more completions");
	for (uint32_t i = 0; i < COMPLETIONS; i++) {
		expect_same(p, "data of a completion", ring_cqe(&s->ring, ADVANCE + i)->user_data, i);
		expect_same(p, "result of a completion", ring_cqe(&s->ring, ADVANCE + i)->res, result_of(i));
	}
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;
	struct io_uring_cqe cqe;

	verify(p, s);
	for (uint32_t i = 0; i < COMPLETIONS + MORE; i++) {
		if (!ring_waiting(&s->ring))
			syscall(SYS_io_uring_enter, s->ring.fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
		expect(p, ring_take(&s->ring, &cqe), "completion %u does not come", i);
		expect_same(p, "data of a completion that was taken", cqe.user_data, i);
		expect_same(p, "result of a completion that was taken", cqe.res, result_of(i));
	}
	ring_work(p, &s->ring, s->fd, 3 * COMPLETIONS);
}

static void spoil(void *context)
{
	struct state *s = context;
	struct io_uring_cqe cqe;

	ring_take(&s->ring, &cqe);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static unsigned char buffer[256];
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.fd = must(ring_file(&p, 0));
	s.zero = must(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	ring_make(&s.ring, ENTRIES, 0);
	ring_advance(&s.ring, ADVANCE);
	for (uint32_t i = 0; i < COMPLETIONS + MORE; i++) {
		ring_put(&s.ring, IORING_OP_READ, s.zero, buffer, (size_t)result_of(i), 0, i);
		if (ring_submit(&s.ring, 0) != 1)
			program_die("io_uring_enter");
	}
	return program_serve(&p, &ops, &s);
}
