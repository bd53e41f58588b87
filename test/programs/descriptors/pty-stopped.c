/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals whose output stands still: by tcflow(3), and by the stop character. Proof: nothing can be written; at the
 * end each goes on by what belongs to it and not by the other.
 */
#include "pty.h"

struct state {
	struct pty by_call, by_character;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "room, stopped by a call", pty_ready(s->by_call.slave, POLLOUT), 0);
	expect_same(p, "room, stopped by a character", pty_ready(s->by_character.slave, POLLOUT), 0);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	must(write(s->by_call.master, "\21", 1)); /* ^Q */
	expect_same(p, "room after the start character", pty_ready(s->by_call.slave, POLLOUT), 0);
	must(tcflow(s->by_call.slave, TCOON));
	expect_same(p, "room after the call", pty_ready(s->by_call.slave, POLLOUT), POLLOUT);
	must(tcflow(s->by_character.slave, TCOON));
	expect_same(p, "room after the call", pty_ready(s->by_character.slave, POLLOUT), 0);
	must(write(s->by_character.master, "\21", 1));
	expect_same(p, "room after the start character", pty_ready(s->by_character.slave, POLLOUT), POLLOUT);
	must(write(s->by_call.slave, "one", 3));
	must(write(s->by_character.slave, "two", 3));
	pty_expect(p, "output", s->by_call.master, "before\r\none");
	pty_expect(p, "output", s->by_character.master, "two");
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(tcflow(s->by_call.slave, TCOON));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	s.by_call = pty_pair(0);
	s.by_character = pty_pair(0);
	must(write(s.by_call.slave, "before\n", 7));
	must(tcflow(s.by_call.slave, TCOOFF));
	must(write(s.by_character.master, "\23", 1)); /* ^S */
	sleep_ms(50);
	return program_serve(&p, &ops, &s);
}
