/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An io_uring that a parent made and its child has too, under another number, and a second that the child made. Proof: both
 * see the same positions in the same memory, and the same description; at the end each submits in turn, and the other
 * sees the completions.
 */
#include "ring.h"

enum { ADVANCE = 9, CHILD_NUMBER = 40, ROUNDS = 30, CHILD_ROUNDS = 7 };

struct state {
	struct ring ring, own;
	bool is_child;
	int fd;
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;

	ring_verify_positions(p, &s->ring, ADVANCE, ADVANCE, ADVANCE);
	if (s->is_child)
		ring_verify_positions(p, &s->own, 3, 3, 3);
	expect_same(p, "FD_CLOEXEC", fcntl(s->ring.fd, F_GETFD), s->is_child ? 0 : FD_CLOEXEC);
}

/* In any order: each goes on where the other stopped. */
static void finish(struct program *p, void *context)
{
	struct state *s = context;
	uint32_t rounds = s->is_child ? CHILD_ROUNDS : ROUNDS, other = s->is_child ? ROUNDS : CHILD_ROUNDS;
	uint32_t end = *ring_word(&s->ring, s->ring.p.sq_off.tail);

	expect(p, end == ADVANCE || end == ADVANCE + 2 * other, "the ring stands at %u", end);
	s->ring.tail = end;
	ring_work(p, &s->ring, s->fd, rounds);
	if (s->is_child)
		ring_work(p, &s->own, s->fd, 40);
}

static void spoil(void *context)
{
	struct state *s = context;

	ring_advance(&s->ring, 1);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.fd = must(ring_file(&p, 0));
	ring_make(&s.ring, 16, 0);
	ring_advance(&s.ring, ADVANCE);
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		s.is_child = true;
		must(dup3(s.ring.fd, CHILD_NUMBER, 0));
		close(s.ring.fd);
		s.ring.fd = s.ring.enter_fd = CHILD_NUMBER;
		ring_make(&s.own, 8, 0);
		ring_advance(&s.own, 3);
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
