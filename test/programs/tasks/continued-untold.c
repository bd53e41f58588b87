/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child that stopped and went on, and its parent has not waited for either. Proof: a wait with WCONTINUED tells it, once, in the
 * end; SIGCHLD does not come a second time.
 */
#include "relations.h"

static volatile sig_atomic_t told;

struct state {
	struct relations all;
	int told;
};

static void on_child(int number)
{
	(void)number;
	told++;
}

static void check(struct program *p, const struct state *s, int extra, bool wanted)
{
	siginfo_t info = {0};

	expect_same(p, "waitid", waitid(P_ALL, 0, &info, WSTOPPED | WCONTINUED | WNOHANG | extra), 0);
	expect_same(p, "who went on", info.si_pid, wanted ? s->all.v[1].pid : 0);
	expect_same(p, "what it did", info.si_code, wanted ? CLD_CONTINUED : 0);
	expect_same(p, "how often a child was told of", told, s->told);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	relations_verify(p, &s->all);
	check(p, s, WNOWAIT, true);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	check(p, s, 0, true);
	check(p, s, 0, false);
}

static void spoil(void *state)
{
	waitpid(((struct state *)state)->all.v[1].pid, NULL, WCONTINUED);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state s = {0};
	struct program p;

	relations_start(&p, argc, argv);
	signal(SIGCHLD, on_child);
	pid_t child = resting_child();
	sleep_ms(20);
	kill(child, SIGSTOP);
	while (waitid(P_PID, (id_t)child, &(siginfo_t){0}, WSTOPPED | WNOWAIT) < 0)
		continue;
	kill(child, SIGCONT);
	relations_settle(&s.all, 2);
	s.told = told;
	return program_serve(&p, &ops, &s);
}
