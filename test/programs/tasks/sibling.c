/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that a child made for its parent (CLONE_PARENT), in the session of the child that made them. Proof: relations.h;
 * in the end the first process waits for them.
 */
#include "relations.h"

#include <sched.h>
#include <sys/syscall.h>

static void finish(struct program *p, void *state)
{
	const struct relations *all = state;

	relations_verify(p, state);
	for (int i = 1; i < all->n; i++) {
		kill(all->v[i].pid, SIGKILL);
		expect_same(p, "waiting", waitpid(all->v[i].pid, NULL, 0), all->v[i].pid);
	}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {
		.verify = relations_verify, .spoil = relations_spoil, .finish = finish};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	if (!must(fork())) {
		must(setsid());
		for (int i = 0; i < 2; i++)
			if (!must(syscall(SYS_clone, CLONE_PARENT, 0, 0, 0, 0)))
				break;
		rest();
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
