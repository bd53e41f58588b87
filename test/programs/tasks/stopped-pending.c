/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stopped process for which signals wait that are not blocked: it takes them when it goes on. Proof: they are not taken before,
 * and all of them are taken then.
 */
#include "relations.h"

static volatile sig_atomic_t got[65];

static void on_signal(int number)
{
	got[number]++;
}

static void finish(struct program *p, void *state)
{
	const struct relations *all = state;
	int status = 0;

	relations_verify(p, state);
	expect_same(p, "a wait", waitpid(all->v[1].pid, &status, WNOHANG), 0);
	kill(all->v[1].pid, SIGCONT);
	expect_same(p, "the wait", waitpid(all->v[1].pid, &status, 0), all->v[1].pid);
	expect_same(p, "what it took", status, 123 << 8);
}

static int be_stopped(void)
{
	note_volatile();
	signal(SIGUSR1, on_signal);
	signal(SIGTERM, on_signal);
	signal(40, on_signal);
	raise(SIGSTOP);
	return got[SIGUSR1] + 10 * got[SIGTERM] * 2 + 100 * (got[40] == 1) + (got[40] == 1) * 2;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {
		.verify = relations_verify, .spoil = relations_spoil, .finish = finish};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	pid_t child = must(fork());
	if (!child)
		_exit(be_stopped());
	must(waitpid(child, NULL, WUNTRACED));
	must(kill(child, SIGUSR1));
	must(kill(child, SIGTERM));
	must(kill(child, 40));
	relations_settle(&all, 2);
	return program_serve(&p, &ops, &all);
}
