/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internet sockets that nobody has but the queue of a unix socket: both ends of a TCP connection with bytes on their way, a
 * listener, a UDP socket with a datagram ("more"), an eventfd beside them. A server that hands its sockets over is caught so.
 */
#include "messages.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { LISTENER, CLIENT, SERVER, UDP, EVENT, COUNT, TICKS = 5 };

struct state {
	int to;
	struct sockaddr_in listener, udp;
};

static void check(struct program *p, const struct state *s, const struct message *m)
{
	struct sockaddr_in name = {0};
	char bytes[16] = "";

	expect_same(p, "descriptors", m->n_fds, COUNT);
	if (m->n_fds != COUNT)
		return;
	getsockname(m->fds[LISTENER], (struct sockaddr *)&name, &(socklen_t){sizeof(name)});
	expect_same(p, "port of the listener", name.sin_port, s->listener.sin_port);
	expect_same(p, "bytes of the connection",
		    recv(m->fds[SERVER], bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT), 10);
	expect(p, !memcmp(bytes, "on its way", 10), "other bytes");
	getsockname(m->fds[UDP], (struct sockaddr *)&name, &(socklen_t){sizeof(name)});
	expect_same(p, "port of the UDP socket", name.sin_port, s->udp.sin_port);
	if (p->more)
		expect_same(p, "datagram", recv(m->fds[UDP], bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT),
			    4);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct message m;

	message_receive(s->to, MSG_PEEK, 5, &m);
	check(p, s, &m);
	for (size_t i = 0; i < m.n_fds; i++)
		close(m.fds[i]);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct message m;
	uint64_t ticks = 0;
	char byte = 0;

	message_receive(s->to, 0, 5, &m);
	check(p, s, &m);
	if (m.n_fds != COUNT)
		return;
	expect_same(p, "ticks", read(m.fds[EVENT], &ticks, sizeof(ticks)), sizeof(ticks));
	expect_same(p, "ticks", ticks, TICKS);
	expect_same(p, "sent", send(m.fds[SERVER], "y", 1, MSG_NOSIGNAL), 1);
	expect_same(p, "received", recv(m.fds[CLIENT], &byte, 1, 0), 1);
	int fd = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	expect_same(p, "connecting", connect(fd, (const struct sockaddr *)&s->listener, sizeof(s->listener)),
		    0);
	expect(p, accept4(m.fds[LISTENER], NULL, NULL, SOCK_CLOEXEC) >= 0, "nobody came");
}

static void spoil(void *state)
{
	const struct state *s = state;
	char bytes[8];

	must(recv(s->to, bytes, 5, 0));
}

static int bound(int type, struct sockaddr_in *name)
{
	int fd = must(socket(AF_INET, type | SOCK_CLOEXEC, 0));

	*name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	must(bind(fd, (const struct sockaddr *)name, sizeof(*name)));
	must(getsockname(fd, (struct sockaddr *)name, &(socklen_t){sizeof(*name)}));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	int fds[COUNT], pair[2];

	program_start(&p, argc, argv);
	fds[LISTENER] = bound(SOCK_STREAM, &s.listener);
	must(listen(fds[LISTENER], 5));
	fds[CLIENT] = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(connect(fds[CLIENT], (const struct sockaddr *)&s.listener, sizeof(s.listener)));
	fds[SERVER] = must(accept4(fds[LISTENER], NULL, NULL, SOCK_CLOEXEC));
	must(send(fds[CLIENT], "on its way", 10, 0));
	fds[UDP] = bound(SOCK_DGRAM, &s.udp);
	if (p.more)
		must(sendto(fds[UDP], "self", 4, 0, (const struct sockaddr *)&s.udp, sizeof(s.udp)));
	fds[EVENT] = must(eventfd(TICKS, EFD_CLOEXEC));
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	message_send(pair[0], "hands", fds, COUNT, NULL);
	for (int i = 0; i < COUNT; i++)
		close(fds[i]);
	s.to = pair[1];
	return program_serve(&p, &ops, &s);
}
