/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sock_diag answers as plain data: bytes of one netlink message's payload -> struct. Pure: no socket is
 * touched. The payload begins behind struct nlmsghdr. Malformed input is -EBADMSG and leaves *ret untouched.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

/* One TCP or UDP socket. */
struct inet_sock {
	uint16_t family;     /* AF_INET, AF_INET6; a v4-mapped one is AF_INET6 with ::ffff: addresses */
	uint8_t protocol;    /* as asked for: the answer does not tell */
	uint8_t state;       /* TCP_ESTABLISHED...; UDP: 1 connected, 7 not */
	uint16_t local_port; /* host byte order */
	uint16_t remote_port;
	uint8_t local_addr[16]; /* network byte order; AF_INET uses the first 4 */
	uint8_t remote_addr[16];
	uint32_t if_index; /* bound device, 0 = none */
	uint32_t rqueue;   /* bytes to read; LISTEN: connections to accept */
	uint32_t wqueue;   /* bytes not acknowledged; LISTEN: limit of rqueue */
	uint32_t uid;
	uint32_t inode;   /* 0: not held by a descriptor (time-wait, being set up, orphan) */
	uint32_t mark;    /* 0 also when the caller lacks CAP_NET_ADMIN */
	uint64_t cookie;  /* SO_COOKIE */
	uint8_t shutdown; /* bit 0 receive, bit 1 send */
	bool has_shutdown;
	bool v6only;
	bool has_md5; /* keyed with TCP_MD5SIG; told only to CAP_NET_ADMIN */
};

/* unix_sock.shutdown */
enum { UNIX_SHUT_RECEIVE = 1 << 0, UNIX_SHUT_SEND = 1 << 1 };

/* One unix socket. */
struct unix_sock {
	uint8_t type;  /* SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET */
	uint8_t state; /* TCP_ESTABLISHED connected, TCP_LISTEN, TCP_CLOSE else */
	uint32_t inode;
	uint64_t cookie;
	bool has_peer;
	uint32_t peer_inode; /* 0: not yet accepted by anyone */
	uint32_t rqueue;     /* bytes to read; LISTEN: connections to accept */
	uint32_t wqueue;     /* LISTEN: limit of rqueue */
	uint32_t uid;
	bool has_uid;
	uint8_t shutdown; /* UNIX_SHUT_* */
	bool has_vfs;
	uint32_t vfs_inode; /* of the socket file; the kernel tells the low 32 bits */
	uint32_t vfs_dev;   /* kernel encoding: major << 20 | minor */
	bool has_name;
	uint8_t name_len; /* name may hold NULs; an abstract one begins with NUL */
	char name[108];
	uint32_t *pending; /* LISTEN: inodes of the client ends not yet accepted; owned */
	size_t n_pending;
};

/* packet_sock.flags, as the kernel tells them */
enum {
	PACKET_SOCK_RUNNING = 1 << 0,
	PACKET_SOCK_AUXDATA = 1 << 1,
	PACKET_SOCK_ORIGDEV = 1 << 2,
	PACKET_SOCK_VNETHDR = 1 << 3,
	PACKET_SOCK_LOSS = 1 << 4,
};

struct packet_membership {
	uint32_t index; /* of the device */
	uint16_t type;  /* PACKET_MR_x */
	uint16_t address_bytes;
	uint8_t address[32];
};

struct packet_ring {
	uint32_t block_bytes, blocks, frame_bytes, frames, retire_ms, private_bytes, features;
};

/* One packet socket. */
struct packet_sock {
	uint32_t inode;
	uint8_t type;
	uint32_t version, reserve, copy_threshold, timestamp, flags;
	bool has_fanout;
	uint32_t fanout;                       /* id, type << 16 */
	struct packet_ring rx, tx;             /* no blocks: there is none */
	struct packet_membership *memberships; /* owned; one for each time it was joined */
	size_t n_memberships;
};

must_check int packet_sock_parse(const void *payload, size_t n, struct packet_sock *ret);

void packet_sock_release(struct packet_sock *sock);

must_check int inet_sock_parse(const void *payload, size_t n, uint8_t protocol, struct inet_sock *ret);
must_check int unix_sock_parse(const void *payload, size_t n, struct unix_sock *ret);

void unix_sock_release(struct unix_sock *sock);
