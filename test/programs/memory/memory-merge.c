/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages with equal contents may be merged: by advice for one mapping (MADV_MERGEABLE), or for the whole process
 * (PR_SET_MEMORY_MERGE, argument "all") with one mapping that is left out. Proof: flags of mappings that were there and of one
 * that is made now, the process's own flag, contents.
 */
#include "program.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

enum { PAGE = 4096, PAGES = 12 };

struct state {
	unsigned char *advised, *other;
	bool all;
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect_same(p, "PR_GET_MEMORY_MERGE", prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0), s->all);
	expect(p, smaps_flag(s->advised, "mg"), "no flag of merging");
	expect(p, !smaps_flag(s->other, "mg"), "a mapping that was left out is merged");
	expect(p, pattern_differs(s->advised, PAGES * PAGE, 1) < 0, "the contents differ");
	unsigned char *later =
		must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	must(mprotect(later, PAGE, PROT_NONE));
	must(mprotect(later + (PAGES - 1) * PAGE, PAGE, PROT_NONE));
	expect_same(p, "a new mapping is merged", smaps_flag(later + PAGE, "mg"), s->all);
	must(munmap(later, PAGES * PAGE));
}

static void spoil(void *state)
{
	struct state *s = state;

	must(madvise(s->advised, PAGES * PAGE, MADV_UNMERGEABLE));
}

static unsigned char *area(void)
{
	unsigned char *at =
		must(mmap(NULL, (PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	must(mprotect(at + PAGE, PAGES * PAGE, PROT_READ | PROT_WRITE));
	pattern_fill(at + PAGE, PAGES * PAGE, 1);
	return at + PAGE;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {.all = program_told(argc, argv, "all")};
	struct program p;

	program_start(&p, argc, argv);
	s.advised = area();
	s.other = area();
	if (s.all ? prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) < 0
		  : madvise(s.advised, PAGES * PAGE, MADV_MERGEABLE) < 0)
		program_lacks("merging of memory (KSM)");
	must(madvise(s.other, PAGES * PAGE, MADV_UNMERGEABLE));
	return program_serve(&p, &ops, &s);
}
