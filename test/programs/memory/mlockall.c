/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything is locked, and so will be what is mapped later: at once, or on fault (argument "onfault"). Proof: the flags of
 * memory that was there, also where nobody may touch it, and of memory that is mapped now.
 */
#include "program.h"

#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 9 };

struct state {
	unsigned char *before, *closed;
	bool on_fault;
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, smaps_flag(s->before, "lo"), "what was there is not locked");
	expect(p, smaps_flag(s->closed, "lo"), "what was closed is not locked");
	expect_same(p, "locked on fault", smaps_flag(s->before, "lf"), s->on_fault);
	expect(p, pattern_differs(s->before, PAGES * PAGE, 1) < 0, "the contents differ");
	unsigned char *later =
		must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	unsigned char there[PAGES];
	/* A page of its own, between others, so that no neighbour is told about. */
	must(mprotect(later, PAGE, PROT_NONE));
	must(mprotect(later + (PAGES - 1) * PAGE, PAGE, PROT_NONE));
	must(mincore(later, PAGES * PAGE, there));
	expect(p, smaps_flag(later + 2 * PAGE, "lo"), "what is mapped now is not locked");
	expect_same(p, "mapped now: locked on fault", smaps_flag(later + 2 * PAGE, "lf"), s->on_fault);
	expect_same(p, "a new page is there", there[2] & 1, !s->on_fault);
	must(munmap(later, PAGES * PAGE));
}

static void spoil(void *state unused)
{
	must(mlockall(MCL_CURRENT));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {.on_fault = program_told(argc, argv, "onfault")};
	struct program p;

	program_start(&p, argc, argv);
	s.before = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	s.closed = must(mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	pattern_fill(s.before, PAGES * PAGE, 1);
	must(mlockall(MCL_CURRENT | MCL_FUTURE | (s.on_fault ? MCL_ONFAULT : 0)));
	return program_serve(&p, &ops, &s);
}
