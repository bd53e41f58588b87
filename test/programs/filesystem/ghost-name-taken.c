/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A deleted file whose name another file has by now. Proof: each has its own contents, and the one with the name is the very inode
 * that it was.
 */
#include "program.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
	int old;
	ino_t inode; /* of the file that has the name */
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat st;
	char bytes[16] = "";

	expect_same(p, "bytes of the old one", pread(s->old, bytes, sizeof(bytes), 0), 3);
	expect(p, !strcmp(bytes, "old"), "the old file has '%s'", bytes);
	must(fstat(s->old, &st));
	expect_same(p, "links of the old one", st.st_nlink, 0);
	must(stat("name", &st));
	expect_same(p, "inode of the new one", st.st_ino, s->inode);
	expect_same(p, "size of the new one", st.st_size, 4);
}

static void spoil(void *state)
{
	must(pwrite(((struct state *)state)->old, "x", 1, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;
	struct stat st;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.old = must(open("name", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(write(s.old, "old", 3));
	must(unlink("name"));
	int fd = must(open("name", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(write(fd, "new!", 4));
	must(fstat(fd, &st));
	s.inode = st.st_ino;
	close(fd);
	return program_serve(&p, &ops, &s);
}
