/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two process groups whose leaders are gone, one of them in a session of its own. Proof: relations.h.
 */
#include "relations.h"

/* One member lives. */
static void group_without_leader(void)
{
	pid_t leader = must(fork());

	if (!leader) {
		must(setpgid(0, 0));
		rest();
	}
	while (getpgid(leader) != leader)
		sleep_ms(1);
	pid_t member = resting_child();
	must(setpgid(member, leader));
	kill(leader, SIGKILL);
	must(waitpid(leader, NULL, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	group_without_leader();
	if (!must(fork())) {
		must(setsid());
		group_without_leader();
		rest();
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
