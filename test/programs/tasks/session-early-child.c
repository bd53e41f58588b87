/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that were born before their parents made sessions of their own, two generations of them: the grandchild is in
 * the session of the first process, its parent and grandparent are not. Proof: relations.h.
 */
#include "relations.h"

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	if (!must(fork())) {
		if (!must(fork())) {
			if (!must(fork()))
				rest();
			must(setsid());
			rest();
		}
		sleep_ms(20);
		must(setsid());
		rest();
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
