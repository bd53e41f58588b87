/* SPDX-License-Identifier: Apache-2.0 */
/* The rings of packet sockets: what is in them, and where the kernel goes on. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/packet-sock.pb-c.h"

struct packet_sock;

enum { PACKET_RING_BYTES_MAX = 64 << 20 };

/* Bytes that a mapping of the rings has; 0: there is none. */
uint64_t packet_ring_bytes(const struct packet_sock *sock);

/* NULL: it can be made again, *ret_head tells where the kernel puts the next packet; or what stands in the way. */
const char *packet_ring_look(int fd, const struct packet_sock *sock, uint32_t *ret_head);

/* A copy of its bytes in the arena. 0 or -errno. */
struct arena;
must_check int packet_ring_collect(struct arena *a, int fd, const struct packet_sock *sock, uint32_t head,
				   FerrySocketEntry *extra);

/*
 * The rings were just made, and the socket is bound to nothing: bring them where they were. The socket is bound to the loopback
 * device afterwards. 0 or -errno.
 */
must_check int packet_ring_restore(int fd, const PacketSockEntry *psk, const FerrySocketEntry *extra);
