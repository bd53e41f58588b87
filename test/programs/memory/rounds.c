/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that changes in one way, given as a word, each time that a file "change" appears in the mailbox, which is removed
 * afterwards: between the rounds of a chain of images. Proof: each page, as the last change left it.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../uring/ring.h"
#include "kernel/uapi.h"

enum {
	PAGE = 4096,
	PAGES = 2048,
	FIRST = 64, /* where changes happen */
	SOME = 32,
	HUGE_BYTES = 2 << 20,
	FILE_PAGES = 16,
	ABSENT = 0, /* seeds: all zeroes, ... */
	UNREADABLE = 1,
	OF_FILE = 2, /* ... as the file has it */
	FIRST_SEED = 16,
};

struct state {
	struct program *p;
	unsigned char *at;
	uint64_t *seeds; /* of each page, in memory of their own */
	void (*change)(struct state *s);
	uint64_t n; /* changes so far */
	int fd;     /* the file of some; -1 */
	pid_t child;
	unsigned char *other; /* a second mapping */
	struct ring ring;
	aio_context_t context;
};

static unsigned char *page_at(const struct state *s, size_t page)
{
	return s->at + page * PAGE;
}

static uint64_t next_seed(const struct state *s, size_t page)
{
	return FIRST_SEED + s->n * PAGES + page;
}

static void write_pages(struct state *s, size_t page, size_t n)
{
	for (size_t i = page; i < page + n; i++) {
		s->seeds[i] = next_seed(s, i);
		pattern_fill(page_at(s, i), PAGE, s->seeds[i]);
	}
}

static void note(struct state *s, size_t page, size_t n, uint64_t seed)
{
	for (size_t i = page; i < page + n; i++)
		s->seeds[i] = seed;
}

/* ------------------------------------------------------------------- changes */

static void change_write(struct state *s)
{
	for (size_t i = 0; i < PAGES; i += 37)
		write_pages(s, i, 1);
}

static void map_fresh(struct state *s, size_t page, size_t n)
{
	must(mmap(page_at(s, page), n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		  -1, 0));
	note(s, page, n, ABSENT);
}

static void change_replace(struct state *s)
{
	must(munmap(page_at(s, FIRST), SOME * PAGE));
	map_fresh(s, FIRST, SOME);
	write_pages(s, FIRST + s->n % SOME, 1);
}

/* The same bytes in another order, without one of them being written. */
static void move_pages_to(struct state *s, size_t from, size_t to)
{
	must(mremap(page_at(s, from), SOME * PAGE, SOME * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    page_at(s, to)));
	memcpy(s->seeds + to, s->seeds + from, SOME * sizeof(*s->seeds));
}

static void change_move(struct state *s)
{
	size_t first = FIRST + 4 * SOME, second = FIRST + 8 * SOME, spare = FIRST + 12 * SOME;
	move_pages_to(s, first, spare);
	move_pages_to(s, second, first);
	move_pages_to(s, spare, second);
	map_fresh(s, spare, SOME);
}

/* As much as one entry of a page table's second level leads to, which the kernel moves with one store: swap two of them. */
static void change_move_much(struct state *s)
{
	const size_t n = HUGE_BYTES / PAGE;
	size_t first = (HUGE_BYTES - ((uintptr_t)s->at & (HUGE_BYTES - 1))) / PAGE, second = first + n;
	unsigned char *spare =
		must(mmap(NULL, 2 * HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	unsigned char *at = spare + HUGE_BYTES - ((uintptr_t)spare & (HUGE_BYTES - 1));
	must(mremap(page_at(s, first), HUGE_BYTES, HUGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, at));
	must(mremap(page_at(s, second), HUGE_BYTES, HUGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
		    page_at(s, first)));
	must(mremap(at, HUGE_BYTES, HUGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, page_at(s, second)));
	must(munmap(spare, 2 * HUGE_BYTES));
	for (size_t i = 0; i < n; i++) {
		uint64_t seed = s->seeds[first + i];
		s->seeds[first + i] = s->seeds[second + i];
		s->seeds[second + i] = seed;
	}
}

static void change_move_away(struct state *s)
{
	size_t from = FIRST + (s->n * 3 % 8) * SOME, to = FIRST + (16 + s->n * 5 % 8) * SOME;
	must(mremap(page_at(s, from), SOME * PAGE, SOME * PAGE,
		    MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, page_at(s, to)));
	memcpy(s->seeds + to, s->seeds + from, SOME * sizeof(*s->seeds));
	note(s, from, SOME, ABSENT);
	write_pages(s, to, 1);
	write_pages(s, from + 1, 1);
}

static void change_drop(struct state *s)
{
	size_t first = FIRST + s->n * SOME / 2 % 1024;
	must(madvise(page_at(s, first), SOME * PAGE, MADV_DONTNEED));
	note(s, first, SOME, ABSENT);
	write_pages(s, first + 3, 2);
}

/* All but the first pages, with the page tables that lead to them. */
static void change_drop_much(struct state *s)
{
	must(madvise(page_at(s, FIRST), (PAGES - FIRST) * PAGE, MADV_DONTNEED));
	note(s, FIRST, PAGES - FIRST, ABSENT);
	if (s->n % 2)
		write_pages(s, FIRST + s->n, PAGES / 2);
}

static void change_fork(struct state *s)
{
	if (s->child) {
		kill(s->child, SIGKILL);
		waitpid(s->child, NULL, 0);
	}
	write_pages(s, FIRST, SOME);
	s->child = must(fork());
	if (!s->child) {
		for (size_t i = FIRST + SOME / 2; i < FIRST + SOME; i++)
			pattern_fill(page_at(s, i), PAGE, i); /* its copy alone */
		const struct program own = program_role(s->p, "child");
		program_note_volatile(&own);
		for (;;)
			pause();
	}
	write_pages(s, FIRST + SOME, SOME);
}

static void change_protect(struct state *s)
{
	must(mprotect(page_at(s, FIRST), SOME * PAGE, PROT_READ));
	must(mprotect(page_at(s, FIRST + 3), 5 * PAGE, PROT_READ | PROT_WRITE));
	write_pages(s, FIRST + 4, 2);
	must(mprotect(page_at(s, FIRST), SOME * PAGE, PROT_READ | PROT_WRITE));
}

static void change_guard(struct state *s)
{
	size_t first = FIRST + s->n % 8 * SOME, before = FIRST + (s->n + 7) % 8 * SOME;
	must(madvise(page_at(s, first), SOME * PAGE, MADV_GUARD_INSTALL));
	note(s, first, SOME, UNREADABLE);
	if (s->seeds[before] != UNREADABLE)
		return;
	must(madvise(page_at(s, before), SOME * PAGE, MADV_GUARD_REMOVE));
	note(s, before, SOME, ABSENT);
	write_pages(s, before + 1, 2);
}

static void change_huge(struct state *s)
{
	size_t first = (HUGE_BYTES - ((uintptr_t)s->at & (HUGE_BYTES - 1))) / PAGE;
	if (s->n % 4 == 0) {
		must(madvise(page_at(s, first), HUGE_BYTES, MADV_DONTNEED));
		must(madvise(page_at(s, first), HUGE_BYTES, MADV_HUGEPAGE));
		write_pages(s, first, HUGE_BYTES / PAGE);
	}
	write_pages(s, first + s->n * 11 % 500, 3);
	if (s->n % 4 == 3 && madvise(page_at(s, first), HUGE_BYTES, MADV_COLLAPSE) < 0)
		return; /* memory is short; it is a hint */
}

/* What a system call writes. */
static void change_read(struct state *s)
{
	unsigned char bytes[4 * PAGE];
	for (size_t i = 0; i < 4; i++) {
		s->seeds[FIRST + i] = next_seed(s, FIRST + i);
		pattern_fill(bytes + i * PAGE, PAGE, s->seeds[FIRST + i]);
	}
	must(pwrite(s->fd, bytes, sizeof(bytes), 0));
	must(pread(s->fd, page_at(s, FIRST), sizeof(bytes), 0));
}

/* Where changed blocks come from when they go past the page tables: FILE_PAGES pages of the file. */
static void file_fill(struct state *s)
{
	unsigned char *bytes = must(
		mmap(NULL, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (size_t i = 0; i < FILE_PAGES; i++) {
		s->seeds[FIRST + i] = next_seed(s, FIRST + i);
		pattern_fill(bytes + i * PAGE, PAGE, s->seeds[FIRST + i]);
	}
	must(pwrite(s->fd, bytes, FILE_PAGES * PAGE, 0));
	must(munmap(bytes, FILE_PAGES * PAGE));
}

static void change_direct(struct state *s)
{
	file_fill(s);
	must(pread(s->fd, page_at(s, FIRST), FILE_PAGES * PAGE, 0));
}

static void read_by_aio(const struct state *s, aio_context_t context)
{
	struct io_event event;
	struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD,
			       .aio_fildes = (uint32_t)s->fd,
			       .aio_buf = (uintptr_t)page_at(s, FIRST),
			       .aio_nbytes = FILE_PAGES * PAGE};
	struct iocb *requests[] = {&request};
	must(syscall(SYS_io_submit, context, 1L, requests));
	must(syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL));
}

static void change_aio(struct state *s)
{
	aio_context_t context = 0;
	file_fill(s);
	must(syscall(SYS_io_setup, 4, &context));
	read_by_aio(s, context);
	must(syscall(SYS_io_destroy, context));
}

/* The context stays, so a request may be under way at any time. */
static void change_aio_kept(struct state *s)
{
	file_fill(s);
	read_by_aio(s, s->context);
}

/* Into a buffer that the kernel has pinned since the beginning: no page table says that its pages are written. */
static void change_uring(struct state *s)
{
	file_fill(s);
	struct io_uring_sqe *sqe =
		ring_put(&s->ring, IORING_OP_READ_FIXED, s->fd, page_at(s, FIRST), FILE_PAGES * PAGE, 0, 5);
	sqe->buf_index = 0;
	if (ring_one(&s->ring, 5) != FILE_PAGES * PAGE)
		program_die("reading into a registered buffer");
}

/* A shared mapping, changed through another one and by write(2). */
static void change_shared(struct state *s)
{
	size_t page = FIRST + s->n % FILE_PAGES;
	s->seeds[page] = next_seed(s, page);
	if (s->n % 2) {
		pattern_fill(s->other + (page - FIRST) * PAGE, PAGE, s->seeds[page]);
		return;
	}
	unsigned char bytes[PAGE];
	pattern_fill(bytes, PAGE, s->seeds[page]);
	must(pwrite(s->fd, bytes, PAGE, (off_t)((page - FIRST) * PAGE)));
}

/* Pages of a private mapping of a file: own ones, and dropped ones, which are the file's again. */
static void change_file(struct state *s)
{
	size_t page = FIRST + s->n % FILE_PAGES, dropped = FIRST + (s->n + 5) % FILE_PAGES;
	must(madvise(page_at(s, dropped), PAGE, MADV_DONTNEED));
	s->seeds[dropped] = OF_FILE;
	write_pages(s, page, 1);
}

static void change_grow(struct state *s)
{
	size_t pages = SOME + s->n * 8 % 64, next = SOME + (s->n + 1) * 8 % 64;
	must(mremap(page_at(s, FIRST), pages * PAGE, next * PAGE, 0));
	if (next > pages)
		note(s, FIRST + pages, next - pages, ABSENT);
	else
		note(s, FIRST + next, pages - next, UNREADABLE);
	write_pages(s, FIRST + next - 1, 1);
}

/* Heap and stack. */
static void change_heap(struct state *s)
{
	unsigned char *end = sbrk(SOME * PAGE);
	memset(end, (int)s->n + 1, SOME * PAGE);
	write_pages(s, FIRST, 1);
	s->other[s->n % PAGE] = (unsigned char)s->n;
}

static int uffd_of(struct state *s)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		program_lacks("userfaultfd with asynchronous protection needs Linux 6.7");
	struct uffdio_register reg = {.range = {(uintptr_t)page_at(s, FIRST), SOME * PAGE},
				      .mode = UFFDIO_REGISTER_MODE_WP};
	must(ioctl(fd, UFFDIO_REGISTER, &reg));
	return fd;
}

/* It tracks its own memory in the same way, and arms it after each look. */
static void change_own_uffd(struct state *s)
{
	struct uffdio_writeprotect wp = {.range = {(uintptr_t)page_at(s, FIRST), SOME * PAGE},
					 .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	write_pages(s, FIRST + s->n % SOME, 1);
	must(ioctl(s->fd, UFFDIO_WRITEPROTECT, &wp));
	write_pages(s, FIRST + (s->n + 1) % SOME, 1);
	must(ioctl(s->fd, UFFDIO_WRITEPROTECT, &wp));
}

/* ------------------------------------------------------------------- beginnings */

static int file_open(const struct state *s, int flags)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/data", s->p->folder);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
	if (fd < 0 && errno == EINVAL)
		program_lacks("this file system has no O_DIRECT");
	must(ftruncate(fd, FILE_PAGES * PAGE));
	return fd;
}

static void begin_file(struct state *s)
{
	s->fd = file_open(s, 0);
}

static void begin_direct(struct state *s)
{
	s->fd = file_open(s, O_DIRECT);
}

static void begin_aio(struct state *s)
{
	begin_direct(s);
	must(syscall(SYS_io_setup, 4, &s->context));
}

static void begin_uring(struct state *s)
{
	const struct iovec buffer = {page_at(s, FIRST), FILE_PAGES * PAGE};
	begin_file(s);
	ring_make(&s->ring, 4, 0);
	if (ring_register(&s->ring, IORING_REGISTER_BUFFERS, &buffer, 1) < 0)
		program_lacks("registered buffers of io_uring");
}

static void begin_shared(struct state *s)
{
	s->fd = must(memfd_create("rounds", MFD_CLOEXEC));
	must(ftruncate(s->fd, FILE_PAGES * PAGE));
	must(mmap(page_at(s, FIRST), FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, s->fd,
		  0));
	s->other = must(mmap(NULL, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0));
	note(s, FIRST, FILE_PAGES, ABSENT);
}

static void begin_private_file(struct state *s)
{
	unsigned char bytes[PAGE];
	s->fd = file_open(s, 0);
	pattern_fill(bytes, PAGE, OF_FILE);
	for (off_t i = 0; i < FILE_PAGES; i++)
		must(pwrite(s->fd, bytes, PAGE, i * PAGE));
	must(mmap(page_at(s, FIRST), FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		  s->fd, 0));
	note(s, FIRST, FILE_PAGES, OF_FILE);
}

static void begin_grow(struct state *s)
{
	/* Room behind it. */
	must(munmap(page_at(s, FIRST), 128 * PAGE));
	map_fresh(s, FIRST + SOME + 64, 128 - SOME - 64);
	map_fresh(s, FIRST, SOME);
	note(s, FIRST + SOME, 64, UNREADABLE);
}

static void begin_heap(struct state *s)
{
	s->other = malloc(PAGE);
	memset(s->other, 0, PAGE);
}

static void begin_guard(struct state *s)
{
	if (madvise(page_at(s, FIRST), PAGE, MADV_GUARD_INSTALL) < 0)
		program_lacks("guard pages need Linux 6.13");
	must(madvise(page_at(s, FIRST), PAGE, MADV_GUARD_REMOVE));
	note(s, FIRST, 1, ABSENT);
}

static void begin_own_uffd(struct state *s)
{
	s->fd = uffd_of(s);
}

static const struct way {
	const char *word;
	void (*begin)(struct state *s);
	void (*change)(struct state *s);
} ways[] = {
	{"write", NULL, change_write},
	{"replace", NULL, change_replace},
	{"move", NULL, change_move},
	{"move-much", NULL, change_move_much},
	{"move-away", NULL, change_move_away},
	{"drop", NULL, change_drop},
	{"drop-much", NULL, change_drop_much},
	{"fork", NULL, change_fork},
	{"protect", NULL, change_protect},
	{"guard", begin_guard, change_guard},
	{"huge", NULL, change_huge},
	{"read", begin_file, change_read},
	{"direct", begin_direct, change_direct},
	{"aio", begin_direct, change_aio},
	{"aio-kept", begin_aio, change_aio_kept},
	{"uring", begin_uring, change_uring},
	{"shared", begin_shared, change_shared},
	{"file", begin_private_file, change_file},
	{"grow", begin_grow, change_grow},
	{"heap", begin_heap, change_heap},
	{"own-uffd", begin_own_uffd, change_own_uffd},
};

/* ------------------------------------------------------------------------ proof */

static bool is_zero(const unsigned char *bytes)
{
	for (size_t i = 0; i < PAGE; i++)
		if (bytes[i])
			return false;
	return true;
}

static bool page_is_right(const struct state *s, size_t page)
{
	uint64_t seed = s->seeds[page];
	if (seed == UNREADABLE)
		return !memory_readable(page_at(s, page));
	return seed == ABSENT ? is_zero(page_at(s, page)) : pattern_differs(page_at(s, page), PAGE, seed) < 0;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	for (size_t i = 0; i < PAGES; i++)
		expect(p, page_is_right(s, i), "page %zu is not as change %llu left it (seed %llu)", i,
		       (unsigned long long)s->n, (unsigned long long)s->seeds[i]);
}

static void spoil(void *state)
{
	struct state *s = state;
	s->at[17] ^= 1;
}

static void step(void *state)
{
	struct state *s = state;
	char path[256];
	snprintf(path, sizeof(path), "%s/change", s->p->folder);
	if (access(path, F_OK) < 0)
		return;
	s->change(s);
	s->n++;
	must(unlink(path));
}

int main(int argc, char **argv)
{
	struct program p;
	struct state s = {.p = &p, .fd = -1, .change = change_write};
	program_start(&p, argc, argv);
	s.at = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	s.seeds = must(mmap(NULL, PAGES * sizeof(*s.seeds), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	write_pages(&s, 0, PAGES / 2);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		if (!program_told(argc, argv, ways[i].word))
			continue;
		if (ways[i].begin)
			ways[i].begin(&s);
		s.change = ways[i].change;
	}
	const struct program_ops ops = {verify, spoil, NULL, step};
	return program_serve(&p, &ops, &s);
}
