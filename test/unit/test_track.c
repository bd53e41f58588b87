/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a tracker tells, against memory as it is: a child changes its memory in one way after the other, and a copy that
 * is only ever brought up to date with what the tracker calls dirty has to be equal to the memory, page by page.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "mem/track.h"
#include "mem/track_way.h"
#include "proc/read.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

enum {
	PAGE = 4096,
	PAGES = 4096,
	BYTES = PAGES * PAGE,
	HUGE_BYTES = 2 << 20,
	WAIT_MS = 10000,
	RACES = 50,
	RACE_LOOKS = 2,
	RACE_PAUSE = 300,
};

/* Below what the kernel gives out, where nothing else lies. */
#define BASE ((char *)0x200000000000)

struct page {
	bool there;
	uint32_t round; /* in which it was copied */
	char bytes[PAGE];
};

struct world {
	pid_t child;
	int to, from; /* pipes */
	struct kern_caps caps;
	struct track *track;
	struct page *pages; /* PAGES: the copy */
	uint32_t round;
	size_t dirty, clean, there, huge; /* pages of the last look */
};

/* ------------------------------------------------------------------ the child */

typedef void change(void);

static volatile char *at(size_t page)
{
	return BASE + page * PAGE;
}

static void die(const char *what)
{
	fprintf(stderr, "child: %s: %s\n", what, strerror(errno));
	_exit(3);
}

static void want(bool ok, const char *what)
{
	if (!ok)
		die(what);
}

static void map_at(size_t page, size_t n, int flags, int fd)
{
	void *p = mmap(BASE + page * PAGE, n * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0) | flags, fd, 0);
	want(p != MAP_FAILED, "mmap");
}

static void fill(size_t page, size_t n, int seed)
{
	for (size_t i = page; i < page + n; i++)
		memset((char *)at(i), (int)(i * 7 + (size_t)seed) | 1, PAGE);
}

/* All of it is one mapping at first, the first half written. */
static void do_begin(void)
{
	map_at(0, PAGES, MAP_NORESERVE, -1);
	fill(0, PAGES / 2, 1);
}

static void do_nothing(void)
{
}

static void do_write(void)
{
	*at(3) = 1;
	*at(100) = 2;
	*at(PAGES / 2 + 5) = 3; /* where nothing was */
}

/* A mapping that several threads look at; pages before and behind places where their parts may meet. */
#define VAST ((char *)0x300000000000)
enum { VAST_STEP = 64 << 20, VAST_STEPS = 21 };

static void do_vast(void)
{
	want(mmap(VAST, (size_t)VAST_STEP * VAST_STEPS, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0) == VAST,
	     "mmap");
	want(madvise(VAST, (size_t)VAST_STEP * VAST_STEPS, MADV_NOHUGEPAGE) == 0, "madvise");
	for (size_t i = 1; i < VAST_STEPS; i++)
		VAST[i * VAST_STEP] = VAST[i * VAST_STEP - PAGE] = (char)i;
}

static void do_vast_change(void)
{
	for (size_t i = 1; i < VAST_STEPS; i++) {
		if (i % 2)
			VAST[i * VAST_STEP]++;
		if (i % 3)
			want(madvise(VAST + i * VAST_STEP - PAGE, PAGE, MADV_DONTNEED) == 0, "madvise");
	}
	VAST[5] = 1;
}

static void do_replace(void)
{
	want(munmap(BASE + 200 * PAGE, 50 * PAGE) == 0, "munmap");
	map_at(200, 50, 0, -1);
	fill(200, 10, 9);
}

static void do_replace_all(void)
{
	want(munmap(BASE, BYTES) == 0, "munmap");
	do_begin();
	fill(10, 5, 77);
}

static void do_replace_unwritten(void)
{
	map_at(300, 20, 0, -1);
}

static void do_move(void)
{
	want(mremap(BASE + 400 * PAGE, 20 * PAGE, 20 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    BASE + 500 * PAGE) != MAP_FAILED,
	     "mremap");
}

static void do_move_write(void)
{
	do_move();
	*at(505) = 5;
}

static void do_move_back(void)
{
	want(mremap(BASE + 500 * PAGE, 20 * PAGE, 20 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    BASE + 400 * PAGE) != MAP_FAILED,
	     "mremap");
	*at(401) = 5;
}

static void do_empty_out(void)
{
	want(mremap(BASE + 600 * PAGE, 20 * PAGE, 20 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
		    BASE + 640 * PAGE) != MAP_FAILED,
	     "mremap");
	*at(601) = 7;
}

static void do_drop(void)
{
	want(madvise(BASE + 700 * PAGE, 20 * PAGE, MADV_DONTNEED) == 0, "madvise");
	*at(703) = 1;
	(void)*at(704); /* the kernel's page of zeroes */
}

static void do_free(void)
{
	want(madvise(BASE + 730 * PAGE, 20 * PAGE, MADV_FREE) == 0, "madvise");
	*at(733) = 1;
}

static void do_page_out(void)
{
	want(madvise(BASE + 760 * PAGE, 20 * PAGE, MADV_PAGEOUT) == 0, "madvise");
	*at(761) = 1;
}

static void do_fork(void)
{
	pid_t pid = fork();
	if (!pid) {
		fill(800, 10, 5); /* a copy of its own */
		_exit(0);
	}
	*at(805) = 9;
	want(pid > 0 && waitpid(pid, NULL, 0) == pid, "fork");
	*at(806) = 9;
}

static void do_protect(void)
{
	want(mprotect(BASE + 900 * PAGE, 20 * PAGE, PROT_READ) == 0, "mprotect");
	want(mprotect(BASE + 905 * PAGE, 5 * PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
	*at(906) = 1;
	want(mprotect(BASE + 900 * PAGE, 20 * PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
	*at(901) = 1;
}

static void do_guard(void)
{
	want(madvise(BASE + 1000 * PAGE, 20 * PAGE, MADV_GUARD_INSTALL) == 0, "guard");
}

static void do_unguard(void)
{
	want(madvise(BASE + 1000 * PAGE, 10 * PAGE, MADV_GUARD_REMOVE) == 0, "guard");
	*at(1003) = 4;
}

static int file_of(size_t pages, int flags)
{
	char name[200];
	unit_temporary(name, sizeof(name), "ferry-track");
	int fd = mkstemp(name);
	want(fd >= 0 && ftruncate(fd, (off_t)(pages * PAGE)) == 0, "file");
	char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	want(p != MAP_FAILED, "file");
	memset(p, 'f', pages * PAGE);
	munmap(p, pages * PAGE);
	fsync(fd);
	if (flags) {
		close(fd);
		fd = open(name, O_RDWR | O_CLOEXEC | flags);
	}
	unlink(name);
	return fd;
}

static void do_read(void)
{
	int fd = file_of(4, 0), pipes[2];
	want(pread(fd, BASE + 1100 * PAGE + 100, 3 * PAGE, 0) == 3 * PAGE, "read");
	close(fd);
	want(pipe(pipes) == 0 && write(pipes[1], "x", 1) == 1, "pipe");
	want(read(pipes[0], BASE + 1110 * PAGE, 1) == 1, "pipe");
	close(pipes[0]);
	close(pipes[1]);
}

static void do_read_direct(void)
{
	int fd = file_of(4, O_DIRECT);
	if (fd < 0)
		return; /* a file system without it */
	want(pread(fd, BASE + 1120 * PAGE, 3 * PAGE, 0) == 3 * PAGE, "read");
	close(fd);
}

static void do_huge(void)
{
	size_t first = (((size_t)BASE + (4 << 20)) & ~(size_t)(HUGE_BYTES - 1)) - (size_t)BASE;
	want(madvise(BASE + first, 2 * HUGE_BYTES, MADV_DONTNEED) == 0, "dontneed");
	want(madvise(BASE + first, 2 * HUGE_BYTES, MADV_HUGEPAGE) == 0, "hugepage");
	fill(first / PAGE, 2 * HUGE_BYTES / PAGE, 3);
}

static void do_huge_write(void)
{
	*(BASE + (4 << 20) + 17 * PAGE) = 'w';
	*(BASE + (4 << 20) + HUGE_BYTES + 5 * PAGE) = 'w';
}

/* Both, with the page tables below them. */
static void do_huge_drop(void)
{
	want(madvise(BASE + (4 << 20), 2 * HUGE_BYTES, MADV_DONTNEED) == 0, "dontneed");
}

static void do_collapse(void)
{
	want(madvise(BASE + (4 << 20), 2 * HUGE_BYTES, MADV_COLLAPSE) == 0 || errno, "collapse");
	*(BASE + (4 << 20) + 99 * PAGE) = 'w';
}

static void do_file_private(void)
{
	int fd = file_of(20, 0);
	map_at(3000, 20, 0, fd);
	fill(3000, 10, 4);
	close(fd);
}

static void do_file_drop(void)
{
	want(madvise(BASE + 3000 * PAGE, 5 * PAGE, MADV_DONTNEED) == 0, "madvise");
	*at(3001) = 1;
}

static void do_grow(void)
{
	want(munmap(BASE + 3200 * PAGE, 100 * PAGE) == 0, "munmap");
	map_at(3200, 10, 0, -1);
	fill(3200, 10, 6);
}

static void do_grow_more(void)
{
	want(mremap(BASE + 3200 * PAGE, 10 * PAGE, 40 * PAGE, 0) != MAP_FAILED, "mremap");
	fill(3215, 10, 6);
	map_at(3260, 10, 0, -1);
	*at(3261) = 1;
}

/* A userfaultfd of its own, with protection that it looks after itself. */
static int own_uffd = -1;

static void do_own_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC};
	own_uffd = sys_userfaultfd(O_CLOEXEC | UFFD_USER_MODE_ONLY);
	map_at(3400, 20, 0, -1);
	fill(3400, 20, 2);
	struct uffdio_register reg = {.range = {(uintptr_t)at(3400), 20 * PAGE},
				      .mode = UFFDIO_REGISTER_MODE_WP};
	want(own_uffd >= 0 && ioctl(own_uffd, UFFDIO_API, &api) == 0, "uffd");
	want(ioctl(own_uffd, UFFDIO_REGISTER, &reg) == 0, "register");
	struct uffdio_writeprotect wp = {.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	want(ioctl(own_uffd, UFFDIO_WRITEPROTECT, &wp) == 0, "protect");
}

/* A write, and then it looks and protects again: its own business. */
static void do_own_uffd_write(void)
{
	struct uffdio_writeprotect wp = {.range = {(uintptr_t)at(3400), 20 * PAGE},
					 .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	*at(3402) = 'o';
	want(ioctl(own_uffd, UFFDIO_WRITEPROTECT, &wp) == 0, "protect");
	*at(3403) = 'o';
}

/* Where we had memory before: it is another's now. */
static void do_own_uffd_elsewhere(void)
{
	struct uffdio_register reg = {.range = {(uintptr_t)at(3300), 10 * PAGE},
				      .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect wp = {.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	map_at(3300, 10, 0, -1);
	fill(3300, 10, 40);
	want(ioctl(own_uffd, UFFDIO_REGISTER, &reg) == 0, "register");
	want(ioctl(own_uffd, UFFDIO_WRITEPROTECT, &wp) == 0, "protect");
}

static void do_merge(void)
{
	for (size_t i = 0; i < 8; i++)
		memset((char *)at(1200 + i), 'm', PAGE);
	want(madvise(BASE + 1200 * PAGE, 8 * PAGE, MADV_MERGEABLE) == 0 || errno, "mergeable");
}

static void do_lock(void)
{
	want(mlock(BASE + 1300 * PAGE, 8 * PAGE) == 0, "mlock");
	*at(1301) = 1;
}

static void do_populate(void)
{
	want(madvise(BASE + 2500 * PAGE, 8 * PAGE, MADV_POPULATE_WRITE) == 0, "populate");
	want(madvise(BASE + 2510 * PAGE, 8 * PAGE, MADV_POPULATE_READ) == 0, "populate");
}

static aio_context_t context;

static void do_aio(void)
{
	want(syscall(SYS_io_setup, 8, &context) == 0, "io_setup");
}

static void do_aio_end(void)
{
	want(syscall(SYS_io_destroy, context) == 0, "io_destroy");
}

static int ring = -1;

static void do_ring(void)
{
	struct io_uring_params params = {0};
	ring = (int)syscall(SYS_io_uring_setup, 4, &params);
	want(ring >= 0, "io_uring");
}

static void do_ring_end(void)
{
	close(ring);
}

static atomic_bool race_over;
static pthread_t racer;

/* Every other page at random, so that there are many runs, and slowly enough for some to be clean at each look. */
static void *race(void *none)
{
	for (uint64_t x = 1; !race_over; x = x * 6364136223846793005ull + 1442695040888963407ull) {
		volatile char *page = at((x >> 40) % (PAGES / 2) * 2);
		page[x >> 52]++;
		for (volatile int pause = 0; pause < RACE_PAUSE; pause++)
			continue;
	}
	return none;
}

static void do_race(void)
{
	race_over = false;
	want(madvise(BASE, BYTES, MADV_NOHUGEPAGE) == 0, "madvise");
	want(pthread_create(&racer, NULL, race, NULL) == 0, "pthread_create");
}

static void do_race_end(void)
{
	race_over = true;
	want(pthread_join(racer, NULL) == 0, "pthread_join");
}

static void do_exec(void)
{
	execl("/bin/sleep", "sleep", "60", NULL);
	die("exec");
}

static void child_serve(int from, int to)
{
	change *next;
	while (read(from, &next, sizeof(next)) == sizeof(next)) {
		next();
		if (write(to, "", 1) != 1)
			break;
	}
	_exit(0);
}

static void child_ask(struct world *w, change *next)
{
	char answer;
	assert_int_equal(write(w->to, &next, sizeof(next)), sizeof(next));
	assert_int_equal(read(w->from, &answer, 1), 1);
}

/* --------------------------------------------------------------- the tracker's side */

static int take_uffd(const struct kern_caps *caps, pid_t pid)
{
	struct ferry_inject *inject = NULL;
	struct ferry_thread *th = NULL;
	struct ferry_error err = FERRY_ERROR_INIT;
	assert_int_equal(ferry_thread_seize(pid, NULL, &th, &err), 0);
	assert_int_equal(ferry_thread_interrupt(th, &err), 0);
	assert_true(ferry_thread_wait(th, WAIT_MS, &err) > 0);
	assert_int_equal(ferry_inject_open(th, NULL, &inject, &err), 0);
	int uffd = track_make(caps, inject, th, pid, &err);
	if (uffd < 0)
		fail_msg("%s", err.message);
	assert_int_equal(ferry_thread_release(th, &err), 0);
	ferry_inject_close(inject);
	return uffd;
}

static void probe(struct kern_caps *caps)
{
	static const enum kern_cap_id ids[] = {KERN_CAP_PAGEMAP_SCAN, KERN_CAP_PAGEMAP_GUARD,
					       KERN_CAP_UFFD_WP_ASYNC, KERN_CAP_SOFT_DIRTY,
					       KERN_CAP_PROCMAP_QUERY};
	kern_caps_probe_some(caps, ids, ARRAY_SIZE(ids));
}

static int begin(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	int to[2], from[2];
	assert_int_equal(pipe2(to, O_CLOEXEC), 0);
	assert_int_equal(pipe2(from, O_CLOEXEC), 0);
	probe(&w->caps);
	w->child = fork();
	if (!w->child) {
		close(to[1]);
		close(from[0]);
		child_serve(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	w->to = to[1];
	w->from = from[0];
	w->pages = calloc(PAGES, sizeof(*w->pages));
	child_ask(w, do_begin);
	*state = w;
	return 0;
}

static int end(void **state)
{
	struct world *w = *state;
	track_free(w->track);
	kill(w->child, SIGKILL);
	waitpid(w->child, NULL, 0);
	close(w->to);
	close(w->from);
	free(w->pages);
	free(w);
	return 0;
}

static void begin_tracking(struct world *w)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int uffd = kern_has(&w->caps, KERN_CAP_UFFD_WP_ASYNC) ? take_uffd(&w->caps, w->child) : -1;
	assert_int_equal(track_new(&w->caps, uffd, w->child, &w->track, &err), 0);
	if (track_way(w->track) != TRACK_UFFD)
		skip();
}

typedef VEC(struct track_vma) vma_list;

static void list_vmas(struct world *w, vma_list *list)
{
	struct proc_maps maps = {0};
	int dir = proc_open(w->child, NULL);
	assert_int_equal(proc_read_smaps(dir, &maps, NULL), 0);
	close(dir);
	vec_foreach(vma, &maps.vmas) {
		if (vma->start < (uint64_t)(uintptr_t)BASE || vma->end > (uint64_t)(uintptr_t)BASE + BYTES)
			continue;
		*vec_push(list) = (struct track_vma){.start = vma->start,
						     .end = vma->end,
						     .fit = track_fits(vma),
						     .anonymous = vma->kind != PROC_VMA_FILE,
						     .guards = vma->vm_flags & PROC_VM(GUARD)};
	}
	proc_maps_release(&maps);
}

static size_t index_of(uint64_t address)
{
	return (address - (uint64_t)(uintptr_t)BASE) / PAGE;
}

static void copy_pages(struct world *w, const struct track_run *run, int mem)
{
	bool dirty = run->flags & TRACK_DIRTY;
	for (uint64_t a = run->start; a < run->end; a += PAGE) {
		struct page *page = &w->pages[index_of(a)];
		w->there++;
		w->dirty += dirty;
		w->clean += !dirty;
		w->huge += run->flags & TRACK_HUGE ? 1 : 0;
		page->round = w->round;
		if (dirty)
			assert_int_equal(fd_pread_all(mem, page->bytes, PAGE, a), 0);
		else if (!page->there)
			fail_msg("page %zu is called clean, and was never there", index_of(a));
		page->there = true;
	}
}

/* What is not there counts as zero; of private files, as the file has it. */
static void compare(const struct world *w, const vma_list *list, int mem, const char *what)
{
	static const char zeroes[PAGE];
	for (size_t i = 0; i < list->n; i++)
		for (uint64_t a = list->v[i].start; a < list->v[i].end; a += PAGE) {
			const struct page *page = &w->pages[index_of(a)];
			char now[PAGE];
			if (fd_pread_all(mem, now, PAGE, a) < 0) {
				assert_true(list->v[i].guards && !page->there);
				continue;
			}
			if (!list->v[i].anonymous && !page->there)
				continue;
			if (memcmp(now, page->there ? page->bytes : zeroes, PAGE))
				fail_msg("%s: page %zu differs from the copy (%s)", what, index_of(a),
					 page->there ? "there" : "absent");
		}
}

static int told_of(const track_runs *runs, const char *page);

/* Whether a look that arms and one that does not say the same is a matter of one scan or two. */
static void look(struct world *w, bool arm, bool pinned, const char *what)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	track_runs runs = {0}, only = {0};
	vma_list list = {0};
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/mem", w->child);
	int mem = open(path, O_RDONLY | O_CLOEXEC);
	list_vmas(w, &list);
	w->round++;
	w->dirty = w->clean = w->there = w->huge = 0;
	if (track_scan(w->track, list.v, list.n, false, &only, &err) < 0 ||
	    track_scan(w->track, list.v, list.n, arm, &runs, &err) < 0)
		fail_msg("%s: %s", what, err.message);
	for (size_t i = 0; i < PAGES; i++)
		if (told_of(&only, BASE + i * PAGE) != told_of(&runs, BASE + i * PAGE))
			fail_msg("%s: page %zu is called %d without arming, %d else", what, i,
				 told_of(&only, BASE + i * PAGE), told_of(&runs, BASE + i * PAGE));
	vec_release(&only);
	if (arm)
		track_settle(w->track, pinned);
	vec_foreach(run, &runs)
		copy_pages(w, run, mem);
	for (size_t i = 0; i < PAGES; i++)
		if (w->pages[i].round != w->round)
			w->pages[i].there = false;
	compare(w, &list, mem, what);
	close(mem);
	vec_release(&runs);
	vec_release(&list);
}

/* As look(), while the child goes on: nothing can be compared. */
static void glance(struct world *w)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	track_runs runs = {0};
	vma_list list = {0};
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/mem", w->child);
	int mem = open(path, O_RDONLY | O_CLOEXEC);
	list_vmas(w, &list);
	w->round++;
	assert_int_equal(track_scan(w->track, list.v, list.n, true, &runs, &err), 0);
	track_settle(w->track, false);
	vec_foreach(run, &runs)
		copy_pages(w, run, mem);
	close(mem);
	vec_release(&runs);
	vec_release(&list);
}

static void change_and_look(struct world *w, change *next, const char *what)
{
	child_ask(w, next);
	look(w, true, false, what);
}

#define CHANGE(w, name) change_and_look(w, do_##name, #name)

/* --------------------------------------------------------------------------- tests */

static void test_exact(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	assert_int_equal(w->dirty, PAGES / 2);
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
	assert_int_equal(w->clean, PAGES / 2);
	CHANGE(w, write);
	assert_int_equal(w->dirty, 3);
	/* Without arming the same is told again. */
	child_ask(w, do_write);
	look(w, false, false, "write");
	assert_int_equal(w->dirty, 3);
	look(w, false, false, "write");
	assert_int_equal(w->dirty, 3);
	look(w, true, false, "write");
	look(w, true, false, "write");
	assert_int_equal(w->dirty, 0);
}

/* Looks while it is being written to: what a look has armed it has told, however many runs there are. */
static void test_raced(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	/* What was lost is found again when it is written to once more, so the races are short. */
	for (int i = 0; i < RACES; i++) {
		child_ask(w, do_race);
		for (int looks = 0; looks < RACE_LOOKS; looks++)
			glance(w);
		child_ask(w, do_race_end);
		look(w, true, false, "race");
	}
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
}

/* What runs say of a page: 0 nothing, 1 clean, 2 dirty. */
static int told_of(const track_runs *runs, const char *page)
{
	uint64_t a = (uint64_t)(uintptr_t)page;
	vec_foreach(run, runs) {
		if (run->start <= a && a < run->end)
			return 1 + !!(run->flags & TRACK_DIRTY);
	}
	return 0;
}

static void test_vast(void **state)
{
	struct world *w = *state;
	struct ferry_error err = FERRY_ERROR_INIT;
	uint64_t start = (uint64_t)(uintptr_t)VAST, pages = 0;
	const struct track_vma vma = {.start = start,
				      .end = start + (uint64_t)VAST_STEP * VAST_STEPS,
				      .fit = true,
				      .anonymous = true};
	track_runs runs = {0};
	begin_tracking(w);
	child_ask(w, do_vast);
	assert_int_equal(track_scan(w->track, &vma, 1, true, &runs, &err), 0);
	track_settle(w->track, false);
	runs.n = 0;
	child_ask(w, do_vast_change);
	assert_int_equal(track_scan(w->track, &vma, 1, false, &runs, &err), 0);
	for (size_t i = 1; i < VAST_STEPS; i++) {
		assert_int_equal(told_of(&runs, VAST + i * VAST_STEP), i % 2 ? 2 : 1);
		assert_int_equal(told_of(&runs, VAST + i * VAST_STEP - PAGE), i % 3 ? 0 : 1);
	}
	assert_int_equal(told_of(&runs, VAST), 2);
	for (size_t i = 0; i < runs.n; i++) {
		pages += (runs.v[i].end - runs.v[i].start) / PAGE;
		assert_true(!i || runs.v[i - 1].end <= runs.v[i].start);
	}
	assert_int_equal(pages, 1 + (VAST_STEPS - 1) + (VAST_STEPS - 1) / 3);
	vec_release(&runs);
}

static void test_mappings(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	CHANGE(w, replace);
	assert_int_equal(w->dirty, 10);
	CHANGE(w, replace_unwritten);
	CHANGE(w, replace_all);
	assert_int_equal(w->dirty, PAGES / 2);
	CHANGE(w, grow);
	CHANGE(w, grow_more);
	assert_int_equal(w->dirty, 11);
	CHANGE(w, protect);
	assert_int_equal(w->dirty, 2);
	CHANGE(w, lock);
	CHANGE(w, populate);
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
}

static void test_moved(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	CHANGE(w, move);
	assert_int_equal(w->dirty, 20);
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
	/* What moved has marks of protection; they have to work again. */
	CHANGE(w, move_back);
	CHANGE(w, move_write);
	child_ask(w, do_move_back);
	look(w, false, false, "move_back");
	CHANGE(w, empty_out);
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
}

static void test_dropped(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	CHANGE(w, drop);
	assert_int_equal(w->dirty, 1);
	CHANGE(w, free);
	CHANGE(w, page_out);
	CHANGE(w, guard);
	CHANGE(w, unguard);
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
}

static void test_forked(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	CHANGE(w, fork);
	assert_int_equal(w->dirty, 2);
	CHANGE(w, write);
	CHANGE(w, fork);
}

static void test_kernel_writes(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	CHANGE(w, read);
	assert_int_equal(w->dirty, 5);
	CHANGE(w, read_direct);
	CHANGE(w, merge);
	CHANGE(w, write);
}

static void test_others_write(void **state)
{
	struct world *w = *state;
	char byte = 'x', path[40];
	struct iovec ours = {&byte, 1}, theirs = {(void *)(uintptr_t)at(1400), 1};
	begin_tracking(w);
	look(w, true, false, "first");
	assert_int_equal(process_vm_writev(w->child, &ours, 1, &theirs, 1, 0), 1);
	look(w, true, false, "process_vm_writev");
	assert_int_equal(w->dirty, 1);
	snprintf(path, sizeof(path), "/proc/%d/mem", w->child);
	int mem = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(mem, &byte, 1, (off_t)(uintptr_t)at(1401)), 1);
	close(mem);
	look(w, true, false, "/proc/PID/mem");
	assert_int_equal(w->dirty, 1);
}

static void test_huge(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	CHANGE(w, huge);
	/* Where the machine has none at hand there are none before and after. */
	size_t huge = w->huge;
	CHANGE(w, nothing);
	assert_int_equal(w->huge, huge);
	CHANGE(w, nothing);
	assert_int_equal(w->huge, huge);
	CHANGE(w, huge_write);
	assert_in_range(w->dirty, 2, 2 * HUGE_BYTES / PAGE);
	CHANGE(w, collapse);
	CHANGE(w, huge_write);
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
	CHANGE(w, huge);
	CHANGE(w, huge_drop);
	assert_int_equal(w->dirty, 0);
	CHANGE(w, huge_write);
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
}

/* Files are not tracked: all of what a private mapping has of its own is dirty. */
static void test_files(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	CHANGE(w, file_private);
	assert_int_equal(w->dirty, 10);
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 10);
	CHANGE(w, file_drop);
}

static uint64_t protected_pages(struct world *w, size_t first, size_t n)
{
	uint64_t words[64], found = 0;
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/pagemap", w->child);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(fd_pread_all(fd, words, n * 8, (uint64_t)(uintptr_t)at(first) / PAGE * 8), 0);
	close(fd);
	for (size_t i = 0; i < n; i++)
		found += words[i] >> 57 & 1;
	return found;
}

/* What an application protects stays protected, and is all dirty for us. */
static void test_own_uffd(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	child_ask(w, do_own_uffd);
	assert_int_equal(protected_pages(w, 3400, 20), 20);
	look(w, true, false, "own uffd");
	assert_int_equal(w->dirty, 20);
	child_ask(w, do_own_uffd_write);
	assert_int_equal(protected_pages(w, 3400, 20), 19);
	look(w, true, false, "own uffd");
	assert_int_equal(w->dirty, 20);
	assert_int_equal(protected_pages(w, 3400, 20), 19);
	child_ask(w, do_own_uffd_elsewhere);
	look(w, false, false, "own uffd elsewhere");
	assert_int_equal(w->dirty, 30);
}

static void look_pinned(struct world *w, bool expected)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int dir = proc_open(w->child, NULL), r = track_is_pinned(dir, &w->caps, &err);
	close(dir);
	if (r < 0)
		fail_msg("%s", err.message);
	assert_int_equal(r, expected);
	look(w, true, r, expected ? "pinned" : "not pinned");
}

static void test_pinned(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look_pinned(w, false);
	child_ask(w, do_aio);
	look_pinned(w, true);
	assert_int_equal(w->dirty, 0); /* what was there before it is sure */
	look_pinned(w, true);
	assert_int_equal(w->dirty, PAGES / 2);
	child_ask(w, do_aio_end);
	look_pinned(w, false);
	assert_int_equal(w->dirty, PAGES / 2);
	look_pinned(w, false);
	assert_int_equal(w->dirty, 0);
	child_ask(w, do_ring);
	look_pinned(w, true);
	look_pinned(w, true);
	assert_int_equal(w->dirty, PAGES / 2);
	child_ask(w, do_ring_end);
}

/* Nobody who could answer is left: nothing is protected any more, and the child goes on. */
static void test_closed(void **state)
{
	struct world *w = *state;
	begin_tracking(w);
	look(w, true, false, "first");
	assert_int_equal(protected_pages(w, 0, 64), 64);
	track_free(w->track);
	w->track = NULL;
	assert_int_equal(protected_pages(w, 0, 64), 0);
	child_ask(w, do_write);
	begin_tracking(w);
	look(w, true, false, "anew");
	CHANGE(w, nothing);
	assert_int_equal(w->dirty, 0);
}

static void test_exec(void **state)
{
	struct world *w = *state;
	struct ferry_error err = FERRY_ERROR_INIT;
	track_runs runs = {0};
	struct proc_maps maps = {0};
	vma_list list = {0};
	size_t dirty = 0, all = 0;
	begin_tracking(w);
	look(w, true, false, "first");
	change *next = do_exec;
	assert_int_equal(write(w->to, &next, sizeof(next)), sizeof(next));
	char answer;
	assert_int_equal(read(w->from, &answer, 1), 0);
	usleep(50000);
	int dir = proc_open(w->child, NULL);
	assert_int_equal(proc_read_smaps(dir, &maps, NULL), 0);
	close(dir);
	vec_foreach(vma, &maps.vmas)
		*vec_push(&list) = (struct track_vma){
			.start = vma->start, .end = vma->end, .fit = track_fits(vma), .anonymous = true};
	assert_int_equal(track_scan(w->track, list.v, list.n, true, &runs, &err), -ESRCH);
	runs.n = 0;
	error_clear(&err);
	assert_int_equal(track_scan(w->track, list.v, list.n, false, &runs, &err), 0);
	vec_foreach(run, &runs) {
		dirty += run->flags & TRACK_DIRTY;
		all++;
	}
	assert_true(all && dirty == all);
	vec_release(&runs);
	vec_release(&list);
	proc_maps_release(&maps);
}

static void test_ended(void **state)
{
	struct world *w = *state;
	struct ferry_error err = FERRY_ERROR_INIT;
	track_runs runs = {0};
	begin_tracking(w);
	look(w, true, false, "first");
	kill(w->child, SIGKILL);
	waitpid(w->child, NULL, 0);
	w->child = fork();
	if (!w->child)
		_exit(0);
	const struct track_vma vma = {(uint64_t)(uintptr_t)BASE, (uint64_t)(uintptr_t)BASE + BYTES, true,
				      true, false};
	assert_int_equal(track_scan(w->track, &vma, 1, true, &runs, &err), -ESRCH);
	assert_int_equal(err.id, FERRY_ERROR_NO_SUCH_TASK);
	vec_release(&runs);
}

/* Without any capability everything is dirty, at every look. */
static void test_plain(void **state)
{
	struct world *w = *state;
	struct ferry_error err = FERRY_ERROR_INIT;
	w->caps = (struct kern_caps){0};
	assert_int_equal(track_new(&w->caps, -1, w->child, &w->track, &err), 0);
	assert_int_equal(track_way(w->track), TRACK_PLAIN);
	for (int i = 0; i < 2; i++) {
		look(w, true, false, "plain");
		/* Looking at it from here has put the kernel's page of zeroes where nothing was. */
		assert_true(w->dirty >= PAGES / 2 && w->dirty == w->there);
		assert_int_equal(w->clean, 0);
	}
}

/* Words as a kernel with soft-dirty bits has them. */
static void test_words(void **state)
{
	(void)state;
	const uint64_t dirty = 1ull << 55, own = 1ull << 56, guard = 1ull << 58, file = 1ull << 61,
		       swapped = 1ull << 62, present = 1ull << 63, zero = 5;
	const uint64_t words[] = {present | dirty | 77,
				  present | dirty,
				  present | own,
				  swapped | dirty,
				  swapped,
				  0,
				  dirty,
				  guard | swapped | dirty,
				  present | file,
				  present | own,
				  present | zero, /* the kernel's page of zeroes: nothing of the task's */
				  present};       /* nobody knows */
	const struct track_vma anonymous = {.start = 0x10000, .end = 0x1c000, .fit = true, .anonymous = true};
	const struct track_vma of_file = {.start = 0x10000, .end = 0x1c000};
	struct track t = {.fd = -1, .is_settled = true};
	track_runs runs = {0};
	struct track_look l = {.t = &t, .runs = &runs, .kpageflags = -1, .zero_frame = zero};
	assert_int_equal(track_add_words(&l, &anonymous, 0x10000, words, ARRAY_SIZE(words)), 0);
	assert_int_equal(runs.n, 6);
	assert_true(runs.v[0].start == 0x10000 && runs.v[0].end == 0x12000 && runs.v[0].flags == TRACK_DIRTY);
	assert_true(runs.v[1].start == 0x12000 && runs.v[1].end == 0x13000 && !runs.v[1].flags);
	assert_true(runs.v[2].start == 0x13000 && runs.v[2].end == 0x14000 && runs.v[2].flags == TRACK_DIRTY);
	assert_true(runs.v[3].start == 0x14000 && runs.v[3].end == 0x15000 && !runs.v[3].flags);
	assert_true(runs.v[4].start == 0x18000 && runs.v[4].end == 0x1a000 && !runs.v[4].flags);
	assert_true(runs.v[5].start == 0x1b000 && runs.v[5].end == 0x1c000 && runs.v[5].flags == TRACK_DIRTY);
	runs.n = 0;
	assert_int_equal(track_add_words(&l, &of_file, 0x10000, words, ARRAY_SIZE(words)), 0);
	assert_true(runs.n == 6 && runs.v[4].start == 0x19000);
	/* Before anything is settled all is dirty. */
	runs.n = 0;
	t.is_settled = false;
	assert_int_equal(track_add_words(&l, &anonymous, 0x10000, words, ARRAY_SIZE(words)), 0);
	assert_int_equal(runs.n, 3);
	assert_true(runs.v[0].end == 0x15000 && runs.v[1].start == 0x18000 && runs.v[0].flags == TRACK_DIRTY);
	vec_release(&runs);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(exact),    TEST(raced),         TEST(vast),
		TEST(mappings), TEST(moved),         TEST(dropped),
		TEST(forked),   TEST(kernel_writes), TEST(others_write),
		TEST(huge),     TEST(files),         TEST(own_uffd),
		TEST(pinned),   TEST(closed),        TEST(exec),
		TEST(ended),    TEST(plain),         cmocka_unit_test(test_words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
