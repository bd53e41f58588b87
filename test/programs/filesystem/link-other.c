/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files whose names were removed though they have others: in the same folder, in another one, two removed names of one inode; and files
 * that were renamed, alone and with their folder. Proof: the inode is the same, so that what is written is seen under the
 * name that is left, and no further name appears.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct file {
	const char *name;    /* opened by */
	const char *left;    /* there afterwards */
	const char *removed; /* a further one; NULL */
	nlink_t links;
	int fd;
	ino_t inode;
};

static struct file files[] = {
	{"here", "here.backup", NULL, 1, -1, 0},
	{"away", "folder/away", NULL, 1, -1, 0},
	{"twice", "folder/twice", "twice-again", 1, -1, 0},
};

static int moved, in_moved;

static void verify(struct program *p, void *state)
{
	struct stat st, left;
	char bytes[32] = "";

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		const struct file *f = &files[i];
		must(fstat(f->fd, &st));
		expect_same(p, "stat", stat(f->left, &left), 0);
		expect_same(p, f->name, st.st_ino, f->inode);
		expect_same(p, f->left, left.st_ino, f->inode);
		expect_same(p, "links", st.st_nlink, f->links);
		expect_same(p, "the removed name", access(f->name, F_OK), -1);
		expect_same(p, "its bytes", pread(f->fd, bytes, sizeof(bytes), 0), strlen(f->name));
		expect(p, !strncmp(bytes, f->name, strlen(f->name)), "%s has '%s'", f->name, bytes);
		expect_same(p, "offset", lseek(f->fd, 0, SEEK_CUR), strlen(f->name));
	}
	must(fstat(moved, &st));
	must(stat("renamed", &left));
	expect_same(p, "the renamed file", st.st_ino, left.st_ino);
	must(fstat(in_moved, &st));
	must(stat("moved-folder/file", &left));
	expect_same(p, "the file in the renamed folder", st.st_ino, left.st_ino);
}

static void finish(struct program *p, void *state)
{
	char bytes[8] = "";
	int fd = must(open("folder/away", O_RDONLY | O_CLOEXEC));

	verify(p, state);
	must(write(files[1].fd, "more", 4));
	expect_same(p, "what was written", pread(fd, bytes, sizeof(bytes), 4), 4);
	expect(p, !strcmp(bytes, "more"), "the other name shows '%s'", bytes);
}

static void spoil(void *state)
{
	(void)state;
	must(pwrite(files[0].fd, "x", 1, 0));
}

static void file_make(struct file *f)
{
	struct stat st;

	f->fd = must(open(f->name, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(write(f->fd, f->name, strlen(f->name)));
	must(link(f->name, f->left));
	if (f->removed) {
		must(link(f->name, f->removed));
		int other = must(open(f->removed, O_RDONLY));
		must(lseek(other, 1, SEEK_SET));
		must(unlink(f->removed));
	}
	must(unlink(f->name));
	must(fstat(f->fd, &st));
	f->inode = st.st_ino;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	must(mkdir("folder", 0755));
	must(mkdir("first-folder", 0755));
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		file_make(&files[i]);
	moved = must(open("original", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(rename("original", "renamed"));
	in_moved = must(open("first-folder/file", O_CREAT | O_RDONLY | O_CLOEXEC, 0600));
	must(rename("first-folder", "moved-folder"));
	return program_serve(&p, &ops, NULL);
}
