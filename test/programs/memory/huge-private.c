/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private memory of huge pages (MAP_HUGETLB): one that was written to, one that was never touched, a read-only one, and what
 * a parent shares with its child until it writes. Proof: contents, the size of pages as the kernel tells it, that
 * what was not touched takes nothing, and that a write of the child is not seen by the parent.
 */
#include "program.h"

#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20, SPARSE_AT = HUGE + 70 * PAGE };

struct state {
	unsigned char *written, *untouched, *fixed;
	unsigned char mark;
};

static unsigned char *area(size_t n)
{
	unsigned char *at = mmap(NULL, n * HUGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (at == MAP_FAILED)
		program_lacks("free huge pages");
	return at;
}

static void check(struct program *p, void *state)
{
	struct state *s = state;

	expect_same(p, "kB a page", smaps_kb(s->written, "KernelPageSize:"), HUGE / 1024);
	expect_same(p, "kB a page, read-only", smaps_kb(s->fixed, "KernelPageSize:"), HUGE / 1024);
	expect(p, smaps_flag(s->fixed, "ht") && !smaps_flag(s->fixed, "wr"),
	       "flags of the read-only one differ");
	expect(p, pattern_differs(s->written, PAGE * 3, 1) < 0, "what was written differs");
	expect_same(p, "own byte", s->written[SPARSE_AT], s->mark);
	expect(p, pattern_differs(s->fixed, HUGE, 2) < 0, "the read-only one differs");
	expect_same(p, "kB of what was not touched", smaps_kb(s->untouched, "Private_Hugetlb:"), 0);
}

static void spoil(void *state)
{
	struct state *s = state;

	s->written[PAGE] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops parent = {.verify = check, .spoil = spoil};
	static const struct program_ops child = {.verify = check};
	struct state s = {.mark = 0x11};
	struct program p;

	program_start(&p, argc, argv);
	s.written = area(2);
	s.untouched = area(1);
	s.fixed = area(1);
	pattern_fill(s.written, PAGE * 3, 1);
	s.written[SPARSE_AT] = s.mark;
	pattern_fill(s.fixed, HUGE, 2);
	must(mprotect(s.fixed, HUGE, PROT_READ));
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		s.mark = 0x22;
		s.written[SPARSE_AT] = s.mark;
		return program_serve(&q, &child, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &parent, &s);
}
