/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared memory of huge pages of a parent and its child: without a name (MAP_SHARED | MAP_HUGETLB), or as a memfd
 * (MFD_HUGETLB, argument "memfd") with its descriptor, a size and a seal. Proof: contents through both, the size of pages,
 * what kind of object the mapping shows, and that a word which the parent writes comes back through the child.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HUGE = 2 << 20, BYTES = 2 * HUGE, ANSWER_MS = 3000, SEALS = F_SEAL_SHRINK };

struct shared {
	volatile unsigned ping, pong;
	unsigned char data[BYTES - 8];
};

struct state {
	struct shared *at;
	int fd;
};

/* The name that the mapping shows. */
static bool name_is(const struct shared *at, const char *name)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512], start[32];
	bool found = false;

	snprintf(start, sizeof(start), "%lx-", (unsigned long)at);
	while (f && fgets(line, sizeof(line), f))
		found |= !strncmp(line, start, strlen(start)) && strstr(line, name);
	if (f)
		fclose(f);
	return found;
}

static void check(struct program *p, void *state)
{
	struct state *s = state;

	expect_same(p, "kB a page", smaps_kb(s->at, "KernelPageSize:"), HUGE / 1024);
	expect(p, pattern_differs(s->at->data, HUGE / 2, 5) < 0, "the memory differs");
	if (p->more || s->fd >= 0)
		expect(p, name_is(s->at, s->fd < 0 ? " /anon_hugepage" : " /memfd:ferry-huge"),
		       "the mapping has another name");
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	struct stat st;

	check(p, state);
	if (s->fd >= 0) {
		must(fstat(s->fd, &st));
		expect_same(p, "size", st.st_size, BYTES);
		expect_same(p, "size of a block", st.st_blksize, HUGE);
		expect_same(p, "seals", fcntl(s->fd, F_GET_SEALS), SEALS);
	}
	unsigned want = ++s->at->ping;
	for (int i = 0; i < ANSWER_MS && s->at->pong != want; i++)
		sleep_ms(1);
	expect_same(p, "what the child answers", s->at->pong, want);
}

static void echo(void *state)
{
	struct state *s = state;

	s->at->pong = s->at->ping;
}

static void spoil(void *state)
{
	struct state *s = state;

	s->at->data[100] ^= 1;
}

static void make(struct state *s, bool memfd)
{
	int flags = MAP_SHARED | (memfd ? 0 : MAP_ANONYMOUS | MAP_HUGETLB);

	s->fd = -1;
	if (memfd) {
		s->fd = memfd_create("ferry-huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_ALLOW_SEALING);
		if (s->fd < 0 || ftruncate(s->fd, BYTES) < 0)
			program_lacks("memfds of huge pages");
		must(fcntl(s->fd, F_ADD_SEALS, SEALS));
	}
	s->at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, flags, s->fd, 0);
	if (s->at == MAP_FAILED)
		program_lacks("free huge pages");
	pattern_fill(s->at->data, HUGE / 2, 5);
}

int main(int argc, char **argv)
{
	static const struct program_ops parent = {.verify = verify, .spoil = spoil};
	static const struct program_ops child = {.verify = check, .step = echo};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	make(&s, program_told(argc, argv, "memfd"));
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &parent, &s);
}
