/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UDP sockets with datagrams that wait: of senders with other addresses, one of them closed, empty and large ones, with
 * what is told beside them (TTL, TOS, the address that they were sent to), over IPv4, IPv6 and IPv4 to an IPv6 socket; and
 * one that was connected afterwards. CRIU drops them: only "more".
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LARGE = 60000, TTL = 33, TOS = 0x48 };

struct state {
	int v4, v6, both, connected, sender;
	struct sockaddr_in v4_name, connected_name, sender_name, closed_name;
	struct sockaddr_in6 v6_name, both_name;
};

struct got {
	unsigned char bytes[LARGE + 100];
	ssize_t n;
	struct sockaddr_storage from;
	int ttl, tos;
	struct in_addr to;
};

static unsigned char large[LARGE];

static void receive(int fd, int flags, struct got *ret)
{
	char control[200] __attribute__((aligned(8)));
	struct iovec iov = {.iov_base = ret->bytes, .iov_len = sizeof(ret->bytes)};
	struct msghdr m = {.msg_name = &ret->from,
			   .msg_namelen = sizeof(ret->from),
			   .msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};

	ret->ttl = ret->tos = -1;
	ret->n = recvmsg(fd, &m, flags | MSG_DONTWAIT);
	for (struct cmsghdr *h = ret->n < 0 ? NULL : CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		struct in_pktinfo info;
		if (h->cmsg_level == SOL_IP && h->cmsg_type == IP_TTL)
			memcpy(&ret->ttl, CMSG_DATA(h), sizeof(int));
		if (h->cmsg_level == SOL_IP && h->cmsg_type == IP_TOS)
			ret->tos = *CMSG_DATA(h);
		if (h->cmsg_level == SOL_IP && h->cmsg_type == IP_PKTINFO) {
			memcpy(&info, CMSG_DATA(h), sizeof(info));
			ret->to = info.ipi_addr;
		}
	}
}

static void take(struct program *p, int fd, int flags, const void *want, size_t n, const void *from,
		 size_t length, struct got *ret)
{
	receive(fd, flags, ret);
	expect_same(p, "bytes", ret->n, n);
	expect(p, ret->n != (ssize_t)n || !memcmp(ret->bytes, want, n), "a datagram of %zu bytes differs", n);
	/* Family, port and address; behind them may lie anything. */
	expect(p, !memcmp(&ret->from, from, length), "a datagram of %zu bytes came from elsewhere", n);
}

static void take_v4(struct program *p, const struct state *s, int flags)
{
	static struct got got;

	take(p, s->v4, flags, "first", 5, &s->sender_name, 8, &got);
	expect_same(p, "TTL", got.ttl, TTL);
	expect_same(p, "TOS", got.tos, TOS);
	expect_same(p, "sent to", ntohl(got.to.s_addr), 0x7f000005);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	static struct got got;

	take_v4(p, s, MSG_PEEK);
	take(p, s->connected, MSG_PEEK, "before", 6, &s->closed_name, 8, &got);
	struct sockaddr_in peer = {0};
	expect(p, getpeername(s->connected, (struct sockaddr *)&peer, &(socklen_t){sizeof(peer)}) == 0,
	       "it is not connected");
	expect_same(p, "port of the peer", peer.sin_port, s->sender_name.sin_port);
}

static void expect_empty(struct program *p, const char *what, int fd)
{
	char byte;
	expect(p, recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "%s: more came", what);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	static struct got got;
	struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = s->sender_name.sin_port};

	take_v4(p, s, 0);
	take(p, s->v4, 0, "", 0, &s->closed_name, 8, &got);
	take(p, s->v4, 0, large, LARGE, &s->sender_name, 8, &got);
	take(p, s->v4, 0, "last", 4, &s->sender_name, 8, &got);
	expect_empty(p, "IPv4", s->v4);
	take(p, s->v6, 0, "six", 3, &s->both_name, 4, &got);
	expect(p, IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&got.from)->sin6_addr), "not from ::1");
	expect_empty(p, "IPv6", s->v6);
	inet_pton(AF_INET6, "::ffff:127.0.0.9", &mapped.sin6_addr);
	take(p, s->both, 0, "four to six", 11, &mapped, 24, &got);
	expect_empty(p, "both", s->both);
	take(p, s->connected, 0, "before", 6, &s->closed_name, 8, &got);
	take(p, s->connected, 0, "from the peer", 13, &s->sender_name, 8, &got);
	expect_empty(p, "connected", s->connected);
	/* It goes on. */
	must(sendto(s->sender, "again", 5, 0, (const struct sockaddr *)&s->v4_name, sizeof(s->v4_name)));
	sleep_ms(5);
	take(p, s->v4, 0, "again", 5, &s->sender_name, 8, &got);
}

static void spoil(void *state)
{
	const struct state *s = state;
	char byte;

	must(recv(s->v4, &byte, 1, 0));
}

static int bound(const char *text, struct sockaddr_in *name)
{
	int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	*name = (struct sockaddr_in){.sin_family = AF_INET};
	inet_pton(AF_INET, text, &name->sin_addr);
	must(bind(fd, (const struct sockaddr *)name, sizeof(*name)));
	must(getsockname(fd, (struct sockaddr *)name, &(socklen_t){sizeof(*name)}));
	return fd;
}

static int bound6(const char *text, struct sockaddr_in6 *name)
{
	int fd = must(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	*name = (struct sockaddr_in6){.sin6_family = AF_INET6};
	inet_pton(AF_INET6, text, &name->sin6_addr);
	must(bind(fd, (const struct sockaddr *)name, sizeof(*name)));
	must(getsockname(fd, (struct sockaddr *)name, &(socklen_t){sizeof(*name)}));
	return fd;
}

static void post(int fd, const void *bytes, size_t n, struct sockaddr_in to, const char *address)
{
	if (address)
		inet_pton(AF_INET, address, &to.sin_addr);
	if (sendto(fd, bytes, n, 0, (const struct sockaddr *)&to, sizeof(to)) != (ssize_t)n)
		program_die("sendto");
}

static void fill_v4(const struct state *s, int closed)
{
	struct sockaddr_in to = s->v4_name;

	must(setsockopt(s->v4, SOL_IP, IP_RECVTTL, &(int){1}, sizeof(int)));
	must(setsockopt(s->v4, SOL_IP, IP_RECVTOS, &(int){1}, sizeof(int)));
	must(setsockopt(s->v4, SOL_IP, IP_PKTINFO, &(int){1}, sizeof(int)));
	must(setsockopt(s->sender, SOL_IP, IP_TTL, &(int){TTL}, sizeof(int)));
	must(setsockopt(s->sender, SOL_IP, IP_TOS, &(int){TOS}, sizeof(int)));
	post(s->sender, "first", 5, to, "127.0.0.5");
	post(closed, "", 0, to, "127.0.0.1");
	post(s->sender, large, LARGE, to, "127.0.0.1");
	post(s->sender, "last", 4, to, "127.0.0.1");
}

static void fill_others(const struct state *s, int closed)
{
	struct sockaddr_in to_both = {.sin_family = AF_INET, .sin_port = s->both_name.sin6_port};
	struct sockaddr_in6 to_v6 = s->v6_name;

	to_v6.sin6_addr = in6addr_loopback;
	must(sendto(s->both, "six", 3, 0, (const struct sockaddr *)&to_v6, sizeof(to_v6)));
	post(s->sender, "four to six", 11, to_both, "127.0.0.9");
	post(closed, "before", 6, s->connected_name, NULL);
	must(connect(s->connected, (const struct sockaddr *)&s->sender_name, sizeof(s->sender_name)));
	post(s->sender, "from the peer", 13, s->connected_name, NULL);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	pattern_fill(large, LARGE, 7);
	s.v4 = bound("0.0.0.0", &s.v4_name);
	s.v6 = bound6("::1", &s.v6_name);
	s.both = bound6("::", &s.both_name);
	s.connected = bound("127.0.0.3", &s.connected_name);
	s.sender = bound("127.0.0.9", &s.sender_name);
	int closed = bound("127.0.0.2", &s.closed_name);
	fill_v4(&s, closed);
	fill_others(&s, closed);
	close(closed);
	return program_serve(&p, &ops, &s);
}
