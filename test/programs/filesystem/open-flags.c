/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every flag of a description that open(2) or fcntl(2) sets: O_SYNC, O_DSYNC, O_DIRECT, O_APPEND, O_NONBLOCK, O_NOATIME, O_NOFOLLOW, access modes
 * down to none at all. Proof: F_GETFL, and that writing without the right fails.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Access mode 3: for ioctl(2) alone. */
static const int flags[] = {
	O_RDWR | O_SYNC,
	O_WRONLY | O_DSYNC,
	O_RDWR | O_DIRECT,
	O_WRONLY | O_APPEND | O_NONBLOCK,
	O_RDONLY | O_NOATIME,
	O_RDONLY | O_NOFOLLOW,
	O_ACCMODE,
	O_RDWR | O_APPEND | O_SYNC | O_NOATIME | O_NOFOLLOW | O_NONBLOCK,
};

struct state {
	int fds[ARRAY_SIZE(flags)];
	int later; /* flags set by F_SETFL */
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char byte;

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		expect_same(p, "flags", fcntl(s->fds[i], F_GETFL) & ~0100000, flags[i]);
	expect_same(p, "flags that were set later", fcntl(s->later, F_GETFL) & ~0100000,
		    O_RDWR | O_APPEND | O_NONBLOCK | O_NOATIME);
	expect(p, write(s->fds[4], "x", 1) < 0 && errno == EBADF, "what is read-only can be written");
	expect(p, read(s->fds[1], &byte, 1) < 0 && errno == EBADF, "what is write-only can be read");
	expect(p, read(s->fds[6], &byte, 1) < 0 && errno == EBADF, "what is for ioctl can be read");
}

static void spoil(void *state)
{
	must(fcntl(((struct state *)state)->later, F_SETFL, O_APPEND));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.later = must(open("file", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(fcntl(s.later, F_SETFL, O_APPEND | O_NONBLOCK | O_NOATIME));
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		s.fds[i] = must(open("file", flags[i] | O_CLOEXEC));
	return program_serve(&p, &ops, &s);
}
