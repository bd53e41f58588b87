/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ICMP sockets of ordinary users (ping): bound to a number, and connected; the kernel answers their echo afterwards.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NUMBER = 4711, SEQUENCE = 3 };

struct state {
	int bound, connected;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_in got = {0};
	int protocol = 0;

	getsockopt(s->bound, SOL_SOCKET, SO_PROTOCOL, &protocol, &(socklen_t){sizeof(protocol)});
	expect_same(p, "protocol", protocol, IPPROTO_ICMP);
	getsockname(s->bound, (struct sockaddr *)&got, &(socklen_t){sizeof(got)});
	expect_same(p, "number", ntohs(got.sin_port), NUMBER);
	getsockname(s->connected, (struct sockaddr *)&got, &(socklen_t){sizeof(got)});
	expect_same(p, "its own address", ntohl(got.sin_addr.s_addr), INADDR_LOOPBACK);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct icmphdr echo = {.type = ICMP_ECHO, .un.echo.sequence = htons(SEQUENCE)}, answer = {0};
	struct pollfd poller = {.fd = s->connected, .events = POLLIN};

	expect_same(p, "sent", send(s->connected, &echo, sizeof(echo), 0), sizeof(echo));
	expect_same(p, "answered", poll(&poller, 1, 2000), 1);
	expect_same(p, "answer", recv(s->connected, &answer, sizeof(answer), 0), sizeof(answer));
	expect_same(p, "type", answer.type, ICMP_ECHOREPLY);
	expect_same(p, "sequence", ntohs(answer.un.echo.sequence), SEQUENCE);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(connect(s->connected, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(NUMBER)};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	/* In this network namespace; else nobody may. */
	int range = open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY | O_CLOEXEC);
	if (range < 0 || write(range, "0 0", 3) != 3)
		program_lacks("a network namespace of its own with ICMP sockets");
	close(range);
	s.bound = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP));
	must(bind(s.bound, (const struct sockaddr *)&name, sizeof(name)));
	s.connected = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP));
	name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	must(connect(s.connected, (const struct sockaddr *)&name, sizeof(name)));
	return program_serve(&p, &ops, &s);
}
