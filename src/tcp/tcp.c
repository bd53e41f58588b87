/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what may happen to a socket before and after its connection is moved: whether it can be taken, leaving
 * repair mode, vanishing silently, and what waits on a listener. tcp(7), socket(7).
 */
#include <ferry/tcp.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "tcp/socket.h"

static const struct {
	const char *name;
	const char *refusal; /* NULL: can be taken */
	const char *hint;
} tcp_states[] = {
	[0] = {"UNKNOWN", "is in a state that ferry does not know", ""},
	[FERRY_TCP_ESTABLISHED] = {.name = "ESTABLISHED"},
	[2] = {"SYN_SENT", "is still connecting (SYN_SENT)", "wait until connect() has ended"},
	[3] = {"SYN_RECV", "is still being accepted (SYN_RECV)", "wait until the handshake has ended"},
	[FERRY_TCP_FIN_WAIT1] = {.name = "FIN_WAIT1"},
	[FERRY_TCP_FIN_WAIT2] = {.name = "FIN_WAIT2"},
	[6] = {"TIME_WAIT", "is over (TIME_WAIT)", "there is nothing left to move"},
	[TCP_STATE_CLOSE] = {"CLOSE", "is not connected (CLOSE)",
			     "a socket without a connection needs no repair mode"},
	[FERRY_TCP_CLOSE_WAIT] = {.name = "CLOSE_WAIT"},
	[FERRY_TCP_LAST_ACK] = {.name = "LAST_ACK"},
	[TCP_STATE_LISTEN] = {"LISTEN", "is listening (LISTEN)",
			      "a listening socket is made anew with listen(2)"},
	[FERRY_TCP_CLOSING] = {.name = "CLOSING"},
	[12] = {"NEW_SYN_RECV", "is still being accepted (NEW_SYN_RECV)",
		"wait until the handshake has ended"},
};

const char *ferry_tcp_state_name(unsigned state)
{
	return tcp_states[state < ARRAY_SIZE(tcp_states) ? state : 0].name;
}

void ferry_tcp_release(struct ferry_tcp *state)
{
	if (!state)
		return;
	free(state->inq.bytes);
	free(state->outq.bytes);
	*state = (struct ferry_tcp){.size = state->size, .undo = FERRY_TCP_UNDO_INIT};
}

/* TCP itself and nothing that hides state of its own between the socket and the wire. */
static int check_protocol(int fd, struct ferry_error *err)
{
	int type;
	int protocol;
	int r = socket_get(fd, SOL_SOCKET, SO_TYPE, &type);
	if (!r)
		r = socket_get(fd, SOL_SOCKET, SO_PROTOCOL, &protocol);
	if (r)
		return error_errno(err, FERRY_ERROR_UNSUPPORTED_FD, -r, "fd %d", fd);
	if (protocol == IPPROTO_MPTCP)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, EPROTONOSUPPORT,
				 "fd %d is a Multipath TCP socket, which has no repair mode", fd);
	if (type != SOCK_STREAM || protocol != IPPROTO_TCP)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, EPROTONOSUPPORT,
				 "fd %d is not a TCP socket", fd);
	return 0;
}

static int check_upper_protocol(int fd, struct ferry_error *err)
{
	char ulp[16] = "";
	socklen_t n = sizeof(ulp) - 1;
	if (!socket_get_bytes(fd, SOL_TCP, TCP_ULP, ulp, &n) && ulp[0])
		return error_set(
			err, FERRY_ERROR_UNSUPPORTED_FD, EPROTONOSUPPORT,
			"the TCP connection of fd %d runs under '%s' in the kernel, whose keys cannot be read",
			fd, ulp);
	/* struct tcp_ao_info_opt is 56 bytes; only whether the call succeeds matters. */
	uint8_t ao[128] = {0};
	n = 56;
	if (!socket_get_bytes(fd, SOL_TCP, TCP_AO_INFO, ao, &n))
		return error_set(
			err, FERRY_ERROR_UNSUPPORTED_FD, EPROTONOSUPPORT,
			"the TCP connection of fd %d is authenticated (TCP-AO), whose keys cannot be read",
			fd);
	return 0;
}

static int check_state(int fd, struct ferry_error *err)
{
	struct tcp_info info;
	int r = socket_info(fd, &info);
	if (r)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "fd %d: getsockopt TCP_INFO", fd);
	unsigned state = info.tcpi_state < ARRAY_SIZE(tcp_states) ? info.tcpi_state : 0;
	if (!tcp_states[state].refusal)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTCONN, "the TCP socket of fd %d %s", fd,
		  tcp_states[state].refusal);
	if (tcp_states[state].hint[0])
		error_hint(err, "%s", tcp_states[state].hint);
	return -ENOTCONN;
}

static int check_urgent(int fd, struct ferry_error *err)
{
	struct pollfd p = {.fd = fd, .events = POLLPRI};
	int at_mark = 0;
	if (ioctl(fd, SIOCATMARK, &at_mark) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "fd %d: ioctl SIOCATMARK", fd);
	if (at_mark || (poll(&p, 1, 0) > 0 && p.revents & POLLPRI))
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, EOPNOTSUPP,
				 "urgent (out-of-band) data waits in the TCP connection of fd %d", fd);
	return 0;
}

static int read_undo(int fd, struct ferry_tcp_undo *ret_undo, struct ferry_error *err)
{
	int reuseaddr;
	int oobinline;
	int peek_off;
	int r = socket_get(fd, SOL_SOCKET, SO_REUSEADDR, &reuseaddr);
	if (!r)
		r = socket_get(fd, SOL_SOCKET, SO_OOBINLINE, &oobinline);
	if (r)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "fd %d: getsockopt", fd);
	/* TCP learned it in Linux 6.9; where it cannot be read it cannot have been set. */
	if (socket_get(fd, SOL_SOCKET, SO_PEEK_OFF, &peek_off))
		peek_off = -1;
	*ret_undo = (struct ferry_tcp_undo){
		.reuseaddr = reuseaddr != 0,
		.oobinline = oobinline != 0,
		.peek_off = peek_off,
	};
	return 0;
}

int ferry_tcp_check(int fd, struct ferry_tcp_undo *ret_undo, struct ferry_error *err)
{
	struct ferry_tcp_undo undo;
	int repair = 0;
	int r = check_protocol(fd, err);
	if (!r)
		r = check_state(fd, err);
	if (!r)
		r = check_upper_protocol(fd, err);
	if (!r)
		r = check_urgent(fd, err);
	if (!r)
		r = read_undo(fd, &undo, err);
	if (r)
		return r;
	r = socket_get(fd, SOL_TCP, TCP_REPAIR, &repair);
	if (r)
		return tcp_fail(err, -r, "getsockopt TCP_REPAIR", "of this socket");
	if (repair) {
		error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY,
			  "the TCP socket of fd %d is in repair mode already", fd);
		error_hint(err, "another tool holds it, or left it so; ferry_tcp_resume() frees it");
		return -EBUSY;
	}
	if (ret_undo)
		*ret_undo = undo;
	return 0;
}

static int apply_undo(int fd, const struct ferry_tcp_undo *undo)
{
	int first = 0;
	int r = socket_set(fd, SOL_SOCKET, SO_REUSEADDR, undo->reuseaddr);
	if (r)
		first = r;
	r = socket_set(fd, SOL_SOCKET, SO_OOBINLINE, undo->oobinline);
	if (r && !first)
		first = r;
	if (undo->peek_off >= 0) {
		r = socket_set(fd, SOL_SOCKET, SO_PEEK_OFF, undo->peek_off);
		if (r && !first)
			first = r;
	}
	return first;
}

/*
 * Bytes that were queued while nothing could be sent have nobody who pushes them: switching TCP_NODELAY on
 * does, past Nagle's rule and past TCP_CORK, and it arms the persist timer when the window is closed.
 */
static int push_unsent(int fd)
{
	int unsent = 0;
	int nodelay = 0;
	if (ioctl(fd, SIOCOUTQNSD, &unsent) < 0 || unsent <= 0)
		return 0;
	int r = socket_get(fd, SOL_TCP, TCP_NODELAY, &nodelay);
	if (r)
		return r;
	r = socket_set(fd, SOL_TCP, TCP_NODELAY, 1);
	if (!r && !nodelay)
		r = socket_set(fd, SOL_TCP, TCP_NODELAY, 0);
	return r;
}

int ferry_tcp_resume(int fd, const struct ferry_tcp_undo *undo, uint32_t flags, struct ferry_error *err)
{
	int repair = 0;
	int r = socket_get(fd, SOL_TCP, TCP_REPAIR, &repair);
	/* Probing even when the owner's undo fails: a socket left in repair mode is the greater evil. */
	if (!r && repair)
		r = repair_off(fd, flags & FERRY_TCP_QUIET);
	if (!r && undo)
		r = apply_undo(fd, undo);
	if (!r && repair && !(flags & FERRY_TCP_QUIET))
		r = push_unsent(fd);
	return r ? tcp_fail(err, -r, "leaving repair mode", "of this socket") : 0;
}

int ferry_tcp_close_silently(int fd, struct ferry_error *err)
{
	_cleanup_close_ int owned = fd;
	int r = repair_on(owned);
	if (r)
		return tcp_fail(err, -r, "setsockopt TCP_REPAIR", "of this socket");
	/*
	 * Closing would be enough for the last descriptor; disconnecting reaches the connection whoever else
	 * has it open. Where it fails (Linux 6.4 while a thread waits inside) repair mode stays on and keeps
	 * the last close silent.
	 */
	const struct sockaddr none = {.sa_family = AF_UNSPEC};
	(void)!connect(owned, &none, sizeof(none));
	return 0;
}

int ferry_tcp_listen_pending(int fd, uint32_t *ret_backlog, struct ferry_error *err)
{
	struct tcp_info info;
	int r = check_protocol(fd, err);
	if (r)
		return r;
	r = socket_info(fd, &info);
	if (r)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "fd %d: getsockopt TCP_INFO", fd);
	if (info.tcpi_state != TCP_STATE_LISTEN)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, EINVAL,
				 "the TCP socket of fd %d is not listening", fd);
	/* For a listener the kernel tells its queue in these two. */
	if (ret_backlog)
		*ret_backlog = info.tcpi_sacked;
	return (int)info.tcpi_unacked;
}
