/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deleted files that are not regular: a device node, a symbolic link, a FIFO and a node of a socket that are held by O_PATH. Proof: their
 * types, numbers, targets and owners.
 */
#include "program.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct state {
	int device, link, fifo, socket;
};

static void verify_node(struct program *p, const char *what, int fd, mode_t mode, uid_t owner)
{
	struct stat st;

	must(fstat(fd, &st));
	expect_same(p, what, st.st_mode, mode);
	expect_same(p, what, st.st_nlink, 0);
	expect_same(p, what, st.st_uid, owner);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char target[32] = "";
	struct stat st;

	verify_node(p, "the device", s->device, S_IFCHR | 0620, 7);
	must(fstat(s->device, &st));
	expect_same(p, "its number", st.st_rdev, makedev(1, 5));
	expect_same(p, "reading it", read(s->device, target, 8), 8);
	expect_same(p, "flags", fcntl(s->device, F_GETFL) & O_ACCMODE, O_RDWR);
	verify_node(p, "the link", s->link, S_IFLNK | 0777, 8);
	must(readlinkat(s->link, "", target, sizeof(target) - 1));
	expect(p, !strcmp(target, "nowhere/at/all"), "the link leads to '%s'", target);
	if (!p->more)
		return;
	verify_node(p, "the FIFO", s->fifo, S_IFIFO | 0604, 0);
	verify_node(p, "the socket", s->socket, S_IFSOCK | 0640, 0);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(fchmod(s->device, 0600));
}

static int node(const char *name, mode_t mode, dev_t dev, int flags)
{
	must(mknod(name, mode, dev));
	must(chmod(name, mode & 07777));
	int fd = must(open(name, flags | O_CLOEXEC));
	must(unlink(name));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s = {.fifo = -1, .socket = -1};

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.device = node("zero", S_IFCHR | 0620, makedev(1, 5), O_RDWR);
	must(fchown(s.device, 7, 7));
	must(symlink("nowhere/at/all", "link"));
	must(lchown("link", 8, 8));
	s.link = must(open("link", O_PATH | O_NOFOLLOW | O_CLOEXEC));
	must(unlink("link"));
	if (p.more) {
		s.fifo = node("fifo", S_IFIFO | 0604, 0, O_PATH);
		s.socket = node("socket", S_IFSOCK | 0640, 0, O_PATH);
	}
	return program_serve(&p, &ops, &s);
}
