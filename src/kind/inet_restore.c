/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns bringing internet sockets back that are no connections. TCP sockets are bound with SO_REUSEADDR on,
 * because connections that ended may still hold the port; the option is put right afterwards.
 *
 * Kernel interface: ip(7), ipv6(7), tcp(7), udp(7).
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <arpa/inet.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/sockdiag.h"
#include "image/dir.h"
#include "kind/fdcommon.h"
#include "kind/inet.h"
#include "kind/kinds.h"
#include "kind/sockopt.h"
#include "kind/udp.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

enum {
	INET_SOL_RAW = 255, /* of linux/icmp.h and the kernel */
	INET_ICMP_FILTER = 1,
	INET_IPV6_HDRINCL = 36, /* Linux 4.5 */
};

static const FerrySocketEntry *inet_extra_of(const struct plan_file *file)
{
	return ((struct sock_plan *)file->data)->extra;
}

static struct sock_type inet_type(const struct plan_file *file)
{
	const InetSkEntry *isk = file->entry->isk;
	return (struct sock_type){
		.domain = (int)isk->family,
		.type = (int)isk->type,
		.protocol = (int)isk->proto,
		.connected = inet_is_connection(isk) || tcp_is_dead(file),
	};
}

/* --------------------------------------------------------------------- read */

static int inet_bad(const struct plan_file *file, struct ferry_error *err, const char *what)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "the socket of file id %u %s", file->entry->id,
			 what);
}

static int inet_read_check(const struct plan_file *file, struct ferry_error *err)
{
	const InetSkEntry *isk = file->entry->isk;
	if (!isk)
		return fdcommon_no_record(file, err);
	size_t words = isk->family == AF_INET ? 1 : 4;
	bool tcp = isk->type == SOCK_STREAM && inet_is_tcp(isk);
	bool udp = inet_is_udp(isk), raw = isk->type == SOCK_RAW && isk->proto <= UINT8_MAX;
	bool ping = isk->type == SOCK_DGRAM && (isk->proto == IPPROTO_ICMP || isk->proto == IPPROTO_ICMPV6);
	if ((isk->family != AF_INET && isk->family != AF_INET6) || (!tcp && !udp && !raw && !ping))
		return error_set(
			err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			"the socket of file id %u (family %u, type %u, protocol %u) is of an unknown kind",
			file->entry->id, isk->family, isk->type, isk->proto);
	if (isk->n_src_addr < words || isk->n_dst_addr < words)
		return inet_bad(file, err, "has addresses that are too short");
	if (isk->src_port > UINT16_MAX || isk->dst_port > UINT16_MAX)
		return inet_bad(file, err, "has a port above 65535");
	if (isk->state == INET_SYN_RECV)
		return error_set(
			err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			"the TCP socket of file id %u was being connected, which this ferry does not restore",
			file->entry->id);
	return 0;
}

int inet_read(struct reader *r, struct ferry_error *err)
{
	int ret = sockextra_read(r, &kind_inetsk, err);
	for (size_t i = 0; i < r->plan->n_files && ret >= 0; i++) {
		struct plan_file *file = &r->plan->files[i];
		if (file->kind != &kind_inetsk)
			continue;
		ret = inet_read_check(file, err);
		if (ret >= 0)
			ret = tcp_read(r, file, err);
		/* What was in its queue can still be read. */
		if (ret >= 0 && inet_is_connection(file->entry->isk) && r->options && r->options->tcp_close)
			file->entry->isk->state = INET_CLOSED;
	}
	return ret;
}

/* ------------------------------------------------------------------- options */

static int inet_set_if(int fd, int level, int name, bool has, uint32_t value)
{
	int now;
	if (!has)
		return 0;
	int r = sock_get(fd, level, name, &now);
	return r >= 0 && (uint32_t)now != value ? sock_set(fd, level, name, (int)value) : r;
}

static int inet_apply_ip(int fd, const InetSkEntry *isk)
{
	const IpOptsEntry *o = isk->ip_opts;
	bool v6 = isk->family == AF_INET6;
	if (!o)
		return 0;
	int r = inet_set_if(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_RECVPKTINFO : IP_PKTINFO, o->has_pktinfo,
			    (uint32_t)o->pktinfo);
	if (r >= 0)
		r = inet_set_if(fd, SOL_IP, IP_TOS, o->has_tos, o->tos);
	return r < 0 ? r : inet_set_if(fd, SOL_IP, IP_TTL, o->has_ttl, o->ttl);
}

/* A raw socket of IPPROTO_RAW brings IP_HDRINCL along. */
static int inet_apply_raw(int fd, const InetSkEntry *isk)
{
	const IpOptsRawEntry *raw = isk->ip_opts ? isk->ip_opts->raw : NULL;
	bool v6 = isk->family == AF_INET6, icmp6 = v6 && isk->proto == IPPROTO_ICMPV6;
	if (!raw || isk->type != SOCK_RAW)
		return 0;
	int r = raw->has_hdrincl ? sock_set(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? INET_IPV6_HDRINCL : IP_HDRINCL,
					    raw->hdrincl)
				 : 0;
	if (r >= 0 && raw->has_nodefrag && !v6)
		r = sock_set(fd, SOL_IP, IP_NODEFRAG, raw->nodefrag);
	size_t words = icmp6 ? 8 : isk->proto == IPPROTO_ICMP ? 1 : 0;
	if (r < 0 || !words || raw->n_icmpv_filter < words)
		return r;
	return sock_set_bytes(fd, icmp6 ? IPPROTO_ICMPV6 : INET_SOL_RAW,
			      icmp6 ? ICMP6_FILTER : INET_ICMP_FILTER, raw->icmpv_filter,
			      (socklen_t)(words * sizeof(uint32_t)));
}

static int inet_apply_tcp(int fd, const InetSkEntry *isk)
{
	const TcpOptsEntry *o = isk->tcp_opts;
	if (!o || !inet_is_tcp(isk))
		return 0;
	int r = inet_set_if(fd, SOL_TCP, TCP_NODELAY, o->has_nodelay, (uint32_t)o->nodelay);
	if (r >= 0)
		r = inet_set_if(fd, SOL_TCP, TCP_CORK, o->has_cork, (uint32_t)o->cork);
	if (r >= 0)
		r = inet_set_if(fd, SOL_TCP, TCP_KEEPCNT, o->has_keepcnt, o->keepcnt);
	if (r >= 0)
		r = inet_set_if(fd, SOL_TCP, TCP_KEEPIDLE, o->has_keepidle, o->keepidle);
	return r < 0 ? r : inet_set_if(fd, SOL_TCP, TCP_KEEPINTVL, o->has_keepintvl, o->keepintvl);
}

int inet_finish(struct opener *o, const struct plan_file *file, int fd, struct ferry_error *err)
{
	const InetSkEntry *isk = file->entry->isk;
	const struct sock_type type = inet_type(file);
	/* IP_TOS changes the priority, so it comes before SO_PRIORITY. */
	int r = inet_apply_ip(fd, isk);
	if (r >= 0)
		r = inet_apply_tcp(fd, isk);
	if (r >= 0)
		r = inet_apply_raw(fd, isk);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "setting options of the socket of file id %u", file->entry->id);
	r = sockopt_apply(fd, isk->opts, err);
	if (r >= 0)
		r = sockopt_apply_filter(fd, isk->opts, err);
	if (r >= 0)
		r = sockextra_apply(o, fd, &type, inet_extra_of(file), false, err);
	if (r >= 0 && !inet_is_tcp(isk))
		r = inet_groups_restore(fd, inet_extra_of(file), err);
	return r < 0 ? r : fdcommon_set_flags(fd, isk->flags, err);
}

/* ------------------------------------------------------------------- restore */

unsigned inet_scope(const InetSkEntry *isk)
{
	return isk->ifname && isk->ifname[0] ? if_nametoindex(isk->ifname) : 0;
}

socklen_t inet_address(const InetSkEntry *isk, bool remote, struct sockaddr_storage *ret)
{
	const uint32_t *words = remote ? isk->dst_addr : isk->src_addr;
	uint16_t port = htons((uint16_t)(remote ? isk->dst_port : isk->src_port));
	*ret = (struct sockaddr_storage){0};
	if (isk->family == AF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)ret;
		in->sin_family = AF_INET;
		in->sin_port = port;
		memcpy(&in->sin_addr, words, sizeof(in->sin_addr));
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
	in6->sin6_family = AF_INET6;
	in6->sin6_port = port;
	memcpy(&in6->sin6_addr, words, sizeof(in6->sin6_addr));
	if (IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr))
		in6->sin6_scope_id = inet_scope(isk);
	return sizeof(*in6);
}

static void inet_text(const InetSkEntry *isk, bool remote, char *ret_text, size_t n)
{
	char host[INET6_ADDRSTRLEN] = "?";
	inet_ntop((int)isk->family, remote ? isk->dst_addr : isk->src_addr, host, sizeof(host));
	bool v6 = isk->family == AF_INET6;
	snprintf(ret_text, n, "%s %s%s%s:%u", isk->proto == IPPROTO_TCP ? "TCP" : "UDP", v6 ? "[" : "", host,
		 v6 ? "]" : "", remote ? isk->dst_port : isk->src_port);
}

/* Whether connections that ended hold the port of a socket: without SO_REUSEADDR they do for a minute. */
static bool inet_port_waits(const InetSkEntry *isk)
{
	static const int families[] = {AF_INET, AF_INET6};
	struct ferry_error ignored = FERRY_ERROR_INIT;
	bool waits = false;
	for (size_t i = 0; inet_is_tcp(isk) && i < ARRAY_SIZE(families); i++) {
		_cleanup_free_ struct inet_sock *socks = NULL;
		size_t n = 0;
		int r = sockdiag_inet(-1, families[i], IPPROTO_TCP, 1U << TCP_TIME_WAIT, &socks, &n,
				      &ignored);
		for (size_t j = 0; r >= 0 && j < n; j++)
			waits |= socks[j].local_port == isk->src_port;
	}
	return waits;
}

static int inet_bind_failed(const InetSkEntry *isk, int code, struct ferry_error *err)
{
	char text[96];
	inet_text(isk, false, text, sizeof(text));
	bool address = code == EADDRINUSE || code == EADDRNOTAVAIL;
	error_errno(err, address ? FERRY_ERROR_ADDRESS_TAKEN : FERRY_ERROR_RESTORE_STEP, code,
		    "binding a socket to %s", text);
	if (code == EADDRINUSE && inet_port_waits(isk))
		error_hint(err, "connections that ended hold this port (TIME_WAIT): try again in a minute");
	else if (code == EADDRINUSE)
		error_hint(err, "another process uses this port; end it first");
	if (code == EADDRNOTAVAIL)
		error_hint(err, "add the address to a device of this network namespace first");
	return -code;
}

static bool inet_is_bound(const InetSkEntry *isk)
{
	static const uint32_t none[4];
	return isk->src_port || memcmp(isk->src_addr, none, isk->family == AF_INET ? 4 : 16) != 0;
}

/*
 * Whether another socket of the image has the same port: then both have to allow that while they are bound.
 */
static bool inet_shares_port(const struct plan *p, const struct plan_file *file)
{
	const InetSkEntry *isk = file->entry->isk;
	for (size_t i = 0; i < p->n_files; i++) {
		const struct plan_file *other = &p->files[i];
		if (other != file && other->kind == &kind_inetsk && other->net == file->net &&
		    other->entry->isk->proto == isk->proto && other->entry->isk->src_port == isk->src_port)
			return true;
	}
	return false;
}

int inet_set_transparent(int fd, const InetSkEntry *isk, bool on)
{
	bool v6 = isk->family == AF_INET6;
	return sock_set(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, on);
}

/*
 * A port that connect() chose may belong to connections to elsewhere too, of other programs or ended ones, which
 * bind() allows in repair mode only. connect() looks again whether addresses and ports together are unique.
 */
static int inet_bind_to(int fd, const InetSkEntry *isk)
{
	struct sockaddr_storage address;
	socklen_t n = inet_address(isk, false, &address);
	bool chosen = inet_is_tcp(isk) && isk->state == INET_SYN_SENT;
	int r = chosen ? sock_set(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_ON) : 0;
	if (r < 0)
		return r;
	if (bind(fd, (const struct sockaddr *)&address, n) < 0)
		r = -errno;
	int off = chosen ? sock_set(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_OFF) : 0;
	return r < 0 ? r : off;
}

int inet_bind(struct opener *o, const struct plan_file *file, int fd, struct ferry_error *err)
{
	const InetSkEntry *isk = file->entry->isk;
	const struct sock_type type = inet_type(file);
	bool v6 = isk->family == AF_INET6;
	bool share = inet_is_tcp(isk) || inet_shares_port(o->plan, file);
	int r = v6 ? inet_set_if(fd, SOL_IPV6, IPV6_V6ONLY, isk->has_v6only, isk->v6only) : 0;
	if (r >= 0 && isk->ip_opts)
		r = inet_set_if(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_FREEBIND : IP_FREEBIND,
				isk->ip_opts->has_freebind, (uint32_t)isk->ip_opts->freebind);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "setting options of the socket of file id %u", file->entry->id);
	r = sockopt_before_bind(fd, isk->opts, share, err);
	if (r >= 0)
		r = sockextra_apply(o, fd, &type, inet_extra_of(file), true, err);
	if (r < 0 || !inet_is_bound(isk))
		return r;
	r = inet_bind_to(fd, isk);
	if (r >= 0)
		return 0;
	if (r != -EADDRNOTAVAIL || !o->options->moving || inet_set_transparent(fd, isk, true) < 0)
		return inet_bind_failed(isk, -r, err);
	r = inet_bind_to(fd, isk);
	return r < 0 ? inet_bind_failed(isk, -r, err) : 1;
}

/* The port is looked at again when listening begins, so sharing it is allowed once more. */
static int inet_listen(const struct plan_file *file, int fd, struct ferry_error *err)
{
	const InetSkEntry *isk = file->entry->isk;
	int r = sock_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r >= 0 && listen(fd, (int)isk->backlog) < 0)
		r = -errno;
	if (r < 0)
		return inet_bind_failed(isk, -r, err);
	r = sock_set(fd, SOL_SOCKET, SO_REUSEADDR, isk->opts->has_reuseaddr && isk->opts->reuseaddr);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "setting SO_REUSEADDR") : 0;
}

static int inet_connect_udp(const struct plan_file *file, int fd, struct ferry_error *err)
{
	static const int how[] = {[SK_SHUTDOWN__READ] = SHUT_RD,
				  [SK_SHUTDOWN__WRITE] = SHUT_WR,
				  [SK_SHUTDOWN__BOTH] = SHUT_RDWR};
	const InetSkEntry *isk = file->entry->isk;
	struct sockaddr_storage address;
	socklen_t n = inet_address(isk, true, &address);
	if (isk->state == INET_CONNECTED && connect(fd, (const struct sockaddr *)&address, n) < 0) {
		char text[96];
		int code = errno;
		inet_text(isk, true, text, sizeof(text));
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, code, "connecting a socket to %s", text);
	}
	bool shut = isk->has_shutdown && isk->shutdown > SK_SHUTDOWN__NONE &&
		    (size_t)isk->shutdown < ARRAY_SIZE(how);
	/* One that is not connected says so, and is shut down nevertheless. */
	if (shut && shutdown(fd, how[isk->shutdown]) < 0 && errno != ENOTCONN)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "shutting a UDP socket down");
	return 0;
}

/* What is told beside a datagram is noted when it comes, so the options are set before. */
static int inet_fill_udp(const struct plan_file *file, int fd, struct ferry_error *err)
{
	int r = inet_apply_ip(fd, file->entry->isk);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "setting options of the socket of file id %u", file->entry->id);
	r = sockopt_apply(fd, file->entry->isk->opts, err);
	return r < 0 ? r : udp_fill(file, fd, err);
}

int inet_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const InetSkEntry *isk = file->entry->isk;
	if (isk->state == INET_SYN_SENT)
		return tcp_connecting_restore(o, file, ret_fd, err);
	if (inet_is_connection(isk))
		return tcp_restore(o, file, ret_fd, err);
	if (tcp_is_dead(file))
		return tcp_dead_restore(o, file, ret_fd, err);
	_cleanup_close_ int fd = socket((int)isk->family, (int)isk->type | SOCK_CLOEXEC, (int)isk->proto);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "making the socket of file id %u",
				   file->entry->id);
	int r = inet_bind(o, file, fd, err);
	bool transparent = r > 0;
	/* Connected, it takes datagrams of one sender only. */
	if (r >= 0 && inet_is_udp(isk))
		r = inet_fill_udp(file, fd, err);
	if (r >= 0 && !inet_is_tcp(isk))
		r = inet_connect_udp(file, fd, err);
	if (r >= 0)
		r = inet_finish(o, file, fd, err);
	if (r >= 0 && isk->state == INET_LISTENING)
		r = inet_listen(file, fd, err);
	if (r >= 0)
		r = inet_chooser_restore(fd, inet_extra_of(file), err);
	if (r >= 0 && transparent && inet_set_transparent(fd, isk, false) < 0)
		r = error_errno(err, FERRY_ERROR_RESTORE_STEP, EIO,
				"setting IP_TRANSPARENT of the socket of file id %u", file->entry->id);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

int inet_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	if (!fdcommon_settle_once(s, file))
		return 0;
	return fdcommon_settle(file->entry->isk->fown, file->entry->isk->flags, fd, err);
}
