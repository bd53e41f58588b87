/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the conversion between a connection as libferry-tcp has it and its three records: inet_sk_entry
 * (names, options), tcp_stream_entry (sequence numbers, windows, queues) and ferry_socket_entry (what the
 * others lack). Sequence numbers mean the same in both: behind the last byte, or behind the FIN that follows
 * it.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "kind/inet.h"
#include "kind/sockextra.h"
#include "model/record.h"

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif

static bool tcp_state_is(unsigned state, const uint8_t *states, size_t n)
{
	return memchr(states, (int)state, n) != NULL;
}

/* Our FIN is, or will be, behind the send queue. */
static bool tcp_sent_fin(unsigned state)
{
	static const uint8_t states[] = {FERRY_TCP_FIN_WAIT1, FERRY_TCP_FIN_WAIT2, FERRY_TCP_CLOSING,
					 FERRY_TCP_LAST_ACK};
	return tcp_state_is(state, states, sizeof(states));
}

/* The peer's FIN is behind the receive queue. */
static bool tcp_got_fin(unsigned state)
{
	static const uint8_t states[] = {FERRY_TCP_CLOSE_WAIT, FERRY_TCP_CLOSING, FERRY_TCP_LAST_ACK};
	return tcp_state_is(state, states, sizeof(states));
}

unsigned tcp_shutdown_of(const struct ferry_tcp *t)
{
	unsigned read = tcp_got_fin(t->state) || t->shutdown_read ? SK_SHUTDOWN__READ : 0;
	return read | (tcp_sent_fin(t->state) ? SK_SHUTDOWN__WRITE : 0);
}

void tcp_to_stream(const struct ferry_tcp *t, TcpStreamEntry *ret)
{
	tcp_stream_entry__init(ret);
	ret->inq_len = t->inq.len;
	ret->inq_seq = t->inq.seq;
	ret->outq_len = t->outq.len;
	ret->outq_seq = t->outq.seq;
	ret->opt_mask = t->tcp_options;
	ret->snd_wscale = t->snd_wscale;
	ret->mss_clamp = t->mss_clamp;
	record_set(ret, rcv_wscale, t->rcv_wscale);
	if (t->has_timestamp)
		record_set(ret, timestamp, t->timestamp);
	record_set(ret, unsq_len, t->unsent_len);
	if (!t->has_window)
		return;
	record_set(ret, snd_wl1, t->snd_wl1);
	record_set(ret, snd_wnd, t->snd_wnd);
	record_set(ret, max_window, t->max_window);
	record_set(ret, rcv_wnd, t->rcv_wnd);
	record_set(ret, rcv_wup, t->rcv_wup);
}

static void tcp_take_stream(const TcpStreamEntry *s, const struct tcp_plan *plan, struct ferry_tcp *t)
{
	t->inq = (struct ferry_tcp_queue){
		.seq = s->inq_seq, .len = s->inq_len, .bytes = s->inq_len ? plan->inq : NULL};
	t->outq = (struct ferry_tcp_queue){
		.seq = s->outq_seq, .len = s->outq_len, .bytes = s->outq_len ? plan->outq : NULL};
	t->unsent_len = s->has_unsq_len ? s->unsq_len : 0;
	t->tcp_options = s->opt_mask;
	t->snd_wscale = (uint8_t)s->snd_wscale;
	t->rcv_wscale = s->has_rcv_wscale ? (uint8_t)s->rcv_wscale : 0;
	t->mss_clamp = s->mss_clamp;
	t->timestamp = s->timestamp;
	t->has_timestamp = s->has_timestamp != 0;
	t->has_window =
		s->has_snd_wl1 && s->has_snd_wnd && s->has_max_window && s->has_rcv_wnd && s->has_rcv_wup;
	t->snd_wl1 = s->snd_wl1;
	t->snd_wnd = s->snd_wnd;
	t->max_window = s->max_window;
	t->rcv_wnd = s->rcv_wnd;
	t->rcv_wup = s->rcv_wup;
}

static void tcp_take_names(const InetSkEntry *isk, struct ferry_tcp *t)
{
	size_t n = isk->family == AF_INET ? 4 : 16;
	t->family = (uint16_t)isk->family;
	t->local_port = (uint16_t)isk->src_port;
	t->remote_port = (uint16_t)isk->dst_port;
	memcpy(t->local_addr, isk->src_addr, n);
	memcpy(t->remote_addr, isk->dst_addr, n);
	t->scope_id = inet_scope(isk);
	t->state = (uint8_t)isk->state;
	t->v6only = isk->has_v6only && isk->v6only;
}

/* Images have the options of the TCP level in one of three places, by their age. */
static void tcp_take_options(const InetSkEntry *isk, const TcpStreamEntry *s, struct ferry_tcp *t)
{
	const SkOptsEntry *o = isk->opts;
	const TcpOptsEntry *tcp = isk->tcp_opts;
	t->nodelay = tcp && tcp->has_nodelay ? tcp->nodelay != 0 : s->has_nodelay && s->nodelay;
	t->cork = tcp && tcp->has_cork ? tcp->cork != 0 : s->has_cork && s->cork;
	t->keepalive = o->has_so_keepalive && o->so_keepalive;
	t->keepidle_s = tcp && tcp->has_keepidle ? tcp->keepidle : o->has_tcp_keepidle ? o->tcp_keepidle : 0;
	t->keepintvl_s = tcp && tcp->has_keepintvl ? tcp->keepintvl
			 : o->has_tcp_keepintvl    ? o->tcp_keepintvl
						   : 0;
	t->keepcnt = tcp && tcp->has_keepcnt ? tcp->keepcnt : o->has_tcp_keepcnt ? o->tcp_keepcnt : 0;
	t->sndbuf_bytes = o->so_sndbuf;
	t->rcvbuf_bytes = o->so_rcvbuf;
	t->has_buf_lock = o->has_so_buf_lock != 0;
	t->buf_lock = (uint8_t)o->so_buf_lock;
	t->undo.reuseaddr = o->has_reuseaddr && o->reuseaddr;
	t->undo.oobinline = o->has_so_oobinline && o->so_oobinline;
}

int tcp_from_records(const InetSkEntry *isk, const struct tcp_plan *plan, const FerrySocketEntry *extra,
		     struct ferry_tcp *ret, struct ferry_error *err)
{
	const TcpStreamEntry *s = plan->stream;
	struct ferry_tcp t = FERRY_TCP_INIT;
	if (s->snd_wscale > UINT8_MAX || (s->has_rcv_wscale && s->rcv_wscale > UINT8_MAX))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "tcp-stream-%x.img has a window scale of %u and %u", isk->ino, s->snd_wscale,
				 s->rcv_wscale);
	tcp_take_names(isk, &t);
	tcp_take_stream(s, plan, &t);
	tcp_take_options(isk, s, &t);
	t.shutdown_read = isk->has_shutdown && isk->shutdown & SK_SHUTDOWN__READ && !tcp_got_fin(t.state);
	/* Where the image does not tell: a FIN cannot have overtaken the bytes before it. */
	t.fin_unsent =
		extra && extra->has_fin_unsent ? extra->fin_unsent : tcp_sent_fin(t.state) && t.unsent_len;
	int peek_off;
	if (sockextra_int(extra, SOL_SOCKET, SO_PEEK_OFF, &peek_off))
		t.undo.peek_off = peek_off;
	*ret = t;
	return 0;
}
