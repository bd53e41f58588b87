/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A listening unix socket that takes so many connections and no more before somebody accepts them. Proof: the number,
 * and that all of them are accepted afterwards.
 */
#include "messages.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 3, TRIES = 20 };

struct state {
	struct unix_name name;
	int listener;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int clients[TRIES], n = 0;

	for (; n < TRIES; n++) {
		clients[n] = must(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
		if (connect(clients[n], (const struct sockaddr *)&s->name.address, s->name.length) < 0)
			break;
	}
	/* The kernel lets one more wait than listen(2) said. */
	expect_same(p, "connections that wait", n, BACKLOG + 1);
	expect(p, n == TRIES || errno == EAGAIN, "connect(2) fails with %d", errno);
	for (int i = 0; i < n; i++) {
		int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
		expect(p, fd >= 0, "connection %d is not accepted", i);
		close(fd);
		close(clients[i]);
	}
	if (n < TRIES)
		close(clients[n]);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(listen(s->listener, BACKLOG + 2));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.name = unix_name(p.folder, "listener");
	s.listener = unix_socket(SOCK_STREAM | SOCK_NONBLOCK, &s.name);
	must(listen(s.listener, BACKLOG));
	return program_serve(&p, &ops, &s);
}
