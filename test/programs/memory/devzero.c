/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings of /dev/zero: a private one that was written to in part, and a shared one of a parent and its child. Proof:
 * contents, and that a word which the parent writes comes back through the child.
 */
#include "program.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 9, WRITTEN = 4, ANSWER_MS = 3000 };

struct shared {
	volatile unsigned ping, pong;
	unsigned char data[PAGES * PAGE - 8];
};

struct state {
	unsigned char *private;
	struct shared *shared;
};

static void check(struct program *p, void *state)
{
	static const unsigned char zero[PAGE];
	struct state *s = state;

	expect(p, pattern_differs(s->private + PAGE, WRITTEN * PAGE, 1) < 0, "the private mapping differs");
	expect(p, !memcmp(s->private, zero, PAGE) && !memcmp(s->private + (PAGES - 1) * PAGE, zero, PAGE),
	       "pages that nobody wrote to are not empty");
	expect(p, pattern_differs(s->shared->data, sizeof(s->shared->data), 2) < 0,
	       "the shared mapping differs");
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	check(p, state);
	unsigned want = ++s->shared->ping;
	for (int i = 0; i < ANSWER_MS && s->shared->pong != want; i++)
		sleep_ms(1);
	expect_same(p, "what the child answers", s->shared->pong, want);
}

static void echo(void *state)
{
	struct state *s = state;

	s->shared->pong = s->shared->ping;
}

static void spoil(void *state)
{
	struct state *s = state;

	s->private[2 * PAGE] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops parent = {.verify = verify, .spoil = spoil};
	static const struct program_ops child = {.verify = check, .step = echo};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	int fd = must(open("/dev/zero", O_RDWR | O_CLOEXEC));
	s.private = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	s.shared = must(mmap(NULL, sizeof(*s.shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	close(fd);
	pattern_fill(s.private + PAGE, WRITTEN * PAGE, 1);
	pattern_fill(s.shared->data, sizeof(s.shared->data), 2);
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &parent, &s);
}
