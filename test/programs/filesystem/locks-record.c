/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Record locks of fcntl(2) (POSIX): ranges for reading and writing, up to the end of the file, of parent and child in one file that
 * both have mapped, too. Proof: each sees the other's locks with their ranges and owners.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES = 8192 };

struct range {
	short type;
	off_t start, length; /* 0 = to the end */
};

static const struct range parents[] = {{F_WRLCK, 10, 20}, {F_RDLCK, 100, 1}, {F_WRLCK, 5000, 100}};
static const struct range childs[] = {{F_RDLCK, 200, 300}, {F_WRLCK, 1 << 20, 0}};

struct state {
	int fd;
	pid_t parent, child;
	unsigned char *mapped;
};

static void take(int fd, const struct range *ranges, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct flock lock = {
			.l_type = ranges[i].type, .l_start = ranges[i].start, .l_len = ranges[i].length};
		must(fcntl(fd, F_SETLK, &lock));
	}
}

/* The locks of another process, as this one sees them. */
static void look(struct program *p, int fd, const struct range *ranges, size_t n, pid_t owner)
{
	for (size_t i = 0; i < n; i++) {
		struct flock lock = {.l_type = F_WRLCK, .l_start = ranges[i].start, .l_len = 1};
		must(fcntl(fd, F_GETLK, &lock));
		expect_same(p, "type of the lock", lock.l_type, ranges[i].type);
		expect_same(p, "its start", lock.l_start, ranges[i].start);
		expect_same(p, "its length", lock.l_len, ranges[i].length);
		expect_same(p, "its owner", lock.l_pid, owner);
	}
}

static void look_between(struct program *p, int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_start = 600, .l_len = 4000};

	must(fcntl(fd, F_GETLK, &lock));
	expect_same(p, "where no lock is", lock.l_type, F_UNLCK);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	look(p, s->fd, childs, ARRAY_SIZE(childs), s->child);
	look_between(p, s->fd);
	expect(p, pattern_differs(s->mapped, BYTES, 3) < 0, "the mapping differs");
}

static void child_verify(struct program *p, void *state)
{
	const struct state *s = state;

	look(p, s->fd, parents, ARRAY_SIZE(parents), s->parent);
	look_between(p, s->fd);
	expect(p, pattern_differs(s->mapped, BYTES, 3) < 0, "the mapping differs");
}

/* Runs first: afterwards the parent may lock what was the child's. */
static void child_finish(struct program *p, void *state)
{
	struct flock lock = {.l_type = F_UNLCK, .l_start = 1 << 20};

	child_verify(p, state);
	must(fcntl(((struct state *)state)->fd, F_SETLK, &lock));
}

static void finish(struct program *p, void *state)
{
	struct flock lock = {.l_type = F_WRLCK, .l_start = 1 << 20, .l_len = 5};

	expect_same(p, "what the child let go", fcntl(((struct state *)state)->fd, F_SETLK, &lock), 0);
	lock.l_start = 250;
	expect_same(p, "what the child has", fcntl(((struct state *)state)->fd, F_SETLK, &lock), -1);
	expect(p, errno == EAGAIN || errno == EACCES, "why: %d", errno);
}

static void spoil(void *state)
{
	struct flock lock = {.l_type = F_UNLCK, .l_start = 15, .l_len = 1};

	must(fcntl(((struct state *)state)->fd, F_SETLK, &lock));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	static const struct program_ops child_ops = {
		.verify = child_verify, .finish = child_finish, .spoil = spoil};
	static unsigned char bytes[BYTES];
	struct program p;
	struct state s = {.parent = getpid()};

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.fd = must(open("data", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	pattern_fill(bytes, BYTES, 3);
	must(write(s.fd, bytes, BYTES));
	s.mapped = must(mmap(NULL, BYTES, PROT_READ, MAP_SHARED, s.fd, 0));
	s.child = must(fork());
	if (!s.child) {
		struct program q = program_role(&p, "child");
		take(s.fd, childs, ARRAY_SIZE(childs));
		return program_serve(&q, &child_ops, &s);
	}
	take(s.fd, parents, ARRAY_SIZE(parents));
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
