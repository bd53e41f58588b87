/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that wants no transparent huge pages (PR_SET_THP_DISABLE), with the argument "advised" none but where advice
 * asks for them (6.18). Proof: what the process is told, and whether new memory gets huge pages with advice.
 */
#include "program.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef PR_THP_DISABLE_EXCEPT_ADVISED
#define PR_THP_DISABLE_EXCEPT_ADVISED (1 << 1)
#endif

enum { HUGE = 2 << 20 };

struct state {
	bool advised;
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect_same(p, "PR_GET_THP_DISABLE", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0),
		    s->advised ? 1 | PR_THP_DISABLE_EXCEPT_ADVISED : 1);
	unsigned char *at =
		must(mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	unsigned char *huge = at + HUGE - (unsigned long)at % HUGE;
	must(madvise(at, 3 * HUGE, MADV_HUGEPAGE));
	huge[0] = 1;
	expect_same(p, "kB huge", smaps_kb(huge, "AnonHugePages:"), s->advised ? HUGE / 1024 : 0);
	must(munmap(at, 3 * HUGE));
}

static void spoil(void *state unused)
{
	must(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {.advised = program_told(argc, argv, "advised")};
	struct program p;

	program_start(&p, argc, argv);
	if (prctl(PR_SET_THP_DISABLE, 1, s.advised ? PR_THP_DISABLE_EXCEPT_ADVISED : 0, 0, 0) < 0)
		program_lacks("PR_SET_THP_DISABLE with this flag");
	return program_serve(&p, &ops, &s);
}
