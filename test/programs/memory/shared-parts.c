/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared anonymous memory of which a family has different parts: a child begins in the middle and has pages that nobody may read
 * and pages that it may only read, the parent sees one part twice and has another object of a gibibyte with a few pages in it,
 * swapped places of two parts, and one that was made from /dev/zero. Proof: contents, rights, that both places of a part and both
 * tasks are of one memory, and that nothing came into being where nothing was.
 */
#include "program.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 48, CHILD_FROM = 16, DARK = 20, FIXED = 24, PARTS = 4, ANSWER_MS = 3000 };
enum { SPARSE_PAGES = (1 << 30) / PAGE, SPARSE_STEP = 50000, SPARSE_USED = SPARSE_PAGES / SPARSE_STEP + 1 };

struct state {
	unsigned char *all;   /* words of the first page: ping, pong */
	unsigned char *again; /* the pages from FIXED on, once more */
	unsigned char *sparse;
	unsigned char *zero; /* of /dev/zero: second page before the first */
};

static volatile unsigned *word(const struct state *s, int n)
{
	return (volatile unsigned *)(s->all + (size_t)CHILD_FROM * PAGE) + n;
}

static void check_data(struct program *p, const unsigned char *at, int first, int n)
{
	ssize_t differs = pattern_differs(at, (size_t)n * PAGE, (unsigned)first);

	expect(p, differs < 0, "page %d on differs at %zd", first, differs);
}

static size_t resident(unsigned char *at, size_t pages)
{
	static unsigned char there[SPARSE_PAGES];
	size_t n = 0;

	must(mincore(at, pages * PAGE, there));
	for (size_t i = 0; i < pages; i++)
		n += there[i] & 1;
	return n;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	for (int i = 0; i < PAGES; i += PARTS)
		if (i != CHILD_FROM)
			check_data(p, s->all + (size_t)i * PAGE, i, PARTS);
	s->again[PAGE - 1] ^= 0x40;
	expect_same(p, "the last byte of the other place", s->all[(FIXED + 1) * PAGE - 1],
		    s->again[PAGE - 1]);
	s->again[PAGE - 1] ^= 0x40;
	expect_same(p, "pages of the large one", resident(s->sparse, SPARSE_PAGES), SPARSE_USED);
	for (size_t i = 0; i < SPARSE_PAGES; i += SPARSE_STEP)
		expect_same(p, "a word of the large one", *(unsigned *)(s->sparse + i * PAGE), i + 1);
	check_data(p, s->zero, 101, 1);
	check_data(p, s->zero + PAGE, 100, 1);
	unsigned want = *word(s, 0) = *word(s, 0) + 1;
	for (int i = 0; i < ANSWER_MS && *word(s, 1) != want; i++)
		sleep_ms(1);
	expect_same(p, "what the child answers", *word(s, 1), want);
}

static void spoil(void *state)
{
	struct state *s = state;

	s->all[0] ^= 1;
}

static void verify_child(struct program *p, void *state)
{
	struct state *s = state;
	unsigned char *dark = s->all + DARK * PAGE;

	expect_same(p, "pages before its part", (unsigned)-msync(s->all, PAGE, MS_ASYNC), 1);
	check_data(p, s->all + FIXED * PAGE, FIXED, PARTS);
	/* A pipe tells by EFAULT what a signal would tell. */
	int ends[2];
	must(pipe(ends));
	expect_same(p, "reading what nobody may read", (unsigned)-write(ends[1], dark, 1), 1);
	expect_same(p, "writing what may be read",
		    (unsigned)(write(ends[1], "x", 1) == 1 ? -read(ends[0], s->all + FIXED * PAGE, 1) : 0),
		    1);
	close(ends[0]);
	close(ends[1]);
	must(mprotect(dark, PARTS * PAGE, PROT_READ));
	check_data(p, dark, DARK, PARTS);
	must(mprotect(dark, PARTS * PAGE, PROT_NONE));
}

static void echo(void *state)
{
	struct state *s = state;

	*word(s, 1) = *word(s, 0);
}

static unsigned char *map_sparse(void)
{
	unsigned char *at = must(mmap(NULL, (size_t)SPARSE_PAGES * PAGE, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));

	must(madvise(at, (size_t)SPARSE_PAGES * PAGE, MADV_NOHUGEPAGE));
	for (size_t i = 0; i < SPARSE_PAGES; i += SPARSE_STEP)
		*(unsigned *)(at + i * PAGE) = (unsigned)i + 1;
	return at;
}

/* Two pages, and then the second one before the first. */
static unsigned char *map_zero(void)
{
	int fd = must(open("/dev/zero", O_RDWR));
	unsigned char *from = must(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	unsigned char *to = must(mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	pattern_fill(from, PAGE, 100);
	pattern_fill(from + PAGE, PAGE, 101);
	must(mremap(from + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	must(mremap(from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + PAGE));
	must(close(fd));
	return to;
}

int main(int argc, char **argv)
{
	static const struct program_ops parent = {.verify = verify, .spoil = spoil};
	static const struct program_ops child = {.verify = verify_child, .step = echo};
	struct program p;

	program_start(&p, argc, argv);
	struct state s = {.sparse = map_sparse(), .zero = map_zero()};
	s.all = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	for (int i = 0; i < PAGES; i += PARTS)
		pattern_fill(s.all + (size_t)i * PAGE, PARTS * PAGE, (unsigned)i);
	*word(&s, 0) = *word(&s, 1) = 0;
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		must(munmap(s.sparse, (size_t)SPARSE_PAGES * PAGE));
		must(munmap(s.all, CHILD_FROM * PAGE));
		must(mprotect(s.all + DARK * PAGE, PARTS * PAGE, PROT_NONE));
		must(mprotect(s.all + FIXED * PAGE, PARTS * PAGE, PROT_READ));
		return program_serve(&q, &child, &s);
	}
	s.again = must(mremap(s.all + FIXED * PAGE, 0, PARTS * PAGE, MREMAP_MAYMOVE));
	program_note_sparse(&p, s.sparse, (size_t)SPARSE_PAGES * PAGE);
	program_await(&p, "child");
	return program_serve(&p, &parent, &s);
}
