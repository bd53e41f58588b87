/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An io_uring that was made disabled (IORING_SETUP_R_DISABLED) and nobody has enabled yet, with a table of files. Proof: it
 * refuses to work; at the end it is enabled and works.
 */
#include "ring.h"

struct state {
	struct ring ring;
	int fd;
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	long r = ring_enter(&s->ring, 0, 0);

	expect(p, r < 0 && errno == EBADFD, "it is not disabled: %ld", r);
	expect_same(p, "places for files", fdinfo_number(s->ring.fd, "UserFiles: %llu"), 2);
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;
	static char byte;

	verify(p, s);
	expect_same(p, "enabling it", ring_register(&s->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0), 0);
	ring_work(p, &s->ring, s->fd, 20);
	ring_put(&s->ring, IORING_OP_READ, 1, &byte, 1, 0, 5)->flags = IOSQE_FIXED_FILE;
	expect_same(p, "reading by a place", ring_one(&s->ring, 5), 1);
}

static void spoil(void *context)
{
	struct state *s = context;

	ring_register(&s->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.fd = must(ring_file(&p, 0));
	ring_make(&s.ring, 8, IORING_SETUP_R_DISABLED);
	int files[2] = {-1, s.fd};
	must(ring_register(&s.ring, IORING_REGISTER_FILES, files, 2));
	return program_serve(&p, &ops, &s);
}
