/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libferry-tcp: take one TCP connection out of a socket and rebuild it in another socket, process, network
 * namespace or machine, without the peer noticing. Overview: ferry-tcp(7). Source: tcp(7), TCP_REPAIR and its
 * companions in the kernel's net/ipv4/tcp.c (Linux 3.5; windows 4.8; TCP_REPAIR_OFF_NO_WP 4.19).
 *
 * Common to all functions. Result: 0, or a count where said, or -errno; a failure also fills *err when err is
 * not NULL (struct ferry_error, set .size first: FERRY_ERROR_INIT). Threads: functions keep no state of their
 * own and may run in parallel on different sockets. Rights: CAP_NET_ADMIN in the user namespace that owns the
 * socket's network namespace; rebuilding a half-closed connection also CAP_NET_RAW. The functions neither
 * enter namespaces nor lock the network; both are the caller's.
 *
 * A socket in repair mode fails every send() and recv() of its owner, for ever, until somebody resumes it. The
 * owner must not run meanwhile, and whoever pauses a socket needs a plan for its own death: a second process
 * that holds the descriptor and calls ferry_tcp_resume() when the first one is gone.
 *
 * Since: 0.1
 */
#pragma once

#include <ferry/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* Bits of ferry_tcp.tcp_options: the negotiated options, numbered as tcpi_options of struct tcp_info. */
#define FERRY_TCP_OPT_TIMESTAMPS 1u
#define FERRY_TCP_OPT_SACK 2u
#define FERRY_TCP_OPT_WSCALE 4u
#define FERRY_TCP_OPT_ECN 8u /* cannot be rebuilt: the connection goes on without ECN */
#define FERRY_TCP_OPT_ECN_SEEN 16u
#define FERRY_TCP_OPT_SYN_DATA 32u
#define FERRY_TCP_OPT_USEC_TS 64u /* the timestamp counts microseconds (Linux 6.7) */

/* Connection states, numbered as the kernel does. Others are refused. */
enum ferry_tcp_state {
	FERRY_TCP_ESTABLISHED = 1,
	FERRY_TCP_FIN_WAIT1 = 4,
	FERRY_TCP_FIN_WAIT2 = 5,
	FERRY_TCP_CLOSE_WAIT = 8,
	FERRY_TCP_LAST_ACK = 9,
	FERRY_TCP_CLOSING = 11,
};

/*
 * A queue of bytes. seq is the kernel's TCP_QUEUE_SEQ: the sequence number after the last byte, one more when a
 * FIN follows that byte (state tells). bytes has len bytes and is owned by the structure; NULL when len is 0.
 */
struct ferry_tcp_queue {
	uint32_t seq;
	uint32_t len;
	uint8_t *bytes;
};

/*
 * What taking a connection disturbs besides repair mode itself: enough to put a socket back. Plain data without
 * pointers, so that it can be kept in shared memory for whoever outlives the caller.
 */
struct ferry_tcp_undo {
	uint8_t reuseaddr; /* SO_REUSEADDR, which leaving repair mode clears */
	uint8_t oobinline; /* SO_OOBINLINE, switched for an instant to find urgent data */
	int32_t peek_off;  /* SO_PEEK_OFF (Linux 6.9), switched while peeking; -1 = not in use */
};

#define FERRY_TCP_UNDO_INIT    \
	{                      \
		.peek_off = -1 \
	}

/* One connection as plain data. Numbers are in host byte order, addresses in network byte order. */
struct ferry_tcp {
	uint32_t size; /* sizeof(struct ferry_tcp) as the caller knows it: FERRY_TCP_INIT */

	/* Who talks to whom. A v4-mapped connection is AF_INET6 with addresses ::ffff:a.b.c.d. */
	uint16_t family; /* AF_INET or AF_INET6, of the socket */
	uint16_t local_port;
	uint16_t remote_port;
	uint8_t state;          /* enum ferry_tcp_state */
	uint8_t v6only;         /* IPV6_V6ONLY */
	uint8_t local_addr[16]; /* AF_INET uses the first 4 */
	uint8_t remote_addr[16];
	uint32_t scope_id; /* IPv6 link-local: interface index where the connection was taken; else 0 */

	/* What waits. */
	struct ferry_tcp_queue inq; /* received, not yet read */
	struct ferry_tcp_queue
		outq;          /* written, not yet acknowledged: first the sent part, then the unsent one */
	uint32_t unsent_len;   /* bytes at the end of outq that were never sent */
	uint8_t fin_unsent;    /* our FIN is queued behind them and was not sent either */
	uint8_t shutdown_read; /* the owner called shutdown(SHUT_RD) */

	/* What was negotiated. */
	uint8_t snd_wscale; /* both 0 unless FERRY_TCP_OPT_WSCALE */
	uint8_t rcv_wscale;
	uint32_t tcp_options; /* FERRY_TCP_OPT_* */
	uint32_t mss_clamp;
	uint32_t timestamp; /* our timestamp clock, past every one that was sent; has_timestamp */
	uint8_t has_timestamp;

	/* TCP_REPAIR_WINDOW (Linux 4.8); has_window */
	uint8_t has_window;
	uint32_t snd_wl1;
	uint32_t snd_wnd;
	uint32_t max_window;
	uint32_t rcv_wnd;
	uint32_t rcv_wup;

	/* Options of the TCP level. */
	uint8_t nodelay;
	uint8_t cork;
	uint8_t keepalive;          /* SO_KEEPALIVE */
	struct ferry_tcp_undo undo; /* for ferry_tcp_resume(), of the taken socket and of the rebuilt one */
	uint32_t keepidle_s;        /* 0 = leave as the system has it; likewise below */
	uint32_t keepintvl_s;
	uint32_t keepcnt;
	uint32_t user_timeout_ms;
	uint32_t notsent_lowat;
	char congestion
		[16]; /* name of the congestion control, "" = default; ignored where it is not available */

	/*
	 * Buffer sizes as getsockopt(2) tells them, 0 = unknown; needed so that windows already promised still
	 * fit.
	 */
	uint32_t sndbuf_bytes;
	uint32_t rcvbuf_bytes;
	uint8_t buf_lock; /* SO_BUF_LOCK (Linux 5.14): which of the two the owner fixed; bit 0 send, bit 1 receive */
	uint8_t has_buf_lock;
};

#define FERRY_TCP_INIT                                                        \
	{                                                                     \
		.size = sizeof(struct ferry_tcp), .undo = FERRY_TCP_UNDO_INIT \
	}

/* Flags of ferry_tcp_take(). */
#define FERRY_TCP_PAUSE 1u /* leave the socket in repair mode; else it is resumed before the call returns */

/* Flags of ferry_tcp_rebuild(). */
#define FERRY_TCP_FREEBIND 0x100u /* IP_FREEBIND or IPV6_FREEBIND on the new socket */
#define FERRY_TCP_TRANSPARENT \
	0x200u /* IP_TRANSPARENT: the local address need not exist yet; not for half-closed ones */
#define FERRY_TCP_SET_TOS 0x400u   /* apply .tos */
#define FERRY_TCP_SET_TTL 0x800u   /* apply .ttl */
#define FERRY_TCP_NONBLOCK 0x1000u /* the new description is born with O_NONBLOCK */

/* Flags of ferry_tcp_resume(). */
#define FERRY_TCP_QUIET 0x40000u /* send nothing on leaving repair mode (TCP_REPAIR_OFF_NO_WP, Linux 4.19) */

struct ferry_tcp_options {
	uint32_t size; /* FERRY_TCP_OPTIONS_INIT */
	uint32_t flags;

	/*
	 * Called right before each call that changes the socket, with a word for what it is about to do. For
	 * tests that kill the caller at each such point. May be NULL.
	 */
	void (*on_effect)(void *ctx, const char *what);
	void *on_effect_ctx;

	/* ferry_tcp_rebuild() only; 0 and NULL mean: not set on the new socket. */
	const char *bound_device; /* SO_BINDTODEVICE */
	uint32_t mark;            /* SO_MARK */
	uint32_t
		packet_mark; /* mark of the packets that rebuild half-closed states, so that a lock lets them by */
	uint8_t tos;         /* IP_TOS or IPV6_TCLASS; FERRY_TCP_SET_TOS */
	uint8_t ttl;         /* IP_TTL or IPV6_UNICAST_HOPS; FERRY_TCP_SET_TTL */
};

#define FERRY_TCP_OPTIONS_INIT                           \
	{                                                \
		.size = sizeof(struct ferry_tcp_options) \
	}

/*
 * Tell whether ferry_tcp_take() would accept this socket, changing nothing.
 *
 * fd: any socket descriptor. ret_undo: receives what ferry_tcp_resume() must be given to leave the socket as it
 * is now, should the caller die after pausing it; may be NULL.
 *
 * Errors: -ENOTSOCK; -EPROTONOSUPPORT not a TCP socket, or one under TLS, MPTCP or another upper protocol;
 * -ENOTCONN not connected, still connecting, listening or closed (the message names the state); -EBUSY in
 * repair mode already; -EOPNOTSUPP urgent data waits.
 */
int ferry_tcp_check(int fd, struct ferry_tcp_undo *ret_undo, struct ferry_error *err);

/*
 * Read a whole connection. Nothing is consumed: the owner finds the same bytes afterwards.
 *
 * fd: a connected TCP socket whose owner does not run. If the connection is to be rebuilt elsewhere its packets
 * must be blocked in both directions from before this call on: in repair mode the kernel goes on receiving and
 * acknowledging, and what it acknowledges after the queues were read would be lost. Block them for a connection
 * that stays, too, if bytes of its send queue were not sent yet: an acknowledgement that comes in while the
 * queue is read makes the kernel take them for sent, and they follow only after a retransmission time-out.
 * options: NULL means none; flags FERRY_TCP_PAUSE. ret_state: .size must be set; written only on success,
 * release with ferry_tcp_release(). On failure the socket is out of repair mode again.
 *
 * Errors: those of ferry_tcp_check(); -EPERM no CAP_NET_ADMIN; -EAGAIN the queues kept changing under the
 * reader; -ENOMEM; -EOPNOTSUPP urgent data; -EINVAL .size unknown.
 */
int ferry_tcp_take(int fd, const struct ferry_tcp_options *options, struct ferry_tcp *ret_state,
		   struct ferry_error *err);

/*
 * End repair mode. The connection goes on: a window probe makes the peer answer at once, and unsent bytes
 * leave.
 *
 * fd: a paused or rebuilt socket; for one that is not in repair mode only undo is applied, so calling twice is
 * harmless. undo: from ferry_tcp_check() or the state; NULL = nothing to put back. flags: 0 or FERRY_TCP_QUIET.
 * Call it after the network was unlocked, else the first packets are lost and a second or more passes until
 * they are repeated. Async-signal-safe when err is NULL.
 *
 * Errors: -EPERM no CAP_NET_ADMIN; -ENOTSOCK; -ENOPROTOOPT not TCP.
 */
int ferry_tcp_resume(int fd, const struct ferry_tcp_undo *undo, uint32_t flags, struct ferry_error *err);

/*
 * Forget the connection without telling the peer: no FIN, no RST, now or later, whoever else holds the
 * description (they find it disconnected). Closes fd, also on failure.
 *
 * Errors: -EPERM no CAP_NET_ADMIN, then the connection is untouched apart from the closed fd; -ENOTSOCK;
 * -ENOPROTOOPT.
 */
int ferry_tcp_close_silently(int fd, struct ferry_error *err);

/*
 * Make a new socket that continues the connection, in the network namespace of the calling thread. It stays in
 * repair mode until ferry_tcp_resume(fd, &state->undo, ...). The local address must exist there unless
 * FERRY_TCP_TRANSPARENT. Restores addresses, sequence numbers, both queues, options, windows, timestamps,
 * half-closed states and buffer sizes. Not restored: round-trip time and congestion window (learned anew),
 * out-of-order segments (the peer sends them again), ECN.
 *
 * state: not changed, may be rebuilt from a file: everything in it is checked. options: NULL means none.
 * ret_fd: the new descriptor, close-on-exec.
 *
 * Errors: -EBADMSG state contradicts itself; -EADDRNOTAVAIL the local address is missing or the same connection
 * exists here; -ENETUNREACH no route to the peer; -EPERM no CAP_NET_ADMIN; -ENODEV no such device; -ENOMEM;
 * -EINVAL .size unknown.
 */
int ferry_tcp_rebuild(const struct ferry_tcp *state, const struct ferry_tcp_options *options, int *ret_fd,
		      struct ferry_error *err);

/*
 * Number of connections that wait in the accept queue of a listening socket, those still shaking hands not
 * counted.
 *
 * fd: a listening TCP socket. ret_backlog: its limit, as given to listen(2); may be NULL.
 * Result: the number, or -EINVAL not listening; -ENOTSOCK; -EPROTONOSUPPORT not TCP.
 */
int ferry_tcp_listen_pending(int fd, uint32_t *ret_backlog, struct ferry_error *err);

/* Free the queues and zero the structure except .size. NULL is allowed. */
void ferry_tcp_release(struct ferry_tcp *state);

/* The name of a TCP state, "ESTABLISHED" and so on for all the kernel has, "UNKNOWN" else. Never NULL. */
const char *ferry_tcp_state_name(unsigned state);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
