/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A zombie that leads a process group with two members that live. Proof: relations.h.
 */
#include "relations.h"

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	pid_t leader = must(fork());
	if (!leader) {
		must(setpgid(0, 0));
		_exit(5);
	}
	await_zombie(leader);
	for (int i = 0; i < 2; i++) {
		pid_t member = resting_child();
		must(setpgid(member, leader));
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
