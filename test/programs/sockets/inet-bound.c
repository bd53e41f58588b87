/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP and UDP sockets that are bound in every way: only bound, to an address that is not there (IP_FREEBIND,
 * IP_TRANSPARENT), to a device, to both families of one port (IPV6_V6ONLY), without a port until it is needed
 * (IP_BIND_ADDRESS_NO_PORT), a listener on an address that is not there.
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char absent[] = "192.0.2.77";

struct state {
	int plain, freebind, transparent, device, v4, v6, no_port, listener, udp_freebind;
	uint16_t plain_port, shared_port;
};

static struct sockaddr_in name_of(int fd)
{
	struct sockaddr_in name = {0};

	getsockname(fd, (struct sockaddr *)&name, &(socklen_t){sizeof(name)});
	return name;
}

static int option(int fd, int level, int name)
{
	int value = -1;

	getsockopt(fd, level, name, &value, &(socklen_t){sizeof(value)});
	return value;
}

static void check_address(struct program *p, const char *what, int fd, const char *text)
{
	struct in_addr want = {0};

	inet_pton(AF_INET, text, &want);
	expect_same(p, what, name_of(fd).sin_addr.s_addr, want.s_addr);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char device[16] = "";
	struct sockaddr_in6 six = {0};

	expect_same(p, "port of the plain one", name_of(s->plain).sin_port, s->plain_port);
	check_address(p, "freebind", s->freebind, absent);
	expect_same(p, "IP_FREEBIND", option(s->freebind, SOL_IP, IP_FREEBIND), 1);
	check_address(p, "UDP freebind", s->udp_freebind, absent);
	check_address(p, "listener", s->listener, absent);
	expect_same(p, "it listens", option(s->listener, SOL_SOCKET, SO_ACCEPTCONN), 1);
	getsockopt(s->device, SOL_SOCKET, SO_BINDTODEVICE, device, &(socklen_t){sizeof(device)});
	expect(p, !strcmp(device, "lo"), "bound to device '%s'", device);
	getsockname(s->v6, (struct sockaddr *)&six, &(socklen_t){sizeof(six)});
	expect_same(p, "port of IPv4", name_of(s->v4).sin_port, s->shared_port);
	expect_same(p, "port of IPv6", six.sin6_port, s->shared_port);
	expect_same(p, "IPV6_V6ONLY", option(s->v6, SOL_IPV6, IPV6_V6ONLY), 1);
	if (!p->more)
		return;
	check_address(p, "transparent", s->transparent, absent);
	expect_same(p, "IP_TRANSPARENT", option(s->transparent, SOL_IP, IP_TRANSPARENT), 1);
	check_address(p, "without a port", s->no_port, "127.0.0.1");
	expect_same(p, "no port", name_of(s->no_port).sin_port, 0);
	expect_same(p, "IP_BIND_ADDRESS_NO_PORT", option(s->no_port, SOL_IP, IP_BIND_ADDRESS_NO_PORT), 1);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = s->shared_port, .sin_addr = {htonl(INADDR_LOOPBACK)}};

	verify(p, state);
	expect_same(p, "listening", listen(s->v4, 1), 0);
	expect_same(p, "connecting to IPv4", connect(s->plain, (const struct sockaddr *)&to, sizeof(to)), 0);
	expect_same(p, "its port", name_of(s->plain).sin_port, s->plain_port);
	if (p->more) {
		expect_same(p, "connecting without a port",
			    connect(s->no_port, (const struct sockaddr *)&to, sizeof(to)), 0);
		expect(p, name_of(s->no_port).sin_port, "it got no port");
	}
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(setsockopt(s->freebind, SOL_IP, IP_FREEBIND, &(int){0}, sizeof(int)));
}

static int make(int type, int option_name, const char *address)
{
	struct sockaddr_in name = {.sin_family = AF_INET};
	int fd = must(socket(AF_INET, type | SOCK_CLOEXEC, 0));

	inet_pton(AF_INET, address, &name.sin_addr);
	if (option_name)
		must(setsockopt(fd, SOL_IP, option_name, &(int){1}, sizeof(int)));
	must(bind(fd, (const struct sockaddr *)&name, sizeof(name)));
	return fd;
}

static void make_both(struct state *s)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};

	s->v4 = make(SOCK_STREAM, 0, "0.0.0.0");
	s->shared_port = six.sin6_port = name_of(s->v4).sin_port;
	s->v6 = must(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(setsockopt(s->v6, SOL_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int)));
	must(bind(s->v6, (const struct sockaddr *)&six, sizeof(six)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.plain = make(SOCK_STREAM, 0, "127.0.0.1");
	s.plain_port = name_of(s.plain).sin_port;
	s.freebind = make(SOCK_STREAM, IP_FREEBIND, absent);
	s.udp_freebind = make(SOCK_DGRAM, IP_FREEBIND, absent);
	s.listener = make(SOCK_STREAM, IP_FREEBIND, absent);
	must(listen(s.listener, 3));
	s.device = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(setsockopt(s.device, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
	must(bind(s.device, (const struct sockaddr *)&(struct sockaddr_in){.sin_family = AF_INET},
		  sizeof(struct sockaddr_in)));
	make_both(&s);
	if (p.more) {
		s.transparent = make(SOCK_STREAM, IP_TRANSPARENT, absent);
		s.no_port = make(SOCK_STREAM, IP_BIND_ADDRESS_NO_PORT, "127.0.0.1");
	}
	return program_serve(&p, &ops, &s);
}
