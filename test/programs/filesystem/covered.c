/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open file and an open folder that a mount hides by now. Proof: both are the inodes that they were, and the path shows what the mount
 * has instead.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
	int file, folder;
	ino_t inode;
	bool detached; /* nothing has taken its place */
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char bytes[16] = "";
	struct stat st;

	expect_same(p, "bytes", pread(s->file, bytes, sizeof(bytes), 0), 6);
	expect(p, !strcmp(bytes, "hidden"), "the file has '%s'", bytes);
	must(fstat(s->file, &st));
	expect_same(p, "inode", st.st_ino, s->inode);
	expect_same(p, "offset", lseek(s->file, 0, SEEK_CUR), 6);
	expect_same(p, "a name below the hidden folder", faccessat(s->folder, "file", F_OK, 0), 0);
	if (s->detached)
		return;
	expect_same(p, "the path", access("point/file", F_OK), -1);
	expect_same(p, "what the mount has", access("point/other", F_OK), 0);
}

static void spoil(void *state)
{
	must(pwrite(((struct state *)state)->file, "x", 1, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;
	struct stat st;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	must(mkdir("point", 0755));
	s.file = must(open("point/file", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(write(s.file, "hidden", 6));
	s.folder = must(open("point", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	must(fstat(s.file, &st));
	s.inode = st.st_ino;
	if (program_told(argc, argv, "wholly") && mount("other", "point", "tmpfs", 0, NULL) < 0)
		program_lacks("mounting a tmpfs");
	s.detached = program_told(argc, argv, "detached");
	if (s.detached && mount("other", "point", "tmpfs", 0, NULL) < 0)
		program_lacks("mounting a tmpfs");
	if (program_told(argc, argv, "wholly") || s.detached) {
		s.file = must(open("point/file", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
		must(write(s.file, "hidden", 6));
		s.folder = must(open("point", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
		must(fstat(s.file, &st));
		s.inode = st.st_ino;
	}
	if (s.detached) {
		must(umount2("point", MNT_DETACH));
		return program_serve(&p, &ops, &s);
	}
	if (mount("covered", "point", "tmpfs", 0, NULL) < 0)
		program_lacks("mounting a tmpfs");
	close(must(open("point/other", O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
	return program_serve(&p, &ops, &s);
}
