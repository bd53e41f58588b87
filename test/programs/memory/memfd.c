/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A memfd with seals, an offset, one shared and one private mapping. Proof: contents through descriptor and mappings,
 * seals, offset, and that a write through the descriptor is seen in the shared mapping.
 */
#include "program.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 16, OFFSET = 12345, SEALS = F_SEAL_GROW | F_SEAL_SHRINK };

struct state {
	int fd;
	unsigned char *shared;
	unsigned char *private;
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	unsigned char page[PAGE], mark = 0x5a;

	expect_same(p, "offset", lseek(s->fd, 0, SEEK_CUR), OFFSET);
	expect_same(p, "seals", fcntl(s->fd, F_GET_SEALS), SEALS);
	expect_same(p, "size", lseek(s->fd, 0, SEEK_END), PAGES * PAGE);
	lseek(s->fd, OFFSET, SEEK_SET);
	for (uint64_t i = 0; i < PAGES; i++) {
		expect_same(p, "read", pread(s->fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
		expect(p, pattern_differs(page, PAGE, i) < 0, "page %d of the file differs", (int)i);
		expect(p, !memcmp(page, s->shared + i * PAGE, PAGE), "page %d of the shared mapping differs",
		       (int)i);
	}
	expect(p, pattern_differs(s->private, PAGE, 0) < 0, "the private mapping lost the file's page");
	expect(p, pattern_differs(s->private + PAGE, PAGE, 77) < 0, "the private mapping lost its own page");
	unsigned char old = s->shared[100];
	expect_same(p, "write", pwrite(s->fd, &mark, 1, 100), 1);
	expect_same(p, "byte seen in the mapping", s->shared[100], mark);
	s->shared[100] = old;
}

static void spoil(void *state)
{
	struct state *s = state;

	s->shared[9 * PAGE] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.fd = must(memfd_create("ferry-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	must(ftruncate(s.fd, PAGES * PAGE));
	s.shared = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0));
	s.private = must(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, s.fd, 0));
	for (uint64_t i = 0; i < PAGES; i++)
		pattern_fill(s.shared + i * PAGE, PAGE, i);
	pattern_fill(s.private + PAGE, PAGE, 77);
	must(fcntl(s.fd, F_ADD_SEALS, SEALS));
	must(lseek(s.fd, OFFSET, SEEK_SET));
	return program_serve(&p, &ops, &s);
}
