/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deleted folders: an open one, the working directory of the child, and a deleted file whose folder is gone, too. Proof: they are
 * empty folders without a name, nothing can be made in them, the file has its bytes, no folder appears again.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct state {
	int folder, path, file;
	const char *root;
};

static void verify_folder(struct program *p, int fd)
{
	struct stat st;

	must(fstat(fd, &st));
	expect(p, S_ISDIR(st.st_mode), "it is no folder");
	expect_same(p, "mode", st.st_mode & 07777, 0711);
	expect_same(p, "making a file in it", openat(fd, "x", O_CREAT | O_WRONLY, 0600), -1);
	expect_same(p, "why", errno, ENOENT);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char bytes[1000];

	verify_folder(p, s->folder);
	verify_folder(p, s->path);
	expect_same(p, "reading the folder", syscall(SYS_getdents64, s->folder, bytes, sizeof(bytes)), -1);
	expect_same(p, "flags", fcntl(s->path, F_GETFL) & O_PATH, O_PATH);
	expect_same(p, "the file", pread(s->file, bytes, sizeof(bytes), 0), 999);
	expect(p, pattern_differs(bytes, 999, 5) < 0, "the file differs");
	expect_same(p, "the folder's name", access("open", F_OK), -1);
	expect_same(p, "the name of the file's folder", access("deep", F_OK), -1);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(pwrite(s->file, "x", 1, 7));
}

static void child_verify(struct program *p, void *state)
{
	char bytes[16];

	(void)state;
	expect_same(p, "getcwd", syscall(SYS_getcwd, bytes, sizeof(bytes)), -1);
	expect_same(p, "why", errno, ENOENT);
	expect_same(p, "making a file in the working directory", open("x", O_CREAT | O_WRONLY, 0600), -1);
	expect_same(p, "..", access("..", F_OK), 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static const struct program_ops child_ops = {.verify = child_verify};
	struct program p;
	struct state s = {.file = -1};
	char bytes[999];

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	must(mkdir("open", 0711));
	s.folder = must(open("open", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	s.path = must(open("open", O_PATH | O_CLOEXEC));
	must(rmdir("open"));
	must(mkdir("deep", 0755));
	must(mkdir("deep/deeper", 0755));
	s.file = must(open("deep/deeper/file", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	pattern_fill(bytes, sizeof(bytes), 5);
	must(write(s.file, bytes, sizeof(bytes)));
	must(unlink("deep/deeper/file"));
	must(rmdir("deep/deeper"));
	must(rmdir("deep"));
	must(mkdir("work", 0755));
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		must(chdir("work"));
		must(rmdir("../work"));
		return program_serve(&q, &child_ops, NULL);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
