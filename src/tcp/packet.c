/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns building one TCP segment by hand and delivering it to this machine: raw(7) with IP_HDRINCL, IPV6_HDRINCL
 * (4.5); rtnetlink(7) RTM_GETROUTE to be sure that it stays here.
 *
 * The segment carries no timestamp: Linux accepts that on a connection with timestamps, and it leaves the
 * peer's recorded timestamp alone. Its window is zero, so that nothing leaves before the true window is set.
 */
#include "tcp/packet.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* After <netinet/in.h>, which they let define the addresses. */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/rtnetlink.h>

#include "base/cleanup.h"
#include "tcp/socket.h"

enum { ROUTE_WAIT_MS = 1000 };

static uint32_t sum_bytes(uint32_t sum, const void *bytes, size_t n)
{
	const uint8_t *b = bytes;
	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)b[i] << 8 | b[i + 1];
	return sum;
}

static uint16_t sum_fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Where the address that is on the wire begins and how long it is. */
static const uint8_t *wire_address(const struct ferry_tcp *t, const uint8_t address[static 16], size_t *ret_n)
{
	*ret_n = t->family == AF_INET || tcp_is_mapped(t) ? 4 : 16;
	return tcp_is_mapped(t) ? address + 12 : address;
}

static void build_segment(const struct ferry_tcp *t, enum tcp_packet_kind kind, struct tcphdr *ret_tcp)
{
	size_t n;
	const uint8_t *from = wire_address(t, t->remote_addr, &n);
	const uint8_t *to = wire_address(t, t->local_addr, &n);
	/*
	 * The start of our queue is what the peer has acknowledged; the sequence numbers count FINs as bytes.
	 */
	uint32_t una = t->outq.seq - t->outq.len - tcp_has_local_fin(t);
	struct tcphdr h = {
		.source = htons(t->remote_port),
		.dest = htons(t->local_port),
		.seq = htonl(kind == TCP_PACKET_FIN ? t->inq.seq - 1 : t->inq.seq),
		.ack_seq = htonl(kind == TCP_PACKET_FIN ? una : t->outq.seq),
		.doff = sizeof(h) / 4,
		.ack = 1,
		.fin = kind == TCP_PACKET_FIN,
	};
	uint32_t sum = sum_bytes(0, from, n);
	sum = sum_bytes(sum, to, n);
	sum += IPPROTO_TCP + sizeof(h);
	h.check = htons(sum_fold(sum_bytes(sum, &h, sizeof(h))));
	*ret_tcp = h;
}

size_t tcp_packet_build(const struct ferry_tcp *t, enum tcp_packet_kind kind,
			uint8_t packet[static TCP_PACKET_MAX])
{
	size_t n;
	struct tcphdr tcp;
	const uint8_t *from = wire_address(t, t->remote_addr, &n);
	const uint8_t *to = wire_address(t, t->local_addr, &n);
	build_segment(t, kind, &tcp);
	if (n == 4) {
		struct iphdr ip = {
			.version = 4,
			.ihl = sizeof(ip) / 4,
			.ttl = 64,
			.protocol = IPPROTO_TCP,
			.tot_len = htons(sizeof(ip) + sizeof(tcp)),
		};
		memcpy(&ip.saddr, from, n);
		memcpy(&ip.daddr, to, n);
		ip.check = htons(sum_fold(sum_bytes(0, &ip, sizeof(ip))));
		memcpy(packet, &ip, sizeof(ip));
		memcpy(packet + sizeof(ip), &tcp, sizeof(tcp));
		return sizeof(ip) + sizeof(tcp);
	}
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = htons(sizeof(tcp)),
		.nexthdr = IPPROTO_TCP,
		.hop_limit = 64,
	};
	memcpy(&ip.saddr, from, n);
	memcpy(&ip.daddr, to, n);
	memcpy(packet, &ip, sizeof(ip));
	memcpy(packet + sizeof(ip), &tcp, sizeof(tcp));
	return sizeof(ip) + sizeof(tcp);
}

static socklen_t destination(const struct ferry_tcp *t, uint32_t scope, struct sockaddr_storage *ret_to)
{
	size_t n;
	const uint8_t *address = wire_address(t, t->local_addr, &n);
	struct sockaddr_storage to = {0};
	if (n == 4) {
		struct sockaddr_in *a = (struct sockaddr_in *)&to;
		a->sin_family = AF_INET;
		memcpy(&a->sin_addr, address, n);
		*ret_to = to;
		return sizeof(*a);
	}
	struct sockaddr_in6 *a = (struct sockaddr_in6 *)&to;
	a->sin6_family = AF_INET6;
	memcpy(&a->sin6_addr, address, n);
	a->sin6_scope_id = IN6_IS_ADDR_LINKLOCAL(&a->sin6_addr) ? scope : 0;
	*ret_to = to;
	return sizeof(*a);
}

/* Ask the routing table where a packet to this address would go: RTN_LOCAL and so on, or -errno. */
static int route_type(const struct sockaddr_storage *to)
{
	const bool v4 = to->ss_family == AF_INET;
	const size_t n = v4 ? 4 : 16;
	struct {
		struct nlmsghdr h;
		struct rtmsg r;
		struct rtattr oif;
		uint32_t device;
		struct rtattr dst;
		uint8_t address[16];
	} question = {
		.h = {.nlmsg_len = (uint32_t)(offsetof(typeof(question), address) + n),
		      .nlmsg_type = RTM_GETROUTE,
		      .nlmsg_flags = NLM_F_REQUEST},
		.r = {.rtm_family = (uint8_t)to->ss_family, .rtm_dst_len = (uint8_t)(8 * n)},
		.oif = {.rta_len = RTA_LENGTH(sizeof(uint32_t)), .rta_type = RTA_OIF}, /* 0 = any */
		.dst = {.rta_len = (uint16_t)RTA_LENGTH(n), .rta_type = RTA_DST},
	};
	union {
		struct nlmsghdr h;
		uint8_t bytes[4096];
	} answer;
	if (v4)
		memcpy(question.address, &((const struct sockaddr_in *)to)->sin_addr, n);
	else
		memcpy(question.address, &((const struct sockaddr_in6 *)to)->sin6_addr, n);
	question.device = v4 ? 0 : ((const struct sockaddr_in6 *)to)->sin6_scope_id;
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0 || send(fd, &question, question.h.nlmsg_len, 0) < 0)
		return -errno;
	ssize_t got = recv(fd, &answer, sizeof(answer), 0);
	if (got < 0)
		return -errno;
	if (answer.h.nlmsg_type == NLMSG_ERROR && (size_t)got >= NLMSG_LENGTH(sizeof(struct nlmsgerr)))
		return ((const struct nlmsgerr *)NLMSG_DATA(&answer.h))->error;
	if (answer.h.nlmsg_type != RTM_NEWROUTE || (size_t)got < NLMSG_LENGTH(sizeof(struct rtmsg)))
		return -EBADMSG;
	return ((const struct rtmsg *)NLMSG_DATA(&answer.h))->rtm_type;
}

/* The route of an IPv6 address comes a moment after the address itself. */
static int wait_local(const struct sockaddr_storage *to)
{
	const struct timespec tick = {.tv_nsec = 1000 * 1000};
	for (unsigned ms = 0; ms < ROUTE_WAIT_MS; ms++) {
		int type = route_type(to);
		if (type == RTN_LOCAL)
			return 0;
		if (type < 0 && type != -ENETUNREACH && type != -EHOSTUNREACH)
			return type;
		nanosleep(&tick, NULL);
	}
	return -EADDRNOTAVAIL;
}

int tcp_packet_inject(const struct ferry_tcp *t, enum tcp_packet_kind kind, uint32_t scope, uint32_t mark)
{
	uint8_t packet[TCP_PACKET_MAX];
	struct sockaddr_storage to;
	size_t n = tcp_packet_build(t, kind, packet);
	socklen_t n_to = destination(t, scope, &to);
	/* The packet must not leave the machine under the peer's name. */
	int r = wait_local(&to);
	if (r)
		return r;
	/* IPPROTO_RAW implies that we bring the IP header. */
	_cleanup_close_ int fd = socket(to.ss_family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (fd < 0)
		return -errno;
	if (mark)
		r = socket_set(fd, SOL_SOCKET, SO_MARK, (int)mark);
	if (!r && sendto(fd, packet, n, 0, (const struct sockaddr *)&to, n_to) < 0)
		r = -errno;
	return r;
}
