/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A named pipe whose name is gone, with bytes in it and both ends open. Proof: it has no name, and the bytes are there; at the
 * end they are read and others follow them.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
	int in, out;
	char path[256];
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat st, other;
	int n = -1;

	must(fstat(s->in, &st));
	must(fstat(s->out, &other));
	expect(p, S_ISFIFO(st.st_mode) && st.st_ino == other.st_ino, "no pipe, or two of them");
	expect_same(p, "names", st.st_nlink, 0);
	expect(p, access(s->path, F_OK) < 0 && errno == ENOENT, "the name is there");
	ioctl(s->in, FIONREAD, &n);
	expect_same(p, "bytes", n, 6);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	char got[16];

	verify(p, state);
	expect_same(p, "reading", read(s->in, got, sizeof(got)), 6);
	expect(p, !memcmp(got, "before", 6), "other bytes");
	must(write(s->out, "after", 5));
	expect_same(p, "reading", read(s->in, got, sizeof(got)), 5);
	expect(p, !memcmp(got, "after", 5), "other bytes");
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(write(s->out, "x", 1));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	snprintf(s.path, sizeof(s.path), "%s/pipe", p.folder);
	must(mkfifo(s.path, 0600));
	s.in = must(open(s.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
	s.out = must(open(s.path, O_WRONLY | O_CLOEXEC));
	must(unlink(s.path));
	must(write(s.out, "before", 6));
	return program_serve(&p, &ops, &s);
}
