/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading a connection out of a socket: tcp(7) TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ,
 * TCP_REPAIR_WINDOW (4.8), TCP_TIMESTAMP (3.9) and MSG_PEEK on both queues.
 *
 * Repair mode stops the owner's calls, not the wire: segments are still received and acknowledged. So
 * everything that moves is read before and after the queues and the whole is repeated until both agree.
 *
 * Not handled: urgent data (refused), segments received out of order (the peer keeps and repeats them).
 */
#include <ferry/tcp.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/sockios.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "tcp/socket.h"

enum { TAKE_ATTEMPTS = 64 };

/*
 * Room beyond what the send queue should hold, for bytes of its first segment that were acknowledged in part.
 */
enum { OUTQ_SLACK_BYTES = 64 * 1024 };

enum { SEGMENT_MAX_BYTES = 64 * 1024, CLOCK_LEAD_MS = 1000, CLOCK_LEAD_MAX_MS = 10000 };

/* Everything that a packet from the peer, or a timer, can change. */
struct take_facts {
	uint32_t inq_seq;
	uint32_t outq_seq;
	uint32_t inq_len;
	uint32_t outq_len;
	uint32_t unsent_len;
	uint8_t state;
	uint8_t options;
	uint8_t snd_wscale;
	uint8_t rcv_wscale;
};

union tcp_address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static int read_addresses(int fd, struct ferry_tcp *t)
{
	union tcp_address local = {.v6 = {0}};
	union tcp_address remote = {.v6 = {0}};
	socklen_t n_local = sizeof(local);
	socklen_t n_remote = sizeof(remote);
	if (getsockname(fd, &local.any, &n_local) < 0 || getpeername(fd, &remote.any, &n_remote) < 0)
		return -errno;
	t->family = local.any.sa_family;
	if (t->family == AF_INET) {
		t->local_port = ntohs(local.v4.sin_port);
		t->remote_port = ntohs(remote.v4.sin_port);
		memcpy(t->local_addr, &local.v4.sin_addr, sizeof(local.v4.sin_addr));
		memcpy(t->remote_addr, &remote.v4.sin_addr, sizeof(remote.v4.sin_addr));
		return 0;
	}
	t->local_port = ntohs(local.v6.sin6_port);
	t->remote_port = ntohs(remote.v6.sin6_port);
	memcpy(t->local_addr, &local.v6.sin6_addr, sizeof(local.v6.sin6_addr));
	memcpy(t->remote_addr, &remote.v6.sin6_addr, sizeof(remote.v6.sin6_addr));
	t->scope_id = remote.v6.sin6_scope_id;
	int v6only = 0;
	int r = socket_get(fd, SOL_IPV6, IPV6_V6ONLY, &v6only);
	t->v6only = v6only != 0;
	return r;
}

/* Options that are the same whenever they are read while the owner does not run. */
static int read_options(int fd, struct ferry_tcp *t)
{
	int nodelay;
	int cork;
	int keepalive;
	int idle;
	int interval;
	int count;
	int mss;
	const struct {
		int level;
		int name;
		int *value;
	} wanted[] = {
		{SOL_TCP, TCP_NODELAY, &nodelay},
		{SOL_TCP, TCP_CORK, &cork},
		{SOL_SOCKET, SO_KEEPALIVE, &keepalive},
		{SOL_TCP, TCP_KEEPIDLE, &idle},
		{SOL_TCP, TCP_KEEPINTVL, &interval},
		{SOL_TCP, TCP_KEEPCNT, &count},
		{SOL_TCP, TCP_MAXSEG, &mss}, /* in repair mode: the clamp that was negotiated */
	};
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		int r = socket_get(fd, wanted[i].level, wanted[i].name, wanted[i].value);
		if (r)
			return r;
	}
	t->nodelay = nodelay != 0;
	t->cork = cork != 0;
	t->keepalive = keepalive != 0;
	t->keepidle_s = (uint32_t)idle;
	t->keepintvl_s = (uint32_t)interval;
	t->keepcnt = (uint32_t)count;
	t->mss_clamp = (uint32_t)mss;
	return 0;
}

/* What not every kernel has, or what the connection lives without. */
static void read_extras(int fd, struct ferry_tcp *t)
{
	int value;
	if (!socket_get(fd, SOL_TCP, TCP_USER_TIMEOUT, &value))
		t->user_timeout_ms = (uint32_t)value;
	if (!socket_get(fd, SOL_TCP, TCP_NOTSENT_LOWAT, &value))
		t->notsent_lowat = (uint32_t)value;
	if (!socket_get(fd, SOL_SOCKET, SO_SNDBUF, &value))
		t->sndbuf_bytes = (uint32_t)value;
	if (!socket_get(fd, SOL_SOCKET, SO_RCVBUF, &value))
		t->rcvbuf_bytes = (uint32_t)value;
	if (!socket_get(fd, SOL_SOCKET, SO_BUF_LOCK, &value)) {
		t->buf_lock = (uint8_t)value;
		t->has_buf_lock = 1;
	}
	socklen_t n = sizeof(t->congestion) - 1;
	if (socket_get_bytes(fd, SOL_TCP, TCP_CONGESTION, t->congestion, &n))
		t->congestion[0] = '\0';
}

/*
 * FINs count as one byte each in the kernel's figures. Ours is the last thing of the send queue, so that it is
 * unsent exactly when anything is; SIOCINQ leaves the peer's out by itself.
 */
static void account_fin(struct take_facts *f)
{
	bool local_fin = TCP_STATE_MASK(f->state) & TCP_LOCAL_FIN_STATES;
	if (local_fin && f->outq_len)
		f->outq_len--;
}

/*
 * How much was sent is asked for before the send queue is selected for the first time: while it is, anything
 * that makes the kernel want to send (an acknowledgement, the pacing timer) makes it mark all bytes as sent
 * without sending them.
 */
static int read_facts(int fd, struct take_facts *ret_facts)
{
	struct take_facts f = {0};
	struct tcp_info info;
	int value;
	int r = socket_info(fd, &info);
	if (r)
		return r;
	f.state = info.tcpi_state;
	f.options = info.tcpi_options;
	f.snd_wscale = info.tcpi_snd_wscale;
	f.rcv_wscale = info.tcpi_rcv_wscale;
	if (ioctl(fd, SIOCOUTQNSD, &value) < 0)
		return -errno;
	f.unsent_len = (uint32_t)value;
	if (ioctl(fd, SIOCOUTQ, &value) < 0)
		return -errno;
	f.outq_len = (uint32_t)value;
	r = repair_queue(fd, TCP_RECV_QUEUE);
	if (!r)
		r = socket_get(fd, SOL_TCP, TCP_QUEUE_SEQ, &value);
	if (r)
		return r;
	f.inq_seq = (uint32_t)value;
	if (ioctl(fd, SIOCINQ, &value) < 0)
		return -errno;
	f.inq_len = (uint32_t)value;
	r = repair_queue(fd, TCP_SEND_QUEUE);
	if (!r)
		r = socket_get(fd, SOL_TCP, TCP_QUEUE_SEQ, &value);
	int r2 = repair_queue(fd, TCP_NO_QUEUE);
	if (r || r2)
		return r ? r : r2;
	f.outq_seq = (uint32_t)value;
	account_fin(&f);
	*ret_facts = f;
	return 0;
}

static int read_window(int fd, struct ferry_tcp *t)
{
	struct tcp_repair_window w = {0};
	socklen_t n = sizeof(w);
	int r = socket_get_bytes(fd, SOL_TCP, TCP_REPAIR_WINDOW, &w, &n);
	if (r == -ENOPROTOOPT)
		return 0;
	if (r)
		return r;
	t->snd_wl1 = w.snd_wl1;
	t->snd_wnd = w.snd_wnd;
	t->max_window = w.max_window;
	t->rcv_wnd = w.rcv_wnd;
	t->rcv_wup = w.rcv_wup;
	t->has_window = 1;
	return 0;
}

/* Peek up to 'room' bytes of a queue. Returns their number, which for the send queue may exceed room. */
static int peek(int fd, int queue, void *bytes, size_t room)
{
	int r = repair_queue(fd, queue);
	if (r)
		return r;
	ssize_t n = recv(fd, bytes, room, MSG_PEEK | MSG_DONTWAIT);
	int code = errno;
	/* With the send queue selected, data that an acknowledgement sets free would only seem to be sent. */
	r = repair_queue(fd, TCP_NO_QUEUE);
	return n < 0 ? -code : r ? r : (int)n;
}

/* Nobody reads meanwhile, so that only an urgent mark ends peeking early. */
static int read_inq(int fd, const struct take_facts *f, struct ferry_tcp_queue *q)
{
	if (!f->inq_len)
		return 0;
	q->bytes = malloc(f->inq_len);
	if (!q->bytes)
		return -ENOMEM;
	int n = peek(fd, TCP_RECV_QUEUE, q->bytes, f->inq_len);
	if (n < 0)
		return n;
	return (uint32_t)n == f->inq_len ? 0 : -EOPNOTSUPP;
}

/* -EAGAIN: the queue is not what the facts said. */
static int read_outq(int fd, const struct take_facts *f, struct ferry_tcp_queue *q)
{
	if (!f->outq_len)
		return 0;
	size_t room = (size_t)f->outq_len + OUTQ_SLACK_BYTES;
	q->bytes = malloc(room);
	if (!q->bytes)
		return -ENOMEM;
	int n = peek(fd, TCP_SEND_QUEUE, q->bytes, room);
	if (n < 0)
		return n;
	if ((uint32_t)n < f->outq_len || (size_t)n > room)
		return -EAGAIN;
	/* The kernel frees whole segments: what the first one holds beyond the queue's length was acknowledged. */
	uint32_t acknowledged = (uint32_t)n - f->outq_len;
	if (acknowledged)
		memmove(q->bytes, q->bytes + acknowledged, f->outq_len);
	return 0;
}

static void drop_queues(struct ferry_tcp *t)
{
	free(take_ptr(t->inq.bytes));
	free(take_ptr(t->outq.bytes));
}

static void apply_facts(const struct take_facts *f, struct ferry_tcp *t)
{
	bool local_fin = TCP_STATE_MASK(f->state) & TCP_LOCAL_FIN_STATES;
	t->state = f->state;
	t->tcp_options = f->options;
	t->snd_wscale = f->snd_wscale;
	t->rcv_wscale = f->rcv_wscale;
	t->inq.seq = f->inq_seq;
	t->inq.len = f->inq_len;
	t->outq.seq = f->outq_seq;
	t->outq.len = f->outq_len;
	t->fin_unsent = local_fin && f->unsent_len > 0;
	t->unsent_len = f->unsent_len - t->fin_unsent;
}

static bool same_outq(const struct take_facts *a, const struct take_facts *b)
{
	return a->outq_seq == b->outq_seq && a->outq_len == b->outq_len;
}

/* Sent or not is left out: see read_facts(). */
static bool facts_agree(const struct take_facts *a, const struct take_facts *b)
{
	struct take_facts like_a = *b;
	like_a.unsent_len = a->unsent_len;
	return !memcmp(a, &like_a, sizeof(*a));
}

/*
 * One try at a picture in which nothing moved; -EAGAIN when something did. first: the facts of the first try,
 * the only ones from before the send queue was ever selected.
 */
static int read_moving(int fd, struct take_facts *first, bool is_first, struct ferry_tcp *t)
{
	struct take_facts before = {0};
	struct take_facts after = {0};
	int r = read_facts(fd, &before);
	if (!r && is_first)
		*first = before;
	if (!r)
		r = read_inq(fd, &before, &t->inq);
	if (!r)
		r = read_outq(fd, &before, &t->outq);
	if (!r)
		r = read_window(fd, t);
	if (!r)
		r = read_facts(fd, &after);
	if (!r && !facts_agree(&before, &after))
		r = -EAGAIN;
	if (r) {
		drop_queues(t);
		return r;
	}
	if (same_outq(first, &before))
		before.unsent_len = first->unsent_len;
	apply_facts(&before, t);
	return 0;
}

/*
 * Bytes behind an urgent mark are hidden from SIOCINQ and from peeking unless SO_OOBINLINE is on: look with it
 * on. Asking the plain way last, bytes that arrive in between cannot look like hidden ones.
 */
static int refuse_urgent(int fd, const struct ferry_tcp_options *options)
{
	int inlined = 0;
	int plain = 0;
	tcp_effect(options, "tcp: SO_OOBINLINE on");
	int r = socket_set(fd, SOL_SOCKET, SO_OOBINLINE, 1);
	if (r)
		return r;
	if (ioctl(fd, SIOCINQ, &inlined) < 0)
		r = -errno;
	tcp_effect(options, "tcp: SO_OOBINLINE off");
	int r2 = socket_set(fd, SOL_SOCKET, SO_OOBINLINE, 0);
	if (r || r2)
		return r ? r : r2;
	if (ioctl(fd, SIOCINQ, &plain) < 0)
		return -errno;
	return inlined > plain ? -EOPNOTSUPP : 0;
}

/*
 * The clock may lag behind the timestamps that were sent: packets of a paced connection, acknowledgements too,
 * carry the time at which its next segment is to leave, up to two segments of 64 KiB ahead at a rate that may
 * have changed since. A rebuilt connection that went back would be ignored by its peer (PAWS) until it caught
 * up; going forward harms nobody.
 */
static uint32_t timestamp_lead(const struct tcp_info *info)
{
	uint64_t ms = CLOCK_LEAD_MS;
	if (info->tcpi_pacing_rate)
		ms += 2ULL * SEGMENT_MAX_BYTES * 1000 / info->tcpi_pacing_rate;
	ms = MIN(ms, (uint64_t)CLOCK_LEAD_MAX_MS);
	return (uint32_t)(info->tcpi_options & FERRY_TCP_OPT_USEC_TS ? ms * 1000 : ms);
}

static void read_timestamp(int fd, struct ferry_tcp *t)
{
	struct tcp_info info;
	int timestamp;
	if (socket_info(fd, &info) || socket_get(fd, SOL_TCP, TCP_TIMESTAMP, &timestamp))
		return;
	/* An even number: the lowest bit is the unit's. */
	t->timestamp = (uint32_t)timestamp + (timestamp_lead(&info) & ~1u);
	t->has_timestamp = 1;
}

static int read_all(int fd, const struct ferry_tcp_options *options, struct ferry_tcp *t)
{
	int r = t->undo.oobinline ? 0 : refuse_urgent(fd, options);
	if (!r && t->undo.peek_off >= 0) {
		tcp_effect(options, "tcp: SO_PEEK_OFF off");
		r = socket_set(fd, SOL_SOCKET, SO_PEEK_OFF, -1);
	}
	if (!r)
		r = read_options(fd, t);
	if (r)
		return r;
	read_extras(fd, t);
	struct take_facts first = {0};
	r = -EAGAIN;
	for (unsigned i = 0; i < TAKE_ATTEMPTS && r == -EAGAIN; i++)
		r = read_moving(fd, &first, i == 0, t);
	if (r)
		return r;
	read_timestamp(fd, t);
	return 0;
}

/* shutdown(SHUT_RD) shows as a hang-up of the reading side that no FIN of the peer explains. */
static void read_shutdown(int fd, struct ferry_tcp *t)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};
	t->shutdown_read = !tcp_has_remote_fin(t) && poll(&p, 1, 0) > 0 && p.revents & POLLRDHUP;
}

static int take_failed(struct ferry_error *err, int code, const char *name)
{
	if (code == ENOMEM)
		return error_memory(err);
	if (code == EOPNOTSUPP)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, code,
				 "urgent (out-of-band) data waits in TCP connection %s", name);
	if (code != EAGAIN)
		return tcp_fail(err, code, "reading it in repair mode", name);
	error_set(err, FERRY_ERROR_TARGET_CHANGED, code, "TCP connection %s: its queues change all the time",
		  name);
	error_hint(err, "lock the network for this connection and stop its owner first");
	return -code;
}

int ferry_tcp_take(int fd, const struct ferry_tcp_options *options, struct ferry_tcp *ret_state,
		   struct ferry_error *err)
{
	char name[TCP_NAME_LEN] = "of this socket";
	options = tcp_options(options, err);
	if (!options)
		return -EINVAL;
	if (ret_state->size != sizeof(*ret_state))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
				 "struct ferry_tcp has an unknown size of %u bytes", ret_state->size);
	struct ferry_tcp t = FERRY_TCP_INIT;
	int r = ferry_tcp_check(fd, &t.undo, err);
	if (r)
		return r;
	r = read_addresses(fd, &t);
	if (r)
		return tcp_fail(err, -r, "reading its addresses", name);
	tcp_name(&t, name);
	tcp_effect(options, "tcp: repair on");
	r = repair_on(fd);
	if (r)
		return tcp_fail(err, -r, "setsockopt TCP_REPAIR", name);
	r = read_all(fd, options, &t);
	if (!r)
		read_shutdown(fd, &t);
	if (r || !(options->flags & FERRY_TCP_PAUSE)) {
		tcp_effect(options, "tcp: repair off");
		int r2 = ferry_tcp_resume(fd, &t.undo, FERRY_TCP_QUIET, NULL);
		r = r ? r : r2;
	}
	if (r) {
		ferry_tcp_release(&t);
		return take_failed(err, -r, name);
	}
	*ret_state = t;
	return 0;
}
