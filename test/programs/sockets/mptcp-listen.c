/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Multipath TCP listener, as Go makes them, with its options, and a connection that a client without Multipath TCP
 * made to it: on both sides that is plain TCP. One that is bound only, and one that is nothing yet.
 */
#include "program.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

struct state {
	int listener, client, server, bound, fresh;
	struct sockaddr_in6 name, bound_name;
};

static int protocol_of(int fd)
{
	int protocol = 0;

	getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &(socklen_t){sizeof(protocol)});
	return protocol;
}

static void exchange(struct program *p, int a, int b)
{
	char byte = 0;

	expect_same(p, "sent", send(a, "x", 1, MSG_NOSIGNAL), 1);
	expect_same(p, "received", recv(b, &byte, 1, 0), 1);
	expect_same(p, "answered", send(b, "y", 1, MSG_NOSIGNAL), 1);
	expect_same(p, "answer", recv(a, &byte, 1, 0), 1);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_in6 got = {0};
	int listens = 0, nodelay = 0;

	expect_same(p, "protocol", protocol_of(s->listener), IPPROTO_MPTCP);
	expect_same(p, "protocol of the bound", protocol_of(s->bound), IPPROTO_MPTCP);
	expect_same(p, "protocol of the fresh", protocol_of(s->fresh), IPPROTO_MPTCP);
	getsockopt(s->listener, SOL_SOCKET, SO_ACCEPTCONN, &listens, &(socklen_t){sizeof(listens)});
	expect_same(p, "it listens", listens, 1);
	getsockopt(s->listener, SOL_TCP, TCP_NODELAY, &nodelay, &(socklen_t){sizeof(nodelay)});
	expect_same(p, "TCP_NODELAY", nodelay, 1);
	getsockname(s->bound, (struct sockaddr *)&got, &(socklen_t){sizeof(got)});
	expect_same(p, "bound port", got.sin6_port, s->bound_name.sin6_port);
	exchange(p, s->client, s->server);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = s->name.sin6_port, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int client = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP));

	/* Now with Multipath TCP on both sides. */
	expect_same(p, "connecting", connect(client, (const struct sockaddr *)&to, sizeof(to)), 0);
	int server = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	expect(p, server >= 0, "nobody came");
	expect_same(p, "protocol of the accepted", protocol_of(server), IPPROTO_MPTCP);
	exchange(p, client, server);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(setsockopt(s->listener, SOL_TCP, TCP_NODELAY, &(int){0}, sizeof(int)));
}

static int make(struct sockaddr_in6 *name)
{
	int fd = must(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP));

	*name = (struct sockaddr_in6){.sin6_family = AF_INET6};
	must(bind(fd, (const struct sockaddr *)name, sizeof(*name)));
	must(getsockname(fd, (struct sockaddr *)name, &(socklen_t){sizeof(*name)}));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.fresh = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);
	if (s.fresh < 0)
		program_lacks("Multipath TCP");
	s.listener = make(&s.name);
	s.bound = make(&s.bound_name);
	must(setsockopt(s.listener, SOL_TCP, TCP_NODELAY, &(int){1}, sizeof(int)));
	must(listen(s.listener, 7));
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = s.name.sin6_port, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	s.client = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
	must(connect(s.client, (const struct sockaddr *)&to, sizeof(to)));
	s.server = must(accept4(s.listener, NULL, NULL, SOCK_CLOEXEC));
	return program_serve(&p, &ops, &s);
}
