/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 32-bit program with memory at both ends of what it can address, a heap, and System V shared memory. Proof: the contents; at
 * the end, that all that asks for memory still gets it where 32 bits reach: mmap, mremap, brk, shmat, the stack.
 */
#include "program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, HEAP_BYTES = 300000, SHARED_BYTES = 20000, DEEP_BYTES = 3 << 20 };

/* The last page below what the kernel keeps, and the first above vm.mmap_min_addr. */
#define HIGHEST 0xffffd000u
#define LOWEST 0x00010000u

struct state {
	unsigned char *high, *low, *heap, *shared;
	size_t grown; /* the heap, behind its pattern */
	int id;
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, pattern_differs(s->high, PAGE, 1) < 0, "the highest page differs");
	expect(p, pattern_differs(s->low, PAGE, 2) < 0, "the lowest page differs");
	expect(p, pattern_differs(s->heap, HEAP_BYTES, 3) < 0, "the heap differs");
	expect(p, pattern_differs(s->shared, SHARED_BYTES, 4) < 0, "shared memory differs");
	expect(p, s->heap + HEAP_BYTES + s->grown == sbrk(0), "the heap's end moved");
}

static void spoil(void *state)
{
	((struct state *)state)->high[PAGE - 1] ^= 1;
}

static __attribute__((noinline)) int go_deep(size_t bytes)
{
	volatile unsigned char here[PAGE];

	here[0] = (unsigned char)bytes;
	return bytes < PAGE ? here[0] : go_deep(bytes - PAGE) + (here[0] & 1);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	unsigned char *more = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	expect(p, more != MAP_FAILED, "mmap fails: %s", strerror(errno));
	pattern_fill(more, 1 << 20, 5);
	more = mremap(more, 1 << 20, 64 << 20, MREMAP_MAYMOVE);
	expect(p, more != MAP_FAILED, "mremap fails: %s", strerror(errno));
	expect(p, pattern_differs(more, 1 << 20, 5) < 0, "memory that moved differs");
	more[(64 << 20) - 1] = 1;
	expect(p, sbrk(1 << 20) == s->heap + HEAP_BYTES, "the heap does not grow");
	s->heap[HEAP_BYTES + (1 << 20) - 1] = 1;
	unsigned char *again = shmat(s->id, NULL, 0);
	expect(p, again != (void *)-1, "shmat fails: %s", strerror(errno));
	expect(p, pattern_differs(again, SHARED_BYTES, 4) < 0, "attached again it differs");
	go_deep(DEEP_BYTES);
	s->grown = 1 << 20;
	verify(p, s);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.high = mmap((void *)HIGHEST, PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	s.low = mmap((void *)LOWEST, PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (s.high == MAP_FAILED || s.low == MAP_FAILED)
		program_die("mmap at the ends");
	s.id = must(shmget(IPC_PRIVATE, SHARED_BYTES, 0600));
	s.shared = shmat(s.id, NULL, 0);
	if (s.shared == (void *)-1)
		program_die("shmat");
	s.heap = sbrk(HEAP_BYTES);
	pattern_fill(s.high, PAGE, 1);
	pattern_fill(s.low, PAGE, 2);
	pattern_fill(s.heap, HEAP_BYTES, 3);
	pattern_fill(s.shared, SHARED_BYTES, 4);
	return program_serve(&p, &ops, &s);
}
