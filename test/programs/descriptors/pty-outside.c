/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A terminal whose master is in another program: its name comes as a word, "ctty" makes it the controlling terminal. Proof: what
 * is written arrives, which the other side sees.
 */
#include "pty.h"

static void verify(struct program *p, void *state)
{
	struct termios settings;

	(void)state;
	expect(p, !tcgetattr(20, &settings) && !(settings.c_lflag & ICANON), "other settings");
	expect_same(p, "writing", write(20, "verified", 8), 8);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	struct program p;

	program_start(&p, argc, argv);
	int fd = argc > 2 ? must(open(argv[2], O_RDWR | O_NOCTTY | O_CLOEXEC)) : -1;
	pty_raw(fd);
	must(dup2(fd, 20));
	close(fd);
	if (program_told(argc, argv, "ctty"))
		must(ioctl(20, TIOCSCTTY, 0));
	return program_serve(&p, &ops, NULL);
}
