/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that a child finds empty (MADV_WIPEONFORK), as a random number generator keeps its state in. Proof: a child finds
 * it empty, the mapping beside it not, and after a restore it is empty, too: two copies would draw the same secrets.
 */
#include "program.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 6 };

static const unsigned char zero[PAGES * PAGE];

struct state {
	unsigned char *wiped, *kept;
	unsigned long long birth;
};

/* What a child finds: 0 as it should be. */
static int child_finds(struct state *s)
{
	int status;
	pid_t pid = must(fork());

	if (!pid)
		_exit(memcmp(s->wiped, zero, sizeof(zero))     ? 1
		      : pattern_differs(s->kept, PAGE, 6) >= 0 ? 2
							       : 0);
	must(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	if (program_birth() != s->birth) {
		expect(p, !memcmp(s->wiped, zero, sizeof(zero)), "contents were brought back");
		pattern_fill(s->wiped, PAGES * PAGE, 5);
		s->birth = program_birth();
	}
	expect(p, pattern_differs(s->wiped, PAGES * PAGE, 5) < 0, "the contents differ");
	expect(p, pattern_differs(s->kept, PAGE, 6) < 0, "what is kept differs");
	expect_same(p, "what a child finds", child_finds(s), 0);
}

static void spoil(void *state)
{
	struct state *s = state;

	must(madvise(s->wiped, PAGES * PAGE, MADV_KEEPONFORK));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {.birth = program_birth()};
	struct program p;

	program_start(&p, argc, argv);
	s.wiped = must(
		mmap(NULL, (PAGES + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	s.kept = s.wiped + PAGES * PAGE;
	must(madvise(s.wiped, PAGES * PAGE, MADV_WIPEONFORK));
	pattern_fill(s.wiped, PAGES * PAGE, 5);
	pattern_fill(s.kept, PAGE, 6);
	return program_serve(&p, &ops, &s);
}
