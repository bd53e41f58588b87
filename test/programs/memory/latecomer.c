/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that threads change in all ways as soon as they find that they were restored, while it may still be on its way: pages are
 * compared, written, dropped, read into (through the page cache and past it), locked; mappings are moved, replaced and protected;
 * children compare what they were given, some change their copy, some become another program. Each thread knows what each of its pages has to hold. Proof: no
 * page ever held anything else.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	THREADS = 4,
	REGIONS = 4, /* of each thread */
	PAGES = 1024,
	STEPS = 2500, /* after each restore */
	FILE_PAGES = 8,
	ZERO = 0,          /* version of a page that holds nothing */
	FILE_ON = 1 << 30, /* versions from here on: a page of the file */
	RUN = 64,          /* pages that are treated alike, at most */
	BIRTH_LOOKS_MS = 1,
	CHILD_BAD = 1 << 20,
	PLACES_EACH = 4 * REGIONS,
};
#define PLACES 0x200000000000ull
#define PLACE_BYTES ((uintptr_t)PAGES * PAGE)

struct region {
	unsigned char *at;
	unsigned *versions;
};

struct worker {
	struct region regions[REGIONS];
	unsigned number, next, place;
	unsigned children, cut; /* and of those, ended by a page that nobody knows */
	unsigned rounds;        /* restores after which it has done its steps */
	uint64_t dice;
	int file, direct;
	int bad; /* 1 + page, or CHILD_BAD */
	const char *what;
	unsigned long long born;
	pthread_t thread;
};

struct state {
	struct worker workers[THREADS];
	unsigned rounds;
	unsigned long long born;
};

static unsigned roll(struct worker *w, unsigned n)
{
	w->dice = w->dice * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(w->dice >> 33) % n;
}

static uint64_t seed_of(const struct worker *w, size_t region, size_t page, unsigned version)
{
	if (version >= FILE_ON)
		return version;
	return (uint64_t)w->number << 56 | (uint64_t)region << 48 | (uint64_t)page << 32 | version;
}

static void write_page(struct worker *w, size_t region, size_t page)
{
	struct region *r = &w->regions[region];
	r->versions[page] = ++w->next;
	pattern_fill(r->at + page * PAGE, PAGE, seed_of(w, region, page, r->versions[page]));
}

static bool page_is_right(const struct worker *w, size_t region, size_t page)
{
	static const unsigned char zero[PAGE];
	const struct region *r = &w->regions[region];
	const unsigned char *at = r->at + page * PAGE;
	if (r->versions[page] == ZERO)
		return !memcmp(at, zero, PAGE);
	return pattern_differs(at, PAGE, seed_of(w, region, page, r->versions[page])) < 0;
}

static void check_page(struct worker *w, size_t region, size_t page, const char *what)
{
	if (w->bad || page_is_right(w, region, page))
		return;
	w->what = what;
	w->bad = 1 + (int)(region * PAGES + page);
}

/*
 * Where the kernel chose, another thread might get what this one has unmapped for a moment: each has places of its own, which are
 * used again and again.
 */
static unsigned char *new_place(struct worker *w, size_t bytes)
{
	for (;;) {
		uintptr_t at = PLACES + (w->number * PLACES_EACH + w->place++ % PLACES_EACH) * PLACE_BYTES;
		void *got = mmap((void *)at, bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
		if (got != MAP_FAILED)
			return got;
		if (errno != EEXIST)
			program_die("mmap");
	}
}

/* -------------------------------------------------------------------- what a step does */

static void step_check(struct worker *w, size_t region, size_t page, size_t n)
{
	for (size_t i = 0; i < n; i++)
		check_page(w, region, page + i, "looked at");
}

static void step_write(struct worker *w, size_t region, size_t page, size_t n)
{
	for (size_t i = 0; i < n; i++)
		write_page(w, region, page + i);
}

/* A single byte: the rest has to come first. */
static void step_touch(struct worker *w, size_t region, size_t page, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		volatile unsigned char *at = w->regions[region].at + (page + i) * PAGE + 77;
		*at = (unsigned char)~*at;
		*at = (unsigned char)~*at;
		check_page(w, region, page + i, "touched");
	}
}

static void step_drop(struct worker *w, size_t region, size_t page, size_t n)
{
	must(madvise(w->regions[region].at + page * PAGE, n * PAGE, MADV_DONTNEED));
	memset(&w->regions[region].versions[page], 0, n * sizeof(unsigned));
	check_page(w, region, page, "dropped");
}

static void step_read(struct worker *w, size_t region, size_t page, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned of = roll(w, FILE_PAGES);
		int fd = roll(w, 2) ? w->direct : w->file;
		if (pread(fd, w->regions[region].at + (page + i) * PAGE, PAGE, (off_t)of * PAGE) != PAGE)
			program_die("pread");
		w->regions[region].versions[page + i] = FILE_ON + of;
		check_page(w, region, page + i, "read into");
	}
}

/* What a call reads has to come first, too. */
static void step_send(struct worker *w, size_t region, size_t page, size_t n)
{
	unsigned char got[PAGE];
	int ends[2];
	must(pipe(ends));
	for (size_t i = 0; i < n; i++) {
		const unsigned char *at = w->regions[region].at + (page + i) * PAGE;
		if (write(ends[1], at, PAGE) != PAGE || read(ends[0], got, PAGE) != PAGE)
			program_die("pipe");
		if (memcmp(got, at, PAGE) && !w->bad)
			w->bad = 1;
		check_page(w, region, page + i, "sent");
	}
	close(ends[0]);
	close(ends[1]);
}

static void step_lock(struct worker *w, size_t region, size_t page, size_t n)
{
	unsigned char *at = w->regions[region].at + page * PAGE;
	if (mlock(at, n * PAGE) == 0)
		must(munlock(at, n * PAGE));
	check_page(w, region, page, "locked");
}

static void step_protect(struct worker *w, size_t region, size_t page, size_t n)
{
	unsigned char *at = w->regions[region].at + page * PAGE;
	must(mprotect(at, n * PAGE, PROT_READ));
	check_page(w, region, page, "protected");
	must(mprotect(at, n * PAGE, PROT_READ | PROT_WRITE));
}

/*
 * What was mapped anew is a mapping of its own while memory around it is watched, and of several that are watched mremap(2) moves
 * some and fails.
 */
static bool is_one_mapping(const unsigned char *at, size_t bytes)
{
	unsigned long start, end, from = (unsigned long)(uintptr_t)at;
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	bool one = false;
	if (!f)
		program_die("/proc/self/maps");
	while (!one && fgets(line, sizeof(line), f))
		one = sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= from && from + bytes <= end;
	fclose(f);
	return one;
}

static void move(unsigned char *from, unsigned char *to, size_t bytes)
{
	if (mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		program_die("mremap");
}

/* All of it, to another place. */
static void step_move(struct worker *w, size_t region, size_t page, size_t n unused)
{
	struct region *r = &w->regions[region];
	if (!is_one_mapping(r->at, PAGES * PAGE))
		return;
	unsigned char *to = new_place(w, PAGES * PAGE);
	move(r->at, to, PAGES * PAGE);
	r->at = to;
	check_page(w, region, page, "moved");
}

/* Some pages are replaced by nothing. */
static void step_hole(struct worker *w, size_t region, size_t page, size_t n)
{
	/* The others stay what can be moved. */
	region = REGIONS - 1;
	struct region *r = &w->regions[region];
	unsigned char *at = r->at + page * PAGE;
	must(munmap(at, n * PAGE));
	if (mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
		program_die("mmap");
	memset(&r->versions[page], 0, n * sizeof(unsigned));
	check_page(w, region, page, "mapped anew");
}

/* Out and back, with a look at what is left behind. */
static void step_trip(struct worker *w, size_t region, size_t page, size_t n)
{
	unsigned char *at = w->regions[region].at + page * PAGE;
	if (!is_one_mapping(at, n * PAGE))
		return;
	unsigned char *to = new_place(w, n * PAGE);
	move(at, to, n * PAGE);
	move(to, at, n * PAGE);
	check_page(w, region, page, "moved there and back");
}

static __attribute__((noreturn)) void child(struct worker *w, size_t region, size_t page, size_t n)
{
	step_write(w, region, page, n);
	step_drop(w, region, (page + RUN) % (PAGES - RUN), n);
	/* Another program has another memory. */
	if (w->dice % 5 == 0)
		execl("/proc/self/exe", "latecomer", "exec", NULL);
	for (size_t i = 0; i < REGIONS; i++)
		for (size_t k = w->dice % 7; k < PAGES; k += 7)
			check_page(w, i, k, "of a child");
	_exit(w->bad ? 1 : 0);
}

static void step_fork(struct worker *w, size_t region, size_t page, size_t n)
{
	int status;
	if (roll(w, 8))
		return;
	pid_t pid = must(fork());
	if (!pid)
		child(w, region, page, n);
	must(waitpid(pid, &status, 0));
	/* Where nobody knows whether another thread was faster than the fork, it gets no page at all. */
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS)
		w->cut++;
	else if (status)
		w->bad = w->bad ? w->bad : CHILD_BAD;
	w->children++;
}

static void (*const steps[])(struct worker *w, size_t region, size_t page, size_t n) = {
	step_check, step_check, step_check, step_write, step_touch, step_touch,   step_drop, step_read,
	step_send,  step_lock,  step_move,  step_hole,  step_trip,  step_protect, step_fork,
};

static void take_steps(struct worker *w)
{
	for (int i = 0; i < STEPS && !w->bad; i++) {
		size_t n = 1 + roll(w, roll(w, 4) ? 4 : RUN), page = roll(w, PAGES - RUN);
		size_t region = roll(w, REGIONS), which = roll(w, ARRAY_SIZE(steps));
		steps[which](w, region, page, n);
	}
}

static __attribute__((noreturn)) void *work(void *context)
{
	struct worker *w = context;
	for (;;) {
		unsigned long long born = program_birth();
		if (born == w->born) {
			sleep_ms(BIRTH_LOOKS_MS);
			continue;
		}
		w->born = born;
		take_steps(w);
		__atomic_add_fetch(&w->rounds, 1, __ATOMIC_SEQ_CST);
	}
}

static void check_worker(struct program *p, struct worker *w)
{
	for (size_t i = 0; i < REGIONS && !w->bad; i++)
		for (size_t k = 0; k < PAGES; k++)
			check_page(w, i, k, "at the end");
	expect(p, w->bad != CHILD_BAD, "a child of thread %u found a wrong page", w->number);
	expect(p, w->cut * 2 <= w->children, "%u of %u children got no pages", w->cut, w->children);
	expect(p, !w->bad, "thread %u: page %d is wrong, %s", w->number, w->bad - 1, w->what ? w->what : "");
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	unsigned long long born = program_birth();
	if (born != s->born)
		s->rounds++;
	s->born = born;
	for (int i = 0; i < THREADS; i++) {
		while (__atomic_load_n(&s->workers[i].rounds, __ATOMIC_SEQ_CST) < s->rounds)
			sleep_ms(BIRTH_LOOKS_MS);
		check_worker(p, &s->workers[i]);
	}
}

static void spoil(void *state)
{
	struct state *s = state;
	s->workers[1].regions[2].at[5 * PAGE + 5]++;
}

static const struct program_ops ops = {.verify = verify, .spoil = spoil};

static void start_worker(struct program *p, struct worker *w, unsigned number, unsigned long long born)
{
	unsigned char page[PAGE];
	char path[256];
	w->number = number;
	w->dice = number + 1;
	w->born = born;
	snprintf(path, sizeof(path), "%s/data.%u", p->folder, number);
	w->file = must(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
	for (unsigned i = 0; i < FILE_PAGES; i++) {
		pattern_fill(page, PAGE, FILE_ON + i);
		must(write(w->file, page, PAGE));
	}
	must(fsync(w->file));
	w->direct = open(path, O_RDONLY | O_DIRECT);
	if (w->direct < 0)
		w->direct = must(open(path, O_RDONLY));
	for (size_t i = 0; i < REGIONS; i++) {
		w->regions[i].at = new_place(w, PAGES * PAGE);
		w->regions[i].versions = calloc(PAGES, sizeof(unsigned));
		for (size_t k = 0; k < PAGES; k++)
			if (k % 16 != 9)
				write_page(w, i, k);
	}
	if (pthread_create(&w->thread, NULL, work, w))
		program_die("pthread_create");
}

int main(int argc, char **argv)
{
	static struct state s;
	struct program p;

	if (argc == 2 && !strcmp(argv[1], "exec"))
		return 0;
	program_start(&p, argc, argv);
	s.born = program_birth();
	for (unsigned i = 0; i < THREADS; i++)
		start_worker(&p, &s.workers[i], i, s.born);
	return program_serve(&p, &ops, &s);
}
