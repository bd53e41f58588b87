/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session whose leader is gone has members under two parents, one above the other, that both take orphans. Proof:
 * relations.h.
 */
#include "relations.h"

#include <sys/prctl.h>

static void on_signal(int number)
{
	(void)number;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static void rest_as_taker(pid_t leader)
{
	while (waitpid(leader, NULL, 0) < 0)
		continue;
	rest();
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	if (!must(fork())) {
		/* The session begins below the inner one; what is born before that takes orphans goes to the outer one. */
		signal(SIGUSR1, on_signal);
		pid_t leader = must(fork());
		if (!leader) {
			signal(SIGUSR1, SIG_DFL);
			must(setsid());
			for (int i = 0; i < 2; i++) {
				pid_t between = must(fork());
				if (!between) {
					resting_child();
					_exit(0);
				}
				must(waitpid(between, NULL, 0));
				kill(getppid(), SIGUSR1);
				sleep_ms(40);
			}
			_exit(0);
		}
		rest_as_taker(leader);
	}
	relations_settle(&all, 4);
	return program_serve(&p, &ops, &all);
}
