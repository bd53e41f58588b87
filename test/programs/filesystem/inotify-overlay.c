/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches on an overlay file system, whose handles the kernel shows but does not open: of a folder and a file of the lower layer, of a
 * file of the upper, and of one below so many folders that nobody finds it who searches. Proof: the events come with the watches'
 * numbers at the end.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDERS = 80 };

struct state {
	int fd, folder, lower, upper, deep;
	char deep_path[2 * FOLDERS + 64];
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int n = -1;

	ioctl(s->fd, FIONREAD, &n);
	expect_same(p, "bytes of events", n, 0);
	expect_same(p, "the first watch", fdinfo_number(s->fd, "inotify wd:%llu"), s->folder);
}

static void expect_event(struct program *p, const struct state *s, int wd, uint32_t mask)
{
	union {
		struct inotify_event event;
		char room[sizeof(struct inotify_event) + 256];
	} buffer = {.event = {.wd = 0}};

	if (read(s->fd, &buffer, sizeof(buffer)) < (ssize_t)sizeof(buffer.event))
		program_bad(p, "no event for watch %d", wd);
	expect_same(p, "its watch", buffer.event.wd, wd);
	expect_same(p, "what happened", buffer.event.mask, mask);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	close(must(open("merged/folder/fresh", O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
	expect_event(p, s, s->folder, IN_CREATE);
	int fd = must(open("merged/upper-file", O_WRONLY | O_CLOEXEC));
	must(write(fd, "x", 1));
	close(fd);
	expect_event(p, s, s->upper, IN_MODIFY);
	close(must(open("merged/folder/lower-file", O_RDONLY | O_CLOEXEC)));
	expect_event(p, s, s->lower, IN_OPEN);
	close(must(open(s->deep_path, O_RDONLY | O_CLOEXEC)));
	expect_event(p, s, s->deep, IN_OPEN);
}

static void spoil(void *state)
{
	const struct state *s = state;
	char bytes[64];

	must(inotify_rm_watch(s->fd, s->folder));
	must(read(s->fd, bytes, sizeof(bytes)));
}

static void make(const char *name)
{
	close(must(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
}

/* In a layer; its path below that. */
static void make_deep(const char *layer, char *below)
{
	char path[2 * FOLDERS + 64];
	size_t top = strlen(layer), end = top;

	memcpy(path, layer, top + 1);
	for (int i = 0; i < FOLDERS; i++) {
		end += (size_t)sprintf(path + end, "/d");
		must(mkdir(path, 0755));
	}
	sprintf(path + end, "/file");
	make(path);
	strcpy(below, path + top);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct program p;
	struct state s;
	char below[2 * FOLDERS + 64], options[3 * sizeof(p.folder) + 128];

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	must(mkdir("layers", 0755));
	must(mkdir("merged", 0755));
	must(mount("layers", "layers", "tmpfs", 0, NULL));
	must(mkdir("layers/lower", 0755));
	must(mkdir("layers/lower/folder", 0755));
	must(mkdir("layers/upper", 0755));
	must(mkdir("layers/work", 0755));
	make("layers/lower/folder/lower-file");
	make("layers/upper/upper-file");
	make_deep("layers/lower", below);
	snprintf(s.deep_path, sizeof(s.deep_path), "merged%s", below);
	snprintf(options, sizeof(options),
		 "lowerdir=%s/layers/lower,upperdir=%s/layers/upper,workdir=%s/layers/work", p.folder,
		 p.folder, p.folder);
	if (mount("overlay", "merged", "overlay", 0, options) < 0)
		program_lacks("overlayfs");
	s.fd = must(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	s.folder = must(inotify_add_watch(s.fd, "merged/folder", IN_CREATE));
	s.lower = must(inotify_add_watch(s.fd, "merged/folder/lower-file", IN_OPEN));
	s.upper = must(inotify_add_watch(s.fd, "merged/upper-file", IN_MODIFY));
	s.deep = must(inotify_add_watch(s.fd, s.deep_path, IN_OPEN));
	return program_serve(&p, &ops, &s);
}
