/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns sending one UDP packet whose source address and port are anybody's.
 *
 * Kernel interface: raw(7) IPPROTO_RAW, ipv6(7) raw sockets with their own header (4.5).
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/macros.h"
#include "kind/udp.h"

static uint64_t udp_sum(uint64_t sum, const void *bytes, size_t n)
{
	const uint8_t *b = bytes;
	for (size_t i = 0; i < n; i++)
		sum += (uint64_t)b[i] << (i % 2 ? 0 : 8);
	return sum;
}

static uint16_t udp_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* The header, with the checksum over it, the bytes and the addresses. */
static struct udphdr udp_header(const struct udp_packet *p)
{
	size_t length = sizeof(struct udphdr) + p->n;
	bool lite = p->protocol == IPPROTO_UDPLITE;
	struct udphdr h = {
		.source = htons(p->from_port),
		.dest = htons(p->to_port),
		/* Of UDP-Lite: how much is covered; 0 = everything. */
		.len = lite ? 0 : htons((uint16_t)length),
	};
	uint64_t sum = udp_sum(0, p->from, p->address_bytes);
	sum = udp_sum(sum, p->to, p->address_bytes) + length + p->protocol;
	sum = udp_sum(udp_sum(sum, &h, sizeof(h)), p->bytes, p->n);
	uint16_t check = udp_fold(sum);
	h.check = htons(check ? check : 0xffff);
	return h;
}

static size_t udp_build_v4(const struct udp_packet *p, uint8_t *to)
{
	const struct udphdr udp = udp_header(p);
	size_t n = sizeof(struct iphdr) + sizeof(udp) + p->n;
	struct iphdr ip = {
		.version = 4,
		.ihl = sizeof(ip) / 4,
		.tos = p->tos,
		.tot_len = htons((uint16_t)n),
		.ttl = p->ttl,
		.protocol = p->protocol,
	};
	memcpy(&ip.saddr, p->from, 4);
	memcpy(&ip.daddr, p->to, 4);
	memcpy(to, &ip, sizeof(ip));
	memcpy(to + sizeof(ip), &udp, sizeof(udp));
	if (p->n)
		memcpy(to + sizeof(ip) + sizeof(udp), p->bytes, p->n);
	return n;
}

static size_t udp_build_v6(const struct udp_packet *p, uint8_t *to)
{
	const struct udphdr udp = udp_header(p);
	struct ip6_hdr ip = {0};
	ip.ip6_flow = htonl(6u << 28 | (uint32_t)p->tos << 20);
	ip.ip6_plen = htons((uint16_t)(sizeof(udp) + p->n));
	ip.ip6_nxt = p->protocol;
	ip.ip6_hlim = p->ttl;
	memcpy(&ip.ip6_src, p->from, 16);
	memcpy(&ip.ip6_dst, p->to, 16);
	memcpy(to, &ip, sizeof(ip));
	memcpy(to + sizeof(ip), &udp, sizeof(udp));
	if (p->n)
		memcpy(to + sizeof(ip) + sizeof(udp), p->bytes, p->n);
	return sizeof(ip) + sizeof(udp) + p->n;
}

int udp_send(const struct udp_packet *p)
{
	bool v6 = p->address_bytes == 16;
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	_cleanup_close_ int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	_cleanup_free_ uint8_t *bytes = malloc(sizeof(struct ip6_hdr) + sizeof(struct udphdr) + p->n);
	if (fd < 0 || !bytes)
		return bytes ? -errno : -ENOMEM;
	size_t n = v6 ? udp_build_v6(p, bytes) : udp_build_v4(p, bytes);
	memcpy(&in.sin_addr, p->to, 4);
	memcpy(&in6.sin6_addr, p->to, 16);
	if (IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr))
		in6.sin6_scope_id = p->scope_id;
	/* It may take as many bytes as one packet has, whatever the default is. */
	int room = (int)MAX(n, (size_t)1) * 2 + 4096;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) < 0)
		return -errno;
	ssize_t sent = v6 ? sendto(fd, bytes, n, 0, (const struct sockaddr *)&in6, sizeof(in6))
			  : sendto(fd, bytes, n, 0, (const struct sockaddr *)&in, sizeof(in));
	return sent < 0 ? -errno : (size_t)sent == n ? 0 : -EIO;
}
