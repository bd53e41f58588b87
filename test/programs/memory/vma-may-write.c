/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared mappings of a file that are read-only now: one of a description that was open for writing, which may become
 * writable, and one of a description that was not. Proof: contents, what mprotect(2) says to each, and that what is
 * written through the first is seen through the second and in the file.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 4 };

struct state {
	unsigned char *may, *never;
	char path[200];
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, pattern_differs(s->may, PAGES * PAGE, 1) < 0, "the first differs");
	expect(p, pattern_differs(s->never, PAGES * PAGE, 1) < 0, "the second differs");
	expect(p, !smaps_flag(s->may, "wr") && smaps_flag(s->may, "mw"), "flags of the first differ");
	errno = 0;
	expect_same(p, "making the second writable", mprotect(s->never, PAGE, PROT_READ | PROT_WRITE), -1);
	expect_same(p, "and why not", errno, EACCES);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	unsigned char byte = 0;

	verify(p, state);
	must(mprotect(s->may, PAGE, PROT_READ | PROT_WRITE));
	s->may[3] ^= 0xff;
	expect_same(p, "byte through the second", s->never[3], s->may[3]);
	int fd = must(open(s->path, O_RDONLY | O_CLOEXEC));
	must(pread(fd, &byte, 1, 3));
	close(fd);
	expect_same(p, "byte in the file", byte, s->may[3]);
}

static void spoil(void *state)
{
	struct state *s = state;

	must(mprotect(s->may, PAGE, PROT_READ | PROT_WRITE));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static unsigned char bytes[PAGES * PAGE];
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	snprintf(s.path, sizeof(s.path), "%s/file", p.folder);
	int fd = must(open(s.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	pattern_fill(bytes, sizeof(bytes), 1);
	must(pwrite(fd, bytes, sizeof(bytes), 0));
	s.may = must(mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0));
	close(fd);
	fd = must(open(s.path, O_RDONLY | O_CLOEXEC));
	s.never = must(mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0));
	close(fd);
	return program_serve(&p, &ops, &s);
}
