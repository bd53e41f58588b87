/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owners of descriptions, who get signals for them: a process, a process group, each with a signal of its own choice. Proof: F_GETOWN_EX and F_GETSIG, in
 * both processes that have the description.
 */
#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

struct state {
	int fds[3];
	struct f_owner_ex owners[3];
};

/* SIGRTMIN is no constant. */
static int signal_of(size_t i)
{
	return i == 0 ? SIGUSR1 : i == 1 ? SIGRTMIN + 5 : 0;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	for (size_t i = 0; i < ARRAY_SIZE(s->fds); i++) {
		struct f_owner_ex owner = {.type = -1};
		must(fcntl(s->fds[i], F_GETOWN_EX, &owner));
		expect_same(p, "owner", owner.pid, s->owners[i].pid);
		if (owner.pid)
			expect_same(p, "type of the owner", owner.type, s->owners[i].type);
		expect_same(p, "signal", fcntl(s->fds[i], F_GETSIG), signal_of(i));
	}
}

static void spoil(void *state)
{
	must(fcntl(((struct state *)state)->fds[1], F_SETSIG, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static const struct program_ops child_ops = {.verify = verify};
	struct program p;
	struct state s = {.owners = {{F_OWNER_PID, 0}, {F_OWNER_PGRP, getpgrp()}, {F_OWNER_PID, 0}}};

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.owners[0].pid = getpid();
	for (size_t i = 0; i < ARRAY_SIZE(s.fds); i++) {
		s.fds[i] = must(open("file", O_CREAT | O_RDWR, 0600));
		must(fcntl(s.fds[i], F_SETOWN_EX, &s.owners[i]));
		must(fcntl(s.fds[i], F_SETSIG, signal_of(i)));
	}
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
