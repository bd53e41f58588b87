/* SPDX-License-Identifier: Apache-2.0 */
/* Datagrams that wait in UDP sockets. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "image/proto/ferry.pb-c.h"
#include "model/kind.h"

enum { UDP_CORK_OPTION = 1, UDP_ENCAP_OPTION = 100 };

/* Why what is in our copy of a socket cannot be read; NULL = it can. */
const char *udp_obstacle(int fd);

/* Peek all into extra->datagrams; -errno. */
must_check int udp_collect(struct collect *c, int fd, FerrySocketEntry *extra);

/* Give a socket that is bound, and connected to nobody, what waited in it. */
must_check int udp_fill(const struct plan_file *file, int fd, struct ferry_error *err);

/* udp_send.c: a packet with addresses of its own, from and to this machine. */
struct udp_packet {
	uint8_t protocol;         /* IPPROTO_UDP, IPPROTO_UDPLITE */
	size_t address_bytes;     /* 4 or 16 */
	uint8_t from[16], to[16]; /* network byte order */
	uint16_t from_port, to_port;
	uint8_t ttl, tos;
	uint32_t scope_id;
	const uint8_t *bytes;
	size_t n;
};

/* 0 or -errno. */
must_check int udp_send(const struct udp_packet *p);
