/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A master in packet mode with output that waits, and a locked terminal whose terminal side nobody can open. Proof: the modes;
 * at the end each read in packet mode begins with its status byte, a flush is reported, and the lock opens.
 */
#include "pty.h"

#include <errno.h>

struct state {
	struct pty packet, locked;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int is = -1, n = -1;

	ioctl(s->packet.master, TIOCGPKT, &is);
	expect_same(p, "packet mode", is, 1);
	ioctl(s->packet.master, FIONREAD, &n);
	expect_same(p, "output that waits", n, 5);
	ioctl(s->locked.master, TIOCGPKT, &is);
	expect_same(p, "packet mode of the other", is, 0);
	ioctl(s->locked.master, TIOCGPTLCK, &is);
	expect_same(p, "locked", is, 1);
	int fd = open(s->locked.name, O_RDWR | O_NOCTTY);
	expect(p, fd < 0 && errno == EIO, "the locked one can be opened");
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	char got[16];
	int unlocked = 0;

	verify(p, state);
	expect_same(p, "reading a packet", pty_read(s->packet.master, got, sizeof(got)), 6);
	expect(p, !memcmp(got, "\0shown", 6), "another packet");
	must(tcflush(s->packet.slave, TCIFLUSH));
	expect_same(p, "status", pty_ready(s->packet.master, POLLPRI) & POLLPRI, POLLPRI);
	expect_same(p, "reading a status", pty_read(s->packet.master, got, sizeof(got)), 1);
	expect_same(p, "the status", got[0], TIOCPKT_FLUSHREAD);
	must(ioctl(s->locked.master, TIOCSPTLCK, &unlocked));
	s->locked.slave = pty_open_slave(&s->locked, O_RDWR);
	pty_raw(s->locked.slave);
	pty_expect_works(p, &s->locked);
}

static void spoil(void *state)
{
	const struct state *s = state;
	int off = 0;

	must(ioctl(s->packet.master, TIOCPKT, &off));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;
	int on = 1;

	program_start(&p, argc, argv);
	s.packet = pty_pair(0);
	s.locked = pty_open(0);
	must(write(s.packet.slave, "shown", 5));
	must(ioctl(s.packet.master, TIOCPKT, &on));
	must(ioctl(s.locked.master, TIOCSPTLCK, &on));
	sleep_ms(50);
	return program_serve(&p, &ops, &s);
}
