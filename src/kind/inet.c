/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns saving internet sockets: TCP sockets that listen, are bound, or do nothing yet, and UDP sockets;
 * connections are tcp.c's. Names, options and limits are read from our copy of the socket; states from
 * outside come from sock_diag.
 *
 * Kernel interface: ip(7), ipv6(7), tcp(7), udp(7), NETLINK_SOCK_DIAG with inet_diag (3.3), SIOCGSKNS (4.10).
 * Does not handle: connections that wait to be accepted: no call takes one out of the queue and puts it back, or makes
 * one (looked at up to Linux 6.18), so the dump waits until they are accepted and refuses in the end; connections of
 * Multipath TCP; packets that wait in raw and ICMP sockets; sockets of another network namespace; keys of TCP_MD5SIG. They are
 * refused by name. Keys that were set on a socket before it was bound are seen by nobody (Linux 6.18).
 */
#include "kind/inet.h"

#include <errno.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/sockdiag.h"
#include "kernel/caps.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "kind/peers.h"
#include "kind/sockopt.h"
#include "kind/udp.h"
#include "model/record.h"
#include "proc/fdinfo.h"
#include "proc/lex.h"

#ifndef SO_PEERNAME
#define SO_PEERNAME 28
#endif
#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

enum {
	INET_SOL_RAW = 255, /* of linux/icmp.h and the kernel */
	INET_ICMP_FILTER = 1,
	INET_IPV6_HDRINCL = 36, /* Linux 4.5 */
	INET_SO_ZEROCOPY = 60,  /* Linux 4.14 */
};

/* --------------------------------------------------------------------- scan */

static int inet_scan_get(const struct fd_view *view, struct inet_scan **ret, struct ferry_error *err)
{
	struct net_place *here = net_here(view);
	struct inet_scan *scan = here->inet;
	if (!scan) {
		struct inet_sock *socks;
		scan = arena_new(view->arena, struct inet_scan);
		int r = scan ? sockdiag_inet_all(-1, &socks, &scan->n, err) : error_memory(err);
		if (r < 0)
			return r;
		scan->socks = scan->n ? arena_copy(view->arena, socks, scan->n * sizeof(*socks)) : NULL;
		free(socks);
		if (scan->n && !scan->socks)
			return error_memory(err);
		here->inet = scan;
	}
	view->kind_data[KIND_inetsk] = scan;
	*ret = scan;
	return 0;
}

/* Ferry stands where the socket is. NULL: the kernel lists it nowhere, as it does with sockets that are not bound to anything. */
static int inet_look_up(const struct fd_view *view, const struct inet_sock **ret, struct ferry_error *err)
{
	struct inet_scan *scan = NULL;
	int r = inet_scan_get(view, &scan, err);
	if (r >= 0 && scan)
		*ret = inet_socks_find(scan->socks, scan->n, sock_inode(view));
	return r;
}

/* -------------------------------------------------------------------- check */

static bool inet_owns(const struct fd_view *view)
{
	static const char *const names[] = {"TCP",   "TCPv6",   "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6",
					    "MPTCP", "MPTCPv6", "RAW", "RAWv6", "PING",     "PINGv6"};
	char name[32];
	if (sock_protocol(view, name) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

/* A client that does not speak it makes a plain TCP connection of what the listener accepts. */
static int inet_refuse_multipath(struct fd_view *view, const char *who, struct ferry_error *err)
{
	char name[32];
	struct sockaddr_storage peer;
	socklen_t n = sizeof(peer);
	if (sock_protocol(view, name) < 0 || strncmp(name, "MPTCP", 5) != 0)
		return 0;
	bool held = view->copy >= 0;
	int r = fd_view_copy(view, err);
	if (r < 0)
		return r;
	/* What such a listener accepted keeps its name in the file system also where it is plain TCP. */
	int protocol = IPPROTO_MPTCP;
	bool connected = sock_get(view->copy, SOL_SOCKET, SO_PROTOCOL, &protocol) >= 0 &&
			 protocol == IPPROTO_MPTCP &&
			 getpeername(view->copy, (struct sockaddr *)&peer, &n) == 0;
	if (!held) {
		/* A copy that lives on would hide the end of the socket from its peer. */
		close(view->copy);
		view->copy = -1;
	}
	if (!connected)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
		  "%s: a Multipath TCP connection, which has no TCP_REPAIR (Linux 6.18)", who);
	error_hint(err, "switch Multipath TCP off; a Go program does without under GODEBUG=multipathtcp=0");
	return -ENOTSUP;
}

static int inet_refuse_pending(const char *who, uint32_t n, struct ferry_error *err)
{
	error_set(
		err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
		"%s: %u connections to this TCP socket wait to be accepted; no call takes or makes such (Linux 6.18)",
		who, n);
	error_hint(err, "try again when the program has accepted them, or use --skip-in-flight");
	return -ENOTSUP;
}

static int inet_refuse_datagrams(const char *who, const char *what, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_IN_FLIGHT, ENOTSUP, "%s: a socket with %s", who, what);
	error_hint(err, "try again when the program has read or sent them");
	return -ENOTSUP;
}

/* Datagrams for a port that several sockets have reach whichever the kernel chooses. */
static int inet_check_port(const struct inet_scan *scan, const struct inet_sock *sock, const char *who,
			   struct ferry_error *err)
{
	for (size_t i = 0; sock->rqueue && i < scan->n; i++)
		if (scan->socks[i].inode != sock->inode && scan->socks[i].protocol == sock->protocol &&
		    scan->socks[i].local_port == sock->local_port)
			return inet_refuse_datagrams(
				who, "datagrams that wait, on a port that it shares with others", err);
	return 0;
}

static int inet_check_tcp(const char *who, unsigned state, const struct kind_options *options,
			  struct ferry_error *err)
{
	if (state == INET_CLOSED || state == INET_LISTENING)
		return 0;
	if (state == INET_SYN_RECV) {
		error_set(err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
			  "%s: a TCP socket that both sides are connecting", who);
		error_hint(err, "try again when connect() has ended");
		return -ENOTSUP;
	}
	if (options->tcp_established || options->tcp_close)
		return 0;
	error_set(err, FERRY_ERROR_TCP_ESTABLISHED, ENOTSUP, "%s: an established TCP connection", who);
	error_hint(err, "use --tcp-established to keep the connection");
	return -ENOTSUP;
}

/* Connections are rebuilt in repair mode, datagrams by raw sockets; both take rights over the network namespace. */
static int inet_check_rights(const struct inet_sock *sock, const char *who, struct ferry_error *err)
{
	bool tcp = sock->protocol == IPPROTO_TCP;
	if (tcp ? sock->state == INET_LISTENING || sock->state == INET_CLOSED : !sock->rqueue)
		return 0;
	error_set(err, FERRY_ERROR_PERMISSION, EPERM, "%s: %s needs root", who,
		  tcp ? "a TCP connection" : "a UDP socket with datagrams that wait");
	error_hint(err, "let the program close it or read them, or let root save the job");
	return -EPERM;
}

static int inet_check(const struct fd_view *view, const struct kind_options *options, struct ferry_error *err)
{
	char who[64];
	const struct inet_sock *sock = NULL;
	struct fd_view again = *view;
	fd_view_name(view, who, sizeof(who));
	int r = sock_check(view, err);
	if (r >= 0)
		r = inet_refuse_multipath(&again, who, err);
	if (r >= 0)
		r = inet_look_up(view, &sock, err);
	if (r < 0)
		return r;
	/* Somebody outside would be left with a connection that stands still, or go on with ours. */
	if (!options->criu_compat || (sock && sock->protocol == IPPROTO_TCP && sock->state != INET_LISTENING))
		r = peers_refuse(view, PEER_SOCKET, err);
	if (r >= 0 && sock && kern_denied(options->caps, KERN_CAP_TCP_REPAIR))
		r = inet_check_rights(sock, who, err);
	if (r >= 0)
		r = inet_chooser_check(view, view->kind_data[KIND_inetsk], err);
	if (r < 0 || !sock)
		return r;
	if (sock->protocol != IPPROTO_TCP)
		return inet_check_port(view->kind_data[KIND_inetsk], sock, who, err);
	if (sock->has_md5)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "%s: a TCP socket with MD5 keys, which cannot be read", who);
	if (sock->state == INET_LISTENING && sock->rqueue && !options->skip_in_flight)
		return inet_refuse_pending(who, sock->rqueue, err);
	return inet_check_tcp(who, sock->state, options, err);
}

/* ------------------------------------------------------------------ collect */

static int inet_words(struct arena *a, const void *address, size_t n_words, uint32_t **ret_words,
		      size_t *ret_n)
{
	*ret_words = arena_copy(a, address, n_words * sizeof(uint32_t));
	*ret_n = n_words;
	return *ret_words ? 0 : -ENOMEM;
}

union inet_name {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

/* One of the two names; a zeroed address where there is none. */
static int inet_collect_address(struct arena *a, const union inet_name *name, int family, uint32_t *ret_port,
				uint32_t **ret_words, size_t *ret_n)
{
	bool v6 = family == AF_INET6;
	*ret_port = ntohs(v6 ? name->in6.sin6_port : name->in.sin_port);
	return v6 ? inet_words(a, &name->in6.sin6_addr, 4, ret_words, ret_n)
		  : inet_words(a, &name->in.sin_addr, 1, ret_words, ret_n);
}

static int inet_collect_names(struct arena *a, int fd, InetSkEntry *isk, struct ferry_error *err)
{
	union inet_name local = {0}, remote = {0};
	socklen_t n = sizeof(local);
	char device[IF_NAMESIZE];
	if (getsockname(fd, &local.any, &n) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the name of a socket");
	/* Also of a connection that is over, which getpeername(2) no longer tells. It wants the exact size. */
	n = isk->family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	if (sock_get_bytes(fd, SOL_SOCKET, SO_PEERNAME, &remote, &n) < 0)
		remote = (union inet_name){0};
	int family = (int)isk->family;
	int r = inet_collect_address(a, &local, family, &isk->src_port, &isk->src_addr, &isk->n_src_addr);
	if (r >= 0)
		r = inet_collect_address(a, &remote, family, &isk->dst_port, &isk->dst_addr,
					 &isk->n_dst_addr);
	if (r >= 0 && family == AF_INET6 && local.in6.sin6_scope_id &&
	    if_indextoname(local.in6.sin6_scope_id, device)) {
		isk->ifname = arena_string(a, device);
		r = isk->ifname ? 0 : -ENOMEM;
	}
	return r < 0 ? error_memory(err) : 0;
}

static int inet_get_u32(int fd, int level, int name, protobuf_c_boolean *has, uint32_t *ret, bool always)
{
	int value;
	int r = sock_get(fd, level, name, &value);
	/* Multipath TCP has few of them. */
	if (r == -EOPNOTSUPP)
		return 0;
	if (r >= 0 && (value || always)) {
		*has = 1;
		*ret = (uint32_t)value;
	}
	return r;
}

static int inet_get_bool(int fd, int level, int name, protobuf_c_boolean *has, protobuf_c_boolean *ret)
{
	uint32_t value = 0;
	int r = inet_get_u32(fd, level, name, has, &value, false);
	*ret = value != 0;
	return r;
}

static int inet_collect_ip_opts(int fd, bool v6, IpOptsEntry *o)
{
	int r = inet_get_bool(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_FREEBIND : IP_FREEBIND, &o->has_freebind,
			      &o->freebind);
	if (r >= 0)
		r = inet_get_bool(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_RECVPKTINFO : IP_PKTINFO,
				  &o->has_pktinfo, &o->pktinfo);
	if (r >= 0 && !v6)
		r = inet_get_u32(fd, SOL_IP, IP_TOS, &o->has_tos, &o->tos, false);
	if (r >= 0 && !v6)
		r = inet_get_u32(fd, SOL_IP, IP_TTL, &o->has_ttl, &o->ttl, true);
	return r;
}

/* Which ICMP messages a raw socket does not want. */
static int inet_collect_icmp_filter(struct arena *a, int fd, const InetSkEntry *isk, IpOptsRawEntry *raw)
{
	uint32_t filter[8] = {0};
	bool v6 = isk->proto == IPPROTO_ICMPV6 && isk->family == AF_INET6;
	socklen_t n = v6 ? sizeof(filter) : sizeof(*filter);
	if (!v6 && isk->proto != IPPROTO_ICMP)
		return 0;
	int r = v6 ? sock_get_bytes(fd, IPPROTO_ICMPV6, ICMP6_FILTER, filter, &n)
		   : sock_get_bytes(fd, INET_SOL_RAW, INET_ICMP_FILTER, filter, &n);
	raw->n_icmpv_filter = n / sizeof(*filter);
	raw->icmpv_filter = arena_copy(a, filter, sizeof(filter));
	return r < 0 ? r : raw->icmpv_filter ? 0 : -ENOMEM;
}

static int inet_collect_raw(struct arena *a, int fd, InetSkEntry *isk)
{
	bool v6 = isk->family == AF_INET6;
	IpOptsRawEntry *raw = record_new(a, IpOptsRawEntry, ip_opts_raw_entry);
	if (!raw)
		return -ENOMEM;
	isk->ip_opts->raw = raw;
	int r = inet_get_bool(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? INET_IPV6_HDRINCL : IP_HDRINCL,
			      &raw->has_hdrincl, &raw->hdrincl);
	if (r >= 0 && !v6)
		r = inet_get_bool(fd, SOL_IP, IP_NODEFRAG, &raw->has_nodefrag, &raw->nodefrag);
	return r < 0 ? r : inet_collect_icmp_filter(a, fd, isk, raw);
}

static int inet_collect_tcp_opts(int fd, TcpOptsEntry *o)
{
	int r = inet_get_bool(fd, SOL_TCP, TCP_CORK, &o->has_cork, &o->cork);
	if (r >= 0)
		r = inet_get_bool(fd, SOL_TCP, TCP_NODELAY, &o->has_nodelay, &o->nodelay);
	if (r >= 0)
		r = inet_get_u32(fd, SOL_TCP, TCP_KEEPCNT, &o->has_keepcnt, &o->keepcnt, true);
	if (r >= 0)
		r = inet_get_u32(fd, SOL_TCP, TCP_KEEPIDLE, &o->has_keepidle, &o->keepidle, true);
	if (r >= 0)
		r = inet_get_u32(fd, SOL_TCP, TCP_KEEPINTVL, &o->has_keepintvl, &o->keepintvl, true);
	return r;
}

static int inet_collect_options(struct arena *a, int fd, InetSkEntry *isk, struct ferry_error *err)
{
	int v6only;
	isk->ip_opts = record_new(a, IpOptsEntry, ip_opts_entry);
	isk->tcp_opts = record_new(a, TcpOptsEntry, tcp_opts_entry);
	if (!isk->ip_opts || !isk->tcp_opts)
		return error_memory(err);
	int r = sockopt_collect(fd, false, a, &isk->opts, err);
	if (r < 0)
		return r;
	r = inet_collect_ip_opts(fd, isk->family == AF_INET6, isk->ip_opts);
	if (r >= 0 && inet_is_tcp(isk))
		r = inet_collect_tcp_opts(fd, isk->tcp_opts);
	if (r >= 0 && isk->type == SOCK_RAW)
		r = inet_collect_raw(a, fd, isk);
	if (r >= 0 && isk->family == AF_INET6) {
		r = sock_get(fd, SOL_IPV6, IPV6_V6ONLY, &v6only);
		if (r >= 0)
			record_set(isk, v6only, v6only);
	}
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading options of a socket") : 0;
}

static const char *inet_raw_obstacle(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return poll(&p, 1, 0) > 0 && p.revents & (POLLIN | POLLERR)
		       ? "packets that wait, which no call puts back into it alone (Linux 6.18)"
		       : NULL;
}

/* "N: ADDRESS:PORT ADDRESS:PORT ST Q:Q T:W R UID TIMEOUT INODE ...", words of an address as the machine has them in memory. */
static bool inet_raw_line(const char *line, uint32_t inode, uint32_t ret_peer[4], unsigned *ret_state)
{
	struct lex l = lex_new(line, strlen(line));
	uint8_t peer[16];
	uint64_t found;
	if (!lex_skip_words(&l, 2))
		return false;
	const char *end = memchr(l.p, ':', lex_left(&l));
	size_t bytes = end ? (size_t)(end - l.p) / 2 : 0;
	if ((bytes != 4 && bytes != 16) || !lex_bytes(&l, peer, bytes) || !lex_skip_words(&l, 1) ||
	    !lex_u32_base(&l, 16, ret_state) || !lex_skip_words(&l, 5) || !lex_u64(&l, &found) ||
	    found != inode)
		return false;
	for (size_t i = 0; i < bytes / 4; i++)
		ret_peer[i] = (uint32_t)peer[4 * i] << 24 | (uint32_t)peer[4 * i + 1] << 16 |
			      (uint32_t)peer[4 * i + 2] << 8 | peer[4 * i + 3];
	return true;
}

/* A peer without a port is told by no call, and sock_diag may know nothing of these protocols. */
static int inet_collect_raw_peer(InetSkEntry *isk, struct ferry_error *err)
{
	char path[48], line[256];
	uint32_t peer[4] = {0};
	unsigned state = INET_CLOSED;
	snprintf(path, sizeof(path), "/proc/thread-self/net/%s%s", isk->type == SOCK_RAW ? "raw" : "icmp",
		 isk->family == AF_INET6 ? "6" : "");
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	if (!f)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading '%s'", path);
	while (fgets(line, sizeof(line), f))
		if (inet_raw_line(line, isk->ino, peer, &state))
			break;
	if (state != INET_CONNECTED)
		return 0;
	isk->state = INET_CONNECTED;
	memcpy(isk->dst_addr, peer, isk->n_dst_addr * sizeof(*peer));
	return 0;
}

static int inet_collect_udp(struct collect *c, struct fd_view *view, InetSkEntry *isk,
			    FerrySocketEntry *extra, const char *who, struct ferry_error *err)
{
	struct sockaddr_storage peer;
	socklen_t n = sizeof(peer);
	isk->state = getpeername(view->copy, (struct sockaddr *)&peer, &n) < 0 ? INET_CLOSED : INET_CONNECTED;
	/* The same bytes would reach every raw socket, and the kernel would answer them once more. */
	bool plain = inet_is_udp(isk);
	int tunnel = 0;
	if (plain && sock_get(view->copy, IPPROTO_UDP, UDP_ENCAP_OPTION, &tunnel) >= 0 && tunnel)
		return error_set(
			err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			"%s: a UDP socket that the kernel takes packets from (UDP_ENCAP %d); what it does with them is told by no call (Linux 6.18)",
			who, tunnel);
	const char *obstacle = plain ? udp_obstacle(view->copy) : inet_raw_obstacle(view->copy);
	if (obstacle)
		return inet_refuse_datagrams(who, obstacle, err);
	int r = plain ? 0 : inet_collect_raw_peer(isk, err);
	if (r >= 0)
		r = inet_groups_collect(&c->snap->arena, view->copy, (int)isk->family, extra, err);
	if (r < 0)
		return r;
	r = plain ? udp_collect(c, view->copy, extra) : 0;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "%s: reading the datagrams that wait", who);
	/* On the target its address comes after its sockets. */
	return extra->n_datagrams && c->options->moving
		       ? inet_refuse_datagrams(who, "datagrams that wait", err)
		       : 0;
}

/*
 * Who sends without copying is told, by number, when the kernel is done with his memory; a new connection would count
 * from the start again, and never tell of what was on its way.
 */
static int inet_check_zerocopy(int fd, const char *who, struct ferry_error *err)
{
	struct pollfd p = {.fd = fd};
	int on = 0, unsent = 0;
	if (sock_get(fd, SOL_SOCKET, INET_SO_ZEROCOPY, &on) < 0 || !on)
		return 0;
	bool waits =
		(!ioctl(fd, SIOCOUTQ, &unsent) && unsent > 0) || (poll(&p, 1, 0) > 0 && p.revents & POLLERR);
	if (!waits)
		return 0;
	error_set(
		err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
		"%s: a TCP connection with SO_ZEROCOPY that still sends or has notifications; no call makes such again (Linux 6.18)",
		who);
	error_hint(err,
		   "try again when the peer has taken everything and the program has read its notifications");
	return -ENOTSUP;
}

static int inet_collect_tcp(struct collect *c, struct fd_view *view, struct snap_file *file, InetSkEntry *isk,
			    const char *who, struct ferry_error *err)
{
	int r = inet_check_tcp(who, isk->state, c->options, err);
	if (r < 0)
		return r;
	if (inet_is_connection(isk) && c->options->tcp_close)
		return tcp_collect_over(c, file, isk, err);
	r = inet_is_connection(isk) ? inet_check_zerocopy(view->copy, who, err) : 0;
	if (r < 0)
		return r;
	if (inet_is_connection(isk))
		return tcp_collect(c, view, file, isk, err);
	if (isk->state == INET_CLOSED)
		return tcp_dead_collect(c, view, file, isk, err);
	struct tcp_info info = {0};
	socklen_t n = sizeof(info);
	r = sock_get_bytes(view->copy, SOL_TCP, TCP_INFO, &info, &n);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "%s: reading the queue of a listener", who);
	/* For a listener the kernel tells its queue in these two. */
	isk->backlog = info.tcpi_sacked;
	bool refused = info.tcpi_unacked && !c->options->skip_in_flight;
	return refused ? inet_refuse_pending(who, info.tcpi_unacked, err) : 0;
}

static int inet_tcp_state(int fd, uint32_t *ret_state)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof(info);
	int r = sock_get_bytes(fd, SOL_TCP, TCP_INFO, &info, &n);
	if (r >= 0)
		*ret_state = info.tcpi_state;
	return r;
}

static int inet_collect_record(struct collect *c, struct fd_view *view, InetSkEntry *isk,
			       struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	const struct inet_sock *sock = NULL;
	int r = inet_look_up(view, &sock, err);
	if (r < 0)
		return r;
	isk->flags = fdcommon_flags(view);
	/*
	 * Images have it for what the kernel's tables list, which a closed TCP socket is not in; a newer
	 * kernel tells it.
	 */
	uint32_t net = net_here_id(c, view);
	if (net != NET_ID_OWN || (sock && (!inet_is_tcp(isk) || isk->state != INET_CLOSED)))
		record_set(isk, ns_id, net);
	if (sock && sock->shutdown)
		record_set(isk, shutdown, (SkShutdown)sock->shutdown);
	r = fdcommon_owner(c, view, &isk->fown, err);
	if (r >= 0)
		r = inet_collect_names(a, view->copy, isk, err);
	return r < 0 ? r : inet_collect_options(a, view->copy, isk, err);
}

static int inet_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			struct ferry_error *err)
{
	char who[64];
	struct sock_type type;
	struct inet_scan *scan = NULL;
	struct arena *a = &c->snap->arena;
	fd_view_name(view, who, sizeof(who));
	int r = inet_refuse_multipath(view, who, err);
	if (r >= 0)
		r = sock_copy(view, who, &type, err);
	if (r < 0)
		return r;
	InetSkEntry *isk = record_new(a, InetSkEntry, inet_sk_entry);
	struct inet_snap *data = arena_new(a, struct inet_snap);
	if (!isk || !data)
		return error_memory(err);
	isk->id = file->entry->id;
	isk->ino = sock_inode(view);
	isk->family = (uint32_t)type.domain;
	isk->type = (uint32_t)type.type;
	isk->proto = (uint32_t)type.protocol;
	file->data = data;
	if (inet_is_tcp(isk)) {
		r = inet_tcp_state(view->copy, &isk->state);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r,
					   "%s: reading the state of a TCP socket", who);
		type.connected = inet_is_connection(isk) || tcp_was_connected(view->copy, isk->state);
	}
	/* Before a connection is paused, which changes some options. */
	r = sockextra_collect(a, view->copy, &type, isk->id, &data->extra, err);
	if (r >= 0)
		r = inet_scan_get(view, &scan, err);
	if (r >= 0 && scan)
		r = inet_chooser_collect(view, scan, data->extra, err);
	if (r >= 0)
		r = inet_collect_record(c, view, isk, err);
	if (r >= 0 && inet_is_tcp(isk))
		r = inet_collect_tcp(c, view, file, isk, who, err);
	else if (r >= 0)
		r = inet_collect_udp(c, view, isk, data->extra, who, err);
	if (r >= 0)
		file->entry->isk = isk;
	return r;
}

static int inet_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const struct inet_snap *data = file->data;
	int r = sockextra_dump(d, data->extra, err);
	return r < 0 || (!data->tcp && !data->dead) ? r : tcp_dump(d, file, err);
}

const struct kind_ops kind_inetsk = {
	.name = "inet",
	.what = "TCP, UDP, UDP-Lite, raw and ICMP sockets over IPv4 and IPv6, with connections and datagrams that wait",
	.fd_type = FD_TYPES__INETSK,
	.image_file = -1,
	/* Connections go on before the barrier opens, also when the undo log does both. */
	.late = true,
	.owns = inet_owns,
	.check = inet_check,
	.collect = inet_collect,
	.collect_end = tcp_collect_end,
	.dump = inet_dump,
	.read = inet_read,
	.restore = inet_restore,
	.settle = inet_settle,
	.after = tcp_after,
	.ready = tcp_ready,
	.before_run = tcp_before_run,
};
