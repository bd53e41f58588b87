/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An orphaned process group: the parent of its only leader is in another session. It has a zombie in it. Proof:
 * relations.h.
 */
#include "relations.h"

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	if (!must(fork())) {
		must(setsid());
		if (!must(fork())) {
			must(setpgid(0, 0));
			if (!must(fork()))
				_exit(1);
			rest();
		}
		rest();
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
