/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that never had a name (O_TMPFILE), open twice. Proof: contents and flags; and at the end it gets a name, as programs do that
 * write a file before it may be seen.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BYTES = 100000 };

struct state {
	int fd, again;
};

static unsigned char buffer[BYTES];

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat a, b;

	must(fstat(s->fd, &a));
	must(fstat(s->again, &b));
	expect_same(p, "one inode", a.st_ino, b.st_ino);
	expect_same(p, "links", a.st_nlink, 0);
	expect_same(p, "mode", a.st_mode, S_IFREG | 0604);
	expect_same(p, "offset", lseek(s->fd, 0, SEEK_CUR), 55);
	expect_same(p, "offset of the other", lseek(s->again, 0, SEEK_CUR), 66);
	expect_same(p, "bytes", pread(s->again, buffer, BYTES, 0), BYTES);
	expect(p, pattern_differs(buffer, BYTES, 21) < 0, "the contents differ");
	if (p->more)
		expect(p, fcntl(s->fd, F_GETFL) & O_TMPFILE & ~O_DIRECTORY, "O_TMPFILE is gone");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	char path[64];
	struct stat st = {0};

	verify(p, state);
	if (!p->more)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
	expect_same(p, "giving it a name", linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), 0);
	stat("named", &st);
	expect_same(p, "size under its name", st.st_size, BYTES);
}

static void spoil(void *state)
{
	must(pwrite(((struct state *)state)->fd, "x", 1, 99));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;
	char path[64];

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0604);
	if (s.fd < 0)
		program_lacks("O_TMPFILE");
	must(fchmod(s.fd, 0604));
	pattern_fill(buffer, BYTES, 21);
	must(write(s.fd, buffer, BYTES));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s.fd);
	s.again = must(open(path, O_RDONLY | O_CLOEXEC));
	must(lseek(s.fd, 55, SEEK_SET));
	must(lseek(s.again, 66, SEEK_SET));
	return program_serve(&p, &ops, &s);
}
