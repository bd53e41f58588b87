/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of libferry-tcp share: socket options as calls that return 0 or -errno, and effects. */
#pragma once

#include <ferry/tcp.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "base/macros.h"

/* <netinet/tcp.h> has it, and contradicts <linux/tcp.h>. */
#ifndef SOL_TCP
#define SOL_TCP IPPROTO_TCP
#endif

/* Since Linux 6.7; newer than the installed headers may be. */
#ifndef TCP_AO_INFO
#define TCP_AO_INFO 40
#endif
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* States of the kernel's enum in net/tcp_states.h that a caller may meet besides enum ferry_tcp_state. */
#define TCP_STATE_CLOSE 7
#define TCP_STATE_LISTEN 10
#define TCP_STATE_MASK(state) ((state) < 32 ? 1u << (state) : 0)

/* Our FIN is part of the send queue's sequence space; the peer's of the receive queue's. */
#define TCP_LOCAL_FIN_STATES                                                         \
	(TCP_STATE_MASK(FERRY_TCP_FIN_WAIT1) | TCP_STATE_MASK(FERRY_TCP_FIN_WAIT2) | \
	 TCP_STATE_MASK(FERRY_TCP_CLOSING) | TCP_STATE_MASK(FERRY_TCP_LAST_ACK))
#define TCP_REMOTE_FIN_STATES                                                       \
	(TCP_STATE_MASK(FERRY_TCP_CLOSE_WAIT) | TCP_STATE_MASK(FERRY_TCP_CLOSING) | \
	 TCP_STATE_MASK(FERRY_TCP_LAST_ACK))

static inline bool tcp_has_local_fin(const struct ferry_tcp *t)
{
	return TCP_STATE_MASK(t->state) & TCP_LOCAL_FIN_STATES;
}

static inline bool tcp_has_remote_fin(const struct ferry_tcp *t)
{
	return TCP_STATE_MASK(t->state) & TCP_REMOTE_FIN_STATES;
}

static inline bool tcp_address_is_mapped(const struct ferry_tcp *t, const uint8_t address[static 16])
{
	static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
	return t->family == AF_INET6 && !memcmp(address, prefix, sizeof(prefix));
}

/* IPv4 on the wire, AF_INET6 for the owner. */
static inline bool tcp_is_mapped(const struct ferry_tcp *t)
{
	return tcp_address_is_mapped(t, t->local_addr);
}

must_check int socket_get(int fd, int level, int name, int *ret_value);
must_check int socket_get_bytes(int fd, int level, int name, void *ret_bytes, socklen_t *n);
must_check int socket_set(int fd, int level, int name, int value);
must_check int socket_set_bytes(int fd, int level, int name, const void *bytes, socklen_t n);

/* The whole of struct tcp_info that this kernel fills; the rest is zero. */
must_check int socket_info(int fd, struct tcp_info *ret_info);

must_check int repair_on(int fd);
must_check int repair_off(int fd, bool quiet);
must_check int repair_queue(int fd, int queue);

/* The options given, or an empty set. NULL: err was set to -EINVAL (unknown .size). */
const struct ferry_tcp_options *tcp_options(const struct ferry_tcp_options *options, struct ferry_error *err);

/* Announce a change of the socket right before it. */
void tcp_effect(const struct ferry_tcp_options *options, const char *what);

/* "127.0.0.1:80 -> [::1]:8080" for messages. */
#define TCP_NAME_LEN 110
const char *tcp_name(const struct ferry_tcp *t, char name[static TCP_NAME_LEN]);

/* Fill an error for a socket option or ioctl that failed; knows what EPERM means. Returns -code. */
int tcp_fail(struct ferry_error *err, int code, const char *call, const char *name);
