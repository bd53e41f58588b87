/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that the program fills itself (userfaultfd): some pages are there, some are not, a thread waits for one of those, a
 * second serves faults. A word: "missing" (a thread serves), "pending" (nobody serves yet: a thread waits for a page
 * all the time). Proof: flags of the mapping, features in fdinfo, the pages that are there; that no other is; at the
 * end each other page comes from the handler, exactly once, and the thread that waited got its page.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 32, THERE = 5 };

struct state {
	int fd;
	unsigned char *memory;
	bool pending;
	_Atomic int serve; /* the handler works */
	_Atomic int served[PAGES];
	_Atomic int waited; /* what the waiting thread got, + 1 */
};

static unsigned char first_of(int page)
{
	return (unsigned char)(page * 3 + 1);
}

static void fill(struct state *s, int page)
{
	static unsigned char source[PAGE] __attribute__((aligned(PAGE)));
	struct uffdio_copy copy = {
		.dst = (uintptr_t)(s->memory + page * PAGE), .src = (uintptr_t)source, .len = PAGE};

	memset(source, first_of(page), PAGE);
	/* A fault that is reported twice finds its page there. */
	if (ioctl(s->fd, UFFDIO_COPY, &copy) == 0)
		s->served[page]++;
	else if (errno != EEXIST)
		program_die("UFFDIO_COPY");
	struct uffdio_range range = {(uintptr_t)(s->memory + page * PAGE), PAGE};
	ioctl(s->fd, UFFDIO_WAKE, &range);
}

static void *serve(void *context)
{
	struct state *s = context;
	struct uffd_msg msg;

	for (;;) {
		if (s->serve && read(s->fd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT)
			fill(s, (int)((msg.arg.pagefault.address - (uintptr_t)s->memory) / PAGE));
		else
			sleep_ms(2);
	}
	return NULL;
}

static void *wait_for_page(void *context)
{
	struct state *s = context;

	s->waited = *(volatile unsigned char *)(s->memory + (PAGES - 1) * PAGE) + 1;
	return NULL;
}

/* Pages that are in memory, without touching them. */
static unsigned resident(const struct state *s)
{
	unsigned n = 0;
	uint64_t words[PAGES] = {0};
	int fd = must(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));

	must(pread(fd, words, sizeof(words), (off_t)((uintptr_t)s->memory / PAGE * 8)));
	close(fd);
	for (int i = 0; i < PAGES; i++)
		n += words[i] >> 63;
	return n;
}

/* Whether smaps shows a flag for the mapping at this address. */
static bool has_flag(const void *address, const char *flag)
{
	char line[512], head[32];
	bool here = false, found = false;
	FILE *f = fopen("/proc/self/smaps", "re");

	snprintf(head, sizeof(head), "%lx-", (unsigned long)(uintptr_t)address);
	while (f && fgets(line, sizeof(line), f)) {
		if (line[0] >= '0' && line[0] <= 'f' && !(line[0] >= 'A' && line[0] <= 'Z'))
			here = !strncmp(line, head, strlen(head));
		if (here && !strncmp(line, "VmFlags:", 8))
			found |= strstr(line, flag) != NULL;
	}
	if (f)
		fclose(f);
	return found;
}

static void verify(struct program *p, void *context)
{
	struct state *s = context;

	expect(p, has_flag(s->memory, " um"), "the memory is not watched");
	expect_same(p, "pages that are there", resident(s), THERE);
	for (int i = 0; i < THERE; i++)
		expect_same(p, "a page that is there", s->memory[i * PAGE], first_of(i));
	expect_same(p, "what the waiting thread got", s->waited, 0);
	if (s->pending) {
		for (int i = 0; i < 500 && fdinfo_number(s->fd, "pending: %llu") != 1; i++)
			sleep_ms(2);
		expect_same(p, "faults that wait", fdinfo_number(s->fd, "pending: %llu"), 1);
	}
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;

	verify(p, s);
	s->serve = 1;
	for (int i = 0; i < PAGES; i++)
		expect_same(p, "a page", ((volatile unsigned char *)s->memory)[i * PAGE], first_of(i));
	for (int i = 0; i < 500 && s->pending && !s->waited; i++)
		sleep_ms(2);
	/* The handler counts a moment after the page is there. */
	for (int i = 0; i < 500 && !(s->served[PAGES - 1] && s->served[PAGES - 2]); i++)
		sleep_ms(2);
	for (int i = 0; i < PAGES; i++)
		expect_same(p, "how often a page was made", s->served[i], 1);
	expect_same(p, "what the waiting thread got", s->waited, s->pending ? first_of(PAGES - 1) + 1 : 0);
}

static void spoil(void *context)
{
	struct state *s = context;

	fill(s, THERE + 1);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	s.pending = program_told(argc, argv, "pending");
	s.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_THREAD_ID};
	if (s.fd < 0 || ioctl(s.fd, UFFDIO_API, &api) < 0)
		program_lacks("userfaultfd");
	s.memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* A neighbour with equal properties must not be watched, too. */
	must(mprotect(mmap(s.memory + PAGES * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		      PAGE, PROT_NONE));
	struct uffdio_register reg = {.range = {(uintptr_t)s.memory, PAGES * PAGE},
				      .mode = UFFDIO_REGISTER_MODE_MISSING};
	must(ioctl(s.fd, UFFDIO_REGISTER, &reg));
	for (int i = 0; i < THERE; i++)
		fill(&s, i);
	if (pthread_create(&thread, NULL, serve, &s) ||
	    (s.pending && pthread_create(&thread, NULL, wait_for_page, &s)))
		program_die("pthread_create");
	return program_serve(&p, &ops, &s);
}
