/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the benchmarks dump. argv: MAILBOX, then words: mib=N mebibytes of memory that does not compress, or "unwritten", which is only read, or "zeros"
 * that were written; "huge" pages; mappings=N of a page each; writes=N pages being written a second; descriptors=N, of eventfds, pipes and files in equal
 * parts; threads=N and processes=N, all asleep; "family": the processes have the memory. "watch": a thread reads CLOCK_MONOTONIC ten
 * times in a millisecond and remembers the largest step. "verify" proves the memory, writes the largest step since the last question to
 * the file "gap" in the mailbox, in nanoseconds, and starts anew. "finish" proves a few pages only; "spoil", for those who were told
 * "changes", writes to one page of a hundred.
 */
#include "program.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, BLOCK = 1 << 20, TOUCHED = 16 };

struct state {
	unsigned char *memory;
	size_t blocks;
	atomic_llong gap_ns;
	atomic_ulong looks; /* of the watching thread */
	unsigned long writes_each_second;
	unsigned long counter; /* pages written so far; each carries its number */
	size_t rewritten_pages;
	uint64_t *numbers; /* what the first word of each rewritten page must be */
	bool unwritten, zeros, huge, watched, changes;
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* It sleeps in between: where all processors of a machine are busy all the time, its host may let them stand for tens of milliseconds. */
static void *watch(void *argument)
{
	const struct timespec between = {.tv_nsec = 100000};
	struct state *s = argument;
	int64_t last = now_ns();

	for (;;) {
		int64_t now = now_ns();
		if (now - last > atomic_load_explicit(&s->gap_ns, memory_order_relaxed))
			atomic_store_explicit(&s->gap_ns, now - last, memory_order_relaxed);
		last = now;
		atomic_fetch_add_explicit(&s->looks, 1, memory_order_release);
		nanosleep(&between, NULL);
	}
	return NULL;
}

static void write_gap(const struct program *p, long long gap_ns)
{
	char path[256], text[32];

	snprintf(path, sizeof(path), "%s/gap", p->folder);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int n = snprintf(text, sizeof(text), "%lld\n", gap_ns);
	if (fd < 0 || write(fd, text, (size_t)n) != n)
		program_bad((struct program *)(uintptr_t)p, "cannot write %s", path);
	close(fd);
}

static void verify_page(struct program *p, const struct state *s, size_t number)
{
	const unsigned char *at = s->memory + number * PAGE;
	size_t skip = 0;

	if (number < s->rewritten_pages && s->numbers[number]) {
		uint64_t word;
		memcpy(&word, at, sizeof(word));
		expect(p, word == s->numbers[number], "page %zu carries %llu", number,
		       (unsigned long long)word);
		skip = sizeof(word);
	}
	/* The pattern of a page goes by its number; only its first word is ever rewritten. */
	unsigned char wanted[PAGE] = {0};
	if (!s->zeros)
		pattern_fill(wanted, PAGE, number);
	expect(p, !memcmp(wanted + skip, at + skip, PAGE - skip), "page %zu differs", number);
}

/* After a freeze this thread may run before the watching one has seen that time passed. */
static long long gap_now(struct state *s)
{
	unsigned long looks = atomic_load_explicit(&s->looks, memory_order_acquire);

	while (atomic_load_explicit(&s->looks, memory_order_acquire) < looks + 2)
		sleep_ms(1);
	return atomic_load(&s->gap_ns);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	long long gap = s->watched ? gap_now(s) : 0;

	/* To look at what was never written would make pages of it. */
	for (size_t page = 0; page < s->blocks * (BLOCK / PAGE) && !s->unwritten; page++)
		verify_page(p, s, page);
	write_gap(p, gap);
	atomic_store(&s->gap_ns, 0);
}

static void touch(struct program *p, void *state)
{
	struct state *s = state;
	size_t pages = s->blocks * (BLOCK / PAGE);

	for (size_t i = 0; i < TOUCHED && pages; i++)
		verify_page(p, s, i * (pages / TOUCHED));
}

static void rewrite(struct state *s, size_t pages)
{
	for (size_t i = 0; i < pages && s->rewritten_pages; i++) {
		uint64_t number = ++s->counter;
		size_t page = (number * 2654435761U) % s->rewritten_pages;
		memcpy(s->memory + page * PAGE, &number, sizeof(number));
		s->numbers[page] = number;
	}
}

/* Called every few milliseconds. */
static void step(void *state)
{
	struct state *s = state;

	rewrite(s, s->writes_each_second / 200);
}

static void change(void *state)
{
	struct state *s = state;

	rewrite(s, s->rewritten_pages / 100);
}

static void fill(struct state *s)
{
	size_t n = s->blocks * BLOCK;

	if (!n)
		return;
	s->memory = must(mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	must(madvise(s->memory, n, s->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
	if (s->zeros)
		memset(s->memory, 0, n);
	for (size_t page = 0; page < n / PAGE && s->unwritten; page++)
		(void)*(volatile unsigned char *)(s->memory + page * PAGE);
	for (size_t page = 0; page < n / PAGE && !s->zeros && !s->unwritten; page++)
		pattern_fill(s->memory + page * PAGE, PAGE, page);
	if (!s->writes_each_second && !s->changes)
		return;
	s->rewritten_pages = MAX(n / PAGE, 1);
	s->numbers = calloc(s->rewritten_pages, sizeof(*s->numbers));
	if (!s->numbers)
		program_die("calloc");
}

/* Every other one may not be written to, so that no two become one. */
static void map_many(unsigned long n)
{
	unsigned char *at =
		n ? must(mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
		  : NULL;

	for (unsigned long i = 0; i < n; i++) {
		at[i * PAGE] = 1;
		if (i % 2)
			must(mprotect(at + i * PAGE, PAGE, PROT_READ));
	}
}

static void start_processes(unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		if (!must(fork()))
			for (;;)
				pause();
}

/* An eventfd, a file and both ends of a pipe for every four; what they hold is proved by nobody, only that they are there. */
static void open_descriptors(const struct program *p, unsigned long n)
{
	char path[256];
	int ends[2];

	for (unsigned long i = 0; i < n; i += 4) {
		snprintf(path, sizeof(path), "%s/file-%lu", p->folder, i);
		if (eventfd((unsigned)i, EFD_CLOEXEC) < 0 || pipe2(ends, O_CLOEXEC) < 0 ||
		    open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644) < 0)
			program_die("opening descriptors");
	}
}

static void *rest(void *argument)
{
	(void)argument;
	for (;;)
		pause();
	return NULL;
}

static void start_threads(unsigned long n)
{
	pthread_attr_t small;
	pthread_t handle;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	for (unsigned long i = 0; i < n; i++)
		if (pthread_create(&handle, &small, rest, NULL) != 0)
			program_die("pthread_create");
}

/* What follows "NAME=" among the arguments; 0 without. */
static unsigned long number(int argc, char **argv, const char *name)
{
	size_t n = strlen(name);

	for (int i = 2; i < argc; i++)
		if (!strncmp(argv[i], name, n) && argv[i][n] == '=')
			return strtoul(argv[i] + n + 1, NULL, 10);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {
		.verify = verify, .spoil = change, .finish = touch, .step = step};
	static struct state s;
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	s.blocks = number(argc, argv, "mib");
	s.writes_each_second = number(argc, argv, "writes");
	s.unwritten = program_told(argc, argv, "unwritten");
	s.zeros = program_told(argc, argv, "zeros");
	s.huge = program_told(argc, argv, "huge");
	s.watched = program_told(argc, argv, "watch");
	s.changes = program_told(argc, argv, "changes");
	bool family = program_told(argc, argv, "family");
	if (!family)
		start_processes(number(argc, argv, "processes"));
	fill(&s);
	if (family)
		start_processes(number(argc, argv, "processes"));
	map_many(number(argc, argv, "mappings"));
	open_descriptors(&p, number(argc, argv, "descriptors"));
	start_threads(number(argc, argv, "threads"));
	if (s.watched && pthread_create(&handle, NULL, watch, &s) != 0)
		program_die("pthread_create");
	return program_serve(&p, &ops, &s);
}
