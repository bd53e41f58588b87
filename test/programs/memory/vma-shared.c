/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared anonymous memory of a parent and its child. Proof: both see the pattern, and a word that the parent writes
 * comes back through the child, so it is still one memory and not two copies.
 */
#include "program.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 24, ANSWER_MS = 3000 };

struct shared {
	volatile unsigned ping;
	volatile unsigned pong;
	unsigned char data[];
};

static const size_t data_bytes = PAGES * PAGE - sizeof(struct shared);

static void check_data(struct program *p, void *state)
{
	struct shared *s = state;
	ssize_t at = pattern_differs(s->data, data_bytes, 3);

	expect(p, at < 0, "the shared memory differs at %zd", at);
}

static void verify(struct program *p, void *state)
{
	struct shared *s = state;

	check_data(p, state);
	unsigned want = ++s->ping;
	for (int i = 0; i < ANSWER_MS && s->pong != want; i++)
		sleep_ms(1);
	expect_same(p, "what the child answers through shared memory", s->pong, want);
}

static void echo(void *state)
{
	struct shared *s = state;

	s->pong = s->ping;
}

static void spoil(void *state)
{
	struct shared *s = state;

	s->data[data_bytes - 1] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops parent = {.verify = verify, .spoil = spoil};
	static const struct program_ops child = {.verify = check_data, .step = echo};
	struct program p;

	program_start(&p, argc, argv);
	struct shared *s =
		must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	pattern_fill(s->data, data_bytes, 3);
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child, s);
	}
	program_await(&p, "child");
	return program_serve(&p, &parent, s);
}
