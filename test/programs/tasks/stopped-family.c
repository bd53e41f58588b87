/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stopped process that has a stopped child, which has one itself, and a zombie. Proof: relations.h; in the end they go on from
 * above, and each waits for its own.
 */
#include "relations.h"

static void finish(struct program *p, void *state)
{
	const struct relations *all = state;
	int status = 0;

	relations_verify(p, state);
	for (int i = 1; i < all->n; i++)
		if (all->v[i].state == 'T')
			kill(all->v[i].pid, SIGCONT);
	expect_same(p, "waiting", waitpid(all->v[1].pid, &status, 0), all->v[1].pid);
	expect_same(p, "what all of them returned", status, 7 << 8);
}

/* Each returns one more bit than the child that it waits for. */
static int generation(int depth)
{
	int status = 0;
	pid_t child = depth < 2 ? must(fork()) : 0;

	if (depth < 2 && !child)
		_exit(generation(depth + 1));
	if (depth == 1 && !must(fork()))
		_exit(0);
	if (child)
		must(waitid(P_PID, (id_t)child, &(siginfo_t){0}, WSTOPPED | WNOWAIT));
	note_volatile();
	raise(SIGSTOP);
	if (child)
		while (waitpid(child, &status, 0) != child)
			continue;
	return 1 << depth | WEXITSTATUS(status);
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
		_exit(generation(0));
	must(waitpid(child, NULL, WUNTRACED));
	relations_settle(&all, 5);
	return program_serve(&p, &ops, &all);
}
