/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UDP-Lite sockets: one bound, one connected to it, with how much the checksum covers in both directions, and a datagram
 * that waits ("more").
 */
#include "program.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define UDPLITE_SEND_CSCOV 10
#define UDPLITE_RECV_CSCOV 11

enum { SEND_COVER = 20, RECEIVE_COVER = 12 };

struct state {
	int bound, connected;
	struct sockaddr_in name;
};

static void check_option(struct program *p, const char *what, int fd, int name, int want)
{
	int value = -1;

	getsockopt(fd, IPPROTO_UDPLITE, name, &value, &(socklen_t){sizeof(value)});
	expect_same(p, what, value, want);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_in got = {0};
	int protocol = 0;
	char byte = 0;

	getsockopt(s->bound, SOL_SOCKET, SO_PROTOCOL, &protocol, &(socklen_t){sizeof(protocol)});
	expect_same(p, "protocol", protocol, IPPROTO_UDPLITE);
	expect(p, getpeername(s->connected, (struct sockaddr *)&got, &(socklen_t){sizeof(got)}) == 0,
	       "no peer");
	expect_same(p, "port of the peer", got.sin_port, s->name.sin_port);
	if (!p->more)
		return;
	check_option(p, "covered when sent", s->connected, UDPLITE_SEND_CSCOV, SEND_COVER);
	check_option(p, "covered when received", s->bound, UDPLITE_RECV_CSCOV, RECEIVE_COVER);
	expect_same(p, "waiting", recv(s->bound, &byte, 1, MSG_PEEK | MSG_DONTWAIT), 1);
	expect_same(p, "byte", byte, 'l');
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	char bytes[64];

	if (p->more)
		expect_same(p, "waiting", recv(s->bound, bytes, sizeof(bytes), MSG_DONTWAIT), 26);
	must(send(s->connected, "something of thirty bytes' size", 31, 0));
	expect_same(p, "sent", recv(s->bound, bytes, sizeof(bytes), 0), 31);
}

static void spoil(void *state)
{
	struct state *s = state;

	must(connect(s->connected, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.bound = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDPLITE);
	if (s.bound < 0 && errno == EPROTONOSUPPORT)
		program_lacks("UDP-Lite");
	s.connected = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDPLITE));
	s.name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	must(bind(s.bound, (const struct sockaddr *)&s.name, sizeof(s.name)));
	must(getsockname(s.bound, (struct sockaddr *)&s.name, &(socklen_t){sizeof(s.name)}));
	must(connect(s.connected, (const struct sockaddr *)&s.name, sizeof(s.name)));
	if (p.more) {
		must(setsockopt(s.bound, IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, &(int){RECEIVE_COVER},
				sizeof(int)));
		must(setsockopt(s.connected, IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, &(int){SEND_COVER},
				sizeof(int)));
		must(send(s.connected, "lite and with 26 bytes, ok", 26, 0));
	}
	return program_serve(&p, &ops, &s);
}
