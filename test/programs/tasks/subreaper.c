/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process in the middle of the tree takes orphans (PR_SET_CHILD_SUBREAPER), its parent does not. Proof: in the end a process
 * below it ends, and what that leaves behind belongs to the one in the middle.
 */
#include "relations.h"

#include <sys/prctl.h>

/* [1] takes orphans, [2] is its child, [3] that one's. */
static void finish(struct program *p, void *state)
{
	const struct relations *all = state;
	struct relation orphan = {0};

	relations_verify(p, state);
	kill(all->v[2].pid, SIGKILL);
	for (int i = 0; i < 500 && orphan.ppid != all->v[1].pid; i++) {
		sleep_ms(2);
		relation_read(all->v[3].pid, &orphan);
	}
	expect_same(p, "the parent of the orphan", orphan.ppid, all->v[1].pid);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {
		.verify = relations_verify, .spoil = relations_spoil, .finish = finish};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	if (!must(fork())) {
		must(prctl(PR_SET_CHILD_SUBREAPER, 1));
		if (!must(fork())) {
			resting_child();
			rest();
		}
		rest();
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
