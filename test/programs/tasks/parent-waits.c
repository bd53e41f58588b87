/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that stands in waitid(2) for a child that lives, and another one in waitpid(2) for any child of its group. Proof:
 * in the end the children end, and both waits return what they have to.
 */
#include "relations.h"

/* [1] and [2] wait, [3] and [4] are waited for. */
static void finish(struct program *p, void *state)
{
	const struct relations *all = state;

	relations_verify(p, state);
	for (int i = 1; i <= 2; i++) {
		int status = 0;
		kill(all->v[i + 2].pid, SIGTERM);
		expect_same(p, "waiting", waitpid(all->v[i].pid, &status, 0), all->v[i].pid);
		expect_same(p, "what the child saw", WEXITSTATUS(status), 100 + SIGTERM);
	}
}

static void by_waitid(void)
{
	siginfo_t info = {0};
	pid_t child = resting_child();

	note_volatile();
	must(waitid(P_PID, (id_t)child, &info, WEXITED));
	_exit(info.si_pid == child && info.si_code == CLD_KILLED ? 100 + info.si_status : 1);
}

static void by_group(void)
{
	int status = 0;

	must(setpgid(0, 0));
	pid_t child = resting_child();
	note_volatile();
	_exit(waitpid(0, &status, 0) == child && WIFSIGNALED(status) ? 100 + WTERMSIG(status) : 1);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {
		.verify = relations_verify, .spoil = relations_spoil, .finish = finish};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	if (!must(fork()))
		by_waitid();
	if (!must(fork()))
		by_group();
	relations_settle(&all, 5);
	return program_serve(&p, &ops, &all);
}
