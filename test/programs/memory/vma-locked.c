/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locked memory: at once (mlock(2)), on fault (mlock2(2)) with pages that were touched and pages that were not, the half of
 * a mapping, and a locked file. Proof: flags, contents, how much of each is locked and there, and that a page of the
 * one on fault is locked when it comes.
 */
#include "program.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 16, TOUCHED = 5 };

struct state {
	unsigned char *now, *fault, *half, *file;
	int touched; /* pages of the one on fault */
};

static long locked_kb(const unsigned char *at)
{
	return smaps_kb(at, "Locked:");
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, smaps_flag(s->now, "lo") && !smaps_flag(s->now, "lf"), "mlock: other flags");
	expect(p, smaps_flag(s->fault, "lo") && smaps_flag(s->fault, "lf"), "on fault: other flags");
	expect(p, smaps_flag(s->half, "lo") && !smaps_flag(s->half + 8 * PAGE, "lo"), "half: other flags");
	expect(p, smaps_flag(s->file, "lo"), "the file is not locked");
	expect_same(p, "kB locked", locked_kb(s->now), PAGES * PAGE / 1024);
	expect_same(p, "kB locked on fault", locked_kb(s->fault), s->touched * PAGE / 1024);
	expect_same(p, "kB that are there on fault", smaps_kb(s->fault, "Rss:"), s->touched * PAGE / 1024);
	expect(p, pattern_differs(s->now, PAGES * PAGE, 1) < 0, "mlock: differs");
	expect(p, pattern_differs(s->fault, TOUCHED * PAGE, 2) < 0, "on fault: differs");
	expect(p, pattern_differs(s->half, PAGES * PAGE, 3) < 0, "half: differs");
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	s->fault[(PAGES - 1) * PAGE] = 1;
	s->touched++;
	verify(p, state);
}

static void spoil(void *state)
{
	struct state *s = state;

	must(munlock(s->half, PAGE));
}

static unsigned char *area(int prot, int flags, int fd)
{
	/* With a gap on both sides, so that the kernel merges none of them with its neighbour. */
	unsigned char *at =
		must(mmap(NULL, (PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	return must(mmap(at + PAGE, PAGES * PAGE, prot, flags | MAP_FIXED, fd, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct state s = {.touched = TOUCHED};
	struct program p;

	program_start(&p, argc, argv);
	s.now = area(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	s.fault = area(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	s.half = area(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int fd = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	s.file = must(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0));
	close(fd);
	must(madvise(s.fault, PAGES * PAGE, MADV_NOHUGEPAGE));
	pattern_fill(s.now, PAGES * PAGE, 1);
	pattern_fill(s.half, PAGES * PAGE, 3);
	must(mlock(s.now, PAGES * PAGE));
	must(mlock2(s.fault, PAGES * PAGE, MLOCK_ONFAULT));
	pattern_fill(s.fault, TOUCHED * PAGE, 2);
	must(mlock(s.half, 8 * PAGE));
	must(mlock(s.file, PAGE));
	return program_serve(&p, &ops, &s);
}
