/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions with a controlling terminal: a leader with its terminal side open, a child in the background, one in the
 * foreground, one that gave the terminal up; and a leader that holds no descriptor of its terminal, while the master is in another process.
 * /dev/tty is open in one of them. Proof: session, foreground group and terminal of each; at the end the interrupt
 * character reaches the foreground group alone, and the end of the master is a hang-up.
 */
#include "pty.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

static int terminal = -1; /* of the session, for the handler */
static const char *shout = "?";

/* Told to the master, which sees thus who was interrupted. */
static void interrupted(int number)
{
	(void)number;
	if (write(terminal, shout, 1) != 1)
		_exit(1);
}

enum part { LEADER, BACKGROUND, FOREGROUND, WITHOUT, BARE };

struct state {
	enum part part;
	struct pty t;    /* of the session; main has the masters */
	struct pty bare; /* of the session whose leader has no descriptor */
	int tty;         /* /dev/tty; -1 */
	pid_t leader, foreground;
	pid_t children[5];
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	pid_t group = -1;

	int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	expect(p, (fd < 0) == (s->part == WITHOUT), "/dev/tty: %d, errno %d", fd, errno);
	if (fd >= 0) {
		group = tcgetpgrp(fd);
		expect_same(p, "session", tcgetsid(fd), getsid(0));
		close(fd);
	}
	if (s->part == LEADER || s->part == BACKGROUND || s->part == FOREGROUND)
		expect_same(p, "foreground group", group, s->foreground);
	if (s->part == BARE)
		expect_same(p, "foreground group", group, getpid());
	if (s->tty >= 0) {
		char name[32] = "";
		expect_same(p, "foreground group by /dev/tty", tcgetpgrp(s->tty), s->foreground);
		expect(p, !ttyname_r(s->tty, name, sizeof(name)), "/dev/tty has no name");
	}
}

static void verify_main(struct program *p, void *state)
{
	const struct state *s = state;
	pid_t sid = -1;

	ioctl(s->t.master, TIOCGSID, &sid);
	expect_same(p, "session of the terminal", sid, s->leader);
	expect_same(p, "its foreground group", tcgetpgrp(s->t.master), s->foreground);
	ioctl(s->bare.master, TIOCGSID, &sid);
	expect_same(p, "session of the other", sid, s->children[BARE]);
}

static void finish_main(struct program *p, void *state)
{
	const struct state *s = state;
	int status = 0;

	verify_main(p, state);
	must(write(s->t.master, "\3", 1));
	pty_expect(p, "what the interrupted say", s->t.master, "^CF");
	pty_expect_nothing(p, "what others say", s->t.master);
	must(close(s->t.master));
	must(waitpid(s->leader, &status, 0));
	expect(p, WIFSIGNALED(status) && WTERMSIG(status) == SIGHUP, "the leader ends by 0x%x", status);
}

static void finish(struct program *p, void *state)
{
	verify(p, state);
}

static void spoil_leader(void *state)
{
	const struct state *s = state;

	signal(SIGTTOU, SIG_IGN);
	must(tcsetpgrp(s->t.slave, getpgrp()));
}

static const struct program_ops part_ops = {.verify = verify, .finish = finish};
static const struct program_ops leader_ops = {.verify = verify, .finish = finish, .spoil = spoil_leader};

static int part(const struct program *p, struct state *s, enum part which, const char *role)
{
	struct program q = program_role(p, role);

	s->part = which;
	return program_serve(&q, which == LEADER ? &leader_ops : &part_ops, s);
}

static int lead(const struct program *p, struct state *s, int ready)
{
	close(s->t.master);
	close(s->bare.master);
	setsid();
	must(ioctl(s->t.slave, TIOCSCTTY, 0));
	s->tty = must(open("/dev/tty", O_RDWR | O_CLOEXEC));
	terminal = s->t.slave;
	shout = "L";
	signal(SIGINT, interrupted);
	s->foreground = must(fork());
	if (!s->foreground) {
		shout = "F";
		setpgid(0, 0);
		s->foreground = getpid();
		close(s->tty);
		s->tty = -1;
		return part(p, s, FOREGROUND, "foreground");
	}
	setpgid(s->foreground, s->foreground);
	must(tcsetpgrp(s->t.slave, s->foreground));
	must(write(ready, &s->foreground, sizeof(s->foreground)));
	close(ready);
	if (!must(fork()))
		return part(p, s, BACKGROUND, "background");
	if (!must(fork())) {
		must(ioctl(s->tty, TIOCNOTTY));
		close(s->tty);
		s->tty = -1;
		return part(p, s, WITHOUT, "without");
	}
	return part(p, s, LEADER, "leader");
}

static int lead_bare(const struct program *p, struct state *s)
{
	close(s->t.master);
	close(s->t.slave);
	close(s->bare.master);
	s->t.slave = -1;
	setsid();
	must(ioctl(s->bare.slave, TIOCSCTTY, 0));
	close(s->bare.slave);
	return part(p, s, BARE, "bare");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify_main, .finish = finish_main};
	struct program p;
	struct state s = {.tty = -1};
	int ready[2];

	program_start(&p, argc, argv);
	s.t = pty_pair(0);
	s.bare = pty_pair(0);
	must(pipe2(ready, O_CLOEXEC));
	s.leader = s.children[LEADER] = must(fork());
	if (!s.leader)
		return lead(&p, &s, ready[1]);
	s.children[BARE] = must(fork());
	if (!s.children[BARE])
		return lead_bare(&p, &s);
	close(ready[1]);
	if (read(ready[0], &s.foreground, sizeof(s.foreground)) != sizeof(s.foreground))
		program_die("waiting for the leader");
	close(ready[0]);
	close(s.t.slave);
	close(s.bare.slave);
	program_await(&p, "leader");
	program_await(&p, "foreground");
	program_await(&p, "background");
	program_await(&p, "without");
	program_await(&p, "bare");
	return program_serve(&p, &ops, &s);
}
