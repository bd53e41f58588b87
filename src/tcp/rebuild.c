/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns making a socket that continues a connection: tcp(7) TCP_REPAIR and companions, TCP_REPAIR_OPTIONS,
 * TCP_REPAIR_WINDOW (4.8), SO_BUF_LOCK (5.14).
 *
 * In repair mode connect(2) only sets the addresses, and writing to the send queue marks the bytes as sent.
 * Bytes that were never sent are therefore written with repair mode off for an instant and the peer's window
 * closed, so that they queue up without leaving. States behind a FIN of the peer need a packet from it:
 * packet.h.
 *
 * Not handled: ECN (the connection continues without), round-trip estimate and congestion window (learned
 * anew).
 */
#include <ferry/tcp.h>

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "tcp/packet.h"
#include "tcp/socket.h"

/* TCP option kinds, RFC 9293 and 7323; what TCP_REPAIR_OPTIONS speaks. */
enum { OPTION_MSS = 2, OPTION_WINDOW = 3, OPTION_SACK_PERMITTED = 4, OPTION_TIMESTAMP = 8 };

enum {
	MAX_WSCALE = 14,
	MAX_QUEUE_BYTES = 1 << 30, /* half of the sequence space still tells old from new */
	WRITE_BYTES = 256 * 1024,
	BUFFER_SLACK_BYTES = 4 << 20,
	STATE_WAIT_MS = 2000,
	CLOCK_LEAD_MS = 1000,
};

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

struct rebuild {
	const struct ferry_tcp *t;
	const struct ferry_tcp_options *options;
	char name[TCP_NAME_LEN];
	uint32_t scope; /* interface index here, for link-local addresses */
	int fd;
	int sndbuf_bytes; /* as they were before they were raised for the queues */
	int rcvbuf_bytes;
	int buf_lock;
};

static int bad_state(const struct rebuild *b, struct ferry_error *err, const char *what)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "TCP connection %s: %s", b->name, what);
}

static bool queue_is_bad(const struct ferry_tcp_queue *q)
{
	return q->len > MAX_QUEUE_BYTES || (q->len && !q->bytes);
}

static bool is_zero(const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (bytes[i])
			return false;
	}
	return true;
}

static int check_window(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	if (!t->has_window)
		return 0;
	if (t->max_window < t->snd_wnd)
		return bad_state(b, err, "its window is larger than the largest it ever had");
	if ((int32_t)(t->rcv_wup - t->inq.seq) > 0)
		return bad_state(b, err, "its window was announced for bytes that were not received");
	if ((int32_t)(t->snd_wl1 - (t->inq.seq + t->rcv_wnd)) > 0)
		return bad_state(b, err, "its window was updated by a segment beyond the receive window");
	return 0;
}

/* Everything here may come from a file. */
static int check_rebuildable(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	size_t n = t->family == AF_INET ? 4 : 16;
	bool local_fin = tcp_has_local_fin(t);
	if (t->family != AF_INET && t->family != AF_INET6)
		return bad_state(b, err, "unknown address family");
	if (!t->local_port || !t->remote_port)
		return bad_state(b, err, "a port is 0");
	if (is_zero(t->local_addr, n) || is_zero(t->remote_addr, n) ||
	    tcp_address_is_mapped(t, t->local_addr) != tcp_address_is_mapped(t, t->remote_addr))
		return bad_state(b, err, "its addresses cannot form a connection");
	if (t->state != FERRY_TCP_ESTABLISHED && !local_fin && !tcp_has_remote_fin(t))
		return bad_state(b, err, "it is in a state that cannot be rebuilt");
	if (queue_is_bad(&t->inq) || queue_is_bad(&t->outq))
		return bad_state(b, err, "a queue is too long, or lacks its bytes");
	if (t->unsent_len > t->outq.len)
		return bad_state(b, err, "more bytes were not sent than the send queue holds");
	if (t->fin_unsent && (!local_fin || t->state == FERRY_TCP_FIN_WAIT2))
		return bad_state(b, err, "a FIN that its state does not have waits to be sent");
	if (local_fin && t->unsent_len && !t->fin_unsent)
		return bad_state(b, err, "bytes before a FIN that was sent were not sent");
	if (t->state == FERRY_TCP_FIN_WAIT2 && t->outq.len)
		return bad_state(b, err, "its send queue is not empty in FIN_WAIT2");
	if (t->snd_wscale > MAX_WSCALE || t->rcv_wscale > MAX_WSCALE)
		return bad_state(b, err, "a window scale is above 14");
	if (!t->mss_clamp || t->mss_clamp > UINT16_MAX)
		return bad_state(b, err, "its segment size is 0 or above 65535");
	return check_window(b, err);
}

static int set(const struct rebuild *b, int level, int name, int value, const char *what,
	       struct ferry_error *err)
{
	int r = socket_set(b->fd, level, name, value);
	return r ? tcp_fail(err, -r, what, b->name) : 0;
}

/* Whether the peer has to be heard once more; see packet.h. */
static bool needs_packet(const struct ferry_tcp *t)
{
	return tcp_has_remote_fin(t) || t->state == FERRY_TCP_FIN_WAIT2;
}

/*
 * Before connecting, as routes may depend on it; but last if packets are to come in through the loopback
 * device.
 */
static int bind_device(const struct rebuild *b, struct ferry_error *err)
{
	const char *device = b->options->bound_device;
	if (!device)
		return 0;
	int r = socket_set_bytes(b->fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device) + 1);
	return r ? tcp_fail(err, -r, "setsockopt SO_BINDTODEVICE", b->name) : 0;
}

/* Options that decide where the socket can be bound and how its packets are routed. */
static int set_binding(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp_options *o = b->options;
	bool v6 = b->t->family == AF_INET6;
	int r = v6 ? set(b, SOL_IPV6, IPV6_V6ONLY, b->t->v6only, "setsockopt IPV6_V6ONLY", err) : 0;
	if (!r && !needs_packet(b->t))
		r = bind_device(b, err);
	if (!r && o->flags & FERRY_TCP_FREEBIND)
		r = set(b, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_FREEBIND : IP_FREEBIND, 1, "setsockopt FREEBIND",
			err);
	if (!r && o->flags & FERRY_TCP_TRANSPARENT)
		r = set(b, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, 1,
			"setsockopt TRANSPARENT", err);
	if (!r && o->mark)
		r = set(b, SOL_SOCKET, SO_MARK, (int)o->mark, "setsockopt SO_MARK", err);
	if (!r && o->flags & FERRY_TCP_SET_TOS)
		r = set(b, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TCLASS : IP_TOS, o->tos, "setsockopt IP_TOS",
			err);
	if (!r && o->flags & FERRY_TCP_SET_TTL)
		r = set(b, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_UNICAST_HOPS : IP_TTL, o->ttl,
			"setsockopt IP_TTL", err);
	/* A v4-mapped connection takes them from the IPv4 side of the socket. */
	if (tcp_is_mapped(b->t)) {
		if (o->flags & FERRY_TCP_SET_TOS)
			(void)!socket_set(b->fd, SOL_IP, IP_TOS, o->tos);
		if (o->flags & FERRY_TCP_SET_TTL)
			(void)!socket_set(b->fd, SOL_IP, IP_TTL, o->ttl);
	}
	return r;
}

/*
 * Beyond the system's limit only with CAP_NET_ADMIN in the first user namespace; root of another one gets as
 * much as net.core.wmem_max and rmem_max allow. The kernel doubles what it is given.
 */
static int set_buffer(const struct rebuild *b, bool send, int bytes, struct ferry_error *err)
{
	int r = socket_set(b->fd, SOL_SOCKET, send ? SO_SNDBUFFORCE : SO_RCVBUFFORCE, bytes);
	if (r == -EPERM)
		r = socket_set(b->fd, SOL_SOCKET, send ? SO_SNDBUF : SO_RCVBUF, bytes);
	return r ? tcp_fail(err, -r, send ? "setsockopt SO_SNDBUF" : "setsockopt SO_RCVBUF", b->name) : 0;
}

/*
 * The owner's buffer sizes, before connect(2): the receive buffer bounds the window that this socket will ever
 * offer. Setting a size also fixes it, which restore_buffers() undoes.
 */
static int set_buffers(struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	int r = 0;
	b->buf_lock = t->has_buf_lock ? t->buf_lock : 0;
	if (t->sndbuf_bytes)
		r = set_buffer(b, true, (int)(MIN(t->sndbuf_bytes, MAX_QUEUE_BYTES) / 2), err);
	if (!r && t->rcvbuf_bytes)
		r = set_buffer(b, false, (int)(MIN(t->rcvbuf_bytes, MAX_QUEUE_BYTES) / 2), err);
	if (!r)
		r = socket_get(b->fd, SOL_SOCKET, SO_SNDBUF, &b->sndbuf_bytes);
	if (!r)
		r = socket_get(b->fd, SOL_SOCKET, SO_RCVBUF, &b->rcvbuf_bytes);
	return r;
}

/* Room for the queues and for what the kernel keeps beside each segment. */
static int raise_buffers(const struct rebuild *b, struct ferry_error *err)
{
	int r = set_buffer(b, true, (int)b->t->outq.len + BUFFER_SLACK_BYTES, err);
	return r ? r : set_buffer(b, false, (int)b->t->inq.len + BUFFER_SLACK_BYTES, err);
}

static int restore_buffers(const struct rebuild *b, struct ferry_error *err)
{
	int r = set_buffer(b, true, b->sndbuf_bytes / 2, err);
	if (!r)
		r = set_buffer(b, false, b->rcvbuf_bytes / 2, err);
	/* Before Linux 5.14 the sizes stay fixed and no longer grow by themselves. */
	if (!r)
		(void)!socket_set(b->fd, SOL_SOCKET, SO_BUF_LOCK, b->buf_lock);
	return r;
}

static int set_queue_seq(const struct rebuild *b, int queue, uint32_t seq, struct ferry_error *err)
{
	int r = repair_queue(b->fd, queue);
	if (!r)
		r = socket_set(b->fd, SOL_TCP, TCP_QUEUE_SEQ, (int)seq);
	return r ? tcp_fail(err, -r, "setsockopt TCP_QUEUE_SEQ", b->name) : 0;
}

/* The queues begin empty, at the sequence number of their first byte. */
static int set_sequences(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	int r = set_queue_seq(b, TCP_SEND_QUEUE, t->outq.seq - t->outq.len - tcp_has_local_fin(t), err);
	if (!r)
		r = set_queue_seq(b, TCP_RECV_QUEUE, t->inq.seq - t->inq.len - tcp_has_remote_fin(t), err);
	return r ? r : set(b, SOL_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "setsockopt TCP_REPAIR_QUEUE", err);
}

static socklen_t fill_address(const struct ferry_tcp *t, uint16_t port, const uint8_t bytes[static 16],
			      uint32_t scope, struct sockaddr_storage *ret_address)
{
	struct sockaddr_storage address = {0};
	socklen_t n;
	if (t->family == AF_INET) {
		struct sockaddr_in *a = (struct sockaddr_in *)&address;
		n = sizeof(*a);
		a->sin_family = AF_INET;
		a->sin_port = htons(port);
		memcpy(&a->sin_addr, bytes, sizeof(a->sin_addr));
	} else {
		struct sockaddr_in6 *a = (struct sockaddr_in6 *)&address;
		n = sizeof(*a);
		a->sin6_family = AF_INET6;
		a->sin6_port = htons(port);
		memcpy(&a->sin6_addr, bytes, sizeof(a->sin6_addr));
		if (IN6_IS_ADDR_LINKLOCAL(&a->sin6_addr))
			a->sin6_scope_id = scope;
	}
	*ret_address = address;
	return n;
}

static int bind_failed(const struct rebuild *b, int code, struct ferry_error *err)
{
	error_errno(err, code == EADDRNOTAVAIL ? FERRY_ERROR_ADDRESS_TAKEN : FERRY_ERROR_SYSTEM, code,
		    "TCP connection %s: bind", b->name);
	if (code == EADDRNOTAVAIL)
		error_hint(err, "add the local address to a device of this network namespace first");
	return -code;
}

static int connect_failed(const struct rebuild *b, int code, struct ferry_error *err)
{
	error_errno(err, code == EADDRNOTAVAIL ? FERRY_ERROR_ADDRESS_TAKEN : FERRY_ERROR_SYSTEM, code,
		    "TCP connection %s: connect", b->name);
	if (code == EADDRNOTAVAIL)
		error_hint(
			err,
			"a connection with these addresses and ports exists in this network namespace; end it first");
	if (code == ENETUNREACH || code == EHOSTUNREACH)
		error_hint(err, "this network namespace has no route to the peer; is the link up?");
	return -code;
}

/* In repair mode this sends nothing: the socket is ESTABLISHED at once. */
static int set_addresses(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	struct sockaddr_storage address;
	socklen_t n = fill_address(t, t->local_port, t->local_addr, b->scope, &address);
	if (bind(b->fd, (const struct sockaddr *)&address, n) < 0)
		return bind_failed(b, errno, err);
	n = fill_address(t, t->remote_port, t->remote_addr, b->scope, &address);
	if (connect(b->fd, (const struct sockaddr *)&address, n) < 0)
		return connect_failed(b, errno, err);
	return 0;
}

static int set_negotiated(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	struct tcp_repair_opt options[4];
	size_t n = 0;
	options[n++] = (struct tcp_repair_opt){OPTION_MSS, t->mss_clamp};
	if (t->tcp_options & FERRY_TCP_OPT_WSCALE)
		options[n++] =
			(struct tcp_repair_opt){OPTION_WINDOW, t->snd_wscale | (uint32_t)t->rcv_wscale << 16};
	if (t->tcp_options & FERRY_TCP_OPT_SACK)
		options[n++] = (struct tcp_repair_opt){OPTION_SACK_PERMITTED, 0};
	if (t->tcp_options & FERRY_TCP_OPT_TIMESTAMPS)
		options[n++] = (struct tcp_repair_opt){OPTION_TIMESTAMP, 0};
	int r = socket_set_bytes(b->fd, SOL_TCP, TCP_REPAIR_OPTIONS, options,
				 (socklen_t)(n * sizeof(options[0])));
	if (r)
		return tcp_fail(err, -r, "setsockopt TCP_REPAIR_OPTIONS", b->name);
	if (!(t->tcp_options & FERRY_TCP_OPT_TIMESTAMPS) || !t->has_timestamp)
		return 0;
	/*
	 * Ahead of what was taken, since whoever took it may have read a clock that lagged: see take.c. Since
	 * Linux 6.7 the lowest bit says that the clock counts microseconds. A value from an older kernel may
	 * have it by chance; one tick later is as good for the peer, which only minds going back.
	 */
	bool microseconds = t->tcp_options & FERRY_TCP_OPT_USEC_TS;
	uint32_t stamp = t->timestamp + (microseconds ? CLOCK_LEAD_MS * 1000 : CLOCK_LEAD_MS);
	stamp = microseconds ? stamp | 1 : (stamp + 1) & ~1u;
	return set(b, SOL_TCP, TCP_TIMESTAMP, (int)stamp, "setsockopt TCP_TIMESTAMP", err);
}

static int write_queue(const struct rebuild *b, const uint8_t *bytes, size_t n, struct ferry_error *err)
{
	while (n) {
		ssize_t written =
			send(b->fd, bytes, MIN(n, (size_t)WRITE_BYTES), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0) {
			int code = written < 0 ? errno : EIO;
			tcp_fail(err, code, "writing a queue", b->name);
			if (code == EAGAIN || code == ENOMEM)
				error_hint(err, "raise net.core.wmem_max and rmem_max, or net.ipv4.tcp_mem");
			return -code;
		}
		bytes += written;
		n -= (size_t)written;
	}
	return 0;
}

static int write_repair_queue(const struct rebuild *b, int queue, const uint8_t *bytes, size_t n,
			      struct ferry_error *err)
{
	int r = set(b, SOL_TCP, TCP_REPAIR_QUEUE, queue, "setsockopt TCP_REPAIR_QUEUE", err);
	if (!r)
		r = write_queue(b, bytes, n, err);
	return r ? r : set(b, SOL_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "setsockopt TCP_REPAIR_QUEUE", err);
}

static int set_window(const struct rebuild *b, const struct tcp_repair_window *w, struct ferry_error *err)
{
	int r = socket_set_bytes(b->fd, SOL_TCP, TCP_REPAIR_WINDOW, w, sizeof(*w));
	if (r == -ENOPROTOOPT)
		return 0;
	return r ? tcp_fail(err, -r, "setsockopt TCP_REPAIR_WINDOW", b->name) : 0;
}

/*
 * While the queues are rebuilt the peer's window is closed, so that nothing can leave, and ours is open, so
 * that a FIN is accepted. rcv_nxt: sequence number that the socket expects next.
 */
static int close_window(const struct rebuild *b, uint32_t rcv_nxt, struct ferry_error *err)
{
	const struct tcp_repair_window w = {
		.snd_wl1 = rcv_nxt - 1,
		.snd_wnd = 0,
		.max_window = b->t->max_window,
		.rcv_wnd = MAX(b->t->rcv_wnd, (uint32_t)UINT16_MAX),
		.rcv_wup = rcv_nxt,
	};
	return set_window(b, &w, err);
}

static int set_true_window(const struct rebuild *b, struct ferry_error *err)
{
	const struct tcp_repair_window w = {
		.snd_wl1 = b->t->snd_wl1,
		.snd_wnd = b->t->snd_wnd,
		.max_window = b->t->max_window,
		.rcv_wnd = b->t->rcv_wnd,
		.rcv_wup = b->t->rcv_wup,
	};
	return b->t->has_window ? set_window(b, &w, err) : 0;
}

/* A packet passes through the network stack: not always before sendto(2) returns. */
static int wait_state(const struct rebuild *b, unsigned state, struct ferry_error *err)
{
	const struct timespec tick = {.tv_nsec = 1000 * 1000};
	struct tcp_info info = {0};
	for (unsigned ms = 0; ms < STATE_WAIT_MS; ms++) {
		int r = socket_info(b->fd, &info);
		if (r)
			return tcp_fail(err, -r, "getsockopt TCP_INFO", b->name);
		if (info.tcpi_state == state)
			return 0;
		nanosleep(&tick, NULL);
	}
	error_set(
		err, FERRY_ERROR_RESTORE_STEP, ETIMEDOUT,
		"TCP connection %s: it stays %s instead of %s although the peer's packet was repeated to it",
		b->name, ferry_tcp_state_name(info.tcpi_state), ferry_tcp_state_name(state));
	error_hint(err, "does a packet filter drop packets on the loopback device?");
	return -ETIMEDOUT;
}

static int inject(const struct rebuild *b, enum tcp_packet_kind kind, unsigned state, struct ferry_error *err)
{
	tcp_effect(b->options, "tcp: repeat a packet of the peer");
	int r = tcp_packet_inject(b->t, kind, b->scope, b->options->packet_mark);
	if (r) {
		tcp_fail(err, -r, "repeating a packet of the peer", b->name);
		error_hint(err,
			   "a half-closed connection needs CAP_NET_RAW and its local address on a device");
		return r;
	}
	return wait_state(b, state, err);
}

static int send_fin(const struct rebuild *b, int queue, struct ferry_error *err)
{
	int r = set(b, SOL_TCP, TCP_REPAIR_QUEUE, queue, "setsockopt TCP_REPAIR_QUEUE", err);
	if (!r && shutdown(b->fd, SHUT_WR) < 0)
		r = tcp_fail(err, errno, "shutdown", b->name);
	return r ? r : set(b, SOL_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "setsockopt TCP_REPAIR_QUEUE", err);
}

/* What was never sent is queued as any program does it. The FIN goes along while the window is closed. */
static int write_unsent(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	if (!t->unsent_len && !t->fin_unsent)
		return 0;
	int r = repair_off(b->fd, true);
	if (!r)
		r = write_queue(b, t->outq.bytes + (t->outq.len - t->unsent_len), t->unsent_len, err);
	if (!r && t->fin_unsent && shutdown(b->fd, SHUT_WR) < 0)
		r = -errno;
	int r2 = repair_on(b->fd);
	r = r ? r : r2;
	return r ? tcp_fail(err, -r, "writing the unsent part of the send queue", b->name) : 0;
}

static int rebuild_receiving(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	int r = write_repair_queue(b, TCP_RECV_QUEUE, t->inq.bytes, t->inq.len, err);
	if (!r)
		r = close_window(b, t->inq.seq - tcp_has_remote_fin(t), err);
	/* In CLOSING our own FIN came first. */
	if (!r && tcp_has_remote_fin(t) && t->state != FERRY_TCP_CLOSING)
		r = inject(b, TCP_PACKET_FIN, FERRY_TCP_CLOSE_WAIT, err);
	return r;
}

static int rebuild_sending(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	int r = write_repair_queue(b, TCP_SEND_QUEUE, t->outq.bytes, t->outq.len - t->unsent_len, err);
	if (!r && tcp_has_local_fin(t) && !t->fin_unsent)
		r = send_fin(b, TCP_SEND_QUEUE, err);
	if (!r)
		r = write_unsent(b, err);
	if (!r && t->state == FERRY_TCP_FIN_WAIT2)
		r = inject(b, TCP_PACKET_ACK, FERRY_TCP_FIN_WAIT2, err);
	if (!r && t->state == FERRY_TCP_CLOSING)
		r = inject(b, TCP_PACKET_FIN, FERRY_TCP_CLOSING, err);
	return r;
}

static int set_owner_options(const struct rebuild *b, struct ferry_error *err)
{
	const struct ferry_tcp *t = b->t;
	const struct {
		int level;
		int name;
		uint32_t value;
		bool wanted;
		const char *what;
	} options[] = {
		{SOL_TCP, TCP_NODELAY, 1, t->nodelay, "setsockopt TCP_NODELAY"},
		{SOL_TCP, TCP_CORK, 1, t->cork, "setsockopt TCP_CORK"},
		{SOL_TCP, TCP_KEEPIDLE, t->keepidle_s, t->keepidle_s, "setsockopt TCP_KEEPIDLE"},
		{SOL_TCP, TCP_KEEPINTVL, t->keepintvl_s, t->keepintvl_s, "setsockopt TCP_KEEPINTVL"},
		{SOL_TCP, TCP_KEEPCNT, t->keepcnt, t->keepcnt, "setsockopt TCP_KEEPCNT"},
		{SOL_TCP, TCP_USER_TIMEOUT, t->user_timeout_ms, t->user_timeout_ms,
		 "setsockopt TCP_USER_TIMEOUT"},
		{SOL_TCP, TCP_NOTSENT_LOWAT, t->notsent_lowat, t->notsent_lowat,
		 "setsockopt TCP_NOTSENT_LOWAT"},
		{SOL_SOCKET, SO_KEEPALIVE, 1, t->keepalive, "setsockopt SO_KEEPALIVE"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		int r = 0;
		if (options[i].wanted)
			r = set(b, options[i].level, options[i].name, (int)options[i].value, options[i].what,
				err);
		if (r)
			return r;
	}
	/*
	 * Another algorithm only changes the pace; one that this kernel lacks is no reason to lose the
	 * connection.
	 */
	size_t n = strnlen(t->congestion, sizeof(t->congestion));
	if (n)
		(void)!socket_set_bytes(b->fd, SOL_TCP, TCP_CONGESTION, t->congestion, (socklen_t)n);
	return 0;
}

static int finish(const struct rebuild *b, struct ferry_error *err)
{
	int r = set_true_window(b, err);
	if (!r)
		r = restore_buffers(b, err);
	if (!r && b->t->shutdown_read && shutdown(b->fd, SHUT_RD) < 0)
		r = tcp_fail(err, errno, "shutdown", b->name);
	if (!r && needs_packet(b->t))
		r = bind_device(b, err);
	if (!r && b->options->flags & FERRY_TCP_NONBLOCK && fcntl(b->fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		r = -errno;
	return r ? tcp_fail(err, -r, "finishing it", b->name) : 0;
}

typedef int (*rebuild_step)(const struct rebuild *b, struct ferry_error *err);

/* The order is the kernel's: sequence numbers before connecting, options before data, windows last. */
static const rebuild_step rebuild_steps[] = {
	set_binding,   set_sequences,     set_addresses,   set_negotiated, set_owner_options,
	raise_buffers, rebuild_receiving, rebuild_sending, finish,
};

/* A device is named by the caller: its number differs from where the connection was taken. */
static int find_scope(struct rebuild *b, struct ferry_error *err)
{
	const char *device = b->options->bound_device;
	b->scope = device ? if_nametoindex(device) : b->t->scope_id;
	if (device && !b->scope)
		return error_errno(err, FERRY_ERROR_ADDRESS_TAKEN, ENODEV, "TCP connection %s: device '%s'",
				   b->name, device);
	return 0;
}

static int rebuild_open(struct rebuild *b, struct ferry_error *err)
{
	b->fd = socket(b->t->family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (b->fd < 0)
		return tcp_fail(err, errno, "socket", b->name);
	tcp_effect(b->options, "tcp: rebuild");
	int r = repair_on(b->fd);
	if (r)
		return tcp_fail(err, -r, "setsockopt TCP_REPAIR", b->name);
	return set_buffers(b, err);
}

int ferry_tcp_rebuild(const struct ferry_tcp *state, const struct ferry_tcp_options *options, int *ret_fd,
		      struct ferry_error *err)
{
	options = tcp_options(options, err);
	if (!options)
		return -EINVAL;
	if (state->size != sizeof(*state))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
				 "struct ferry_tcp has an unknown size of %u bytes", state->size);
	struct rebuild b = {.t = state, .options = options, .fd = -EBADF};
	tcp_name(state, b.name);
	int r = check_rebuildable(&b, err);
	if (!r)
		r = find_scope(&b, err);
	if (!r)
		r = rebuild_open(&b, err);
	for (size_t i = 0; !r && i < ARRAY_SIZE(rebuild_steps); i++)
		r = rebuild_steps[i](&b, err);
	/* Still in repair mode, so that a half-made connection vanishes without a word to the peer. */
	_cleanup_close_ int fd = b.fd;
	if (r)
		return r;
	*ret_fd = take_fd(fd);
	return 0;
}
