/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open file description locks: two descriptions of one process with ranges that stand against each other, one of which a child has, too.
 * Proof: a third description sees them, and closing that one takes nothing away.
 */
#include "program.h"

#include <fcntl.h>
#include <unistd.h>

struct state {
	int one, two;
};

static void look(struct program *p, off_t start, short type, off_t want_start, off_t want_length)
{
	int fd = must(open("data", O_RDWR | O_CLOEXEC));
	struct flock lock = {.l_type = F_WRLCK, .l_start = start, .l_len = 1};

	must(fcntl(fd, F_OFD_GETLK, &lock));
	expect_same(p, "type", lock.l_type, type);
	if (type != F_UNLCK) {
		expect_same(p, "start", lock.l_start, want_start);
		expect_same(p, "length", lock.l_len, want_length);
	}
	close(fd);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	look(p, 5, F_WRLCK, 0, 10);
	look(p, 15, F_RDLCK, 10, 20);
	look(p, 35, F_UNLCK, 0, 0);
	look(p, 1000, F_WRLCK, 500, 0);
}

static int take(int fd, short type, off_t start, off_t length)
{
	struct flock lock = {.l_type = type, .l_start = start, .l_len = length};

	return fcntl(fd, F_OFD_SETLK, &lock);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	expect_same(p, "what the other has", take(s->two, F_WRLCK, 0, 1), -1);
	expect_same(p, "what it has itself", take(s->one, F_RDLCK, 0, 10), 0);
	expect_same(p, "letting go", take(s->two, F_UNLCK, 500, 0), 0);
	look(p, 1000, F_UNLCK, 0, 0);
}

static void spoil(void *state)
{
	must(take(((struct state *)state)->one, F_UNLCK, 5, 1));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	static const struct program_ops child_ops = {.verify = verify};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.one = must(open("data", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	s.two = must(open("data", O_RDWR | O_CLOEXEC));
	must(take(s.one, F_WRLCK, 0, 10));
	must(take(s.one, F_RDLCK, 10, 20));
	must(take(s.two, F_WRLCK, 500, 0));
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		close(s.two);
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
