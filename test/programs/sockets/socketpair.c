/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix stream socket pairs with data in both directions: inside one process, between parent and child, one whose other
 * end is closed, one shut down for writing. Proof: the bytes by MSG_PEEK, buffer sizes and options; at the end the
 * bytes are read and new ones travel both ways.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OPTIONS = 4, MOST_BYTES = 60000 };

struct pair {
	const char *name;
	int bytes[2]; /* waiting to be read at either end */
	bool closed;  /* end 1 is closed by everybody */
	bool shut;    /* end 1 wrote its data and shut down writing */
	bool split;   /* the child has end 1 */
	int fd[2];    /* -1 = not in this process */
	int options[2][OPTIONS];
	int flags[2];
};

static struct pair pairs[] = {
	{"inside", {20000, MOST_BYTES}, false, false, false, {-1, -1}, {{0}}, {0}},
	{"split", {3000, 12345}, false, false, true, {-1, -1}, {{0}}, {0}},
	{"empty", {0, 0}, false, false, true, {-1, -1}, {{0}}, {0}},
	{"closed", {777, 0}, true, false, false, {-1, -1}, {{0}}, {0}},
	{"shut down", {778, 5}, false, true, false, {-1, -1}, {{0}}, {0}},
};

static const struct {
	const char *name;
	int option;
} options[OPTIONS] = {{"SO_SNDBUF", SO_SNDBUF},
		      {"SO_RCVBUF", SO_RCVBUF},
		      {"SO_PASSCRED", SO_PASSCRED},
		      {"SO_RCVTIMEO", SO_RCVTIMEO}};

static unsigned char buffer[MOST_BYTES + 1];

static int option_get(int fd, int option)
{
	struct timeval time = {0};
	int value = -1;

	if (option == SO_RCVTIMEO) {
		getsockopt(fd, SOL_SOCKET, option, &time, &(socklen_t){sizeof(time)});
		return (int)time.tv_sec;
	}
	getsockopt(fd, SOL_SOCKET, option, &value, &(socklen_t){sizeof(value)});
	return value;
}

static uint64_t seed_of(size_t pair, int end)
{
	return pair * 2 + (uint64_t)end;
}

static void pair_make(struct pair *s, size_t number)
{
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->fd));
	must(setsockopt(s->fd[0], SOL_SOCKET, SO_SNDBUF, &(int){300000}, sizeof(int)));
	must(setsockopt(s->fd[1], SOL_SOCKET, SO_RCVBUF, &(int){54321}, sizeof(int)));
	must(setsockopt(s->fd[1], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){9, 0}, sizeof(struct timeval)));
	must(fcntl(s->fd[0], F_SETFL, O_NONBLOCK));
	for (int end = 0; end < 2; end++) {
		pattern_fill(buffer, (size_t)s->bytes[end], seed_of(number, end));
		if (s->bytes[end] && send(s->fd[!end], buffer, (size_t)s->bytes[end], 0) != s->bytes[end])
			program_die(s->name);
		for (int i = 0; i < OPTIONS; i++)
			s->options[end][i] = option_get(s->fd[end], options[i].option);
		s->flags[end] = fcntl(s->fd[end], F_GETFL);
	}
	if (s->shut)
		must(shutdown(s->fd[1], SHUT_WR));
	if (s->closed) {
		close(s->fd[1]);
		s->fd[1] = -1;
	}
}

static void end_check(struct program *p, const struct pair *s, size_t number, int end, int receive_flags)
{
	int fd = s->fd[end];
	ssize_t n = recv(fd, buffer, sizeof(buffer), receive_flags | MSG_DONTWAIT);

	expect_same(p, s->name, n < 0 ? 0 : n, s->bytes[end]);
	expect(p, pattern_differs(buffer, (size_t)s->bytes[end], seed_of(number, end)) < 0,
	       "%s: the data differ", s->name);
	expect_same(p, "flags", fcntl(fd, F_GETFL), s->flags[end]);
	/* A peer that went away changes nothing about our own options. */
	for (int i = 0; i < OPTIONS; i++)
		expect_same(p, options[i].name, option_get(fd, options[i].option), s->options[end][i]);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		for (int end = 0; end < 2; end++)
			if (pairs[i].fd[end] >= 0)
				end_check(p, &pairs[i], i, end, MSG_PEEK);
}

static void finish_inside(struct program *p, const struct pair *s)
{
	for (int end = 0; end < 2 && !s->shut; end++) {
		expect_same(p, "sending", send(s->fd[end], "new", 3, MSG_DONTWAIT), 3);
		expect_same(p, "receiving", recv(s->fd[!end], buffer, sizeof(buffer), MSG_DONTWAIT), 3);
		expect(p, !memcmp(buffer, "new", 3), "%s: something else arrived", s->name);
	}
	if (s->shut) {
		expect_same(p, "end of what was shut down", recv(s->fd[0], buffer, 1, MSG_DONTWAIT), 0);
		expect(p, send(s->fd[1], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "%s: no EPIPE",
		       s->name);
	}
}

static void finish(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		for (int end = 0; end < 2; end++)
			if (pairs[i].fd[end] >= 0)
				end_check(p, &pairs[i], i, end, 0);
		if (pairs[i].fd[0] < 0 && pairs[i].fd[1] < 0)
			continue;
		if (pairs[i].closed)
			expect_same(p, "end after the close", recv(pairs[i].fd[0], buffer, 1, MSG_DONTWAIT),
				    0);
		else if (!pairs[i].split)
			finish_inside(p, &pairs[i]);
	}
}

static void spoil(void *state)
{
	(void)state;
	must(recv(pairs[0].fd[0], buffer, 1, 0));
}

static void drop(int end, bool split_only)
{
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		for (int e = 0; e < 2; e++)
			if (pairs[i].fd[e] >= 0 && (pairs[i].split ? e == end : !split_only)) {
				close(pairs[i].fd[e]);
				pairs[i].fd[e] = -1;
			}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		pair_make(&pairs[i], i);
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		drop(0, false);
		return program_serve(&q, &child_ops, NULL);
	}
	drop(1, true);
	program_await(&p, "child");
	return program_serve(&p, &ops, NULL);
}
