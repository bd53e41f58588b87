/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes with data in them: both ends in one process, ends in different processes, a large one, one without a writer,
 * one without a reader. Proof: size, flags and number of bytes; the bytes themselves through tee(2), which leaves
 * them; at the end they are read, and what follows them is an end of file or a wait as before.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { READ, WRITE, LARGE_BYTES = 700000 };

struct channel {
	const char *name;
	int size;       /* of the pipe; 0 = as it comes */
	int bytes;      /* in the pipe */
	int flags[2];   /* O_NONBLOCK of either end */
	bool closed[2]; /* no process has this end */
	bool split;     /* the child reads, the parent writes */
	int fd[2];      /* -1 = this process does not have it */
	int want_size;
};

static struct channel channels[] = {
	{"small", 0, 10000, {0, O_NONBLOCK}, {false, false}, false, {-1, -1}, 0},
	{"large", 1 << 20, LARGE_BYTES, {O_NONBLOCK, 0}, {false, false}, false, {-1, -1}, 0},
	{"empty", 8192, 0, {O_NONBLOCK, O_NONBLOCK}, {false, false}, false, {-1, -1}, 0},
	{"split", 0, 30000, {0, 0}, {false, false}, true, {-1, -1}, 0},
	{"without a writer", 0, 5000, {0, 0}, {false, true}, false, {-1, -1}, 0},
	{"without a reader", 0, 0, {0, 0}, {true, false}, false, {-1, -1}, 0},
};

static unsigned char buffer[LARGE_BYTES];

static void channel_make(struct channel *c, uint64_t seed)
{
	must(pipe2(c->fd, O_CLOEXEC));
	if (c->size)
		must(fcntl(c->fd[WRITE], F_SETPIPE_SZ, c->size));
	c->want_size = fcntl(c->fd[WRITE], F_GETPIPE_SZ);
	pattern_fill(buffer, (size_t)c->bytes, seed);
	if (c->bytes && write(c->fd[WRITE], buffer, (size_t)c->bytes) != c->bytes)
		program_die(c->name);
	for (int end = 0; end < 2; end++) {
		must(fcntl(c->fd[end], F_SETFL, c->flags[end]));
		if (c->closed[end]) {
			close(c->fd[end]);
			c->fd[end] = -1;
		}
	}
}

/* A copy of what is in the pipe, without taking it out. */
static ssize_t peek(int fd, size_t n)
{
	ssize_t copied = 0;
	int scratch[2];

	if (pipe2(scratch, O_CLOEXEC) < 0 || fcntl(scratch[WRITE], F_SETPIPE_SZ, 1 << 20) < 0)
		return -1;
	ssize_t there = n ? tee(fd, scratch[WRITE], n, SPLICE_F_NONBLOCK) : 0;
	while (copied < there) {
		ssize_t got = read(scratch[READ], buffer + copied, (size_t)(there - copied));
		if (got <= 0)
			break;
		copied += got;
	}
	close(scratch[READ]);
	close(scratch[WRITE]);
	return copied;
}

static void channel_verify(struct program *p, const struct channel *c, uint64_t seed)
{
	for (int end = 0; end < 2; end++) {
		if (c->fd[end] < 0)
			continue;
		expect_same(p, "pipe size", fcntl(c->fd[end], F_GETPIPE_SZ), c->want_size);
		expect_same(p, "O_NONBLOCK", fcntl(c->fd[end], F_GETFL) & O_NONBLOCK, c->flags[end]);
	}
	if (c->fd[READ] < 0)
		return;
	int there = -1;
	ioctl(c->fd[READ], FIONREAD, &there);
	expect_same(p, c->name, there, c->bytes);
	expect_same(p, "bytes seen by tee", peek(c->fd[READ], (size_t)c->bytes), c->bytes);
	expect(p, pattern_differs(buffer, (size_t)c->bytes, seed) < 0, "%s: the data differ", c->name);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
		channel_verify(p, &channels[i], i);
}

static void channel_drain(struct program *p, const struct channel *c, uint64_t seed)
{
	ssize_t n = 0, got;

	must(fcntl(c->fd[READ], F_SETFL, O_NONBLOCK));
	while (n < (ssize_t)sizeof(buffer) &&
	       (got = read(c->fd[READ], buffer + n, sizeof(buffer) - (size_t)n)) > 0)
		n += got;
	got = read(c->fd[READ], &(char){0}, 1);
	int code = errno;
	expect_same(p, c->name, n, c->bytes);
	expect(p, pattern_differs(buffer, (size_t)c->bytes, seed) < 0, "%s: the data that were read differ",
	       c->name);
	if (c->closed[WRITE])
		expect_same(p, "after the data without a writer", got, 0);
	else
		expect(p, got < 0 && code == EAGAIN, "%s: no wait after the data", c->name);
}

/* Runs in the parent and in the child; each drains what it reads, and the parent writes nothing more. */
static void finish(struct program *p, void *state)
{
	verify(p, state);
	for (size_t i = 0; i < ARRAY_SIZE(channels); i++) {
		const struct channel *c = &channels[i];
		if (c->fd[READ] >= 0 && (c->fd[WRITE] >= 0 || c->split || c->closed[WRITE]))
			channel_drain(p, c, i);
		if (c->closed[READ] && c->fd[WRITE] >= 0)
			expect(p, write(c->fd[WRITE], "x", 1) < 0 && errno == EPIPE, "%s: no EPIPE", c->name);
	}
}

static void spoil(void *state)
{
	(void)state;
	must(read(channels[0].fd[READ], buffer, 1));
}

/* Every end but the one that the child keeps is closed there. */
static void child_keep(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
		for (int end = 0; end < 2; end++)
			if (channels[i].fd[end] >= 0 && !(channels[i].split && end == READ)) {
				close(channels[i].fd[end]);
				channels[i].fd[end] = -1;
			}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
		channel_make(&channels[i], i);
	if (!must(fork())) {
		struct program q = program_role(&p, "reader");
		child_keep();
		return program_serve(&q, &child_ops, NULL);
	}
	for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
		if (channels[i].split) {
			close(channels[i].fd[READ]);
			channels[i].fd[READ] = -1;
		}
	program_await(&p, "reader");
	return program_serve(&p, &ops, NULL);
}
