/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process whose root directory is a folder, with its working directory in it, and with a file and a folder open that lie
 * outside. Proof: what "/" and "." are, that paths end at the root, and what can be reached through the open folder.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
	int outside, file;
	ino_t root, work;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat st;
	char path[64], byte;

	must(stat("/", &st));
	expect_same(p, "the root", st.st_ino, s->root);
	must(stat("/..", &st));
	expect_same(p, "above the root", st.st_ino, s->root);
	must(stat(".", &st));
	expect_same(p, "the working directory", st.st_ino, s->work);
	expect(p, getcwd(path, sizeof(path)) && !strcmp(path, "/work"), "getcwd says %s", path);
	expect_same(p, "what lies outside", faccessat(s->outside, "secret", F_OK, 0), 0);
	expect_same(p, "the same by its path", access("/secret", F_OK), -1);
	expect_same(p, "reading the file", pread(s->file, &byte, 1, 0), 1);
}

static void spoil(void *state)
{
	(void)state;
	must(chdir("/"));
}

static void parent_verify(struct program *p, void *state)
{
	(void)state;
	expect_same(p, "the parent's root", access("/proc/self/stat", F_OK), 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops child_ops = {.verify = verify, .spoil = spoil};
	static const struct program_ops ops = {.verify = parent_verify};
	struct program p;
	struct state s;
	struct stat st;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	must(mkdir("root", 0755));
	must(mkdir("root/work", 0755));
	must(mkdir("root/mailbox", 0755));
	s.file = must(open("secret", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(write(s.file, "x", 1));
	s.outside = must(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	must(stat("root", &st));
	s.root = st.st_ino;
	must(stat("root/work", &st));
	s.work = st.st_ino;
	/* So that it can be asked. */
	if (mount(p.folder, "root/mailbox", NULL, MS_BIND, NULL) < 0)
		program_lacks("bind mounts");
	if (!must(fork())) {
		struct program q = program_role(&p, "inside");
		must(chroot("root"));
		must(chdir("/work"));
		snprintf(q.folder, sizeof(q.folder), "/mailbox");
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "inside");
	return program_serve(&p, &ops, &s);
}
