/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An io_uring with completions that nobody has taken and requests that were put in and not submitted, its position far
 * from the start. A word says how it was made: "plain", "large" (rings of many pages), "wide" (128 bytes for a request,
 * 32 for a completion), "narrow" (only the completions are wide), "noarray" (without an array of indices), "single" (of one
 * thread, which runs the kernel's work itself), "far" (some millions of requests). Proof: positions in the ring and
 * in the kernel, every completion, every request; at the end the requests are submitted, all completions come in
 * order, and a file is written and read.
 */
#include "ring.h"

enum { UNREAD = 5, UNSENT = 3 };

struct state {
	struct ring ring;
	uint32_t advance;
	int fd;
};

static const struct made {
	const char *word;
	unsigned entries, flags, advance;
} made[] = {
	{"plain", 8, 0, 13},
	{"large", 1024, 0, 3000},
	{"wide", 16, IORING_SETUP_SQE128 | IORING_SETUP_CQE32, 21},
	{"narrow", 128, IORING_SETUP_CQE32, 300},
	{"noarray", 64, IORING_SETUP_NO_SQARRAY, 100},
	{"single", 32, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 77},
	{"far", 256, 0, 3000000},
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	struct ring *r = &s->ring;

	ring_verify_positions(p, r, s->advance + UNREAD, s->advance, s->advance + UNREAD);
	for (uint32_t i = 0; i < UNREAD; i++) {
		const struct io_uring_cqe *cqe = ring_cqe(r, s->advance + i);
		expect_same(p, "data of a completion", cqe->user_data, 500 + i);
		expect_same(p, "result of a completion", cqe->res, 16 * (i + 1));
	}
	for (uint32_t i = 0; i < UNSENT; i++) {
		uint32_t index = (s->advance + UNREAD + i) & (r->p.sq_entries - 1);
		const struct io_uring_sqe *sqe =
			(const struct io_uring_sqe *)(r->sqes + index * (size_t)r->sqe_bytes);
		expect_same(p, "data of a request", sqe->user_data, 600 + i);
	}
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;
	struct io_uring_cqe cqe;

	verify(p, s);
	expect_same(p, "submitting what waited", ring_enter(&s->ring, UNSENT, 0), UNSENT);
	for (uint32_t i = 0; i < UNREAD + UNSENT; i++) {
		expect(p, ring_take(&s->ring, &cqe), "completion %u does not come", i);
		expect_same(p, "data of a completion", cqe.user_data,
			    i < UNREAD ? 500 + i : 600 + i - UNREAD);
	}
	expect_same(p, "completions that are left", ring_waiting(&s->ring), 0);
	ring_work(p, &s->ring, s->fd, s->ring.p.sq_entries + 5);
}

static void spoil(void *context)
{
	struct state *s = context;
	struct io_uring_cqe cqe;

	ring_take(&s->ring, &cqe);
}

/* Many at once. */
static void far_away(struct ring *r, uint32_t n)
{
	for (uint32_t batch; n; n -= batch) {
		batch = MIN(n, r->p.sq_entries);
		for (uint32_t i = 0; i < batch; i++)
			ring_put(r, IORING_OP_NOP, -1, NULL, 0, 0, 1);
		if (ring_submit(r, 0) != (long)batch)
			program_die("io_uring_enter");
		*ring_word(r, r->p.cq_off.head) += batch;
	}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static unsigned char buffer[256];
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.fd = must(ring_file(&p, 0));
	int zero = must(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	for (size_t i = 0; i < ARRAY_SIZE(made); i++)
		if (program_told(argc, argv, made[i].word)) {
			ring_make(&s.ring, made[i].entries, made[i].flags);
			s.advance = made[i].advance;
		}
	if (!s.advance)
		return 2;
	if (s.advance > 100000)
		far_away(&s.ring, s.advance);
	else
		ring_advance(&s.ring, s.advance);
	for (unsigned i = 0; i < UNREAD; i++) {
		ring_put(&s.ring, IORING_OP_READ, zero, buffer, 16 * (i + 1), 0, 500 + i);
		if (ring_submit(&s.ring, 0) != 1)
			program_die("io_uring_enter");
	}
	while (ring_waiting(&s.ring) < UNREAD)
		ring_enter(&s.ring, 0, 0);
	for (unsigned i = 0; i < UNSENT; i++)
		ring_put(&s.ring, IORING_OP_NOP, -1, NULL, 0, 0, 600 + i);
	ring_publish(&s.ring);
	return program_serve(&p, &ops, &s);
}
