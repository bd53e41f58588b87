/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Very many of one thing. Words: mappings=N, of one page each; descriptors=N, of eventfds, pipes, files and pairs of sockets;
 * pages=N of random memory; processes=N more that have as many of everything. Proof: the contents of each page, and that each
 * descriptor holds what was put into it, gives it and takes it back.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / sizeof(uint64_t) };

/* The descriptors of one group. */
enum { EVENT, PIPE_OUT, PIPE_IN, BACK_OUT, BACK_IN, PLACE, SOCKET, OTHER_SOCKET, GROUP };

struct state {
	unsigned char *mappings;
	size_t n_mappings;
	uint64_t *memory;
	size_t n_pages;
	int (*groups)[GROUP];
	size_t n_groups;
	uint64_t seed; /* of this process */
};

static uint64_t mixed(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static unsigned long told(int argc, char **argv, const char *word)
{
	size_t n = strlen(word);
	for (int i = 2; i < argc; i++)
		if (!strncmp(argv[i], word, n))
			return strtoul(argv[i] + n, NULL, 10);
	return 0;
}

/* ----------------------------------------------------------------- mappings */

static uint64_t *mapping(const struct state *s, size_t i)
{
	return (uint64_t *)(void *)(s->mappings + i * PAGE);
}

/* Every other one is read-only, so that no two become one. */
static void map(struct state *s)
{
	if (!s->n_mappings)
		return;
	s->mappings = must((unsigned char *)mmap(NULL, s->n_mappings * PAGE, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	must(madvise(s->mappings, s->n_mappings * PAGE, MADV_NOHUGEPAGE));
	for (size_t i = 0; i < s->n_mappings; i++)
		*mapping(s, i) = mixed(s->seed + i);
	for (size_t i = 1; i < s->n_mappings; i += 2)
		must(mprotect(mapping(s, i), PAGE, PROT_READ));
}

static void verify_mappings(struct program *p, const struct state *s)
{
	for (size_t i = 0; i < s->n_mappings; i++) {
		expect(p, *mapping(s, i) == mixed(s->seed + i), "mapping %zu holds something else", i);
		/* That it can be written to is seen by those that can. */
		if (i % 2 == 0)
			*mapping(s, i) = mixed(s->seed + i);
	}
}

/* ------------------------------------------------------------------- memory */

static void fill(struct state *s)
{
	if (!s->n_pages)
		return;
	s->memory = must((uint64_t *)mmap(NULL, s->n_pages * PAGE, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (size_t i = 0; i < s->n_pages * WORDS; i++)
		s->memory[i] = mixed(s->seed + i);
}

static void verify_memory(struct program *p, const struct state *s)
{
	for (size_t i = 0; i < s->n_pages * WORDS; i++)
		if (s->memory[i] != mixed(s->seed + i)) {
			program_bad(p, "page %zu holds something else", i / WORDS);
			return;
		}
}

/* -------------------------------------------------------------- descriptors */

static void open_group(const char *path, int *group, uint64_t number)
{
	group[EVENT] = must(eventfd(0, EFD_NONBLOCK));
	must(write(group[EVENT], &number, sizeof(number)));
	must(pipe2(&group[PIPE_OUT], O_NONBLOCK));
	must(write(group[PIPE_IN], &number, sizeof(number)));
	must(pipe2(&group[BACK_OUT], O_NONBLOCK));
	must(write(group[BACK_IN], &number, sizeof(number)));
	group[PLACE] = must(open(path, O_RDWR | O_CREAT, 0600));
	must(lseek(group[PLACE], (off_t)number, SEEK_SET));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, &group[SOCKET]));
	must(write(group[OTHER_SOCKET], &number, sizeof(number)));
}

static void open_all(const struct program *p, struct state *s)
{
	char path[sizeof(p->folder) + 8];
	snprintf(path, sizeof(path), "%s/file", p->folder);
	s->groups = s->n_groups ? calloc(s->n_groups, sizeof(*s->groups)) : NULL;
	if (s->n_groups && !s->groups)
		program_die("calloc");
	for (size_t i = 0; i < s->n_groups; i++)
		open_group(path, s->groups[i], i + 1);
}

/* What is taken from one end is put into the other again. */
static void verify_through(struct program *p, int from, int to, uint64_t number, const char *what)
{
	uint64_t got = 0, more;
	expect(p, read(from, &got, sizeof(got)) == sizeof(got) && got == number, "%s %llu gives %llu", what,
	       (unsigned long long)number, (unsigned long long)got);
	expect(p, read(from, &more, sizeof(more)) == -1, "%s %llu gives more", what,
	       (unsigned long long)number);
	expect(p, write(to, &number, sizeof(number)) == sizeof(number), "%s %llu takes nothing", what,
	       (unsigned long long)number);
}

static void verify_descriptors(struct program *p, const struct state *s)
{
	for (size_t i = 0; i < s->n_groups; i++) {
		const int *group = s->groups[i];
		verify_through(p, group[EVENT], group[EVENT], i + 1, "eventfd");
		verify_through(p, group[PIPE_OUT], group[PIPE_IN], i + 1, "pipe");
		verify_through(p, group[BACK_OUT], group[BACK_IN], i + 1, "second pipe");
		verify_through(p, group[SOCKET], group[OTHER_SOCKET], i + 1, "pair of sockets");
		expect_same(p, "position", lseek(group[PLACE], 0, SEEK_CUR), i + 1);
	}
}

/* ---------------------------------------------------------------------- all */

static void verify(struct program *p, void *state)
{
	verify_mappings(p, state);
	verify_memory(p, state);
	verify_descriptors(p, state);
}

static void spoil(void *state)
{
	struct state *s = state;
	if (s->n_mappings)
		*mapping(s, 0) += 1;
	if (s->n_pages)
		s->memory[s->n_pages * WORDS - 1] += 1;
	if (s->n_groups)
		lseek(s->groups[s->n_groups - 1][PLACE], 0, SEEK_SET);
}

static const struct program_ops ops = {.verify = verify, .spoil = spoil};

static int serve(struct program *p, struct state *s)
{
	map(s);
	fill(s);
	open_all(p, s);
	return program_serve(p, &ops, s);
}

int main(int argc, char **argv)
{
	struct program p;
	char role[16];

	program_start(&p, argc, argv);
	struct state s = {
		.n_mappings = told(argc, argv, "mappings="),
		.n_pages = told(argc, argv, "pages="),
		.n_groups = told(argc, argv, "descriptors=") / GROUP,
	};
	for (unsigned long i = 1; i <= told(argc, argv, "processes="); i++) {
		snprintf(role, sizeof(role), "child%lu", i);
		struct program child = program_role(&p, role);
		if (!must(fork())) {
			s.seed = (uint64_t)i << 48;
			return serve(&child, &s);
		}
		program_await(&p, role);
	}
	return serve(&p, &s);
}
