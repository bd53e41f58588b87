/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that wait in sockets which themselves wait in sockets, three deep, with what is in each; two sockets that
 * wait in each other; a pipe both of whose ends are nowhere else, with bytes in it.
 */
#include "messages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DEPTH = 3 };

struct state {
	int outer, pipes, knot;
};

/* The next message has so many descriptors. */
static bool take(struct program *p, int fd, int flags, const char *text, size_t n_fds, struct message *m)
{
	message_receive(fd, flags, strlen(text), m);
	expect_same(p, text, m->n, strlen(text));
	expect(p, m->n < 0 || !memcmp(m->bytes, text, strlen(text)), "'%s': other bytes", text);
	expect_same(p, text, m->n_fds, n_fds);
	return m->n_fds == n_fds;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct message outer, inner;

	if (take(p, s->outer, MSG_PEEK, "level 3", 1, &outer)) {
		if (take(p, outer.fds[0], MSG_PEEK, "level 2", 1, &inner))
			close(inner.fds[0]);
		close(outer.fds[0]);
	}
	if (take(p, s->pipes, MSG_PEEK, "pipe", 2, &inner)) {
		close(inner.fds[0]);
		close(inner.fds[1]);
	}
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	static const char *const texts[DEPTH] = {"level 3", "level 2", "level 1"};
	struct message m;
	char bytes[16] = "";
	int fd = s->outer;

	for (int i = 0; i < DEPTH; i++) {
		if (!take(p, fd, 0, texts[i], 1, &m))
			return;
		fd = m.fds[0];
	}
	/* The innermost is a file. */
	expect_same(p, "reading the file", pread(fd, bytes, 9, 0), 9);
	expect(p, !strcmp(bytes, "innermost"), "the file says '%s'", bytes);
	if (take(p, s->pipes, 0, "pipe", 2, &m)) {
		memset(bytes, 0, sizeof(bytes));
		expect_same(p, "reading the pipe", read(m.fds[0], bytes, sizeof(bytes)), 7);
		expect(p, !strcmp(bytes, "in pipe"), "the pipe says '%s'", bytes);
		expect_same(p, "writing to it", write(m.fds[1], "x", 1), 1);
		close(m.fds[1]);
		close(m.fds[0]);
	}
	if (take(p, s->knot, 0, "other", 1, &m)) {
		struct message back;
		take(p, m.fds[0], 0, "one", 1, &back);
	}
}

static void spoil(void *state)
{
	const struct state *s = state;
	char bytes[8];

	must(recv(s->outer, bytes, 7, 0));
}

/* A pair; what is sent into the first end waits in the second. */
static int wrap(int inner, const char *text)
{
	int pair[2];

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	message_send(pair[0], text, &inner, 1, NULL);
	close(pair[0]);
	close(inner);
	return pair[1];
}

static void knot_make(struct state *s)
{
	int one[2], other[2];

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, one));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, other));
	message_send(one[0], "other", &other[1], 1, NULL);
	message_send(other[0], "one", &one[1], 1, NULL);
	close(one[0]);
	close(other[0]);
	close(other[1]);
	s->knot = one[1];
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	char path[200];
	int pair[2], ends[2];

	program_start(&p, argc, argv);
	snprintf(path, sizeof(path), "%s/inner", p.folder);
	int fd = must(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	must(write(fd, "innermost", 9));
	s.outer = wrap(wrap(wrap(fd, "level 1"), "level 2"), "level 3");
	must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	must(pipe2(ends, O_CLOEXEC));
	must(write(ends[1], "in pipe", 7));
	message_send(pair[0], "pipe", ends, 2, NULL);
	close(ends[0]);
	close(ends[1]);
	s.pipes = pair[1];
	knot_make(&s);
	return program_serve(&p, &ops, &s);
}
