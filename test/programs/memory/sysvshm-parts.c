/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A System V segment that is attached with a hole in the middle, another time only its end, and once with a part that may
 * not be written. Proof: what of it is mapped, that all attachments show the same memory, and how often it is attached.
 */
#include "program.h"

#include <sys/mman.h>
#include <sys/shm.h>

enum { PAGE = 4096, PAGES = 20, HOLE_AT = 7, HOLE = 3, END_AT = 15, FIXED_AT = 4 };

struct state {
	int id;
	unsigned char *holed, *end, *fixed; /* where each would begin if it were whole */
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	struct shmid_ds ds;

	for (int i = 0; i < PAGES; i++) {
		bool hole = i >= HOLE_AT && i < HOLE_AT + HOLE;
		const unsigned char *page = hole ? s->fixed + i * PAGE : s->holed + i * PAGE;
		expect(p, hole || memory_readable(page), "page %d is not mapped", i);
		expect(p, pattern_differs(page, PAGE, (unsigned)i) < 0, "page %d differs", i);
		if (i >= END_AT)
			expect(p, pattern_differs(s->end + i * PAGE, PAGE, (unsigned)i) < 0,
			       "page %d differs in the end", i);
	}
	expect(p, !memory_readable(s->holed + HOLE_AT * PAGE), "the hole is mapped");
	expect(p, !memory_readable(s->end + (END_AT - 1) * PAGE), "more than the end is mapped");
	expect(p,
	       smaps_flag(s->fixed + FIXED_AT * PAGE, "mw") && !smaps_flag(s->fixed + FIXED_AT * PAGE, "wr"),
	       "protection of the part differs");
	must(shmctl(s->id, IPC_STAT, &ds));
	expect_same(p, "attachments", ds.shm_nattch, 6);
	s->holed[END_AT * PAGE] ^= 1;
	expect_same(p, "byte through the other mapping", s->end[END_AT * PAGE], s->holed[END_AT * PAGE]);
	expect_same(p, "byte through the third mapping", s->fixed[END_AT * PAGE], s->holed[END_AT * PAGE]);
	s->fixed[END_AT * PAGE] ^= 1;
}

static void spoil(void *state)
{
	struct state *s = state;

	s->holed[0] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.id = must(shmget(IPC_PRIVATE, PAGES * PAGE, IPC_CREAT | 0600));
	/* Each with room around it, so that a hole stays one. */
	unsigned char *room =
		must(mmap(NULL, 5 * PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	must(munmap(room, 5 * PAGES * PAGE));
	s.holed = must(shmat(s.id, room, 0));
	s.end = must(shmat(s.id, room + 2 * PAGES * PAGE, 0));
	s.fixed = must(shmat(s.id, room + 4 * PAGES * PAGE, 0));
	for (int i = 0; i < PAGES; i++)
		pattern_fill(s.holed + i * PAGE, PAGE, (unsigned)i);
	must(munmap(s.holed + HOLE_AT * PAGE, HOLE * PAGE));
	must(munmap(s.end, END_AT * PAGE));
	must(mprotect(s.fixed + FIXED_AT * PAGE, PAGE, PROT_READ));
	return program_serve(&p, &ops, &s);
}
