/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions within sessions: six generations, each leads its own and leaves a child in it. Proof: relations.h.
 */
#include "relations.h"

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	for (int depth = 0; depth < 6; depth++) {
		if (must(fork())) {
			if (depth)
				rest();
			break;
		}
		must(setsid());
		resting_child();
		if (depth == 5)
			rest();
	}
	relations_settle(&all, 13);
	return program_serve(&p, &ops, &all);
}
