/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regular files: offsets, open flags, close-on-exec, descriptions shared by dup(2) and by fork(2), the same file opened
 * twice, a high number, a file of the process itself in /proc. Proof: offsets and flags read back, kcmp(2) on who shares, and a move through one descriptor
 * is seen through the other.
 */
#include "program.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILE_BYTES = 100000, HIGH_FD = 500 };

struct entry {
	const char *file;
	int flags;
	int cloexec;
	off_t offset;
	int same_as; /* shares the description of this entry; -1 = its own */
	int number;  /* wanted descriptor number; 0 = any */
	int fd;
};

static struct entry entries[] = {
	{"data", O_RDWR, FD_CLOEXEC, 4711, -1, 0, -1},
	{"data", O_RDWR, 0, 4711, 0, 0, -1},
	{"data", O_RDONLY | O_NOATIME, 0, 99, -1, 0, -1},
	{"log", O_WRONLY | O_APPEND, 0, 0, -1, 0, -1},
	{"log", O_WRONLY | O_NONBLOCK | O_DSYNC, FD_CLOEXEC, 12345, -1, HIGH_FD, -1},
	{"past-end", O_RDWR, 0, 5LL << 30, -1, 0, -1},
	{"data", O_PATH, 0, 0, -1, 0, -1},
};

struct state {
	pid_t child;
	mode_t mode;
	int stat; /* of this process in /proc; -1 = not asked for */
};

/* O_LARGEFILE is always on, O_CLOEXEC and creation flags are not in F_GETFL. */
static int status_flags(int fd)
{
	return fcntl(fd, F_GETFL) & ~0100000;
}

static void entry_open(struct entry *e)
{
	e->fd = e->same_as >= 0 ? must(dup(entries[e->same_as].fd)) : must(open(e->file, e->flags));
	if (e->number) {
		must(dup3(e->fd, e->number, 0));
		close(e->fd);
		e->fd = e->number;
	}
	must(fcntl(e->fd, F_SETFD, e->cloexec));
	if (!(e->flags & O_PATH))
		must(lseek(e->fd, e->offset, SEEK_SET));
}

static void entry_verify(struct program *p, const struct entry *e)
{
	struct stat by_fd, by_name;

	expect_same(p, "close-on-exec", fcntl(e->fd, F_GETFD), e->cloexec);
	expect_same(p, "flags", status_flags(e->fd), e->flags);
	if (!(e->flags & O_PATH))
		expect_same(p, "offset", lseek(e->fd, 0, SEEK_CUR), e->offset);
	expect_same(p, "fstat", fstat(e->fd, &by_fd), 0);
	expect_same(p, "stat", stat(e->file, &by_name), 0);
	expect_same(p, "inode", by_fd.st_ino, by_name.st_ino);
}

static void verify_sharing(struct program *p, pid_t child)
{
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
		for (size_t j = 0; j < i; j++) {
			long differ = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, entries[i].fd,
					      entries[j].fd);
			expect_same(p, "kcmp of two descriptors", differ != 0, entries[i].same_as != (int)j);
		}
		expect_same(p, "kcmp with the child",
			    syscall(SYS_kcmp, getpid(), child, KCMP_FILE, entries[i].fd, entries[i].fd), 0);
	}
	must(lseek(entries[0].fd, 1, SEEK_SET));
	expect_same(p, "offset seen through a dup", lseek(entries[1].fd, 0, SEEK_CUR), 1);
	must(lseek(entries[1].fd, entries[0].offset, SEEK_SET));
}

static void child_verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		expect_same(p, "flags in the child", status_flags(entries[i].fd), entries[i].flags);
}

/* Half read: it tells about this process, and goes on where it was. */
static void verify_stat(struct program *p, int fd)
{
	char text[32] = "", own[32];

	snprintf(own, sizeof(own), "%d (", getpid());
	expect_same(p, "offset in /proc", lseek(fd, 0, SEEK_CUR), 5);
	expect_same(p, "pread of /proc", pread(fd, text, strlen(own), 0), strlen(own));
	expect(p, !strcmp(text, own), "it is the stat of another process: '%s'", text);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	unsigned char bytes[4096];

	if (s->stat >= 0)
		verify_stat(p, s->stat);

	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		entry_verify(p, &entries[i]);
	verify_sharing(p, s->child);
	expect_same(p, "pread", pread(entries[0].fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	expect(p, pattern_differs(bytes, sizeof(bytes), 1) < 0, "the file differs");
}

static void finish(struct program *p, void *state)
{
	struct stat st;

	verify(p, state);
	fstat(entries[3].fd, &st);
	expect_same(p, "append", write(entries[3].fd, "x", 1), 1);
	expect_same(p, "size after appending", lseek(entries[3].fd, 0, SEEK_CUR), st.st_size + 1);
	expect(p, write(entries[2].fd, "x", 1) < 0, "a read-only descriptor can be written");
}

static void spoil(void *state)
{
	(void)state;
	lseek(entries[2].fd, 100, SEEK_SET);
}

static void make_file(const char *name, size_t n, uint64_t seed)
{
	static unsigned char bytes[FILE_BYTES];
	int fd = must(open(name, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600));

	pattern_fill(bytes, n, seed);
	must(write(fd, bytes, n));
	close(fd);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = child_verify};
	struct program p;
	struct state s = {.child = 0, .stat = -1};

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	make_file("data", FILE_BYTES, 1);
	make_file("log", 1000, 2);
	make_file("past-end", 10, 3);
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		entry_open(&entries[i]);
	if (p.more) {
		s.stat = must(open("/proc/self/stat", O_RDONLY | O_CLOEXEC));
		must(lseek(s.stat, 5, SEEK_SET));
	}
	s.child = must(fork());
	if (!s.child) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, NULL);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
