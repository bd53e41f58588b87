/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening TCP sockets, IPv4 and IPv6, with options. Proof: names, options, backlog as TCP_INFO tells it, the state;
 * at the end a connection to each works.
 */
#include "program.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OPTIONS = 8, BACKLOG = 17 };

static const struct {
	const char *name;
	int level, option;
} options[OPTIONS] = {
	{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR}, {"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE},
	{"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF},       {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF},
	{"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY},  {"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE},
	{"TCP_MAXSEG", IPPROTO_TCP, TCP_MAXSEG},    {"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY},
};

struct listener {
	const char *name;
	int family;
	struct sockaddr_storage address;
	socklen_t length;
	int fd;
	int values[OPTIONS];
	int v6only;
};

static struct listener listeners[] = {
	{"ipv4 any", AF_INET, {0}, 0, -1, {0}, 0},
	{"ipv4 loopback", AF_INET, {0}, 0, -1, {0}, 0},
	{"ipv6 loopback", AF_INET6, {0}, 0, -1, {0}, 0},
	{"ipv6 only", AF_INET6, {0}, 0, -1, {0}, 1},
};

static int option_get(int fd, int level, int option)
{
	int value = -1;

	getsockopt(fd, level, option, &value, &(socklen_t){sizeof(value)});
	return value;
}

static void listener_make(struct listener *l)
{
	l->fd = must(socket(l->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	must(setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)));
	must(setsockopt(l->fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int)));
	must(setsockopt(l->fd, SOL_SOCKET, SO_RCVBUF, &(int){77777}, sizeof(int)));
	must(setsockopt(l->fd, SOL_SOCKET, SO_PRIORITY, &(int){3}, sizeof(int)));
	must(setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)));
	must(setsockopt(l->fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){123}, sizeof(int)));
	l->length = l->family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	l->address.ss_family = (sa_family_t)l->family;
	if (!strcmp(l->name, "ipv4 loopback"))
		((struct sockaddr_in *)&l->address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (!strcmp(l->name, "ipv6 loopback"))
		((struct sockaddr_in6 *)&l->address)->sin6_addr = in6addr_loopback;
	if (l->v6only)
		must(setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int)));
	must(bind(l->fd, (const struct sockaddr *)&l->address, l->length));
	must(listen(l->fd, BACKLOG));
	must(getsockname(l->fd, (struct sockaddr *)&l->address, &l->length));
	for (int i = 0; i < OPTIONS; i++)
		l->values[i] = option_get(l->fd, options[i].level, options[i].option);
	/* Binding to one IPv6 address switches it on as well. */
	l->v6only = option_get(l->fd, IPPROTO_IPV6, IPV6_V6ONLY);
}

static void listener_verify(struct program *p, const struct listener *l)
{
	struct sockaddr_storage address = {0};
	struct tcp_info info = {0};

	getsockname(l->fd, (struct sockaddr *)&address, &(socklen_t){sizeof(address)});
	expect(p, !memcmp(&address, &l->address, l->length), "%s: bound to another address", l->name);
	getsockopt(l->fd, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	expect_same(p, "state", info.tcpi_state, TCP_LISTEN);
	expect_same(p, "backlog", info.tcpi_sacked, BACKLOG);
	for (int i = 0; i < OPTIONS; i++)
		expect_same(p, options[i].name, option_get(l->fd, options[i].level, options[i].option),
			    l->values[i]);
	if (l->family == AF_INET6)
		expect_same(p, "IPV6_V6ONLY", option_get(l->fd, IPPROTO_IPV6, IPV6_V6ONLY), l->v6only);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(listeners); i++)
		listener_verify(p, &listeners[i]);
}

static void finish(struct program *p, void *state)
{
	char byte = 0;

	verify(p, state);
	for (size_t i = 0; i < ARRAY_SIZE(listeners); i++) {
		const struct listener *l = &listeners[i];
		int fd = socket(l->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		expect_same(p, "connecting", connect(fd, (const struct sockaddr *)&l->address, l->length), 0);
		int accepted = -1;
		for (int ms = 0; ms < 1000 && accepted < 0; ms++, sleep_ms(1))
			accepted = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
		expect_same(p, "sending", send(fd, "z", 1, MSG_NOSIGNAL), 1);
		expect_same(p, "receiving", recv(accepted, &byte, 1, 0), 1);
		expect_same(p, "inherited TCP_NODELAY", option_get(accepted, IPPROTO_TCP, TCP_NODELAY), 1);
		close(accepted);
		close(fd);
	}
}

static void spoil(void *state)
{
	(void)state;
	setsockopt(listeners[1].fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){124}, sizeof(int));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(listeners); i++)
		listener_make(&listeners[i]);
	return program_serve(&p, &ops, NULL);
}
