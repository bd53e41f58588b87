/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pipe in packet mode with packets of different lengths in it, and one that is full of small ones. Proof: how many bytes there
 * are and whether more fit; at the end each read gives one packet, a short one loses the rest of its packet, and new
 * packets follow.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { READ, WRITE, BYTES = 1 + 4096 + 700 + 3 };

static const int lengths[] = {1, 4096, 700, 3};

struct state {
	int mixed[2], full[2];
	int packets; /* in full */
};

static unsigned char bytes[4096], got[8192];

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int n = -1;

	expect_same(p, "flags", fcntl(s->mixed[WRITE], F_GETFL) & (O_DIRECT | O_NONBLOCK),
		    O_DIRECT | O_NONBLOCK);
	expect_same(p, "flags of the reader", fcntl(s->mixed[READ], F_GETFL) & (O_DIRECT | O_NONBLOCK),
		    O_NONBLOCK);
	ioctl(s->mixed[READ], FIONREAD, &n);
	expect_same(p, "bytes", n, BYTES);
	ioctl(s->full[READ], FIONREAD, &n);
	expect_same(p, "bytes of the full one", n, s->packets * 2);
	expect(p, write(s->full[WRITE], "xx", 2) < 0 && errno == EAGAIN, "one more packet fits");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		expect_same(p, "a packet", read(s->mixed[READ], got, sizeof(got)), lengths[i]);
		expect_same(p, "its bytes", pattern_differs(got, (size_t)lengths[i], i), -1);
	}
	expect(p, read(s->mixed[READ], got, 1) < 0 && errno == EAGAIN, "one packet more");
	must(write(s->mixed[WRITE], "first", 5));
	must(write(s->mixed[WRITE], "second", 6));
	expect_same(p, "the start of a packet", read(s->mixed[READ], got, 2), 2);
	expect_same(p, "the next packet", read(s->mixed[READ], got, sizeof(got)), 6);
	expect(p, !memcmp(got, "second", 6), "another packet");
	for (int i = 0; i < s->packets; i++)
		expect_same(p, "a small packet", read(s->full[READ], got, sizeof(got)), 2);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(read(s->full[READ], got, sizeof(got)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s = {.packets = 0};

	program_start(&p, argc, argv);
	must(pipe2(s.mixed, O_DIRECT | O_NONBLOCK | O_CLOEXEC));
	must(pipe2(s.full, O_DIRECT | O_NONBLOCK | O_CLOEXEC));
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		pattern_fill(bytes, (size_t)lengths[i], i);
		must(write(s.mixed[WRITE], bytes, (size_t)lengths[i]));
	}
	while (write(s.full[WRITE], "ab", 2) == 2)
		s.packets++;
	return program_serve(&p, &ops, &s);
}
