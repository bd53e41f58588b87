/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that made a group and left it to its child, and is in the group of a third one now. Proof: relations.h.
 */
#include "relations.h"

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	pid_t third = must(fork());
	if (!third) {
		must(setpgid(0, 0));
		rest();
	}
	while (getpgid(third) != third)
		sleep_ms(1);
	if (!must(fork())) {
		must(setpgid(0, 0));
		resting_child();
		must(setpgid(0, third));
		rest();
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
