/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that the kernel may drop (MAP_DROPPABLE), as a random number generator keeps its state in. Proof: the flags, and
 * that it is empty after a restore and not after anything else: two copies would draw the same secrets.
 */
#include "program.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

enum { PAGE = 4096, PAGES = 6 };

struct state {
	unsigned char *at;
	unsigned long long birth;
};

static void verify(struct program *p, void *state)
{
	static const unsigned char zero[PAGES * PAGE];
	struct state *s = state;

	expect(p, smaps_flag(s->at, "dp"), "the mapping is not droppable");
	if (program_birth() != s->birth) {
		expect(p, !memcmp(s->at, zero, sizeof(zero)), "contents were brought back");
		pattern_fill(s->at, PAGES * PAGE, 4);
		s->birth = program_birth();
	}
	expect(p, pattern_differs(s->at, PAGES * PAGE, 4) < 0, "the contents differ");
}

static void spoil(void *state)
{
	struct state *s = state;

	s->at[PAGE] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {.birth = program_birth()};
	struct program p;

	program_start(&p, argc, argv);
	s.at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	if (s.at == MAP_FAILED)
		program_lacks("MAP_DROPPABLE");
	pattern_fill(s.at, PAGES * PAGE, 4);
	return program_serve(&p, &ops, &s);
}
