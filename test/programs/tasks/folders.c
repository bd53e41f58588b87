/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Working folder, root and umask of two processes; one of them lives in a chroot. Proof: getcwd(2), device and inode
 * of both folders, what is reachable by absolute and relative names, and the mode that a new file gets.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
	char cwd[256];
	struct stat root, here;
	mode_t umask;
};

static void state_read(struct state *ret)
{
	memset(ret, 0, sizeof(*ret));
	must(getcwd(ret->cwd, sizeof(ret->cwd)) ? 0 : -1);
	must(stat("/", &ret->root));
	must(stat(".", &ret->here));
	ret->umask = umask(0);
	umask(ret->umask);
}

static void verify(struct program *p, void *state)
{
	const struct state *want = state;
	struct state now;
	struct stat made = {0};

	state_read(&now);
	expect(p, !strcmp(now.cwd, want->cwd), "the working folder is '%s', not '%s'", now.cwd, want->cwd);
	expect_same(p, "inode of the root", now.root.st_ino, want->root.st_ino);
	expect_same(p, "device of the root", now.root.st_dev, want->root.st_dev);
	expect_same(p, "inode of the working folder", now.here.st_ino, want->here.st_ino);
	expect_same(p, "umask", now.umask, want->umask);
	expect(p, access("mark", F_OK) == 0, "the file 'mark' is not in the working folder");
	int fd = open("made", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0777);
	expect(p, fd >= 0 && fstat(fd, &made) == 0, "cannot make a file in the working folder");
	expect_same(p, "mode of a new file", made.st_mode & 0777, 0777 & ~want->umask);
	close(fd);
	unlink("made");
}

static void spoil(void *state)
{
	(void)state;
	umask(077);
}

static void make_folder(const char *name)
{
	must(mkdir(name, 0755));
	must(chdir(name));
	close(must(open("mark", O_CREAT | O_WRONLY | O_CLOEXEC, 0644)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	if (!must(fork())) {
		struct program q = program_role(&p, "chroot");
		make_folder("root-inside");
		/* The mailbox is the new root, so that it stays reachable. */
		must(chroot(p.folder));
		strcpy(q.folder, "/");
		umask(0);
		state_read(&s);
		return program_serve(&q, &ops, &s);
	}
	program_await(&p, "chroot");
	make_folder("plain");
	make_folder("deeper");
	umask(027);
	state_read(&s);
	return program_serve(&p, &ops, &s);
}
