/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was typed and not read, in line mode: lines, one ended by the end-of-file character, an end of file alone, one with a
 * newline taken literally, one ended by a character that the program chose, and a line that is still being typed and
 * can be corrected. Echo is off in one terminal and on in the other. Proof: how much waits; at the end each read gives what
 * it would have given.
 */
#include "pty.h"

#include <errno.h>

struct state {
	struct pty quiet, echoing;
};

static void type(const struct pty *t, const char *text)
{
	if (write(t->master, text, strlen(text)) != (ssize_t)strlen(text))
		program_die("typing");
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int n = -1;

	ioctl(s->quiet.slave, FIONREAD, &n);
	/* An end-of-file character counts in no line. */
	expect_same(p, "bytes that wait", n, 6 + 4 + 8 + 6);
	ioctl(s->echoing.slave, FIONREAD, &n);
	expect_same(p, "bytes that wait in the other", n, 5);
	ioctl(s->echoing.master, FIONREAD, &n);
	expect_same(p, "bytes of echo", n, 6 + 4);
}

static void expect_line(struct program *p, const struct state *s, const char *want)
{
	char got[64] = "";
	ssize_t n = pty_read(s->quiet.slave, got, sizeof(got));

	expect(p, n == (ssize_t)strlen(want) && !memcmp(got, want, (size_t)n), "read '%.*s' (%zd), not '%s'",
	       (int)MAX(n, 0), got, n, want);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	if (p->more) {
		expect_line(p, s, "first\n");
		expect_line(p, s, "half");
		expect_line(p, s, "");
		expect_line(p, s, "two\none\n");
		expect_line(p, s, "chose;");
	}
	if (p->more)
		pty_expect_nothing(p, "a line being typed", s->quiet.slave);
	/* Two characters are rubbed out, then it ends. */
	type(&s->quiet, "\177\177ed\n");
	if (p->more)
		expect_line(p, s, "beged\n");
	pty_expect(p, "the line with echo", s->echoing.slave, "echo\n");
	pty_expect(p, "its echo", s->echoing.master, "echo\r\npart");
	type(&s->echoing, "ial\n");
	if (p->more)
		pty_expect(p, "the line that was being typed", s->echoing.slave, "partial\n");
	pty_expect(p, "the rest of the echo", s->echoing.master, "ial\r\n");
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(read(s->quiet.slave, &(char){0}, 1));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct termios settings;
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	s.quiet = pty_pair(0);
	s.echoing = pty_pair(0);
	must(tcgetattr(s.quiet.slave, &settings));
	settings.c_lflag &= ~(tcflag_t)ECHO;
	settings.c_cc[VEOL] = ';';
	must(tcsetattr(s.quiet.slave, TCSANOW, &settings));
	type(&s.quiet, "first\nhalf\4\4two\26\none\nchose;begun");
	type(&s.echoing, "echo\npart");
	pty_ready(s.echoing.slave, POLLIN);
	pty_ready(s.echoing.master, POLLIN);
	sleep_ms(50);
	return program_serve(&p, &ops, &s);
}
