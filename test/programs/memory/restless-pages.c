/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that several threads change as fast as they can, each in a region of its own: one writes pages, one drops and writes them, one
 * replaces parts of its mapping at the same place, one moves parts to and fro; a fourth part is forked now and then, and the
 * child writes, too. Each notes what a page holds behind it. A thread that finds that the process was restored stands still
 * until it was asked. Shared memory is beside them that nobody changes. Proof: each page, as its thread left it.
 */
#include "program.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	PAGES = 3072,
	PART = 32,
	BURST = 48,
	FORK_EVERY = 200,
	SHARED_PAGES = 1024,
	SHARED_SEED = 77
};
#define ASIDE 0x200000000000ull

enum { WRITES, DROPS, REPLACES, MOVES, REGIONS };

struct region {
	unsigned char *at;
	void *aside;     /* where a part is while another takes its place */
	uint64_t *seeds; /* 0: nothing was written */
	uint64_t state;  /* of its random numbers */
	uint64_t version;
	unsigned bursts;
	atomic_bool stands;
	int way;
};

static struct region regions[REGIONS];
static unsigned char *shared;
static atomic_bool halt;
static atomic_ullong birth;

static uint64_t next_random(struct region *r)
{
	r->state = r->state * 6364136223846793005ull + 1442695040888963407ull;
	return r->state >> 33;
}

static void write_page(struct region *r, size_t page)
{
	uint64_t seed = ++r->version * REGIONS + (uint64_t)r->way;
	pattern_fill(r->at + page * PAGE, PAGE, seed);
	r->seeds[page] = seed;
}

static void drop(struct region *r, size_t page)
{
	must(madvise(r->at + page * PAGE, PAGE, MADV_DONTNEED));
	r->seeds[page] = 0;
}

static void replace(struct region *r, size_t part)
{
	unsigned char *at = r->at + part * PART * PAGE;
	must(munmap(at, PART * PAGE));
	if (mmap(at, PART * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
		 -1, 0) != at)
		program_die("mmap");
	memset(r->seeds + part * PART, 0, PART * sizeof(*r->seeds));
}

/* Two parts change places. */
static void move(struct region *r, size_t part, size_t other)
{
	unsigned char *a = r->at + part * PART * PAGE, *b = r->at + other * PART * PAGE;
	uint64_t seeds[PART];
	if (part == other)
		return;
	must(mremap(a, PART * PAGE, PART * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, r->aside));
	must(mremap(b, PART * PAGE, PART * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, a));
	must(mremap(r->aside, PART * PAGE, PART * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, b));
	memcpy(seeds, r->seeds + part * PART, sizeof(seeds));
	memcpy(r->seeds + part * PART, r->seeds + other * PART, sizeof(seeds));
	memcpy(r->seeds + other * PART, seeds, sizeof(seeds));
}

/* What the child writes is its own. */
static void fork_one(struct region *r)
{
	pid_t pid = must(fork());
	if (!pid) {
		for (int i = 0; i < BURST; i++)
			memset(r->at + next_random(r) % PAGES * PAGE, 0xee, PAGE);
		_exit(0);
	}
	must(waitpid(pid, NULL, 0));
}

static void burst(struct region *r)
{
	size_t parts = PAGES / PART;
	if (r->way == REPLACES)
		replace(r, next_random(r) % parts);
	if (r->way == MOVES)
		move(r, next_random(r) % parts, next_random(r) % parts);
	for (int i = 0; i < BURST; i++) {
		size_t page = next_random(r) % PAGES;
		if (r->way == DROPS && i % 3 == 0)
			drop(r, page);
		else
			write_page(r, page);
	}
	if (r->way == WRITES && ++r->bursts % FORK_EVERY == 0)
		fork_one(r);
}

static void *run(void *argument)
{
	struct region *r = argument;
	for (;;) {
		while (halt || birth != program_birth()) {
			r->stands = true;
			sleep_ms(1);
		}
		r->stands = false;
		burst(r);
	}
	return NULL;
}

static void verify_region(struct program *p, const struct region *r)
{
	for (size_t page = 0; page < PAGES; page++) {
		const unsigned char *at = r->at + page * PAGE;
		static const unsigned char zero[PAGE];
		bool good = r->seeds[page] ? pattern_differs(at, PAGE, r->seeds[page]) < 0
					   : !memcmp(at, zero, PAGE);
		expect(p, good, "page %zu of region %d is not what was written last", page, r->way);
	}
}

static void verify(struct program *p, void *state)
{
	(void)state;
	halt = true;
	for (int i = 0; i < REGIONS; i++) {
		while (!regions[i].stands)
			sleep_ms(1);
		verify_region(p, &regions[i]);
	}
	for (size_t page = 0; page < SHARED_PAGES; page++)
		expect(p, pattern_differs(shared + page * PAGE, PAGE, SHARED_SEED + page) < 0,
		       "page %zu of the shared memory differs", page);
	birth = program_birth();
	halt = false;
}

static void spoil(void *state)
{
	(void)state;
	/* A page that nobody notes. */
	halt = true;
	while (!regions[WRITES].stands)
		sleep_ms(1);
	regions[WRITES].seeds[7] = ~0ull;
	birth = 0;
	halt = false;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	birth = program_birth();
	shared = must((unsigned char *)mmap(NULL, SHARED_PAGES * PAGE, PROT_READ | PROT_WRITE,
					    MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	for (size_t page = 0; page < SHARED_PAGES; page++)
		pattern_fill(shared + page * PAGE, PAGE, SHARED_SEED + page);
	for (int i = 0; i < REGIONS; i++) {
		struct region *r = &regions[i];
		r->way = i;
		r->state = (uint64_t)i * 977 + 13;
		r->at = must((unsigned char *)mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
						   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		r->seeds = must((uint64_t *)mmap(NULL, PAGES * sizeof(uint64_t), PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		/* Never where the kernel likes: that may be what another thread has unmapped for a moment. */
		r->aside = (void *)(ASIDE + (uintptr_t)i * PART * PAGE);
		for (size_t page = 0; page < PAGES; page++)
			write_page(r, page);
		if (pthread_create(&thread, NULL, run, r))
			program_die("pthread_create");
	}
	return program_serve(&p, &ops, NULL);
}
