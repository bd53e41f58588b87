/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is large enough to be filled from outside when it comes back: whole, with holes, read-only, that nobody may touch, with guard
 * pages, locked, and partly of huge pages; a child has some of it and has written to a part. Proof: contents, holes, protection, and that
 * what is written later is seen by who wrote it alone.
 */
#include "program.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum {
	PAGE = 4096,
	MIB = 1 << 20,
	HUGE = 2 * MIB,
	STEP = 3,
	CHILD_PAGE = 7,
	GUARD_PAGE = 100,
};

enum { WHOLE, HOLES, READ_ONLY, DARK, GUARDED, LOCKED, MIXED, PARTS };

static const size_t sizes[PARTS] = {
	[WHOLE] = 12 * MIB,  [HOLES] = 6 * MIB,  [READ_ONLY] = 5 * MIB, [DARK] = 4 * MIB,
	[GUARDED] = 4 * MIB, [LOCKED] = 4 * MIB, [MIXED] = 6 * MIB,
};

struct state {
	unsigned char *at[PARTS];
	bool guards, child;
	unsigned later;
};

static bool is_there(const struct state *s, int part, size_t page)
{
	if (part == GUARDED && s->guards && page == GUARD_PAGE)
		return false;
	return part != HOLES || page % STEP == 0;
}

static uint64_t seed_of(const struct state *s, int part, size_t page)
{
	bool own = s->child && part == WHOLE && page % 100 == CHILD_PAGE;
	return (uint64_t)part << 32 | (uint64_t)page << 1 | own;
}

static void fill(const struct state *s, int part)
{
	for (size_t page = 0; page < sizes[part] / PAGE; page++)
		if (is_there(s, part, page) && !(part == GUARDED && page == GUARD_PAGE))
			pattern_fill(s->at[part] + page * PAGE, PAGE, seed_of(s, part, page));
}

/* Aligned, so that huge pages have room. */
static unsigned char *map(size_t bytes)
{
	unsigned char *at = must((unsigned char *)mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE,
						       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	unsigned char *from = (unsigned char *)(((uintptr_t)at + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	if (from > at)
		must(munmap(at, (size_t)(from - at)));
	must(munmap(from + bytes, HUGE - (size_t)(from - at)));
	return from;
}

static void verify_page(struct program *p, const struct state *s, int part, size_t page)
{
	const unsigned char *at = s->at[part] + page * PAGE;
	static unsigned char zero[PAGE];

	if (part == GUARDED && s->guards && page == GUARD_PAGE) {
		expect(p, !memory_readable(at), "the guard page can be read");
		return;
	}
	if (!is_there(s, part, page)) {
		expect(p, !memcmp(at, zero, PAGE), "page %zu of part %d is not empty", page, part);
		return;
	}
	ssize_t differs = pattern_differs(at, PAGE, seed_of(s, part, page));
	expect(p, differs < 0, "page %zu of part %d differs at %zd", page, part, differs);
}

static size_t resident(const struct state *s, int part)
{
	static unsigned char there[12 * MIB / PAGE];
	size_t n = 0;

	must(mincore(s->at[part], sizes[part], there));
	for (size_t i = 0; i < sizes[part] / PAGE; i++)
		n += there[i] & 1;
	return n;
}

static bool writable(unsigned char *at)
{
	int ends[2];
	must(pipe(ends));
	must(write(ends[1], at, 1));
	bool is = read(ends[0], at, 1) == 1;
	close(ends[0]);
	close(ends[1]);
	return is;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	/* Before anything looks: a look at a hole makes a page. */
	if (!s->later++)
		expect_same(p, "pages with holes", resident(s, HOLES),
			    (sizes[HOLES] / PAGE + STEP - 1) / STEP);
	for (int part = 0; part < PARTS; part++)
		for (size_t page = 0; page < sizes[part] / PAGE && part != DARK && part != HOLES; page++)
			verify_page(p, s, part, page);
	for (size_t page = 0; page < sizes[HOLES] / PAGE; page += STEP)
		verify_page(p, s, HOLES, page);
	expect(p, !memory_readable(s->at[DARK]), "what nobody may touch can be read");
	expect(p, !writable(s->at[READ_ONLY]), "what is to be read alone can be written");
	if (!s->child)
		expect(p, smaps_flag(s->at[LOCKED], "lo"), "what was locked is not");
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, s);
	must(mprotect(s->at[DARK], sizes[DARK], PROT_READ));
	for (size_t page = 0; page < sizes[DARK] / PAGE; page++)
		verify_page(p, s, DARK, page);
	for (size_t page = 0; page < sizes[HOLES] / PAGE; page++)
		verify_page(p, s, HOLES, page);
	s->at[WHOLE][5] ^= 0xff;
	expect(p, pattern_differs(s->at[WHOLE], PAGE, seed_of(s, WHOLE, 0)) == 5,
	       "what is written is not there");
}

static void spoil(void *state)
{
	const struct state *s = state;
	s->at[MIXED][sizes[MIXED] - 1]++;
}

static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};

static void start_child(const struct program *p, const struct state *from)
{
	if (must(fork())) {
		program_await(p, "child");
		return;
	}
	struct program q = program_role(p, "child");
	struct state s = *from;
	s.child = true;
	for (size_t page = CHILD_PAGE; page < sizes[WHOLE] / PAGE; page += 100)
		pattern_fill(s.at[WHOLE] + page * PAGE, PAGE, seed_of(&s, WHOLE, page));
	_exit(program_serve(&q, &(struct program_ops){.verify = verify, .finish = finish}, &s));
}

int main(int argc, char **argv)
{
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	for (int part = 0; part < PARTS; part++)
		s.at[part] = map(sizes[part]);
	must(madvise(s.at[MIXED] + HUGE, HUGE, MADV_HUGEPAGE));
	s.guards = madvise(s.at[GUARDED] + GUARD_PAGE * PAGE, PAGE, MADV_GUARD_INSTALL) == 0;
	for (int part = 0; part < PARTS; part++)
		fill(&s, part);
	must(mlock(s.at[LOCKED], sizes[LOCKED]));
	must(mprotect(s.at[READ_ONLY], sizes[READ_ONLY], PROT_READ));
	must(mprotect(s.at[DARK], sizes[DARK], PROT_NONE));
	if (program_told(argc, argv, "child"))
		start_child(&p, &s);
	return program_serve(&p, &ops, &s);
}
