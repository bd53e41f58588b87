/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns datagrams that wait in UDP and UDP-Lite sockets: peeked with the address of their sender and what the socket
 * tells beside them, and given to the new socket as packets with the same addresses, over the loopback device, before
 * it is connected and has its filter.
 *
 * Kernel interface: udp(7), SO_PEEK_OFF, recvmsg(2), SO_MEMINFO (4.12).
 * Does not handle: when they came (SO_TIMESTAMP tells the restore) and through which device; datagrams of a port that
 * several sockets share, where the kernel chooses; what a corked socket gathers: no call reads it (Linux 6.18);
 * errors that wait. The dump waits until they are read, and refuses in the end.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "kind/inet.h"
#include "kind/sockopt.h"
#include "kind/udp.h"
#include "model/record.h"

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

enum {
	UDP_PACKET_MAX = 65536,
	UDP_QUEUE_MAX = 1 << 28, /* bytes */
	UDP_CMSG_GRO = 104,      /* UDP_GRO: several packets in one */
	UDP_MEMINFO_WORDS = 9,
	UDP_WAIT_MS = 500,
};

/* --------------------------------------------------------------------- reading */

struct udp_walk {
	struct arena *arena;
	FerrySocketEntry *extra;
	size_t room; /* in extra->datagrams */
};

/* What one peek brought. */
struct udp_peek {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} from;
	uint8_t to[16];
	size_t to_bytes;
	int ttl, tos; /* -1: not told */
	size_t segment;
};

static void udp_peek_one(const struct cmsghdr *h, struct udp_peek *p)
{
	const unsigned char *data = CMSG_DATA(h);
	size_t n = h->cmsg_len - CMSG_LEN(0);
	struct in_pktinfo v4;
	struct in6_pktinfo v6;
	uint16_t segment;
	if (h->cmsg_level == SOL_IP && h->cmsg_type == IP_PKTINFO && n >= sizeof(v4)) {
		memcpy(&v4, data, sizeof(v4));
		memcpy(p->to, &v4.ipi_addr, p->to_bytes = sizeof(v4.ipi_addr));
	} else if (h->cmsg_level == SOL_IPV6 && h->cmsg_type == IPV6_PKTINFO && n >= sizeof(v6)) {
		memcpy(&v6, data, sizeof(v6));
		memcpy(p->to, &v6.ipi6_addr, p->to_bytes = sizeof(v6.ipi6_addr));
	} else if (h->cmsg_level == IPPROTO_UDP && h->cmsg_type == UDP_CMSG_GRO && n >= sizeof(segment)) {
		memcpy(&segment, data, sizeof(segment));
		p->segment = segment;
	} else if ((h->cmsg_level == SOL_IP && h->cmsg_type == IP_TTL) ||
		   (h->cmsg_level == SOL_IPV6 && h->cmsg_type == IPV6_HOPLIMIT)) {
		memcpy(&p->ttl, data, MIN(n, sizeof(p->ttl)));
	} else if (h->cmsg_level == SOL_IP && h->cmsg_type == IP_TOS && n) {
		p->tos = data[0];
	} else if (h->cmsg_level == SOL_IPV6 && h->cmsg_type == IPV6_TCLASS) {
		memcpy(&p->tos, data, MIN(n, sizeof(p->tos)));
	}
}

static int udp_record_from(struct arena *a, const struct udp_peek *p, FerrySocketDatagram *d)
{
	bool v6 = p->from.any.sa_family == AF_INET6;
	const struct in6_addr *in6 = &p->from.in6.sin6_addr;
	if (v6 && IN6_IS_ADDR_V4MAPPED(in6))
		d->from = record_bytes(a, &in6->s6_addr[12], 4);
	else if (v6)
		d->from = record_bytes(a, in6, sizeof(*in6));
	else
		d->from = record_bytes(a, &p->from.in.sin_addr, 4);
	d->from_port = ntohs(v6 ? p->from.in6.sin6_port : p->from.in.sin_port);
	if (v6 && p->from.in6.sin6_scope_id)
		record_set(d, scope_id, p->from.in6.sin6_scope_id);
	return d->from.data ? 0 : -ENOMEM;
}

static int udp_add(struct udp_walk *w, const struct udp_peek *p, const uint8_t *bytes, size_t n)
{
	FerrySocketEntry *extra = w->extra;
	FerrySocketDatagram *d = record_new(w->arena, FerrySocketDatagram, ferry_socket_datagram);
	if (extra->n_datagrams == w->room) {
		FerrySocketDatagram **more = arena_array(w->arena, FerrySocketDatagram *, w->room * 2 + 16);
		if (!more)
			return -ENOMEM;
		for (size_t i = 0; i < extra->n_datagrams; i++)
			more[i] = extra->datagrams[i];
		extra->datagrams = more;
		w->room = w->room * 2 + 16;
	}
	if (!d || udp_record_from(w->arena, p, d) < 0)
		return -ENOMEM;
	d->bytes = record_bytes(w->arena, bytes, n);
	if (p->ttl >= 0)
		record_set(d, ttl, (uint32_t)p->ttl);
	if (p->tos >= 0)
		record_set(d, tos, (uint32_t)p->tos);
	if (p->to_bytes) {
		d->has_to = 1;
		d->to = record_bytes(w->arena, p->to, p->to_bytes);
	}
	if ((n && !d->bytes.data) || (d->has_to && !d->to.data))
		return -ENOMEM;
	extra->datagrams[extra->n_datagrams++] = d;
	return 0;
}

/* What came as one may have been several. */
static int udp_add_segments(struct udp_walk *w, const struct udp_peek *p, const uint8_t *bytes, size_t n)
{
	size_t step = p->segment && p->segment < n ? p->segment : n;
	int r = n ? 0 : udp_add(w, p, bytes, 0);
	for (size_t at = 0; at < n && r >= 0; at += step)
		r = udp_add(w, p, bytes + at, MIN(step, n - at));
	return r;
}

static int udp_walk(int fd, void *context)
{
	struct udp_walk *w = context;
	_cleanup_free_ uint8_t *bytes = malloc(UDP_PACKET_MAX);
	for (size_t total = 0; bytes && total < UDP_QUEUE_MAX;) {
		char control[512] __attribute__((aligned(8)));
		struct udp_peek p = {.ttl = -1, .tos = -1};
		struct iovec iov = {.iov_base = bytes, .iov_len = UDP_PACKET_MAX};
		struct msghdr m = {.msg_name = &p.from,
				   .msg_namelen = sizeof(p.from),
				   .msg_iov = &iov,
				   .msg_iovlen = 1,
				   .msg_control = control,
				   .msg_controllen = sizeof(control)};
		ssize_t n = recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
			udp_peek_one(h, &p);
		int r = udp_add_segments(w, &p, bytes, (size_t)n);
		if (r < 0)
			return r;
		total += (size_t)n;
	}
	return bytes ? -EFBIG : -ENOMEM;
}

const char *udp_obstacle(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int unsent = 0, corked = 0;
	bool readable = poll(&p, 1, 0) > 0 && p.revents & POLLIN;
	if (sock_get(fd, IPPROTO_UDP, UDP_CORK_OPTION, &corked) >= 0 && corked &&
	    !ioctl(fd, SIOCOUTQ, &unsent) && unsent)
		return "a corked datagram that was not sent yet, which no call reads (Linux 6.18)";
	return readable && p.revents & POLLERR ? "datagrams that wait behind an error" : NULL;
}

int udp_collect(struct collect *c, int fd, FerrySocketEntry *extra)
{
	struct udp_walk w = {.arena = &c->snap->arena, .extra = extra};
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN))
		return 0;
	return sock_peek_walk(c, fd, udp_walk, &w);
}

/* --------------------------------------------------------------------- filling */

static int udp_memory(int fd, uint32_t *ret_bytes)
{
	uint32_t words[UDP_MEMINFO_WORDS] = {0};
	socklen_t n = sizeof(words);
	int r = sock_get_bytes(fd, SOL_SOCKET, SO_MEMINFO, words, &n);
	if (r >= 0)
		*ret_bytes = words[0];
	return r;
}

/* It passes through the network stack: not always before the call that sends it returns. */
static int udp_wait(int fd, uint32_t before)
{
	const struct timespec tick = {.tv_nsec = 1000 * 1000};
	for (int ms = 0; ms < UDP_WAIT_MS; ms++) {
		uint32_t now = before;
		int r = udp_memory(fd, &now);
		if (r < 0)
			return r;
		if (now > before)
			return 0;
		nanosleep(&tick, NULL);
	}
	return -ETIMEDOUT;
}

static void udp_packet_to(const InetSkEntry *isk, const FerrySocketDatagram *d, struct udp_packet *p)
{
	static const uint8_t none[16];
	size_t n = p->address_bytes;
	const uint8_t *own = (const uint8_t *)isk->src_addr;
	/* A packet of IPv4 came to an IPv6 socket by a mapped address. */
	if (isk->family == AF_INET6 && n == 4)
		own += 12;
	p->to_port = (uint16_t)isk->src_port;
	if (d->has_to && d->to.len == n)
		memcpy(p->to, d->to.data, n);
	else if (d->has_to && d->to.len == 16 && n == 4)
		memcpy(p->to, d->to.data + 12, n);
	else
		memcpy(p->to, own, n);
	bool group = n == 4 ? (p->to[0] & 0xf0) == 0xe0 || p->to[0] == 0xff : p->to[0] == 0xff;
	if (memcmp(p->to, none, n) != 0 && !group)
		return;
	/* Bound to any address, and nobody asked which. */
	memset(p->to, 0, sizeof(p->to));
	if (n == 4)
		p->to[0] = 127;
	p->to[n - 1] = 1;
}

static int udp_fill_one(const InetSkEntry *isk, int fd, const FerrySocketDatagram *d)
{
	struct udp_packet p = {.protocol = (uint8_t)isk->proto,
			       .address_bytes = d->from.len,
			       .from_port = (uint16_t)d->from_port,
			       .ttl = d->has_ttl ? (uint8_t)d->ttl : 64,
			       .tos = d->has_tos ? (uint8_t)d->tos : 0,
			       .scope_id = d->scope_id,
			       .bytes = d->bytes.data,
			       .n = d->bytes.len};
	uint32_t before = 0;
	memcpy(p.from, d->from.data, d->from.len);
	udp_packet_to(isk, d, &p);
	int r = udp_memory(fd, &before);
	if (r >= 0)
		r = udp_send(&p);
	return r < 0 ? r : udp_wait(fd, before);
}

int udp_fill(const struct plan_file *file, int fd, struct ferry_error *err)
{
	const struct sock_plan *sock = file->data;
	const FerrySocketEntry *extra = sock->extra;
	const InetSkEntry *isk = file->entry->isk;
	uint64_t bytes = 0;
	for (size_t i = 0; extra && i < extra->n_datagrams; i++) {
		const FerrySocketDatagram *d = extra->datagrams[i];
		if ((d->from.len != 4 && d->from.len != 16) || d->from_port > UINT16_MAX ||
		    d->bytes.len > UDP_PACKET_MAX || (d->from.len == 16 && isk->family == AF_INET))
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "ferry-socket.img: a datagram of file id %u contradicts itself",
					 file->entry->id);
		bytes += d->bytes.len + 4096;
	}
	if (!extra || !extra->n_datagrams)
		return 0;
	/* The size of the record comes back in the end. */
	int r = sock_set(fd, SOL_SOCKET, SO_RCVBUFFORCE, (int)MIN(bytes * 2, (uint64_t)INT32_MAX / 2));
	bool device = isk->opts->so_bound_dev && isk->opts->so_bound_dev[0];
	if (r >= 0 && device)
		r = sock_set_bytes(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0);
	for (size_t i = 0; i < extra->n_datagrams && r >= 0; i++)
		r = udp_fill_one(isk, fd, extra->datagrams[i]);
	if (r >= 0 && device)
		r = sock_set_bytes(fd, SOL_SOCKET, SO_BINDTODEVICE, isk->opts->so_bound_dev,
				   (socklen_t)strlen(isk->opts->so_bound_dev));
	if (r >= 0)
		return 0;
	error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
		    "giving the UDP socket of file id %u its %zu datagrams", file->entry->id,
		    extra->n_datagrams);
	error_hint(err, "is the loopback device up, and does no packet filter drop what comes through it?");
	return r;
}
