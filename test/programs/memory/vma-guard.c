/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guard pages (MADV_GUARD_INSTALL): single ones, a run, a mapping that is nothing else; with the argument "locked" all in
 * a mapping that is locked, too. Proof: which pages can be read, what the others hold, and that a guard that is taken away leaves a page
 * of zeroes.
 */
#include "program.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

enum { PAGE = 4096, PAGES = 40, ONLY_PAGES = 3 };

struct state {
	unsigned char *plain, *only;
	bool locked;
};

static bool is_guard(int page)
{
	return page == 0 || page == 7 || (page >= 20 && page < 30) || page == PAGES - 1;
}

static void check_area(struct program *p, const char *what, const unsigned char *at, unsigned seed)
{
	for (int i = 0; i < PAGES; i++) {
		const unsigned char *page = at + i * PAGE;

		expect_same(p, what, memory_readable(page), !is_guard(i));
		if (!is_guard(i) && !p->bad)
			expect(p, pattern_differs(page, PAGE, seed + (unsigned)i) < 0, "%s: page %d differs",
			       what, i);
	}
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	check_area(p, "plain", s->plain, 1000);
	expect_same(p, "locked", smaps_flag(s->plain, "lo"), s->locked);
	for (int i = 0; i < ONLY_PAGES; i++)
		expect(p, !memory_readable(s->only + i * PAGE), "guard page %d can be read", i);
}

static void finish(struct program *p, void *state)
{
	static const unsigned char zero[PAGE];
	struct state *s = state;

	verify(p, state);
	must(madvise(s->plain + 7 * PAGE, PAGE, MADV_GUARD_REMOVE));
	expect(p, !memcmp(s->plain + 7 * PAGE, zero, PAGE), "what was a guard page is not empty");
	s->plain[7 * PAGE] = 1;
}

static void spoil(void *state)
{
	struct state *s = state;

	must(madvise(s->plain + 24 * PAGE, PAGE, MADV_GUARD_REMOVE));
}

static unsigned char *area(size_t pages)
{
	return must(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static void make(unsigned char *at, unsigned seed)
{
	for (int i = 0; i < PAGES; i++) {
		pattern_fill(at + i * PAGE, PAGE, seed + (unsigned)i);
		if (is_guard(i) && madvise(at + i * PAGE, PAGE, MADV_GUARD_INSTALL) < 0)
			program_lacks("guard pages");
	}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct state s = {.locked = program_told(argc, argv, "locked")};
	struct program p;

	program_start(&p, argc, argv);
	s.plain = area(PAGES);
	s.only = area(ONLY_PAGES);
	make(s.plain, 1000);
	must(madvise(s.only, ONLY_PAGES * PAGE, MADV_GUARD_INSTALL));
	/* It cannot populate the guard pages, and says so after all is locked. */
	unused int told = s.locked ? mlock(s.plain, PAGES * PAGE) : 0;
	return program_serve(&p, &ops, &s);
}
