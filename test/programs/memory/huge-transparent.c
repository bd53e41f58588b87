/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transparent huge pages: memory that advice asked them for (MADV_HUGEPAGE), memory that was made of them without that
 * (MADV_COLLAPSE), and memory beside it that has small pages. Proof: how much of each the kernel counts as huge, contents.
 */
#include "program.h"

#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { HUGE = 2 << 20, HUGE_KB = HUGE / 1024, PAGES = 2, SPARSE_AT = HUGE + 12345 };

struct state {
	unsigned char *advised, *collapsed, *small;
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect_same(p, "kB huge by advice", smaps_kb(s->advised, "AnonHugePages:"), PAGES * HUGE_KB);
	expect_same(p, "kB huge by collapse", smaps_kb(s->collapsed, "AnonHugePages:"), PAGES * HUGE_KB);
	expect_same(p, "kB huge of the small", smaps_kb(s->small, "AnonHugePages:"), 0);
	expect(p, smaps_flag(s->advised, "hg") && !smaps_flag(s->collapsed, "hg"), "flags differ");
	expect(p, pattern_differs(s->advised, HUGE, 1) < 0, "advised: differs");
	expect_same(p, "byte in the second page", s->advised[SPARSE_AT], 7);
	expect(p, pattern_differs(s->collapsed, PAGES * HUGE, 2) < 0, "collapsed: differs");
	expect(p, pattern_differs(s->small, HUGE, 3) < 0, "small: differs");
}

static void spoil(void *state)
{
	struct state *s = state;

	s->collapsed[HUGE] ^= 1;
}

/* Aligned, and with nothing beside it. */
static unsigned char *area(void)
{
	size_t bytes = (PAGES + 3) * HUGE;
	unsigned char *at =
		must(mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));

	at += HUGE - (unsigned long)at % HUGE;
	must(mprotect(at, PAGES * HUGE, PROT_READ | PROT_WRITE));
	return at;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.advised = area();
	s.collapsed = area();
	s.small = area();
	must(madvise(s.advised, PAGES * HUGE, MADV_HUGEPAGE));
	must(madvise(s.small, PAGES * HUGE, MADV_NOHUGEPAGE));
	pattern_fill(s.advised, HUGE, 1);
	s.advised[SPARSE_AT] = 7;
	pattern_fill(s.collapsed, PAGES * HUGE, 2);
	pattern_fill(s.small, HUGE, 3);
	if (madvise(s.collapsed, PAGES * HUGE, MADV_COLLAPSE) < 0 ||
	    smaps_kb(s.advised, "AnonHugePages:") != PAGES * HUGE_KB)
		program_lacks("transparent huge pages");
	return program_serve(&p, &ops, &s);
}
