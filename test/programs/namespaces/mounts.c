/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mount namespace of its own, by word: "tmpfs" with contents and a second sight of a part of it, "sealed" read-only with
 * options, "readonly" a file system that is read-only though its mount is not, "bind" a folder and a file seen at other
 * places, "gone" a mount of the world outside that is unmounted inside, "shared" a mount that passes on what is mounted in
 * it, "stacked" one tmpfs over another, with a file open in the upper one, "below" a child with a namespace of its own.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BYTES = 30000 };

struct state {
	const char *what;
	char base[200];
	int fd;
};

static const char *at(const struct state *s, const char *name)
{
	static char paths[4][300];
	static unsigned next;
	char *path = paths[next++ % 4];
	snprintf(path, sizeof(paths[0]), "%s/%s", s->base, name);
	return path;
}

static void missing(struct program *p, const char *path)
{
	expect(p, access(path, F_OK) < 0 && errno == ENOENT, "%s is there", path);
}

/* What /proc/self/mountinfo says of a place; "" when nothing is mounted there. */
static void line_of(const char *point, char *ret, size_t n)
{
	char line[1000], here[400];
	FILE *f = fopen("/proc/self/mountinfo", "re");
	ret[0] = '\0';
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %*s %*s %*s %399s", here) == 1 && !strcmp(here, point))
			snprintf(ret, n, "%s", strchr(strstr(line, here), ' '));
	if (f)
		fclose(f);
}

static void expect_mounted(struct program *p, const char *point, const char *word)
{
	char line[1000];
	line_of(point, line, sizeof(line));
	expect(p, strstr(line, word) != NULL, "'%s' lacks '%s': '%s'", point, word, line);
}

static void make(struct state *s)
{
	must(mkdir(s->base, 0755));
	if (!strcmp(s->what, "gone")) {
		/* The machine may have one below that of the test. */
		must(umount2("/run", MNT_DETACH));
		while (!umount2("/run", MNT_DETACH))
			continue;
		return;
	}
	must(mkdir(at(s, "a"), 0700));
	must(mkdir(at(s, "b"), 0700));
	file_put(at(s, "a/outside"), 0644, 9, BYTES);
	if (!strcmp(s->what, "bind")) {
		file_put(at(s, "file"), 0600, 4, BYTES);
		file_put(at(s, "b/target"), 0600, 5, BYTES);
		must(mount(at(s, "file"), at(s, "b/target"), NULL, MS_BIND, NULL));
		must(mkdir(at(s, "c"), 0700));
		must(mount(at(s, "a"), at(s, "c"), NULL, MS_BIND, NULL));
		must(mount(NULL, at(s, "c"), NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOEXEC, NULL));
		return;
	}
	must(mount("first", at(s, "a"), "tmpfs", MS_NOSUID, "size=2m,mode=750"));
	file_put(at(s, "a/file"), 0640, 1, BYTES);
	must(mkdir(at(s, "a/folder"), 01777));
	must(chmod(at(s, "a/folder"), 01777));
	file_put(at(s, "a/folder/inner"), 04755, 2, BYTES);
	must(symlink("folder/inner", at(s, "a/link")));
	must(link(at(s, "a/file"), at(s, "a/second-name")));
	must(chown(at(s, "a/folder"), 65534, 65534));
	if (!strcmp(s->what, "tmpfs"))
		must(mount(at(s, "a/folder"), at(s, "b"), NULL, MS_BIND, NULL));
	if (!strcmp(s->what, "sealed"))
		must(mount(NULL, at(s, "a"), NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOATIME | MS_NOSUID,
			   NULL));
	if (!strcmp(s->what, "readonly")) {
		must(mount(NULL, at(s, "a"), NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID, NULL));
		must(mount(NULL, at(s, "a"), NULL, MS_REMOUNT | MS_BIND | MS_NOSUID, NULL));
	}
	if (!strcmp(s->what, "shared"))
		must(mount(NULL, at(s, "a"), NULL, MS_SHARED, NULL));
	if (!strcmp(s->what, "stacked")) {
		must(mkdir(at(s, "a/deep"), 0755));
		must(mount("second", at(s, "a/deep"), "tmpfs", MS_NODEV, NULL));
		file_put(at(s, "a/deep/file"), 0600, 3, BYTES);
		s->fd = must(open(at(s, "a/deep/file"), O_RDWR | O_CLOEXEC));
		must(lseek(s->fd, 100, SEEK_SET));
	}
}

static void verify_tmpfs(struct program *p, const struct state *s)
{
	struct stat one = {0}, two = {0}, folder = {0};
	char target[64] = "";
	struct statvfs fs = {0};
	file_expect(p, at(s, "a/file"), 0640, 1, BYTES);
	file_expect(p, at(s, "a/folder/inner"), 04755, 2, BYTES);
	missing(p, at(s, "a/outside"));
	expect(p,
	       readlink(at(s, "a/link"), target, sizeof(target) - 1) > 0 && !strcmp(target, "folder/inner"),
	       "the link leads to '%s'", target);
	expect(p,
	       stat(at(s, "a/file"), &one) == 0 && stat(at(s, "a/second-name"), &two) == 0 &&
		       one.st_ino == two.st_ino,
	       "the two names are of two files");
	expect(p, stat(at(s, "a/folder"), &folder) == 0, "the folder is gone");
	expect_same(p, "rights of the folder", folder.st_mode & 07777, 01777);
	expect_same(p, "owner of the folder", folder.st_uid, 65534);
	expect(p, statvfs(at(s, "a"), &fs) == 0, "statvfs fails");
	expect_same(p, "size", fs.f_blocks * fs.f_frsize, 2 << 20);
	expect_mounted(p, at(s, "a"), "nosuid");
	expect_mounted(p, at(s, "a"), " tmpfs first ");
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	if (!strcmp(s->what, "gone")) {
		char line[1000];
		line_of("/run", line, sizeof(line));
		expect(p, !line[0], "something is mounted at /run: %s", line);
		return;
	}
	if (!strcmp(s->what, "bind")) {
		file_expect(p, at(s, "b/target"), 0600, 4, BYTES);
		file_expect(p, at(s, "c/outside"), 0644, 9, BYTES);
		expect(p, open(at(s, "c/new"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0 && errno == EROFS,
		       "c can be written to");
		expect_mounted(p, at(s, "c"), "ro,noexec");
		return;
	}
	verify_tmpfs(p, s);
	if (!strcmp(s->what, "tmpfs"))
		file_expect(p, at(s, "b/inner"), 04755, 2, BYTES);
	if (!strcmp(s->what, "sealed")) {
		expect_mounted(p, at(s, "a"), "ro,nosuid,noatime");
		expect(p, open(at(s, "a/new"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0 && errno == EROFS,
		       "a can be written to");
	}
	if (!strcmp(s->what, "readonly")) {
		expect_mounted(p, at(s, "a"), "rw,nosuid");
		expect(p, open(at(s, "a/new"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0 && errno == EROFS,
		       "the file system can be written to");
	}
	if (!strcmp(s->what, "shared"))
		expect_mounted(p, at(s, "a"), " shared:");
	if (!strcmp(s->what, "below"))
		missing(p, at(s, "b/private"));
	if (!strcmp(s->what, "stacked")) {
		struct stat mine = {0}, named = {0};
		file_expect(p, at(s, "a/deep/file"), 0600, 3, BYTES);
		expect_same(p, "position", lseek(s->fd, 0, SEEK_CUR), 100);
		expect(p,
		       fstat(s->fd, &mine) == 0 && stat(at(s, "a/deep/file"), &named) == 0 &&
			       mine.st_ino == named.st_ino && mine.st_dev == named.st_dev,
		       "the open file is another");
	}
}

static void verify_below(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat mine = {0}, named = {0};
	file_expect(p, at(s, "a/file"), 0640, 1, BYTES);
	file_expect(p, at(s, "b/private"), 0600, 7, BYTES);
	expect_mounted(p, at(s, "b"), " tmpfs third ");
	expect(p,
	       fstat(s->fd, &mine) == 0 && stat(at(s, "b/private"), &named) == 0 &&
		       mine.st_ino == named.st_ino && mine.st_dev == named.st_dev,
	       "the open file is another");
}

static __attribute__((noreturn)) void live_below(const struct program *p, const struct state *outer)
{
	static const struct program_ops ops = {.verify = verify_below};
	static struct state s;
	struct program role = program_role(p, "below");
	s = *outer;
	must(unshare(CLONE_NEWNS));
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	must(mount("third", at(&s, "b"), "tmpfs", 0, NULL));
	file_put(at(&s, "b/private"), 0600, 7, BYTES);
	s.fd = must(open(at(&s, "b/private"), O_RDONLY | O_CLOEXEC));
	_exit(program_serve(&role, &ops, &s));
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	verify(p, state);
	if (!strcmp(s->what, "tmpfs")) {
		file_put(at(s, "b/late"), 0600, 6, BYTES);
		file_expect(p, at(s, "a/folder/late"), 0600, 6, BYTES);
	}
}

static void spoil(void *state)
{
	const struct state *s = state;
	if (!strcmp(s->what, "gone"))
		must(mount("again", "/run", "tmpfs", 0, NULL));
	else if (!strcmp(s->what, "bind"))
		must(umount2(at(s, "c"), MNT_DETACH));
	else
		must(umount2(at(s, "a"), MNT_DETACH));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const char *const words[] = {"tmpfs", "sealed", "readonly", "bind",
					    "gone",  "shared", "stacked",  "below"};
	static struct state s;
	struct program p;
	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (program_told(argc, argv, words[i]))
			s.what = words[i];
	snprintf(s.base, sizeof(s.base), "%s/mounts", p.folder);
	must(unshare(CLONE_NEWNS));
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	make(&s);
	if (!strcmp(s.what, "below")) {
		if (!must(fork()))
			live_below(&p, &s);
		program_await(&p, "below");
	}
	return program_serve(&p, &ops, &s);
}
