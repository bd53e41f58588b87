/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that makes children by vfork(2) all the time, and each takes a moment before it executes a program. Told "stuck" the
 * first of them never does. Proof: the process goes on making children, and none of them fails.
 */
#include "relations.h"

#include <sys/mman.h>

enum { MOMENT_MS = 3 };

struct shared {
	unsigned long good, bad;
};

struct state {
	struct shared *shared;
	unsigned long seen;
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	for (int i = 0; i < 2000 && s->shared->good < s->seen + 3; i++)
		sleep_ms(2);
	expect(p, s->shared->good >= s->seen + 3, "no more children after %lu", s->shared->good);
	expect_same(p, "children that failed", s->shared->bad, 0);
	s->seen = s->shared->good;
}

static void spoil(void *state)
{
	((struct state *)state)->shared->bad++;
}

static void child_main(const char *self, bool stuck)
{
	if (stuck)
		rest();
	sleep_ms(MOMENT_MS);
	execl(self, self, "ended", NULL);
	_exit(1);
}

static void make_children(const char *self, struct shared *shared, bool stuck)
{
	for (;;) {
		int status = -1;
		pid_t child = vfork();
		if (!child)
			child_main(self, stuck);
		if (waitpid(child, &status, 0) == child && status == 33 << 8)
			shared->good++;
		else
			shared->bad++;
	}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {0};
	struct program p;

	if (argc == 2 && !strcmp(argv[1], "ended"))
		return 33;
	relations_start(&p, argc, argv);
	s.shared = mmap(NULL, sizeof(*s.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!must(fork()))
		make_children("/proc/self/exe", s.shared, program_told(argc, argv, "stuck"));
	sleep_ms(50);
	return program_serve(&p, &ops, &s);
}
