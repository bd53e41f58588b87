/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named pipes: one with bytes and both ends in two processes, one open for reading and writing, a large one with two writers, one whose
 * writer is gone, one whose reader never saw a writer, one without a reader, and one that a child waits to open.
 * Proof: sizes, flags, what poll(2) tells; at the end the bytes are read in order, and those who wait meet.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SPLIT_BYTES = 5000, LARGE_BYTES = 300000, LARGE_SIZE = 1 << 20, LEFT_BYTES = 77 };

struct state {
	const char *folder;
	int split, both, large_in, large_out[2], left, fresh, writer;
	bool child;
};

static unsigned char bytes[LARGE_BYTES];

static const char *path(const struct state *s, const char *name)
{
	static char text[256];

	snprintf(text, sizeof(text), "%s/%s", s->folder, name);
	return text;
}

static int pipe_open(const struct state *s, const char *name, int flags)
{
	if (mkfifo(path(s, name), 0640) < 0 && errno != EEXIST)
		program_die(name);
	return must(open(path(s, name), flags | O_CLOEXEC));
}

static int waiting(int fd)
{
	int n = -1;

	ioctl(fd, FIONREAD, &n);
	return n;
}

static short ready(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};

	return poll(&p, 1, 0) < 0 ? -1 : p.revents;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "bytes of the split one", waiting(s->split), SPLIT_BYTES);
	expect_same(p, "flags of the writer", fcntl(s->split, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_WRONLY);
	expect_same(p, "bytes of the one open for both", waiting(s->both), 3);
	expect_same(p, "its flags", fcntl(s->both, F_GETFL) & (O_ACCMODE | O_APPEND), O_RDWR | O_APPEND);
	expect_same(p, "size of the large one", fcntl(s->large_in, F_GETPIPE_SZ), LARGE_SIZE);
	expect_same(p, "bytes of the large one", waiting(s->large_in), LARGE_BYTES);
	expect_same(p, "flags of its second writer", fcntl(s->large_out[1], F_GETFL) & O_NONBLOCK,
		    O_NONBLOCK);
	expect_same(p, "what is left", waiting(s->left), LEFT_BYTES);
	expect_same(p, "without the writer", ready(s->left), POLLIN | POLLHUP);
	if (p->more)
		expect_same(p, "before any writer", ready(s->fresh), 0);
	expect_same(p, "without a reader", ready(s->writer), POLLOUT | POLLERR);
}

static void verify_child(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "bytes of the split one", waiting(s->split), SPLIT_BYTES);
	expect_same(p, "flags of the reader", fcntl(s->split, F_GETFL) & (O_ACCMODE | O_NONBLOCK),
		    O_RDONLY | O_NONBLOCK);
}

static void expect_bytes(struct program *p, const char *what, int fd, size_t n, uint64_t seed)
{
	size_t done = 0;

	while (done < n) {
		ssize_t more = read(fd, bytes + done, n - done);
		if (more <= 0)
			break;
		done += (size_t)more;
	}
	expect_same(p, what, done, n);
	expect_same(p, what, pattern_differs(bytes, n, seed), -1);
}

static void finish_child(struct program *p, void *state)
{
	const struct state *s = state;

	verify_child(p, state);
	expect_bytes(p, "split", s->split, SPLIT_BYTES, 1);
	expect(p, read(s->split, bytes, 1) < 0 && errno == EAGAIN, "the parent's end is closed");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat st;
	char got[8] = "";

	must(stat(path(s, "split"), &st));
	expect(p, S_ISFIFO(st.st_mode) && (st.st_mode & 0777) == 0640, "the name has mode %o", st.st_mode);
	expect_same(p, "open for both", read(s->both, got, sizeof(got)), 3);
	must(write(s->both, "again", 5));
	expect_same(p, "open for both, again", read(s->both, got, sizeof(got)), 5);
	expect_bytes(p, "large", s->large_in, LARGE_BYTES, 2);
	close(s->large_out[0]);
	expect_same(p, "one writer is left", ready(s->large_in), 0);
	close(s->large_out[1]);
	expect_same(p, "no writer is left", ready(s->large_in), POLLHUP);
	expect_bytes(p, "what is left", s->left, LEFT_BYTES, 3);
	expect_same(p, "the end", read(s->left, got, 1), 0);
	expect(p, write(s->writer, "x", 1) < 0 && errno == EPIPE, "no EPIPE without a reader");
	int fd = must(open(path(s, "fresh"), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
	must(write(fd, "new", 3));
	close(fd);
	expect_same(p, "from a new writer", read(s->fresh, got, sizeof(got)), 3);
	fd = must(open(path(s, "meeting"), O_WRONLY | O_CLOEXEC));
	must(write(fd, "met", 3));
	close(fd);
	fd = must(open(path(s, "answer"), O_RDONLY | O_CLOEXEC));
	expect_same(p, "what who waited got", read(fd, got, sizeof(got)), 3);
	expect(p, !memcmp(got, "met", 3), "other bytes");
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(read(s->left, bytes, 1));
}

/* Waits in open(2) until somebody writes, and passes on what it gets. */
static void meet(const struct state *s)
{
	char got[8];
	int fd = open(path(s, "meeting"), O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, got, sizeof(got));

	fd = open(path(s, "answer"), O_WRONLY | O_CLOEXEC);
	if (n > 0 && write(fd, got, (size_t)n) != n)
		_exit(1);
	for (;;)
		pause();
}

static void make(struct state *s)
{
	s->split = pipe_open(s, "split", O_RDWR);
	s->both = pipe_open(s, "both", O_RDWR | O_APPEND);
	must(write(s->both, "abc", 3));
	s->large_in = pipe_open(s, "large", O_RDONLY | O_NONBLOCK);
	s->large_out[0] = pipe_open(s, "large", O_WRONLY);
	s->large_out[1] = pipe_open(s, "large", O_WRONLY | O_NONBLOCK);
	must(fcntl(s->large_in, F_SETPIPE_SZ, LARGE_SIZE));
	pattern_fill(bytes, LARGE_BYTES, 2);
	if (write(s->large_out[0], bytes, LARGE_BYTES) != LARGE_BYTES)
		program_die("writing");
	s->left = pipe_open(s, "left", O_RDONLY | O_NONBLOCK);
	s->writer = pipe_open(s, "left", O_WRONLY);
	pattern_fill(bytes, LEFT_BYTES, 3);
	must(write(s->writer, bytes, LEFT_BYTES));
	close(s->writer);
	s->fresh = pipe_open(s, "fresh", O_RDONLY | O_NONBLOCK);
	int reader = pipe_open(s, "writer", O_RDONLY | O_NONBLOCK);
	s->writer = pipe_open(s, "writer", O_WRONLY);
	close(reader);
	mkfifo(path(s, "meeting"), 0600);
	mkfifo(path(s, "answer"), 0600);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify_child, .finish = finish_child};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	signal(SIGPIPE, SIG_IGN);
	s.folder = p.folder;
	make(&s);
	pattern_fill(bytes, SPLIT_BYTES, 1);
	int writer = pipe_open(&s, "split", O_WRONLY), reader = pipe_open(&s, "split", O_RDONLY | O_NONBLOCK);
	must(write(writer, bytes, SPLIT_BYTES));
	close(s.split);
	if (!must(fork())) {
		struct program q = program_role(&p, "reader");
		int kept[] = {reader};
		s.split = kept[0];
		close(writer);
		close(s.both);
		close(s.large_in);
		close(s.large_out[0]);
		close(s.large_out[1]);
		close(s.left);
		close(s.fresh);
		close(s.writer);
		return program_serve(&q, &child_ops, &s);
	}
	if (!must(fork())) {
		struct program q = program_role(&p, "waiter");
		program_note_volatile(&q);
		for (int fd = 3; fd < 64; fd++)
			close(fd);
		meet(&s);
	}
	close(reader);
	s.split = writer;
	program_await(&p, "reader");
	return program_serve(&p, &ops, &s);
}
