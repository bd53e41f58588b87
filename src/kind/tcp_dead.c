/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns TCP sockets whose connection is over while the program still has them: the peer reset it, or both
 * sides closed it. Bytes that came before can be read, then comes the end. No call makes such a socket, so
 * one is connected to ourselves over the loopback device and reset.
 *
 * Kernel interface: tcp(7), SO_LINGER. Does not handle: the socket's own name, which is another afterwards;
 * the name of the peer, which only SO_PEERNAME would still tell.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kind/fdcommon.h"
#include "kind/inet.h"
#include "kind/sockopt.h"
#include "model/record.h"

enum {
	TCP_DEAD_WAIT_MS = 2000,
	TCP_DEAD_MSS =
		536, /* RFC 9293: what is assumed when nobody says; only there because the record needs one */
};

/* ------------------------------------------------------------------ collect */

static int tcp_dead_queue(struct collect *c, const struct fd_view *view, struct inet_snap *data,
			  struct ferry_error *err)
{
	char who[64];
	int n = 0, peek_off = -1;
	fd_view_name(view, who, sizeof(who));
	if (ioctl(view->copy, SIOCINQ, &n) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno,
				   "%s: asking for the queue of a closed TCP socket", who);
	if (n <= 0)
		return 0;
	if (sock_get(view->copy, SOL_SOCKET, SO_PEEK_OFF, &peek_off) >= 0 && peek_off >= 0)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "%s: a closed TCP socket that is read with SO_PEEK_OFF", who);
	data->inq = arena_alloc(&c->snap->arena, (size_t)n);
	if (!data->inq)
		return error_memory(err);
	if (recv(view->copy, data->inq, (size_t)n, MSG_PEEK | MSG_DONTWAIT) != n)
		return error_set(err, FERRY_ERROR_SYSTEM, EIO,
				 "%s: the queue of a closed TCP socket has fewer bytes than it tells", who);
	data->dead->inq_len = (uint32_t)n;
	return 0;
}

bool tcp_was_connected(int fd, unsigned state)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};
	return state == INET_CLOSED && poll(&p, 1, 0) > 0 && p.revents & POLLRDHUP;
}

int tcp_dead_collect(struct collect *c, struct fd_view *view, struct snap_file *file, InetSkEntry *isk,
		     struct ferry_error *err)
{
	struct inet_snap *data = file->data;
	struct pollfd p = {.fd = view->copy, .events = POLLRDHUP};
	if (!tcp_was_connected(view->copy, isk->state))
		return 0;
	data->dead = record_new(&c->snap->arena, TcpStreamEntry, tcp_stream_entry);
	if (!data->dead)
		return error_memory(err);
	record_set(isk, shutdown, SK_SHUTDOWN__READ);
	record_set(data->extra, dead, true);
	/* Asking which error it is would take it; a reset is by far the likeliest. */
	if (poll(&p, 1, 0) > 0 && p.revents & POLLERR)
		record_set(data->extra, error, ECONNRESET);
	data->dead->mss_clamp = TCP_DEAD_MSS;
	int r = tcp_dead_queue(c, view, data, err);
	data->dead->inq_seq = data->dead->inq_len;
	return r;
}

/* ------------------------------------------------------------------ restore */

bool tcp_is_dead(const struct plan_file *file)
{
	const struct sock_plan *sock = file->data;
	const InetSkEntry *isk = file->entry->isk;
	if (isk->proto != IPPROTO_TCP || isk->state != INET_CLOSED)
		return false;
	return (sock->extra && sock->extra->has_dead && sock->extra->dead) || sock->kind;
}

static socklen_t tcp_dead_address(int family, uint16_t port, struct sockaddr_storage *ret)
{
	*ret = (struct sockaddr_storage){0};
	if (family == AF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)ret;
		in->sin_family = AF_INET;
		in->sin_port = port;
		in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
	in6->sin6_family = AF_INET6;
	in6->sin6_port = port;
	in6->sin6_addr = in6addr_loopback;
	return sizeof(*in6);
}

/* fd is connected to the descriptor that is returned. */
static int tcp_dead_connect(int family, int fd)
{
	struct sockaddr_storage address;
	_cleanup_close_ int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	socklen_t n = tcp_dead_address(family, 0, &address);
	if (listener < 0 || bind(listener, (const struct sockaddr *)&address, n) < 0 ||
	    listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&address, &n) < 0 ||
	    connect(fd, (const struct sockaddr *)&address, n) < 0)
		return -errno;
	int other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return other < 0 ? -errno : other;
}

static bool tcp_dead_has_bytes(int fd, uint32_t wanted)
{
	int n = 0;
	return !ioctl(fd, SIOCINQ, &n) && (uint32_t)n >= wanted;
}

static bool tcp_dead_is_closed(int fd, uint32_t wanted unused)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof(info);
	return sock_get_bytes(fd, SOL_TCP, TCP_INFO, &info, &n) >= 0 && info.tcpi_state == INET_CLOSED;
}

/* Packets pass through the network stack: not always before the call that sends them returns. */
static int tcp_dead_wait(int fd, uint32_t wanted, bool (*done)(int fd, uint32_t wanted))
{
	const struct timespec tick = {.tv_nsec = 1000 * 1000};
	for (int ms = 0; ms < TCP_DEAD_WAIT_MS; ms++) {
		if (done(fd, wanted))
			return 0;
		nanosleep(&tick, NULL);
	}
	return -ETIMEDOUT;
}

static int tcp_dead_make(const struct plan_file *file, int fd)
{
	const struct sock_plan *sock = file->data;
	const struct tcp_plan *plan = sock->kind;
	uint32_t n = plan ? plan->stream->inq_len : 0;
	const struct linger reset = {.l_onoff = 1};
	uint64_t room = MIN(n, (uint32_t)INT32_MAX / 4) * 4ull + 131072;
	int r = sockopt_set_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE, room);
	if (r < 0)
		return r;
	_cleanup_close_ int other = tcp_dead_connect((int)file->entry->isk->family, fd);
	if (other < 0)
		return other;
	if (n) {
		r = sockopt_set_buffer(other, SO_SNDBUF, SO_SNDBUFFORCE, room);
		if (r >= 0)
			r = fd_write_all(other, plan->inq, n);
		if (r >= 0)
			r = tcp_dead_wait(fd, n, tcp_dead_has_bytes);
	}
	if (r >= 0)
		r = sock_set_bytes(other, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (r < 0)
		return r;
	close(take_fd(other));
	return tcp_dead_wait(fd, 0, tcp_dead_is_closed);
}

int tcp_dead_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const struct sock_plan *sock = file->data;
	int error;
	_cleanup_close_ int fd =
		socket((int)file->entry->isk->family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "making the socket of file id %u",
				   file->entry->id);
	int r = tcp_dead_make(file, fd);
	/* The reset left an error; reading it takes it away. */
	if (r >= 0 && !(sock->extra && sock->extra->has_error))
		r = sock_get(fd, SOL_SOCKET, SO_ERROR, &error);
	if (r < 0) {
		error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
			    "making the socket of file id %u, whose connection is over", file->entry->id);
		error_hint(err, "is the loopback device up in this network namespace?");
		return r;
	}
	r = inet_finish(o, file, fd, err);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}
