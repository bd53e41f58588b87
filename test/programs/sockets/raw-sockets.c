/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw sockets of IPv4 and IPv6: ICMP with a filter, bound, with headers of their own; and connected ones, which send and
 * receive afterwards, and which CRIU forgets ("more").
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SOL_RAW_ = 255, ICMP_FILTER_ = 1, PROTOCOL = 253, TTL = 17 };

struct state {
	int icmp, icmp6, own_header, bound, sender, silent;
	uint32_t filter;
	struct icmp6_filter filter6;
};

static void check_filters(struct program *p, const struct state *s)
{
	uint32_t filter = 0;
	struct icmp6_filter filter6 = {0};

	getsockopt(s->icmp, SOL_RAW_, ICMP_FILTER_, &filter, &(socklen_t){sizeof(filter)});
	expect_same(p, "ICMP filter", filter, s->filter);
	getsockopt(s->icmp6, IPPROTO_ICMPV6, ICMP6_FILTER, &filter6, &(socklen_t){sizeof(filter6)});
	expect(p, !memcmp(&filter6, &s->filter6, sizeof(filter6)), "the ICMPv6 filter is another");
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_in got = {0};
	int protocol = 0, type = 0, included = 0, ttl = 0;

	check_filters(p, s);
	getsockopt(s->bound, SOL_SOCKET, SO_PROTOCOL, &protocol, &(socklen_t){sizeof(protocol)});
	getsockopt(s->bound, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)});
	expect_same(p, "protocol", protocol, PROTOCOL);
	expect_same(p, "type", type, SOCK_RAW);
	getsockopt(s->own_header, SOL_IP, IP_HDRINCL, &included, &(socklen_t){sizeof(included)});
	expect_same(p, "IP_HDRINCL", included, 1);
	getsockopt(s->sender, SOL_IP, IP_TTL, &ttl, &(socklen_t){sizeof(ttl)});
	expect_same(p, "TTL", ttl, TTL);
	getsockname(s->bound, (struct sockaddr *)&got, &(socklen_t){sizeof(got)});
	expect_same(p, "bound to", ntohl(got.sin_addr.s_addr), 0x7f000007);
	if (!p->more)
		return;
	expect(p, getpeername(s->sender, (struct sockaddr *)&got, &(socklen_t){sizeof(got)}) == 0, "no peer");
	expect_same(p, "connected to", ntohl(got.sin_addr.s_addr), 0x7f000007);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	unsigned char packet[100];
	struct pollfd poller = {.fd = s->bound, .events = POLLIN};

	if (!p->more)
		return;
	expect_same(p, "sent", send(s->sender, "raw bytes", 9, 0), 9);
	expect_same(p, "arrives", poll(&poller, 1, 2000), 1);
	expect_same(p, "received", recv(s->bound, packet, sizeof(packet), 0), sizeof(struct iphdr) + 9);
	expect_same(p, "TTL of it", ((struct iphdr *)packet)->ttl, TTL);
	expect(p, !memcmp(packet + sizeof(struct iphdr), "raw bytes", 9), "other bytes");
	expect_same(p, "sent without a port", send(s->silent, "more", 4, 0), 4);
	expect_same(p, "arrives", poll(&poller, 1, 2000), 1);
}

static void spoil(void *state)
{
	struct state *s = state;
	uint32_t none = 0;

	must(setsockopt(s->icmp, SOL_RAW_, ICMP_FILTER_, &none, sizeof(none)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(0x7f000007)}};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.filter = ~(1u << ICMP_ECHOREPLY);
	ICMP6_FILTER_SETBLOCKALL(&s.filter6);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &s.filter6);
	s.icmp = must(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
	must(setsockopt(s.icmp, SOL_RAW_, ICMP_FILTER_, &s.filter, sizeof(s.filter)));
	s.icmp6 = must(socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6));
	must(setsockopt(s.icmp6, IPPROTO_ICMPV6, ICMP6_FILTER, &s.filter6, sizeof(s.filter6)));
	s.own_header = must(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
	s.bound = must(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, PROTOCOL));
	must(bind(s.bound, (const struct sockaddr *)&name, sizeof(name)));
	s.sender = must(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, PROTOCOL));
	s.silent = must(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, PROTOCOL));
	must(setsockopt(s.sender, SOL_IP, IP_TTL, &(int){TTL}, sizeof(int)));
	/* Who connects with a port can ask for it; without one only its packets tell. */
	must(connect(s.silent, (const struct sockaddr *)&name, sizeof(name)));
	name.sin_port = htons(1);
	must(connect(s.sender, (const struct sockaddr *)&name, sizeof(name)));
	return program_serve(&p, &ops, &s);
}
