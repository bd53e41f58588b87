/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tree of four generations with sessions and process groups of its own; told "dead" also two zombies and a stopped
 * process. Proof: each process knows its parent, group and session; the zombies give the exit status they had.
 */
#include "program.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ZOMBIE_STATUS = 7 };

struct ids {
	pid_t pid, parent, group, session;
};

struct state {
	struct ids ids;
	pid_t exited, killed, stopped; /* children; 0 = has none */
};

static struct ids ids_read(void)
{
	return (struct ids){getpid(), getppid(), getpgid(0), getsid(0)};
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	const struct ids now = ids_read();

	expect_same(p, "pid", now.pid, s->ids.pid);
	if (strcmp(p->role, "main") != 0)
		expect_same(p, "parent", now.parent, s->ids.parent);
	expect_same(p, "group", now.group, s->ids.group);
	expect_same(p, "session", now.session, s->ids.session);
}

static void verify_children(struct program *p, const struct state *s, int extra)
{
	siginfo_t info = {0};

	expect_same(p, "waiting for the exited child",
		    waitid(P_PID, (id_t)s->exited, &info, WEXITED | WNOHANG | extra), 0);
	expect_same(p, "its pid", info.si_pid, s->exited);
	expect_same(p, "how it ended", info.si_code, CLD_EXITED);
	expect_same(p, "its status", info.si_status, ZOMBIE_STATUS);
	memset(&info, 0, sizeof(info));
	expect_same(p, "waiting for the killed child",
		    waitid(P_PID, (id_t)s->killed, &info, WEXITED | WNOHANG | extra), 0);
	expect_same(p, "its pid", info.si_pid, s->killed);
	expect_same(p, "how it ended", info.si_code, CLD_KILLED);
	expect_same(p, "its signal", info.si_status, SIGTERM);
}

static void main_verify(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	if (!s->exited)
		return;
	verify_children(p, s, WNOWAIT);
	expect_same(p, "the stopped child", kill(s->stopped, 0), 0);
}

static void main_finish(struct program *p, void *state)
{
	const struct state *s = state;
	siginfo_t info = {0};

	verify(p, state);
	if (!s->exited)
		return;
	verify_children(p, s, 0);
	kill(s->stopped, SIGCONT);
	expect_same(p, "waiting for the child that was stopped",
		    waitid(P_PID, (id_t)s->stopped, &info, WEXITED), 0);
	expect_same(p, "its status", info.si_status, 11);
}

static void spoil(void *state)
{
	(void)state;
	setpgid(0, 0);
}

static int serve(const struct program *parent, const char *role)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p = program_role(parent, role);
	struct state s = {.ids = ids_read()};

	return program_serve(&p, &ops, &s);
}

/* Makes the rest of the tree below a child: own group, then own session, then own group in that session. */
static int generations(const struct program *p)
{
	must(setpgid(0, 0));
	if (!must(fork())) {
		must(setsid());
		if (!must(fork())) {
			must(setpgid(0, 0));
			if (!must(fork()))
				return serve(p, "great-grandchild");
			program_await(p, "great-grandchild");
			return serve(p, "grandchild-group");
		}
		program_await(p, "grandchild-group");
		return serve(p, "session");
	}
	program_await(p, "session");
	return serve(p, "group");
}

static pid_t child_that_ends(int signal_number)
{
	pid_t pid = must(fork());
	siginfo_t info;

	if (!pid) {
		if (signal_number)
			raise(signal_number);
		_exit(ZOMBIE_STATUS);
	}
	must(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
	return pid;
}

static pid_t child_that_stops(const struct program *parent)
{
	pid_t pid = must(fork());
	siginfo_t info;

	if (!pid) {
		struct program p = program_role(parent, "stops");
		program_note_volatile(&p);
		raise(SIGSTOP);
		_exit(11);
	}
	must(waitid(P_PID, (id_t)pid, &info, WSTOPPED));
	return pid;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = main_verify, .finish = main_finish};
	struct program p;
	struct state s = {0};

	program_start(&p, argc, argv);
	if (!must(fork()))
		return generations(&p);
	program_await(&p, "group");
	if (!must(fork()))
		return serve(&p, "sibling");
	program_await(&p, "sibling");
	if (program_told(argc, argv, "dead")) {
		s.exited = child_that_ends(0);
		s.killed = child_that_ends(SIGTERM);
		s.stopped = child_that_stops(&p);
	}
	s.ids = ids_read();
	return program_serve(&p, &ops, &s);
}
