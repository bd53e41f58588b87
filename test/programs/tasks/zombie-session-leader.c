/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A zombie that leads a session. Its child lives on in that session, and its parent is the first process, which takes
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
	if (!must(fork())) {
		must(setsid());
		resting_child();
		if (!must(fork())) {
			must(setpgid(0, 0));
			rest();
		}
		sleep_ms(30);
		_exit(9);
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
