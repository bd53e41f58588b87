/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child that ended by a signal and dumped core. Proof: waitid(2) says CLD_DUMPED, waitpid(2) has the bit; no core file is
 * made where there was none.
 */
#include "relations.h"

#include <sys/resource.h>
#include <sys/stat.h>

struct state {
	struct relations all;
	pid_t zombie;
};

static bool core_is_there(void)
{
	char path[64];

	snprintf(path, sizeof(path), "core.%d", getpid());
	return access("core", F_OK) == 0 || access(path, F_OK) == 0;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	siginfo_t info = {0};

	relations_verify(p, (void *)&s->all);
	expect_same(p, "waitid", waitid(P_PID, (id_t)s->zombie, &info, WEXITED | WNOHANG | WNOWAIT), 0);
	expect_same(p, "how it ended", info.si_code, CLD_DUMPED);
	expect_same(p, "the signal", info.si_status, SIGQUIT);
	expect(p, !core_is_there(), "there is a core file");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	int status;

	verify(p, state);
	expect_same(p, "waitpid", waitpid(s->zombie, &status, WNOHANG), s->zombie);
	expect(p, WIFSIGNALED(status) && WCOREDUMP(status), "the status is %#x", status);
}

static void spoil(void *state)
{
	struct state *s = state;

	waitpid(s->zombie, NULL, 0);
}

/* The pattern has to name a file: what a program makes of a dump is nobody's business here. */
static void check_pattern(void)
{
	char text[128] = "";
	int fd = must(open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC));

	must(read(fd, text, sizeof(text) - 1));
	close(fd);
	if (text[0] == '|' || text[0] == '/')
		program_lacks("kernel.core_pattern names a file in the working folder");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct rlimit core = {8192, 8192};
	struct state s;
	struct program p;

	relations_start(&p, argc, argv);
	check_pattern();
	must(chdir(p.folder));
	s.zombie = must(fork());
	if (!s.zombie) {
		must(setrlimit(RLIMIT_CORE, &core));
		kill(getpid(), SIGQUIT);
		rest();
	}
	await_zombie(s.zombie);
	char path[64];
	snprintf(path, sizeof(path), "core.%d", s.zombie);
	unlink("core");
	unlink(path);
	relations_settle(&s.all, 2);
	return program_serve(&p, &ops, &s);
}
