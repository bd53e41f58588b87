/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that signals ended, plain ones and a real-time one, and were not waited for. Proof: waitid(2) and waitpid(2) tell
 * the signal of each; no signal of their ends is pending a second time.
 */
#include "relations.h"

static const int signals[] = {SIGKILL, SIGTERM, SIGHUP, SIGSEGV, SIGALRM, 40};
enum { COUNT = ARRAY_SIZE(signals) };

static volatile sig_atomic_t told;

struct state {
	struct relations all;
	pid_t zombies[COUNT];
	int told;
};

static void on_child(int number)
{
	(void)number;
	told++;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	relations_verify(p, (void *)&s->all);
	for (int i = 0; i < COUNT; i++) {
		siginfo_t info = {0};
		expect_same(p, "waitid",
			    waitid(P_PID, (id_t)s->zombies[i], &info, WEXITED | WNOHANG | WNOWAIT), 0);
		expect_same(p, "who ended", info.si_pid, s->zombies[i]);
		expect_same(p, "how it ended", info.si_code, CLD_KILLED);
		expect_same(p, "the signal", info.si_status, signals[i]);
	}
	expect_same(p, "how often a child's end was told", told, s->told);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	int status;

	verify(p, state);
	for (int i = 0; i < COUNT; i++) {
		expect_same(p, "waitpid", waitpid(s->zombies[i], &status, WNOHANG), s->zombies[i]);
		expect(p, WIFSIGNALED(status) && WTERMSIG(status) == signals[i], "the status is %#x", status);
	}
}

static void spoil(void *state)
{
	struct state *s = state;

	waitpid(s->zombies[0], NULL, 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state s;
	struct program p;

	relations_start(&p, argc, argv);
	signal(SIGCHLD, on_child);
	for (int i = 0; i < COUNT; i++) {
		s.zombies[i] = must(fork());
		if (!s.zombies[i]) {
			signal(signals[i], SIG_DFL);
			kill(getpid(), signals[i]);
			rest();
		}
		while (waitid(P_PID, (id_t)s.zombies[i], &(siginfo_t){0}, WEXITED | WNOWAIT) < 0)
			continue;
	}
	relations_settle(&s.all, 1 + COUNT);
	s.told = told;
	return program_serve(&p, &ops, &s);
}
