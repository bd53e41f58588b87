/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deleted files that only mappings keep: shared between parent and child, private with pages of its own, read-only. Proof: contents,
 * and a write of one process is seen by the other.
 */
#include "program.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 5, BYTES = PAGE * PAGES };

struct state {
	unsigned char *shared, *private, *constant;
};

static unsigned char *map(const char *name, int prot, int flags, uint64_t seed)
{
	static unsigned char buffer[BYTES];
	int fd = must(open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600));

	pattern_fill(buffer, BYTES, seed);
	if (write(fd, buffer, BYTES) != BYTES)
		program_die(name);
	unsigned char *at = mmap(NULL, BYTES, prot, flags, fd, 0);
	if (at == MAP_FAILED)
		program_die("mmap");
	close(fd);
	must(unlink(name));
	return at;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect(p, pattern_differs(s->shared + PAGE, BYTES - PAGE, 11) < 0, "the shared file differs");
	expect(p, pattern_differs(s->private, 2 * PAGE, 12) < 0, "the private file differs");
	expect(p, pattern_differs(s->private + 2 * PAGE, PAGE, 13) < 0, "the task's own page differs");
	expect(p, pattern_differs(s->constant, BYTES, 14) < 0, "the read-only file differs");
	/* Each counts its questions; the child is asked first. */
	volatile uint64_t *words = (volatile uint64_t *)(void *)s->shared;
	words[0]++;
	expect_same(p, "questions to the child", words[1], words[0]);
}

static void child_verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect(p, pattern_differs(s->shared + PAGE, BYTES - PAGE, 11) < 0, "the shared file differs");
	((volatile uint64_t *)(void *)s->shared)[1]++;
}

static void spoil(void *state)
{
	const struct state *s = state;

	s->shared[PAGE + 5] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static const struct program_ops child_ops = {.verify = child_verify};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.shared = map("shared", PROT_READ | PROT_WRITE, MAP_SHARED, 11);
	memset(s.shared, 0, PAGE);
	pattern_fill(s.shared + PAGE, BYTES - PAGE, 11);
	s.private = map("private", PROT_READ | PROT_WRITE, MAP_PRIVATE, 12);
	pattern_fill(s.private + 2 * PAGE, PAGE, 13);
	s.constant = map("constant", PROT_READ, MAP_PRIVATE, 14);
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
