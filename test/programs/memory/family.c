/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that a family has in common since it was forked: a parent, two children and a grandchild, who wrote to some pages
 * and dropped others. Proof: contents of each, and with "more" how much of it is private to each and how much the kernel
 * counts as each one's share.
 */
#include "program.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 2048, KB = PAGES * PAGE / 1024 };
enum { OWN_FROM = 100, OWN = 16, DROPPED_FROM = 500, DROPPED = 40, LAST = 24, LATE_FROM = 900, LATE = 8 };
enum { GONE_FROM = 1200, GONE = 12 };
enum { SLACK_KB = KB / 50 };

/* Who wrote to which pages last. */
enum { PARENT, FIRST, SECOND, GRANDCHILD, MEMBERS };

struct state {
	int who;
	unsigned char *at;
	long private_kb, pss_kb; /* as it was */
};

static unsigned seed(int who, int page)
{
	bool first = who == FIRST || who == GRANDCHILD;

	if (first && page >= OWN_FROM && page < OWN_FROM + OWN)
		return 1000000u + (unsigned)page;
	if (who == GRANDCHILD && page >= LATE_FROM && page < LATE_FROM + LATE)
		return 2000000u + (unsigned)page;
	if (who == PARENT && page >= LATE_FROM && page < LATE_FROM + LATE)
		return 3000000u + (unsigned)page;
	return (unsigned)page;
}

static bool is_dropped(int who, int page)
{
	if (who == SECOND)
		return (page >= GONE_FROM && page < GONE_FROM + GONE) || page >= PAGES - LAST;
	return (who == FIRST || who == GRANDCHILD) &&
	       ((page >= DROPPED_FROM && page < DROPPED_FROM + DROPPED) || page >= PAGES - LAST);
}

static long private_kb(const struct state *s)
{
	return smaps_kb(s->at, "Private_Dirty:") + smaps_kb(s->at, "Private_Clean:");
}

static void check(struct program *p, void *state)
{
	static const unsigned char zero[PAGE];
	struct state *s = state;

	for (int i = 0; i < PAGES && !p->bad; i++) {
		const unsigned char *page = s->at + i * PAGE;
		if (is_dropped(s->who, i))
			expect(p, !memcmp(page, zero, PAGE), "dropped page %d is not empty", i);
		else
			expect(p, pattern_differs(page, PAGE, seed(s->who, i)) < 0, "page %d differs", i);
	}
	if (!p->more)
		return;
	long now = private_kb(s), pss = smaps_kb(s->at, "Pss:");
	if (s->private_kb < 0) {
		s->private_kb = now;
		s->pss_kb = pss;
	}
	expect(p, now <= s->private_kb + SLACK_KB, "%ld kB are private now, %ld were", now, s->private_kb);
	expect(p, pss <= s->pss_kb + SLACK_KB, "a share of %ld kB now, it was %ld", pss, s->pss_kb);
	expect(p, pss < KB / 2, "a share of %ld kB of %d: it is not shared", pss, KB);
}

static void write_pages(struct state *s, int from, int n)
{
	for (int i = from; i < from + n; i++)
		pattern_fill(s->at + i * PAGE, PAGE, seed(s->who, i));
}

static void spoil(void *state)
{
	struct state *s = state;

	s->at[7 * PAGE] ^= 1;
}

static int serve(struct program *p, struct state *s)
{
	static const struct program_ops ops = {.verify = check, .spoil = spoil};

	return program_serve(p, &ops, s);
}

static int grandchild(const struct program *p, struct state *s)
{
	struct program q = program_role(p, "grandchild");

	s->who = GRANDCHILD;
	write_pages(s, LATE_FROM, LATE);
	return serve(&q, s);
}

static int child(const struct program *p, struct state *s, int who)
{
	struct program q = program_role(p, who == FIRST ? "first" : "second");

	s->who = who;
	if (who == FIRST) {
		write_pages(s, OWN_FROM, OWN);
		must(madvise(s->at + DROPPED_FROM * PAGE, DROPPED * PAGE, MADV_DONTNEED));
		must(madvise(s->at + (PAGES - LAST) * PAGE, LAST * PAGE, MADV_DONTNEED));
		if (!must(fork()))
			return grandchild(p, s);
		program_await(p, "grandchild");
	} else {
		must(madvise(s->at + GONE_FROM * PAGE, GONE * PAGE, MADV_DONTNEED));
		must(madvise(s->at + (PAGES - LAST) * PAGE, LAST * PAGE, MADV_DONTNEED));
	}
	return serve(&q, s);
}

int main(int argc, char **argv)
{
	struct state s = {.who = PARENT, .private_kb = -1};
	struct program p;

	program_start(&p, argc, argv);
	s.at = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	must(madvise(s.at, PAGES * PAGE, MADV_NOHUGEPAGE));
	for (int i = 0; i < PAGES; i++)
		pattern_fill(s.at + i * PAGE, PAGE, (unsigned)i);
	for (int who = FIRST; who <= SECOND; who++) {
		if (!must(fork()))
			return child(&p, &s, who);
		program_await(&p, who == FIRST ? "first" : "second");
	}
	write_pages(&s, LATE_FROM, LATE);
	return serve(&p, &s);
}
