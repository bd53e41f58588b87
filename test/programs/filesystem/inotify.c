/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An inotify instance that watches folders and files, with gaps in the numbers of its watches. Proof: nothing waits in it; at the end what is
 * done in the folders and files comes as events with the watches' numbers, and a watch for once is gone after its event. With the
 * word "unread" events wait from the start.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
	int fd, folder, file, once;
	int file_fd;
	bool unread;
};

static int waiting(int fd)
{
	int n = -1;

	ioctl(fd, FIONREAD, &n);
	return n;
}

/* The next event; its name, "" when it has none. */
static const char *next_event(struct program *p, int fd, int wd, uint32_t mask)
{
	static union {
		struct inotify_event event;
		char room[4096];
	} buffer;
	static char name[256];
	static ssize_t n, at;

	if (at >= n) {
		n = read(fd, &buffer, sizeof(buffer));
		at = 0;
	}
	if (n <= 0) {
		program_bad(p, "no event for watch %d", wd);
		return "";
	}
	const struct inotify_event *e = (const void *)(buffer.room + at);
	at += (ssize_t)(sizeof(*e) + e->len);
	expect_same(p, "watch", e->wd, wd);
	expect_same(p, "event", e->mask, mask);
	snprintf(name, sizeof(name), "%s", e->len ? e->name : "");
	return name;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	if (s->unread)
		expect(p, waiting(s->fd) > 0, "the events are gone");
	else
		expect_same(p, "bytes of events", waiting(s->fd), 0);
	expect_same(p, "O_NONBLOCK", fcntl(s->fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	expect_same(p, "the first watch", fdinfo_number(s->fd, "inotify wd:%llu"), s->folder);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	close(must(open("folder/fresh", O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
	expect(p, !strcmp(next_event(p, s->fd, s->folder, IN_CREATE), "fresh"), "another name");
	must(unlink("folder/fresh"));
	expect(p, !strcmp(next_event(p, s->fd, s->folder, IN_DELETE), "fresh"), "another name");
	must(write(s->file_fd, "x", 1));
	next_event(p, s->fd, s->file, IN_MODIFY);
	if (p->more) {
		must(chmod("once", 0640));
		next_event(p, s->fd, s->once, IN_ATTRIB);
		next_event(p, s->fd, s->once, IN_IGNORED);
		must(chmod("once", 0600));
	}
	expect_same(p, "events that are too many", waiting(s->fd), 0);
	expect_same(p, "the next watch", inotify_add_watch(s->fd, ".", IN_DELETE), s->once + 1);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(inotify_rm_watch(s->fd, s->folder));
	while (waiting(s->fd) > 0) {
		char bytes[512];
		must(read(s->fd, bytes, sizeof(bytes)));
	}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct program p;
	struct state s;
	char bytes[512];

	program_start(&p, argc, argv);
	s.unread = program_told(argc, argv, "unread");
	must(chdir(p.folder));
	must(mkdir("folder", 0755));
	s.file_fd = must(open("file", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	close(must(open("once", O_CREAT | O_RDWR | O_CLOEXEC, 0600)));
	s.fd = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	int gone = must(inotify_add_watch(s.fd, "/", IN_CREATE));
	s.folder = must(inotify_add_watch(s.fd, "folder", IN_CREATE | IN_DELETE));
	int gone_too = must(inotify_add_watch(s.fd, "/proc", IN_CREATE));
	s.file = must(inotify_add_watch(s.fd, "file", IN_MODIFY | IN_DELETE_SELF | IN_EXCL_UNLINK));
	must(inotify_rm_watch(s.fd, gone));
	must(inotify_rm_watch(s.fd, gone_too));
	s.once = must(inotify_add_watch(s.fd, "once", p.more ? IN_ATTRIB | IN_ONESHOT : IN_ATTRIB));
	if (!s.unread)
		must(read(s.fd, bytes, sizeof(bytes)));
	return program_serve(&p, &ops, &s);
}
