/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon as in the books: forked twice, the leader of its session ended and was waited for; the first process takes
 * orphans. Proof: relations.h.
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
	pid_t leader = must(fork());
	if (!leader) {
		must(setsid());
		resting_child();
		if (!must(fork())) {
			must(setpgid(0, 0));
			rest();
		}
		_exit(0);
	}
	must(waitpid(leader, NULL, 0));
	relations_settle(&all, 3);
	return program_serve(&p, &ops, &all);
}
