/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private mappings that are longer than their file: with a last page that was written to behind the end of the file, of a
 * file that was cut after it was mapped, and of one that grew. Proof: contents, and which pages are there at all.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 6, ODD = 2 * PAGE + 500 };

struct state {
	unsigned char *tail, *cut, *grown;
};

static void check_there(struct program *p, const char *what, const unsigned char *at, int pages)
{
	for (int i = 0; i < PAGES; i++)
		expect_same(p, what, memory_readable(at + i * PAGE), i < pages);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	check_there(p, "page of the one with a tail", s->tail, 3);
	check_there(p, "page of the one that was cut", s->cut, 2);
	check_there(p, "page of the one that grew", s->grown, 5);
	if (p->bad)
		return;
	expect(p, pattern_differs(s->tail, 2 * PAGE, 1) < 0, "what comes from the file differs");
	expect(p, pattern_differs(s->tail + 2 * PAGE, PAGE, 9) < 0, "the tail behind the file's end differs");
	expect(p, pattern_differs(s->cut, PAGE, 8) < 0,
	       "the page that was written to before the cut differs");
	expect(p, pattern_differs(s->grown, PAGE, 7) < 0, "the page that was written to differs");
	expect_same(p, "a byte of what the file got since", s->grown[4 * PAGE + 5], 0x55);
}

static void spoil(void *state)
{
	struct state *s = state;

	s->tail[3 * PAGE - 1] ^= 1;
}

static unsigned char *map(const struct program *p, const char *name, size_t before, size_t after, int *ret_fd)
{
	static unsigned char bytes[PAGES * PAGE];
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", p->folder, name);
	int fd = must(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	pattern_fill(bytes, sizeof(bytes), 1);
	must(pwrite(fd, bytes, before, 0));
	unsigned char *at = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	must(ftruncate(fd, (off_t)after));
	*ret_fd = fd;
	return at;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct program p;
	const unsigned char mark = 0x55;
	int fd;

	program_start(&p, argc, argv);
	s.tail = map(&p, "tail", ODD, ODD, &fd);
	close(fd);
	pattern_fill(s.tail + 2 * PAGE, PAGE, 9);
	s.cut = map(&p, "cut", PAGES * PAGE, 2 * PAGE, &fd);
	close(fd);
	pattern_fill(s.cut, PAGE, 8);
	s.grown = map(&p, "grown", PAGE, 5 * PAGE, &fd);
	must(pwrite(fd, &mark, 1, 4 * PAGE + 5));
	close(fd);
	pattern_fill(s.grown, PAGE, 7);
	return program_serve(&p, &ops, &s);
}
