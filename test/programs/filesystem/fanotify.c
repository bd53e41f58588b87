/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fanotify groups: one with marks on a folder and on a mount, with something that it ignores; one that reports by file
 * handle and has a mark on a file system. Proof: nothing waits; at the end what is done comes as events, and what is ignored does
 * not. With the word "permission" it is asked before files are opened.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
	int group, handles; /* -1 = not asked for */
};

static int waiting(int fd)
{
	int n = -1;

	ioctl(fd, FIONREAD, &n);
	return n;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "bytes of events", waiting(s->group), 0);
	if (s->handles >= 0)
		expect_same(p, "bytes of events of the other", waiting(s->handles), 0);
	expect_same(p, "flags of the group", fdinfo_number(s->group, "fanotify flags:%llx") & FAN_NONBLOCK,
		    FAN_NONBLOCK);
}

/* Masks of all events that wait, together. */
static uint64_t events(int fd)
{
	static union {
		struct fanotify_event_metadata event;
		char room[8192];
	} buffer;
	uint64_t mask = 0;
	ssize_t n = read(fd, &buffer, sizeof(buffer));

	for (ssize_t at = 0; at < n;) {
		const struct fanotify_event_metadata *e = (const void *)(buffer.room + at);
		mask |= e->mask;
		if (e->fd >= 0)
			close(e->fd);
		at += e->event_len;
	}
	return mask;
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	int fd = must(open("mounted/folder/file", O_RDWR | O_CLOEXEC));
	expect_same(p, "what is ignored", events(s->group), 0);
	must(write(fd, "x", 1));
	expect_same(p, "a write in the folder", events(s->group), FAN_MODIFY);
	close(fd);
	expect_same(p, "closing on the mount", events(s->group), FAN_CLOSE_WRITE);
	if (s->handles < 0)
		return;
	events(s->handles);
	close(must(open("mounted/fresh", O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
	expect_same(p, "a new file on the file system", events(s->handles), FAN_CREATE);
	expect_same(p, "the next", waiting(s->handles), 0);
}

static void spoil(void *state)
{
	const struct state *s = state;

	close(s->group);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct program p;
	struct state s = {.handles = -1};

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	must(mkdir("mounted", 0755));
	if (mount("mounted", "mounted", "tmpfs", 0, NULL) < 0)
		program_lacks("mounting a tmpfs");
	must(mkdir("mounted/folder", 0755));
	close(must(open("mounted/folder/file", O_CREAT | O_RDWR | O_CLOEXEC, 0600)));
	unsigned class = program_told(argc, argv, "permission") ? FAN_CLASS_CONTENT : FAN_CLASS_NOTIF;
	s.group = fanotify_init(class | FAN_NONBLOCK, O_RDONLY | O_CLOEXEC);
	if (s.group < 0)
		program_lacks("fanotify");
	must(fanotify_mark(s.group, FAN_MARK_ADD, FAN_MODIFY | FAN_EVENT_ON_CHILD, AT_FDCWD,
			   "mounted/folder"));
	must(fanotify_mark(s.group, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_CLOSE_WRITE | FAN_OPEN, AT_FDCWD,
			   "mounted"));
	must(fanotify_mark(s.group, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY,
			   FAN_OPEN, AT_FDCWD, "mounted/folder/file"));
	if (class == FAN_CLASS_CONTENT)
		must(fanotify_mark(s.group, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, "mounted/folder/file"));
	if (p.more) {
		s.handles =
			must(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_NONBLOCK, O_RDONLY));
		must(fanotify_mark(s.handles, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CREATE, AT_FDCWD,
				   "mounted"));
	}
	return program_serve(&p, &ops, &s);
}
