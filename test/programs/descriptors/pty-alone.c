/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals with one side: a master whose terminal side was never opened, one whose was closed with output left, one where nothing was left, a terminal
 * side whose master is closed, and one that was hung up by vhangup while its master goes on. Proof: what poll(2) and
 * reading tell; at the end output is read and the terminal side opened again.
 */
#include "pty.h"

#include <errno.h>

struct state {
	struct pty fresh, closed, empty, orphan, hung;
	int again; /* opened after the hang-up */
};

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	struct termios settings;
	char name[32];
	int n = -1;

	expect_same(p, "a fresh master", pty_ready(s->fresh.master, 0), 0);
	expect(p, !ptsname_r(s->fresh.master, name, sizeof(name)) && !strcmp(name, s->fresh.name),
	       "the fresh one is called %s", name);
	expect(p, pty_ready(s->closed.master, 0) & POLLHUP, "no hang-up without a terminal side");
	expect(p, pty_ready(s->empty.master, 0) & POLLHUP, "no hang-up where nothing is left");
	ioctl(s->closed.master, FIONREAD, &n);
	expect_same(p, "output left", n, 6);
	expect(p, tcgetattr(s->orphan.slave, &settings) < 0 && errno == EIO, "the orphan has settings");
	expect(p, pty_ready(s->orphan.slave, POLLIN) & POLLHUP, "the orphan does not see a hang-up");
	expect_same(p, "reading from the orphan", read(s->orphan.slave, name, 1), 0);
	expect(p, write(s->orphan.slave, "x", 1) < 0 && errno == EIO, "writing to the orphan succeeds");
	if (!p->more)
		return;
	expect(p, tcgetattr(s->hung.slave, &settings) < 0 && errno == EIO, "what was hung up has settings");
	expect_same(p, "reading from what was hung up", read(s->hung.slave, name, 1), 0);
	expect_same(p, "settings of what was opened later", tcgetattr(s->again, &settings), 0);
	expect_same(p, "its master", pty_ready(s->hung.master, 0), 0);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	char byte;

	verify(p, state);
	pty_expect(p, "output left", s->closed.master, "left\r\n");
	expect(p, read(s->closed.master, &byte, 1) < 0 && errno == EIO, "no error after the output");
	s->closed.slave = pty_open_slave(&s->closed, O_RDWR);
	expect_same(p, "hang-up after opening", pty_ready(s->closed.master, 0) & POLLHUP, 0);
	pty_raw(s->closed.slave);
	pty_expect_works(p, &s->closed);
	s->fresh.slave = pty_open_slave(&s->fresh, O_RDWR);
	pty_raw(s->fresh.slave);
	pty_expect_works(p, &s->fresh);
	if (!p->more)
		return;
	s->hung.slave = s->again;
	pty_raw(s->again);
	pty_expect_works(p, &s->hung);
}

static void spoil(void *state)
{
	struct state *s = state;

	must(pty_open_slave(&s->closed, O_RDWR));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	s.fresh = pty_open(0);
	s.empty = pty_pair(0);
	must(close(s.empty.slave));
	s.closed = pty_pair(0);
	s.orphan = pty_pair(0);
	must(write(s.closed.slave, "left\n", 5));
	must(close(s.closed.slave));
	must(close(s.orphan.master));
	if (p.more) {
		s.hung = pty_pair(0);
		must(ioctl(s.hung.slave, TIOCVHANGUP));
		s.again = pty_open_slave(&s.hung, O_RDWR);
	}
	return program_serve(&p, &ops, &s);
}
