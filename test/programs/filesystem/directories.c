/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open folder that was read halfway. Proof: its offset stays, and at the end reading on gives exactly the names
 * that were not read yet.
 */
#include "program.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILES = 400, ENOUGH = 100 };

struct state {
	int fd, path_fd;
	off_t offset;
	bool seen[FILES];
	ino_t inode;
};

/* Marks the names that one getdents64(2) returns; -1 when a name comes twice, else how many came. */
static int read_some(struct state *s)
{
	char buffer[1024];
	long n = syscall(SYS_getdents64, s->fd, buffer, sizeof(buffer));
	int count = 0, number;

	for (long at = 0; at < n;) {
		const struct dirent64 *entry = (const struct dirent64 *)(const void *)(buffer + at);
		at += entry->d_reclen;
		count++;
		if (sscanf(entry->d_name, "file-%d", &number) != 1)
			continue;
		if (s->seen[number])
			return -1;
		s->seen[number] = true;
	}
	return count;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat st = {0};

	expect_same(p, "offset", lseek(s->fd, 0, SEEK_CUR), s->offset);
	fstat(s->fd, &st);
	expect_same(p, "inode", st.st_ino, s->inode);
	if (p->more)
		expect(p, fcntl(s->fd, F_GETFL) & O_DIRECTORY, "O_DIRECTORY is gone");
	expect(p, fcntl(s->path_fd, F_GETFL) & O_PATH, "O_PATH is gone");
	expect_same(p, "a name below the folder", faccessat(s->path_fd, "file-7", F_OK, 0), 0);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	int missing = 0, n;

	verify(p, state);
	while ((n = read_some(s)) > 0)
		continue;
	expect_same(p, "the end of the folder (a name came twice?)", n, 0);
	for (int i = 0; i < FILES; i++)
		missing += !s->seen[i];
	expect_same(p, "names that never came", missing, 0);
}

static void spoil(void *state)
{
	struct state *s = state;

	lseek(s->fd, 0, SEEK_SET);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct state s = {.fd = -1};
	struct program p;
	struct stat st;
	char name[32];

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	must(mkdir("folder", 0755));
	s.fd = must(open("folder", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	s.path_fd = must(open("folder", O_PATH | O_CLOEXEC));
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file-%d", i);
		close(must(openat(s.fd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
	}
	for (int count = 0; count < ENOUGH;)
		count += must(read_some(&s));
	s.offset = lseek(s.fd, 0, SEEK_CUR);
	must(fstat(s.fd, &st));
	s.inode = st.st_ino;
	if (program_told(argc, argv, "notify"))
		must(fcntl(s.fd, F_NOTIFY, DN_RENAME | DN_MULTISHOT));
	return program_serve(&p, &ops, &s);
}
