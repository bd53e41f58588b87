/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix seqpacket sockets: a pair with messages both ways, a connection that was accepted, an end whose peer closed
 * with messages left, one that was shut down, a listener.
 */
#include "messages.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

struct state {
	struct unix_name name;
	int a, b, listener, client, server, left, shut, shut_peer;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_message(p, s->a, MSG_PEEK, "one", NULL);
	expect_message(p, s->b, MSG_PEEK, "back", NULL);
	expect_message(p, s->server, MSG_PEEK, "to the server", NULL);
	expect_message(p, s->left, MSG_PEEK, "left behind", NULL);
	if (p->more) {
		expect_name(p, "server", s->server, false, &s->name);
		expect_name(p, "client", s->client, true, &s->name);
	}
	struct pollfd poller = {.fd = s->shut, .events = POLLRDHUP};
	expect(p, poll(&poller, 1, 0) == 1 && poller.revents & POLLRDHUP, "it is not shut down");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct message m;

	expect_message(p, s->a, 0, "one", NULL);
	if (p->more)
		expect_message(p, s->a, 0, "", NULL);
	/* What a short read leaves of a message is gone. */
	message_receive(s->a, 0, 3, &m);
	expect_same(p, "cut", m.n, 3);
	expect(p, m.flags & MSG_TRUNC, "it was not cut");
	expect_message(p, s->a, 0, "three", NULL);
	expect_nothing(p, "behind the last", s->a);
	expect_message(p, s->b, 0, "back", NULL);
	expect_message(p, s->server, 0, "to the server", NULL);
	expect_message(p, s->left, 0, "left behind", NULL);
	message_receive(s->left, 0, 10, &m);
	expect_same(p, "end of it", m.n, 0);
	expect_message(p, s->shut, 0, "before", NULL);
	message_receive(s->shut, 0, 10, &m);
	expect_same(p, "shut down", m.n, 0);
	expect(p, send(s->shut_peer, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "it can still send");
	int fd = unix_socket(SOCK_SEQPACKET, NULL);
	expect_same(p, "connecting", connect(fd, (const struct sockaddr *)&s->name.address, s->name.length),
		    0);
	int accepted = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	expect(p, accepted >= 0, "nobody came");
	close(accepted);
	close(fd);
}

static void spoil(void *state)
{
	const struct state *s = state;
	char byte;

	must(recv(s->a, &byte, 1, 0));
}

static void pair_make(int *a, int *b)
{
	int pair[2];

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	*a = pair[0];
	*b = pair[1];
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	int other;

	program_start(&p, argc, argv);
	s.name = unix_name(p.folder, "seqpacket");
	pair_make(&s.a, &s.b);
	message_send(s.b, "one", NULL, 0, NULL);
	if (p.more)
		message_send(s.b, "", NULL, 0, NULL);
	message_send(s.b, "two, which is longer", NULL, 0, NULL);
	message_send(s.b, "three", NULL, 0, NULL);
	message_send(s.a, "back", NULL, 0, NULL);
	s.listener = unix_socket(SOCK_SEQPACKET, &s.name);
	must(listen(s.listener, 3));
	s.client = unix_socket(SOCK_SEQPACKET, NULL);
	must(connect(s.client, (const struct sockaddr *)&s.name.address, s.name.length));
	s.server = must(accept4(s.listener, NULL, NULL, SOCK_CLOEXEC));
	message_send(s.client, "to the server", NULL, 0, NULL);
	pair_make(&s.left, &other);
	message_send(other, "left behind", NULL, 0, NULL);
	close(other);
	pair_make(&s.shut, &s.shut_peer);
	message_send(s.shut_peer, "before", NULL, 0, NULL);
	must(shutdown(s.shut_peer, SHUT_WR));
	return program_serve(&p, &ops, &s);
}
