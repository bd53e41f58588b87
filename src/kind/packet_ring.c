/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the rings of packet sockets, which the kernel and a program share: bytes and status words are those of the image, and the
 * kernel goes on at the frame where it was. It does not tell where that is; but the frame that it filled last has the latest
 * time. A new ring is brought there by packets of our own, over the loopback device.
 *
 * Kernel interface: Documentation/networking/packet_mmap.rst, TPACKET_V1 (2.6.27: V2).
 * Does not handle: rings of version 3 in which something was, rings for sending that were used and are empty again: nothing
 * tells where the kernel goes on. They are refused by name. What PACKET_STATISTICS counts, which reading it would take.
 */
#include "kind/packet_ring.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>

#include "base/cleanup.h"
#include "kind/sockopt.h"
#include "model/record.h"
#include "proc/sockdiag.h"

#ifndef SOL_PACKET
#define SOL_PACKET 263
#endif

enum {
	PACKET_RING_PROTOCOL = 0x88b6, /* for local experiments: nobody listens to it */
	PACKET_RING_LOOKS = 50,
	PACKET_RING_WAITS = 1000,
	PACKET_RING_PAUSE_NS = 1000 * 1000,
};

/* One ring of the mapping. */
struct ring {
	uint8_t *bytes;
	uint32_t version, block_bytes, frame_bytes, frames;
};

/* What counts of a frame. */
struct ring_frame {
	uint32_t status, length;
	uint64_t time_ns; /* 0: nothing was there yet */
};

static uint8_t *ring_at(const struct ring *r, uint32_t index)
{
	uint32_t in_block = r->block_bytes / r->frame_bytes;
	return r->bytes + (size_t)(index / in_block) * r->block_bytes +
	       (size_t)(index % in_block) * r->frame_bytes;
}

static struct ring_frame ring_frame(const struct ring *r, uint32_t index)
{
	if (r->version == TPACKET_V1) {
		struct tpacket_hdr h;
		memcpy(&h, ring_at(r, index), sizeof(h));
		return (struct ring_frame){(uint32_t)h.tp_status, h.tp_len,
					   h.tp_sec * 1000000000ull + h.tp_usec * 1000ull};
	}
	struct tpacket2_hdr h;
	memcpy(&h, ring_at(r, index), sizeof(h));
	return (struct ring_frame){h.tp_status, h.tp_len, h.tp_sec * 1000000000ull + h.tp_nsec};
}

/* Behind the latest: there time goes back once, or to nothing. -1: it does so several times, or nowhere. */
static int64_t ring_head(const struct ring *r)
{
	int64_t head = -1;
	bool used = false;
	for (uint32_t i = 0; i < r->frames; i++) {
		uint32_t next = (i + 1) % r->frames;
		uint64_t now = ring_frame(r, i).time_ns, then = ring_frame(r, next).time_ns;
		used |= now != 0;
		if (now <= then)
			continue;
		if (head >= 0)
			return -1;
		head = next;
	}
	return used ? head : 0;
}

/* From the first frame on there are packets to send, and behind them nothing ever was. */
static bool ring_is_fresh(const struct ring *r)
{
	bool sends = true;
	for (uint32_t i = 0; i < r->frames; i++) {
		struct ring_frame f = ring_frame(r, i);
		sends = sends && f.status == TP_STATUS_SEND_REQUEST;
		if (!sends && (f.length || f.status))
			return false;
	}
	return true;
}

static bool ring_is_unused_v3(const struct ring *r, uint32_t blocks)
{
	for (uint32_t i = 0; i < blocks; i++) {
		const struct tpacket_block_desc *d = (const void *)(r->bytes + (size_t)i * r->block_bytes);
		if (d->hdr.bh1.num_pkts || d->hdr.bh1.block_status || d->hdr.bh1.seq_num > 1 ||
		    (i && d->hdr.bh1.seq_num))
			return false;
	}
	return true;
}

uint64_t packet_ring_bytes(const struct packet_sock *sock)
{
	return (uint64_t)sock->rx.block_bytes * sock->rx.blocks +
	       (uint64_t)sock->tx.block_bytes * sock->tx.blocks;
}

static struct ring ring_of(const struct packet_sock *sock, const struct packet_ring *ring, uint8_t *bytes)
{
	return (struct ring){bytes, sock->version, ring->block_bytes, ring->frame_bytes, ring->frames};
}

static int64_t ring_look(const struct packet_sock *sock, const struct ring *rx, const struct ring *tx,
			 const char **ret_obstacle)
{
	if (rx->frames && sock->version == TPACKET_V3 && !ring_is_unused_v3(rx, sock->rx.blocks))
		*ret_obstacle = "a ring of version 3 that was used: nothing tells where the kernel goes on";
	else if (tx->frames && sock->version == TPACKET_V3)
		*ret_obstacle = "a ring of version 3 for sending: nothing tells where the kernel goes on";
	else if (tx->frames && !ring_is_fresh(tx))
		*ret_obstacle = "a ring for sending that was used: nothing tells where the kernel goes on";
	int64_t head = *ret_obstacle || !rx->frames || sock->version == TPACKET_V3 ? 0 : ring_head(rx);
	if (head < 0)
		*ret_obstacle = "a ring in which the times of packets do not tell where the kernel goes on";
	return head;
}

const char *packet_ring_look(int fd, const struct packet_sock *sock, uint32_t *ret_head)
{
	const struct timespec pause = {.tv_nsec = PACKET_RING_PAUSE_NS};
	uint64_t n = packet_ring_bytes(sock);
	if (!n || n > PACKET_RING_BYTES_MAX || (sock->rx.blocks && !sock->rx.frame_bytes) ||
	    (sock->tx.blocks && !sock->tx.frame_bytes))
		return n ? "a ring that is too large" : NULL;
	uint8_t *bytes = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		return "a ring that cannot be mapped";
	const struct ring rx = ring_of(sock, &sock->rx, bytes);
	const struct ring tx =
		ring_of(sock, &sock->tx, bytes + (size_t)sock->rx.block_bytes * sock->rx.blocks);
	const char *obstacle = NULL;
	int64_t head = ring_look(sock, &rx, &tx, &obstacle), before = -1;
	/* Packets come while the tree stands: a frame that is being written has its time already. */
	for (int i = 0; !obstacle && head != before && i < PACKET_RING_LOOKS; i++) {
		before = head;
		nanosleep(&pause, NULL);
		head = ring_look(sock, &rx, &tx, &obstacle);
	}
	munmap(bytes, n);
	*ret_head = (uint32_t)head;
	return obstacle ? obstacle : head != before ? "a ring into which packets come all the time" : NULL;
}

int packet_ring_collect(struct arena *a, int fd, const struct packet_sock *sock, uint32_t head,
			FerrySocketEntry *extra)
{
	uint64_t n = packet_ring_bytes(sock);
	uint8_t *bytes = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		return -errno;
	extra->has_ring = 1;
	extra->ring = record_bytes(a, bytes, n);
	munmap(bytes, n);
	record_set(extra, ring_head, head);
	return extra->ring.data ? 0 : -ENOMEM;
}

/* ---------------------------------------------------------------------- restore */

static int ring_wait(const struct ring *r, uint32_t index)
{
	const struct timespec pause = {.tv_nsec = PACKET_RING_PAUSE_NS};
	for (int i = 0; i < PACKET_RING_WAITS; i++) {
		if (ring_frame(r, index).status & TP_STATUS_USER)
			return 0;
		nanosleep(&pause, NULL);
	}
	return -ETIMEDOUT;
}

static int ring_advance(int fd, const struct ring *r, uint32_t head)
{
	const struct sockaddr_ll to = {.sll_family = AF_PACKET,
				       .sll_ifindex = (int)if_nametoindex("lo"),
				       .sll_protocol = htons(PACKET_RING_PROTOCOL),
				       .sll_halen = 6};
	_cleanup_close_ int from = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (from < 0 || bind(fd, (const struct sockaddr *)&to, sizeof(to)) < 0)
		return -errno;
	int r0 = 0;
	for (uint32_t i = 0; i < head && r0 >= 0; i++) {
		if (sendto(from, "", 1, 0, (const struct sockaddr *)&to, sizeof(to)) < 0)
			r0 = -errno;
		if (r0 >= 0)
			r0 = ring_wait(r, i);
	}
	struct tpacket_stats_v3 stats;
	socklen_t n = sizeof(stats);
	/* They are not to be counted. */
	int told = sock_get_bytes(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &n);
	return r0 < 0 ? r0 : told;
}

int packet_ring_restore(int fd, const PacketSockEntry *psk, const FerrySocketEntry *extra)
{
	if (!extra || !extra->has_ring)
		return 0;
	const PacketRing *rx = psk->rx_ring, *tx = psk->tx_ring;
	uint64_t n = (rx ? (uint64_t)rx->block_size * rx->block_nr : 0) +
		     (tx ? (uint64_t)tx->block_size * tx->block_nr : 0);
	bool advances = rx && psk->version != TPACKET_V3 && extra->ring_head;
	if (n != extra->ring.len || n > PACKET_RING_BYTES_MAX ||
	    (advances &&
	     (!rx->frame_size || rx->frame_size > rx->block_size || extra->ring_head >= rx->frame_nr)))
		return -EBADMSG;
	uint8_t *bytes = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		return -errno;
	int r = 0;
	if (advances) {
		const struct ring ring = {bytes, psk->version, rx->block_size, rx->frame_size, rx->frame_nr};
		r = ring_advance(fd, &ring, extra->ring_head);
	}
	if (r >= 0)
		memcpy(bytes, extra->ring.data, n);
	munmap(bytes, n);
	return r;
}
