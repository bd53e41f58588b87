/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that only stand for a path (O_PATH): of a file, a folder, a symbolic link, a FIFO, a socket's node, a device. Proof: type and
 * flags, that nothing can be read, and what can be done with them: open again, read the link, walk on from there.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct entry {
	const char *name;
	mode_t type;
	int flags;
	int fd;
} entries[] = {
	{"file", S_IFREG, 0, -1},          {"folder", S_IFDIR, O_DIRECTORY, -1},
	{"link", S_IFLNK, O_NOFOLLOW, -1}, {"device", S_IFCHR, 0, -1},
	{"fifo", S_IFIFO, 0, -1}, /* CRIU takes these two for what they are without O_PATH */
	{"socket", S_IFSOCK, 0, -1},
};

static size_t count;

static void verify(struct program *p, void *state)
{
	char bytes[16] = "", path[64];
	int kept = O_PATH | O_NOFOLLOW | (p->more ? O_DIRECTORY : 0);

	(void)state;
	for (size_t i = 0; i < count; i++) {
		const struct entry *e = &entries[i];
		struct stat by_fd, by_name;
		must(fstat(e->fd, &by_fd));
		must(lstat(e->name, &by_name));
		expect_same(p, e->name, by_fd.st_ino, by_name.st_ino);
		expect_same(p, e->name, by_fd.st_mode & S_IFMT, e->type);
		expect_same(p, e->name, fcntl(e->fd, F_GETFL) & kept, (O_PATH | e->flags) & kept);
		expect(p, read(e->fd, bytes, 1) < 0 && errno == EBADF, "%s can be read", e->name);
	}
	must(readlinkat(entries[2].fd, "", bytes, sizeof(bytes) - 1));
	expect(p, !strcmp(bytes, "file"), "the link leads to '%s'", bytes);
	expect_same(p, "below the folder", faccessat(entries[1].fd, "below", F_OK, 0), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", entries[0].fd);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	expect_same(p, "reading the file", read(fd, bytes, sizeof(bytes)), 5);
	close(fd);
}

static void spoil(void *state)
{
	(void)state;
	must(dup2(entries[1].fd, entries[0].fd));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	int fd;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	fd = must(open("file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	must(write(fd, "bytes", 5));
	close(fd);
	must(mkdir("folder", 0755));
	must(mkdir("folder/below", 0755));
	must(symlink("file", "link"));
	must(mknod("device", S_IFCHR | 0600, 0x103));
	must(mkfifo("fifo", 0600));
	must(mknod("socket", S_IFSOCK | 0600, 0));
	count = p.more ? ARRAY_SIZE(entries) : 4;
	for (size_t i = 0; i < count; i++)
		entries[i].fd = must(open(entries[i].name, entries[i].flags | O_PATH | O_CLOEXEC));
	return program_serve(&p, &ops, NULL);
}
