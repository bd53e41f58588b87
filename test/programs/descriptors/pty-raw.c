/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw terminals with what waits in both directions: every byte value, and more than the line discipline holds, so that some
 * of it waits before it. Proof: how much waits; at the end all of it is read, and bytes pass as before.
 */
#include "pty.h"

enum { SMALL = 600, TYPED = 6000, SHOWN = 9000 };

struct state {
	struct pty small, full;
	int typed, shown; /* by full */
};

static unsigned char bytes[16384];

/* As much as it takes. */
static int fill(int fd, size_t n, uint64_t seed)
{
	size_t done = 0;

	pattern_fill(bytes, n, seed);
	while (done < n && pty_ready(fd, POLLOUT) & POLLOUT) {
		ssize_t more = write(fd, bytes + done, MIN(n - done, (size_t)100));
		if (more <= 0)
			break;
		done += (size_t)more;
	}
	return (int)done;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int n = -1;

	ioctl(s->small.slave, FIONREAD, &n);
	expect_same(p, "typed", n, SMALL);
	ioctl(s->small.master, FIONREAD, &n);
	expect_same(p, "shown", n, SMALL);
	pty_ready(s->full.slave, POLLIN);
	ioctl(s->full.slave, FIONREAD, &n);
	expect_same(p, "typed into the full one", n, 4095);
	pty_ready(s->full.master, POLLIN);
	ioctl(s->full.master, FIONREAD, &n);
	expect_same(p, "shown by the full one", n, 4095);
}

static void drain(struct program *p, const char *what, int fd, int want, uint64_t seed)
{
	int n = 0;

	while (n < (int)sizeof(bytes)) {
		ssize_t more = pty_ready(fd, POLLIN) & POLLIN ? read(fd, bytes + n, 1000) : 0;
		if (more <= 0)
			break;
		n += (int)more;
	}
	expect_same(p, what, n, want);
	expect_same(p, what, pattern_differs(bytes, (size_t)n, seed), -1);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	drain(p, "typed", s->small.slave, SMALL, 1);
	drain(p, "shown", s->small.master, SMALL, 2);
	drain(p, "typed into the full one", s->full.slave, s->typed, 3);
	drain(p, "shown by the full one", s->full.master, s->shown, 4);
	pty_expect_works(p, &s->small);
	pty_expect_works(p, &s->full);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(read(s->small.master, bytes, 1));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	s.small = pty_pair(O_NONBLOCK);
	s.full = pty_pair(O_NONBLOCK);
	pty_raw(s.small.slave);
	pty_raw(s.full.slave);
	if (fill(s.small.master, SMALL, 1) != SMALL || fill(s.small.slave, SMALL, 2) != SMALL)
		program_die("filling");
	s.typed = fill(s.full.master, TYPED, 3);
	s.shown = fill(s.full.slave, SHOWN, 4);
	if (s.typed <= 4095 || s.shown <= 4095)
		program_die("a terminal takes too little");
	sleep_ms(50);
	return program_serve(&p, &ops, &s);
}
