/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that exited and were not waited for, with several statuses. Proof: waitid(2) tells how each ended, and in the end
 * waitpid(2) takes them, with the status, in the order in which they were born.
 */
#include "relations.h"

static const int statuses[] = {0, 1, 7, 127, 255};
enum { COUNT = ARRAY_SIZE(statuses) };

struct state {
	struct relations all;
	pid_t zombies[COUNT];
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	relations_verify(p, (void *)&s->all);
	for (int i = 0; i < COUNT; i++) {
		siginfo_t info = {0};
		expect_same(p, "waitid",
			    waitid(P_PID, (id_t)s->zombies[i], &info, WEXITED | WNOHANG | WNOWAIT), 0);
		expect_same(p, "who ended", info.si_pid, s->zombies[i]);
		expect_same(p, "how it ended", info.si_code, CLD_EXITED);
		expect_same(p, "the status", info.si_status, statuses[i]);
		expect_same(p, "its user", info.si_uid, 0);
	}
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	int status;

	verify(p, state);
	for (int i = 0; i < COUNT; i++) {
		expect_same(p, "who is taken", waitpid(-1, &status, WNOHANG), s->zombies[i]);
		expect_same(p, "with which status", status, statuses[i] << 8);
	}
	expect_same(p, "children left", waitpid(-1, NULL, WNOHANG), -1);
}

static void spoil(void *state)
{
	struct state *s = state;

	waitpid(s->zombies[2], NULL, 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state s;
	struct program p;

	relations_start(&p, argc, argv);
	for (int i = 0; i < COUNT; i++) {
		s.zombies[i] = must(fork());
		if (!s.zombies[i])
			_exit(statuses[i]);
		await_zombie(s.zombies[i]);
	}
	relations_settle(&s.all, 1 + COUNT);
	return program_serve(&p, &ops, &s);
}
