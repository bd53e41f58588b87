/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A zombie whose own parent is gone: the first process takes orphans and has not waited for this one. Beside it a zombie
 * deeper in the tree, whose parent lives. Proof: relations.h.
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
	pid_t parent = must(fork());
	if (!parent) {
		if (!must(fork())) {
			sleep_ms(30);
			_exit(4);
		}
		_exit(0);
	}
	must(waitpid(parent, NULL, 0));
	if (!must(fork())) {
		if (!must(fork()))
			_exit(6);
		rest();
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
