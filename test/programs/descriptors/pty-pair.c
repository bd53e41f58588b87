/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two pseudo terminals with other settings than a new one: characters, modes, size, speed, settings that are locked, exclusive use,
 * owner and mode of the node. Several descriptions of one terminal side. Proof: what the ioctls tell, the number,
 * flags; at the end bytes pass both ways.
 */
#include "pty.h"

#include <errno.h>

enum { ROWS = 47, COLUMNS = 133, USER = 1000, GROUP = 5, MODE = 0622 };

/* The kernel's structure with a speed in numbers; libc has neither it nor its calls. */
struct settings2 {
	unsigned flags[4];
	unsigned char line, characters[19];
	unsigned speeds[2];
};

#define GET_SETTINGS2 _IOR('T', 0x2a, struct settings2)
#define SET_SETTINGS2 _IOW('T', 0x2b, struct settings2)

enum { FLAG_C = 2, OTHER_SPEED = 0010000, SPEED_IN = 12345, SPEED_OUT = 54321 };

struct state {
	struct pty plain, other;
	int second; /* a further description of other's terminal side */
	char names[2][32];
	struct termios settings[2];
};

/* A speed that has no name. */
static void set_speed(const struct pty *t)
{
	struct settings2 settings;

	must(ioctl(t->slave, GET_SETTINGS2, &settings));
	settings.flags[FLAG_C] &= ~(unsigned)(CBAUD | CIBAUD);
	settings.flags[FLAG_C] |= OTHER_SPEED | (unsigned)OTHER_SPEED << 16;
	settings.speeds[0] = SPEED_IN;
	settings.speeds[1] = SPEED_OUT;
	must(ioctl(t->slave, SET_SETTINGS2, &settings));
}

static void set_up(struct state *s, bool more)
{
	const struct winsize size = {ROWS, COLUMNS, 1000, 700};
	struct termios settings, locked;

	s->plain = pty_pair(0);
	s->other = pty_pair(O_NONBLOCK);
	s->second = pty_open_slave(&s->other, O_WRONLY);
	must(ioctl(s->other.slave, TIOCSWINSZ, &size));
	must(tcgetattr(s->other.slave, &settings));
	settings.c_cc[VINTR] = 'I' - '@';
	settings.c_cc[VEOL] = ';';
	settings.c_iflag |= IXANY | INLCR;
	settings.c_oflag &= ~(tcflag_t)OPOST;
	settings.c_lflag &= ~(tcflag_t)(ECHO | IEXTEN);
	cfsetspeed(&settings, B115200);
	must(tcsetattr(s->other.slave, TCSANOW, &settings));
	memset(&locked, 0, sizeof(locked));
	locked.c_iflag = IXANY;
	must(ioctl(s->other.slave, TIOCSLCKTRMIOS, &locked));
	must(ioctl(s->other.slave, TIOCEXCL));
	must(fchown(s->other.slave, USER, GROUP));
	must(fchmod(s->other.slave, MODE));
	if (more)
		set_speed(&s->plain);
	must(tcgetattr(s->plain.master, &s->settings[0]));
	must(tcgetattr(s->other.master, &s->settings[1]));
}

static void verify_one(struct program *p, const struct pty *t, const struct termios *want, bool exclusive)
{
	struct termios now;
	char name[32] = "";
	int is = -1;

	expect(p, !tcgetattr(t->slave, &now) && pty_same(&now, want), "other settings of %s", t->name);
	expect(p, !ptsname_r(t->master, name, sizeof(name)) && !strcmp(name, t->name), "%s became %s",
	       t->name, name);
	expect(p, !ttyname_r(t->slave, name, sizeof(name)) && !strcmp(name, t->name), "%s is called %s",
	       t->name, name);
	ioctl(t->slave, TIOCGEXCL, &is);
	expect_same(p, "exclusive", is, exclusive);
	ioctl(t->master, TIOCGPTLCK, &is);
	expect_same(p, "locked", is, 0);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct winsize size;
	struct termios locked;
	struct stat st;

	verify_one(p, &s->plain, &s->settings[0], false);
	verify_one(p, &s->other, &s->settings[1], true);
	expect(p,
	       !ioctl(s->other.master, TIOCGWINSZ, &size) && size.ws_row == ROWS && size.ws_col == COLUMNS &&
		       size.ws_xpixel == 1000 && size.ws_ypixel == 700,
	       "the size is %d x %d", size.ws_row, size.ws_col);
	expect(p, !ioctl(s->plain.master, TIOCGWINSZ, &size) && !size.ws_row && !size.ws_col,
	       "a size came about");
	expect(p,
	       !ioctl(s->other.slave, TIOCGLCKTRMIOS, &locked) && locked.c_iflag == IXANY && !locked.c_lflag,
	       "locked settings %x", locked.c_iflag);
	expect_same(p, "flags", fcntl(s->other.master, F_GETFL), O_RDWR | O_NONBLOCK | O_LARGEFILE | 0100000);
	expect_same(p, "flags of the second", fcntl(s->second, F_GETFL) & O_ACCMODE, O_WRONLY);
	expect_same(p, "flags of the plain one", fcntl(s->plain.slave, F_GETFL) & O_NONBLOCK, 0);
	must(fstat(s->second, &st));
	expect_same(p, "owner", st.st_uid, USER);
	expect_same(p, "group", st.st_gid, GROUP);
	if (!p->more)
		return;
	struct settings2 settings = {{0}};
	expect_same(p, "mode", st.st_mode & 07777, MODE);
	expect(p, !ioctl(s->plain.slave, GET_SETTINGS2, &settings), "no settings");
	expect_same(p, "speed of input", settings.speeds[0], SPEED_IN);
	expect_same(p, "speed of output", settings.speeds[1], SPEED_OUT);
}

static void finish(struct program *p, void *state)
{
	const struct termios none = {0};
	struct state *s = state;

	verify(p, state);
	must(ioctl(s->other.slave, TIOCSLCKTRMIOS, &none));
	pty_expect_works(p, &s->plain);
	pty_expect_works(p, &s->other);
	expect_same(p, "writing to the second", write(s->second, "second", 6), 6);
	pty_expect(p, "the master", s->other.master, "second");
	close(s->second);
	close(s->other.slave);
	expect(p, pty_ready(s->other.master, 0) & POLLHUP, "the master does not see its terminal side close");
	close(s->plain.master);
	expect(p, tcgetattr(s->plain.slave, &s->settings[0]) < 0 && errno == EIO,
	       "not hung up by its master");
}

static void spoil(void *state)
{
	const struct state *s = state;
	const struct winsize size = {ROWS + 1, COLUMNS, 1000, 700};

	must(ioctl(s->other.slave, TIOCSWINSZ, &size));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	set_up(&s, p.more);
	return program_serve(&p, &ops, &s);
}
