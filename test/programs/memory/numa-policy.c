/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NUMA policies: of the process, of a thread that has another one, of mappings (bound, preferred, interleaved, with a flag),
 * of shared memory. Proof: get_mempolicy(2) for each.
 */
#include "program.h"

#include <linux/mempolicy.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 4, NODES_MAX = 1025 };
enum { BIND, PREFERRED, INTERLEAVED, LOCAL, SHARED, PLAIN, AREAS };

static const struct {
	int mode;
	bool nodes;
} wanted[AREAS] = {
	[BIND] = {MPOL_BIND, true},
	[PREFERRED] = {MPOL_PREFERRED, true},
	[INTERLEAVED] = {MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, true},
	[LOCAL] = {MPOL_LOCAL, false},
	[SHARED] = {MPOL_BIND, true},
	[PLAIN] = {MPOL_DEFAULT, false},
};

struct state {
	unsigned char *areas[AREAS];
};

static void check_policy(struct program *p, const char *what, const void *at, int mode, bool nodes)
{
	unsigned long mask[(NODES_MAX + 63) / 64] = {0};
	int found = -1;

	must(syscall(SYS_get_mempolicy, &found, mask, NODES_MAX, at, at ? MPOL_F_ADDR : 0));
	expect_same(p, what, found, mode);
	expect_same(p, what, mask[0], nodes ? 1 : 0);
}

static void verify_thread(struct program *p, void *state unused)
{
	check_policy(p, "policy of the thread", NULL, MPOL_BIND, true);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	check_policy(p, "policy of the process", NULL, MPOL_PREFERRED | MPOL_F_STATIC_NODES, true);
	for (int i = 0; i < AREAS; i++) {
		check_policy(p, "policy of a mapping", s->areas[i], wanted[i].mode, wanted[i].nodes);
		expect(p, pattern_differs(s->areas[i], PAGES * PAGE, (unsigned)i) < 0, "area %d differs", i);
	}
}

static void spoil(void *state unused)
{
	must(syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0));
}

static void *thread(void *context)
{
	static const struct program_ops ops = {.verify = verify_thread};
	struct program p = program_role(context, "thread");
	unsigned long mask = 1;

	must(syscall(SYS_set_mempolicy, MPOL_BIND, &mask, NODES_MAX));
	program_serve(&p, &ops, NULL);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct program p;
	unsigned long mask = 1;
	pthread_t other;

	program_start(&p, argc, argv);
	if (syscall(SYS_get_mempolicy, NULL, NULL, 0, NULL, 0) < 0)
		program_lacks("NUMA policies");
	for (int i = 0; i < AREAS; i++) {
		int sharing = i == SHARED ? MAP_SHARED : MAP_PRIVATE;
		s.areas[i] = must(
			mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0));
		must(syscall(SYS_mbind, s.areas[i], PAGES * PAGE, wanted[i].mode,
			     wanted[i].nodes ? &mask : NULL, NODES_MAX, 0));
		pattern_fill(s.areas[i], PAGES * PAGE, (unsigned)i);
	}
	must(syscall(SYS_set_mempolicy, MPOL_PREFERRED | MPOL_F_STATIC_NODES, &mask, NODES_MAX));
	must(pthread_create(&other, NULL, thread, &p));
	program_await(&p, "thread");
	return program_serve(&p, &ops, &s);
}
