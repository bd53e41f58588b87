/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that are stopped, each by one of the four signals that stop, and what their parent has been told of it: of some
 * nothing yet (told "untold"), of others everything. Proof: the states; waits with WUNTRACED tell what is left to tell and nothing
 * else; no SIGCHLD comes a second time; in the end each goes on by SIGCONT, a wait tells that, and it ends as it has to.
 */
#include "relations.h"

#include <errno.h>

static const int signals[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
enum { COUNT = ARRAY_SIZE(signals) };

static volatile sig_atomic_t told;

struct state {
	struct relations all;
	pid_t children[COUNT];
	int told;
	bool untold;
};

static void on_child(int number)
{
	(void)number;
	told++;
}

static void check_untold(struct program *p, const struct state *s, int i, int extra)
{
	siginfo_t info = {0};

	expect_same(p, "waitid",
		    waitid(P_PID, (id_t)s->children[i], &info, WSTOPPED | WCONTINUED | WNOHANG | extra), 0);
	expect_same(p, "who stopped", info.si_pid, s->untold ? s->children[i] : 0);
	if (!s->untold)
		return;
	expect_same(p, "what it did", info.si_code, CLD_STOPPED);
	expect_same(p, "by which signal", info.si_status, signals[i]);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	relations_verify(p, &s->all);
	for (int i = 0; i < COUNT; i++)
		check_untold(p, s, i, WNOWAIT);
	expect_same(p, "how often a child was told of", told, s->told);
}

/* A signal may come between. */
static pid_t wait_for(pid_t pid, int *ret_status, int flags)
{
	pid_t got;

	do
		got = waitpid(pid, ret_status, flags);
	while (got < 0 && errno == EINTR);
	return got;
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	int status;

	verify(p, state);
	for (int i = 0; i < COUNT; i++) {
		check_untold(p, s, i, 0);
		kill(s->children[i], SIGCONT);
		expect_same(p, "waiting", wait_for(s->children[i], &status, WCONTINUED), s->children[i]);
		expect(p, WIFCONTINUED(status), "it did not go on, but %#x", status);
		expect_same(p, "waiting again", wait_for(s->children[i], &status, 0), s->children[i]);
		expect_same(p, "its status", status, (11 + i) << 8);
	}
	expect_same(p, "how often a child was told of", told, s->told + 2 * COUNT);
}

static void spoil(void *state)
{
	struct state *s = state;

	kill(s->children[0], SIGCONT);
	sleep_ms(50);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state s = {0};
	struct program p;

	relations_start(&p, argc, argv);
	signal(SIGCHLD, on_child);
	s.untold = program_told(argc, argv, "untold");
	for (int i = 0; i < COUNT; i++) {
		siginfo_t info;
		s.children[i] = must(fork());
		if (!s.children[i]) {
			note_volatile();
			must(setpgid(0, 0));
			raise(signals[i]);
			sleep_ms(20);
			_exit(11 + i);
		}
		while (waitid(P_PID, (id_t)s.children[i], &info, WSTOPPED | (s.untold ? WNOWAIT : 0)) < 0)
			continue;
	}
	relations_settle(&s.all, 1 + COUNT);
	s.told = told;
	return program_serve(&p, &ops, &s);
}
