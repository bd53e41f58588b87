/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deleted files in use: several descriptions of one inode with their flags and offsets, one shared with a child, names that were
 * equal, owner, mode, times and attributes. Proof: contents, who sees whose writes, what fstat(2) says.
 */
#include "program.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { BYTES = 30000, LARGE_BYTES = 300000, MODE = 0640, UID = 123, GID = 45 };

static const struct timespec times[2] = {{1000000000, 111}, {1100000000, 123456789}};

struct state {
	int reads, writes, appends; /* of "first" */
	int second;                 /* another file that was called "first", too */
	int large, empty;
	ino_t inode;
};

static unsigned char buffer[LARGE_BYTES];

static int make(const char *name, size_t n, uint64_t seed)
{
	int fd = must(open(name, O_CREAT | O_RDWR | O_EXCL | O_CLOEXEC, 0600));

	pattern_fill(buffer, n, seed);
	if (write(fd, buffer, n) != (ssize_t)n)
		program_die(name);
	return fd;
}

static void verify_contents(struct program *p, const char *what, int fd, size_t n, uint64_t seed)
{
	struct stat st;

	must(fstat(fd, &st));
	expect_same(p, "links", st.st_nlink, 0);
	expect_same(p, what, st.st_size, n);
	expect_same(p, what, pread(fd, buffer, sizeof(buffer), 0), n);
	expect(p, pattern_differs(buffer, n, seed) < 0, "%s: the contents differ", what);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	struct stat first, other;
	char value[32] = "";

	must(fstat(s->reads, &first));
	must(fstat(s->writes, &other));
	expect_same(p, "mode", first.st_mode, S_IFREG | MODE);
	expect_same(p, "owner", first.st_uid, UID);
	expect_same(p, "group", first.st_gid, GID);
	expect_same(p, "modified, seconds", first.st_mtim.tv_sec, times[1].tv_sec);
	if (p->more) {
		expect_same(p, "modified, nanoseconds", first.st_mtim.tv_nsec, times[1].tv_nsec);
		expect_same(p, "read, seconds", first.st_atim.tv_sec, times[0].tv_sec);
		expect_same(p, "read, nanoseconds", first.st_atim.tv_nsec, times[0].tv_nsec);
		expect_same(p, "attribute", fgetxattr(s->reads, "user.test", value, sizeof(value)), 5);
		expect(p, !strcmp(value, "value"), "the attribute is '%s'", value);
	}
	expect_same(p, "one inode", first.st_ino, other.st_ino);
	expect_same(p, "offset of the reader", lseek(s->reads, 0, SEEK_CUR), 77);
	expect_same(p, "offset of the writer", lseek(s->writes, 0, SEEK_CUR), BYTES);
	expect_same(p, "access mode", fcntl(s->reads, F_GETFL) & O_ACCMODE, O_RDONLY);
	expect_same(p, "O_APPEND", fcntl(s->appends, F_GETFL) & O_APPEND, O_APPEND);
	expect_same(p, "its name", access("first", F_OK), -1);
	verify_contents(p, "first", s->reads, BYTES, 1);
	verify_contents(p, "second", s->second, 5000, 2);
	verify_contents(p, "large", s->large, LARGE_BYTES, 3);
	verify_contents(p, "empty", s->empty, 0, 4);
	must(futimens(s->writes, times)); /* reading it changed a time */
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	expect_same(p, "append", write(s->appends, "end", 3), 3);
	expect_same(p, "size after it", lseek(s->reads, 0, SEEK_END), BYTES + 3);
	expect_same(p, "what was appended", pread(s->reads, buffer, 3, BYTES), 3);
	expect(p, !memcmp(buffer, "end", 3), "the reader sees something else");
	expect(p, write(s->reads, "x", 1) < 0, "the reader can write");
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(pwrite(s->second, "x", 1, 100));
}

/* The child has the descriptions, too. */
static void child_verify(struct program *p, void *state)
{
	const struct state *s = state;

	verify_contents(p, "large in the child", s->large, LARGE_BYTES, 3);
	expect_same(p, "shared offset", lseek(s->reads, 0, SEEK_CUR), 77);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = child_verify};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.writes = make("first", BYTES, 1);
	s.reads = must(open("first", O_RDONLY | O_NOATIME));
	s.appends = must(open("first", O_WRONLY | O_APPEND));
	must(lseek(s.reads, 77, SEEK_SET));
	must(fchown(s.writes, UID, GID));
	must(fchmod(s.writes, MODE));
	if (p.more && fsetxattr(s.writes, "user.test", "value", 5, 0) < 0)
		program_lacks("attributes of files");
	must(unlink("first"));
	s.second = make("first", 5000, 2);
	must(unlink("first"));
	s.large = make("large", LARGE_BYTES, 3);
	must(unlink("large"));
	s.empty = make("empty", 0, 4);
	must(unlink("empty"));
	must(futimens(s.writes, times));
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
