/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of sockets that share a port (SO_REUSEPORT): TCP listeners and UDP sockets. Every member takes its share
 * afterwards.
 */
#include "program.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MEMBERS = 3, TRIES = 400 };

struct state {
	int tcp[MEMBERS], udp[MEMBERS];
	struct sockaddr_in tcp_name, udp_name;
};

static int option(int fd, int name)
{
	int value = -1;

	getsockopt(fd, SOL_SOCKET, name, &value, &(socklen_t){sizeof(value)});
	return value;
}

static void check_name(struct program *p, const char *what, int fd, const struct sockaddr_in *want)
{
	struct sockaddr_in got = {0};

	getsockname(fd, (struct sockaddr *)&got, &(socklen_t){sizeof(got)});
	expect_same(p, what, got.sin_port, want->sin_port);
	expect_same(p, what, option(fd, SO_REUSEPORT), 1);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	for (int i = 0; i < MEMBERS; i++) {
		check_name(p, "TCP member", s->tcp[i], &s->tcp_name);
		expect_same(p, "it listens", option(s->tcp[i], SO_ACCEPTCONN), 1);
		check_name(p, "UDP member", s->udp[i], &s->udp_name);
	}
}

/* Different senders fall to different members. */
static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	bool tcp[MEMBERS] = {false}, udp[MEMBERS] = {false};
	char byte;

	for (int n = 0; n < TRIES; n++) {
		int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
		must(sendto(fd, "x", 1, 0, (const struct sockaddr *)&s->udp_name, sizeof(s->udp_name)));
		close(fd);
		fd = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
		must(connect(fd, (const struct sockaddr *)&s->tcp_name, sizeof(s->tcp_name)));
		close(fd);
		for (int i = 0; i < MEMBERS; i++) {
			int accepted = accept4(s->tcp[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
			tcp[i] |= accepted >= 0;
			if (accepted >= 0)
				close(accepted);
			udp[i] |= recv(s->udp[i], &byte, 1, MSG_DONTWAIT) == 1;
		}
	}
	for (int i = 0; i < MEMBERS; i++) {
		expect(p, tcp[i], "TCP member %d got nothing", i);
		expect(p, udp[i], "UDP member %d got nothing", i);
	}
}

static void spoil(void *state)
{
	struct state *s = state;

	must(shutdown(s->tcp[1], SHUT_RDWR));
}

static int member(int type, struct sockaddr_in *name)
{
	int fd = must(socket(AF_INET, type | SOCK_CLOEXEC | (type == SOCK_STREAM ? SOCK_NONBLOCK : 0), 0));

	must(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)));
	must(bind(fd, (const struct sockaddr *)name, sizeof(*name)));
	must(getsockname(fd, (struct sockaddr *)name, &(socklen_t){sizeof(*name)}));
	if (type == SOCK_STREAM)
		must(listen(fd, 20));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.tcp_name = s.udp_name =
		(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	for (int i = 0; i < MEMBERS; i++) {
		s.tcp[i] = member(SOCK_STREAM, &s.tcp_name);
		s.udp[i] = member(SOCK_DGRAM, &s.udp_name);
	}
	return program_serve(&p, &ops, &s);
}
