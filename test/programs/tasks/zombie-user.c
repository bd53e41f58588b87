/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A zombie of another user, with a name of its own. Proof: waitid(2) tells the user, /proc the name; its parent takes it.
 */
#include "relations.h"

#include <sys/prctl.h>

enum { USER = 1234, GROUP = 2345 };

struct state {
	struct relations all;
	pid_t zombie;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char path[64], name[32] = "";
	siginfo_t info = {0};

	relations_verify(p, (void *)&s->all);
	expect_same(p, "waitid", waitid(P_PID, (id_t)s->zombie, &info, WEXITED | WNOHANG | WNOWAIT), 0);
	expect_same(p, "the user", info.si_uid, USER);
	expect_same(p, "the status", info.si_status, 3);
	snprintf(path, sizeof(path), "/proc/%d/comm", s->zombie);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	expect(p, fd >= 0 && read(fd, name, sizeof(name) - 1) > 0, "it has no name");
	close(fd);
	expect(p, !strcmp(name, "a dead (one) \n"), "its name is '%s'", name);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	expect_same(p, "waitpid", waitpid(s->zombie, NULL, WNOHANG), s->zombie);
}

static void spoil(void *state)
{
	struct state *s = state;

	waitpid(s->zombie, NULL, 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state s;
	struct program p;

	relations_start(&p, argc, argv);
	s.zombie = must(fork());
	if (!s.zombie) {
		must(prctl(PR_SET_NAME, "a dead (one) "));
		must(setresgid(GROUP, GROUP, GROUP));
		must(setresuid(USER, USER, USER));
		_exit(3);
	}
	await_zombie(s.zombie);
	relations_settle(&s.all, 2);
	return program_serve(&p, &ops, &s);
}
