/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member of a session whose leader lives, deeper in the tree than the member: an orphan that the first process has taken.
 * Proof: relations.h.
 */
#include "relations.h"

#include <sys/prctl.h>

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	if (!must(fork())) {
		if (!must(fork())) {
			must(setsid());
			resting_child();
			pid_t between = must(fork());
			if (!between) {
				resting_child();
				_exit(0);
			}
			must(waitpid(between, NULL, 0));
			rest();
		}
		rest();
	}
	relations_settle(&all, 5);
	return program_serve(&p, &ops, &all);
}
