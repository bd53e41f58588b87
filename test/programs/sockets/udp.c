/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UDP sockets: bound, connected, IPv4 and IPv6, with options. Proof: names and options read back, and a datagram
 * travels from the connected to the bound one of each family.
 */
#include "program.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OPTIONS = 6, BOUND = 0, CONNECTED = 1 };

static const struct {
	const char *name;
	int level, option, set;
} options[OPTIONS] = {
	{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1}, {"SO_BROADCAST", SOL_SOCKET, SO_BROADCAST, 1},
	{"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 55555},   {"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 44444},
	{"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 4},   {"SO_MARK", SOL_SOCKET, SO_MARK, 99},
};

struct pair {
	const char *name;
	int family;
	int fd[2];
	struct sockaddr_storage address[2];
	socklen_t length;
	int values[2][OPTIONS];
};

static struct pair pairs[] = {
	{"ipv4", AF_INET, {-1, -1}, {{0}, {0}}, sizeof(struct sockaddr_in), {{0}}},
	{"ipv6", AF_INET6, {-1, -1}, {{0}, {0}}, sizeof(struct sockaddr_in6), {{0}}},
};

static int option_get(int fd, int level, int option)
{
	int value = -1;

	getsockopt(fd, level, option, &value, &(socklen_t){sizeof(value)});
	return value;
}

static void socket_make(struct pair *s, int which)
{
	struct sockaddr_storage *address = &s->address[which];

	s->fd[which] = must(socket(s->family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	for (int i = 0; i < OPTIONS; i++)
		if (which == BOUND || i % 2)
			must(setsockopt(s->fd[which], options[i].level, options[i].option, &options[i].set,
					sizeof(int)));
	address->ss_family = (sa_family_t)s->family;
	if (s->family == AF_INET)
		((struct sockaddr_in *)address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		((struct sockaddr_in6 *)address)->sin6_addr = in6addr_loopback;
	must(bind(s->fd[which], (const struct sockaddr *)address, s->length));
	if (which == CONNECTED)
		must(connect(s->fd[which], (const struct sockaddr *)&s->address[BOUND], s->length));
	must(getsockname(s->fd[which], (struct sockaddr *)address, &(socklen_t){s->length}));
	for (int i = 0; i < OPTIONS; i++)
		s->values[which][i] = option_get(s->fd[which], options[i].level, options[i].option);
}

static void socket_verify(struct program *p, const struct pair *s, int which)
{
	struct sockaddr_storage got = {0};

	getsockname(s->fd[which], (struct sockaddr *)&got, &(socklen_t){s->length});
	expect(p, !memcmp(&got, &s->address[which], s->length), "%s: bound to another address", s->name);
	for (int i = 0; i < OPTIONS; i++)
		expect_same(p, options[i].name, option_get(s->fd[which], options[i].level, options[i].option),
			    s->values[which][i]);
	memset(&got, 0, sizeof(got));
	int r = getpeername(s->fd[which], (struct sockaddr *)&got, &(socklen_t){s->length});
	if (which == BOUND)
		expect(p, r < 0, "%s: the bound socket has a peer", s->name);
	else
		expect(p, !memcmp(&got, &s->address[BOUND], s->length), "%s: another peer", s->name);
}

static void exchange(struct program *p, const struct pair *s)
{
	struct sockaddr_storage from = {0};
	socklen_t n = sizeof(from);
	char text[8] = "";

	expect_same(p, "sending", send(s->fd[CONNECTED], "gram", 5, MSG_DONTWAIT), 5);
	expect_same(p, "receiving",
		    recvfrom(s->fd[BOUND], text, sizeof(text), MSG_DONTWAIT, (struct sockaddr *)&from, &n),
		    5);
	expect(p, !strcmp(text, "gram"), "%s: something else arrived", s->name);
	expect(p, !memcmp(&from, &s->address[CONNECTED], s->length), "%s: from another address", s->name);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		socket_verify(p, &pairs[i], BOUND);
		socket_verify(p, &pairs[i], CONNECTED);
		exchange(p, &pairs[i]);
	}
}

static void spoil(void *state)
{
	(void)state;
	setsockopt(pairs[0].fd[BOUND], SOL_SOCKET, SO_PRIORITY, &(int){1}, sizeof(int));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		socket_make(&pairs[i], BOUND);
		socket_make(&pairs[i], CONNECTED);
	}
	return program_serve(&p, &ops, NULL);
}
