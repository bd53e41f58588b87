/* SPDX-License-Identifier: Apache-2.0 */
/* Pseudo terminals for the programs of this folder. */
#pragma once

#include "program.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

struct pty {
	int master, slave; /* -1 = closed */
	char name[160];
};

static inline int pty_open_slave(const struct pty *t, int flags)
{
	return must(open(t->name, flags | O_NOCTTY | O_CLOEXEC));
}

static inline struct pty pty_open(int flags)
{
	struct pty t = {.slave = -1};
	int unlocked = 0;

	t.master = must(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | flags));
	must(ioctl(t.master, TIOCSPTLCK, &unlocked));
	if (ptsname_r(t.master, t.name, sizeof(t.name)))
		program_die("ptsname_r");
	return t;
}

static inline struct pty pty_pair(int flags)
{
	struct pty t = pty_open(flags);

	t.slave = pty_open_slave(&t, O_RDWR | flags);
	return t;
}

/* Everything that the kernel keeps of them; libc leaves the end of the array alone. */
static inline bool pty_same(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag && a->c_line == b->c_line && !memcmp(a->c_cc, b->c_cc, 19) &&
	       cfgetispeed(a) == cfgetispeed(b) && cfgetospeed(a) == cfgetospeed(b);
}

static inline void pty_raw(int fd)
{
	struct termios settings;

	must(tcgetattr(fd, &settings));
	cfmakeraw(&settings);
	must(tcsetattr(fd, TCSANOW, &settings));
}

static inline short pty_ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 100) < 0 ? 0 : p.revents;
}

/* One read without waiting for ever; -1 when nothing comes. */
static inline ssize_t pty_read(int fd, char *to, size_t n)
{
	return pty_ready(fd, POLLIN) & (POLLIN | POLLHUP) ? read(fd, to, n) : -1;
}

/* Read exactly these bytes. */
static inline void pty_expect(struct program *p, const char *what, int fd, const char *want)
{
	char got[8192];
	size_t n = 0;

	while (n < strlen(want)) {
		ssize_t more = pty_read(fd, got + n, MIN(strlen(want) - n, sizeof(got) - n));
		if (more <= 0)
			break;
		n += (size_t)more;
	}
	expect(p, n == strlen(want) && !memcmp(got, want, n), "%s: '%.*s' (%zu) instead of '%s'", what,
	       (int)MIN(n, sizeof(got)), got, n, want);
}

/* Nothing more is there. */
static inline void pty_expect_nothing(struct program *p, const char *what, int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	expect(p, poll(&poll_fd, 1, 50) == 0 || !(poll_fd.revents & POLLIN), "%s: something more to read",
	       what);
}

/* It works in both directions: settings with echo and lines, or raw ones. */
static inline void pty_expect_works(struct program *p, const struct pty *t)
{
	pty_raw(t->master);
	expect_same(p, "writing to the master", write(t->master, "typed", 5), 5);
	pty_expect(p, "the terminal side", t->slave, "typed");
	expect_same(p, "writing to the terminal side", write(t->slave, "shown", 5), 5);
	pty_expect(p, "the master", t->master, "shown");
}
