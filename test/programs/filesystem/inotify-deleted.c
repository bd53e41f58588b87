/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A watch on a deleted file that is still open. Proof: its number; at the end a write to the file comes as an event.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct state {
	int fd, file, wd;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int n = -1;

	ioctl(s->fd, FIONREAD, &n);
	expect_same(p, "bytes of events", n, 0);
	expect_same(p, "the watch", fdinfo_number(s->fd, "inotify wd:%llu"), s->wd);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct inotify_event e = {0};

	verify(p, state);
	must(write(s->file, "x", 1));
	expect_same(p, "reading the event", read(s->fd, &e, sizeof(e)), sizeof(e));
	expect_same(p, "its watch", e.wd, s->wd);
	expect_same(p, "what happened", e.mask, IN_MODIFY);
}

static void spoil(void *state)
{
	const struct state *s = state;
	char bytes[64];

	must(inotify_rm_watch(s->fd, s->wd));
	must(read(s->fd, bytes, sizeof(bytes)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.fd = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	s.file = must(open("file", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(unlink("file"));
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s.file);
	s.wd = must(inotify_add_watch(s.fd, path, IN_MODIFY));
	return program_serve(&p, &ops, &s);
}
