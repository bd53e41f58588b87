/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what a socket is beyond the common image format. Options are compared with those of a new socket of
 * the same type, so what this kernel and its sysctls make the default is not recorded.
 *
 * Kernel interface: socket(7), ip(7), ipv6(7), tcp(7), udp(7); the xattr system.sockprotoname of sockfs
 * (2.6.39).
 * Does not handle: what can be set and not read (looked at up to Linux 6.18): SO_BUSY_POLL_BUDGET, SO_INQ, IPV6_MTU,
 * IPV6_NEXTHOP, IPV6_PKTINFO of the socket, IPV6_ROUTER_ALERT, leases of flow labels, IPsec policies of a socket, multicast
 * routing; the count of SOF_TIMESTAMPING_OPT_ID, which starts again; TCP_SAVED_SYN of a connection, TCP_QUICKACK,
 * which the kernel changes by itself; TCP_MAXSEG, TCP_WINDOW_CLAMP and TCP_SAVE_SYN of connections.
 */
#include "kind/sockextra.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/warden.h"
#include "image/dir.h"
#include "image/file.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "kind/sockopt.h"
#include "model/record.h"
#include "model/records.h"

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#ifndef SOL_RAW
#define SOL_RAW 255
#endif
#ifndef SOL_PACKET
#define SOL_PACKET 263
#endif

enum sockextra_flags {
	ON_UNIX = 1 << 0,
	ON_INET = 1 << 1,  /* AF_INET */
	ON_INET6 = 1 << 2, /* AF_INET6 */
	ON_IP = ON_INET | ON_INET6,
	ONLY_TCP = 1 << 3,
	ONLY_UDP = 1 << 4,
	NOT_CONNECTED = 1 << 5, /* for a TCP connection it tells or does something else */
	EARLY = 1 << 6,         /* before bind(2) */
	MAY_LACK = 1 << 7,      /* a machine without it is as good */
	ON_NETLINK = 1 << 8,
	ON_PACKET = 1 << 9,
	NOT_TCP = 1 << 10,
	WIDE = 1 << 11, /* longer than an int, as long as the kernel tells */
	ON_ANY = ON_UNIX | ON_IP | ON_NETLINK | ON_PACKET,
};

struct sockextra_option {
	const char *word;
	int level, name;
	unsigned flags;
};

/* Numbers that installed headers may lack. */
#define OPTION(l, n, number, f)                                          \
	{                                                                \
		.word = #n, .level = (l), .name = (number), .flags = (f) \
	}

static const struct sockextra_option sockextra_options[] = {
	OPTION(SOL_SOCKET, SO_DEBUG, 1, ON_ANY),
	OPTION(SOL_SOCKET, SO_PASSCRED, 16, ON_NETLINK),
	OPTION(SOL_SOCKET, SO_TIMESTAMP, 29, ON_ANY),
	OPTION(SOL_SOCKET, SO_PASSSEC, 34, ON_NETLINK),
	OPTION(SOL_SOCKET, SO_TIMESTAMPNS, 35, ON_ANY),
	OPTION(SOL_SOCKET, SO_TIMESTAMPING, 37, ON_ANY | WIDE),
	OPTION(SOL_SOCKET, SO_RXQ_OVFL, 40, ON_ANY),
	OPTION(SOL_SOCKET, SO_WIFI_STATUS, 41, ON_ANY),
	OPTION(SOL_SOCKET, SO_PEEK_OFF, 42, ON_ANY),
	OPTION(SOL_SOCKET, SO_NOFCS, 43, ON_ANY),
	OPTION(SOL_SOCKET, SO_SELECT_ERR_QUEUE, 45, ON_ANY),
	OPTION(SOL_SOCKET, SO_BUSY_POLL, 46, ON_ANY),
	OPTION(SOL_SOCKET, SO_MAX_PACING_RATE, 47, ON_ANY | WIDE),
	OPTION(SOL_SOCKET, SO_INCOMING_CPU, 49, ON_ANY | NOT_CONNECTED),
	OPTION(SOL_SOCKET, SO_ZEROCOPY, 60, ON_ANY),
	OPTION(SOL_SOCKET, SO_TXTIME, 61, ON_ANY | WIDE),
	OPTION(SOL_SOCKET, SO_BINDTOIFINDEX, 62, ON_UNIX | ON_NETLINK | ON_PACKET),
	/* They are told only where the form of times was set to the new one, and set it. */
	OPTION(SOL_SOCKET, SO_TIMESTAMP_NEW, 63, ON_ANY),
	OPTION(SOL_SOCKET, SO_TIMESTAMPNS_NEW, 64, ON_ANY),
	OPTION(SOL_SOCKET, SO_TIMESTAMPING_NEW, 65, ON_ANY | WIDE),
	OPTION(SOL_SOCKET, SO_PREFER_BUSY_POLL, 69, ON_ANY),
	OPTION(SOL_SOCKET, SO_RESERVE_MEM, 73, ON_IP | MAY_LACK),
	OPTION(SOL_SOCKET, SO_TXREHASH, 74, ON_IP),
	OPTION(SOL_SOCKET, SO_RCVMARK, 75, ON_ANY),
	OPTION(SOL_SOCKET, SO_PASSPIDFD, 76, ON_UNIX),
	OPTION(SOL_SOCKET, SO_RCVPRIORITY, 82, ON_ANY),
	OPTION(SOL_SOCKET, SO_PASSRIGHTS, 83, ON_UNIX),
	OPTION(SOL_IP, IP_TOS, 1, ON_INET6),
	OPTION(SOL_IP, IP_TTL, 2, ON_INET6),
	OPTION(SOL_IP, IP_OPTIONS, 4, ON_IP | NOT_CONNECTED | WIDE),
	OPTION(SOL_IP, IP_ROUTER_ALERT, 5, ON_INET),
	OPTION(SOL_IP, IP_RECVOPTS, 6, ON_IP),
	OPTION(SOL_IP, IP_RETOPTS, 7, ON_IP),
	OPTION(SOL_IP, IP_PKTINFO, 8, ON_INET6),
	OPTION(SOL_IP, IP_MTU_DISCOVER, 10, ON_IP),
	OPTION(SOL_IP, IP_RECVERR, 11, ON_IP),
	OPTION(SOL_IP, IP_RECVTTL, 12, ON_IP),
	OPTION(SOL_IP, IP_RECVTOS, 13, ON_IP),
	OPTION(SOL_IP, IP_PASSSEC, 18, ON_IP),
	OPTION(SOL_IP, IP_TRANSPARENT, 19, ON_IP | EARLY),
	OPTION(SOL_IP, IP_RECVORIGDSTADDR, 20, ON_IP),
	OPTION(SOL_IP, IP_MINTTL, 21, ON_IP),
	OPTION(SOL_IP, IP_CHECKSUM, 23, ON_IP),
	OPTION(SOL_IP, IP_BIND_ADDRESS_NO_PORT, 24, ON_IP | EARLY),
	OPTION(SOL_IP, IP_RECVFRAGSIZE, 25, ON_IP),
	OPTION(SOL_IP, IP_RECVERR_RFC4884, 26, ON_IP),
	OPTION(SOL_IP, IP_MULTICAST_IF, 32, ON_IP | NOT_TCP),
	OPTION(SOL_IP, IP_MULTICAST_TTL, 33, ON_IP | NOT_TCP),
	OPTION(SOL_IP, IP_MULTICAST_LOOP, 34, ON_IP),
	OPTION(SOL_IP, IP_MULTICAST_ALL, 49, ON_IP),
	OPTION(SOL_IP, IP_UNICAST_IF, 50, ON_IP),
	OPTION(SOL_IP, IP_LOCAL_PORT_RANGE, 51, ON_IP | EARLY),
	OPTION(SOL_IPV6, IPV6_2292PKTINFO, 2, ON_INET6),
	OPTION(SOL_IPV6, IPV6_2292HOPOPTS, 3, ON_INET6),
	OPTION(SOL_IPV6, IPV6_2292DSTOPTS, 4, ON_INET6),
	OPTION(SOL_IPV6, IPV6_2292RTHDR, 5, ON_INET6),
	OPTION(SOL_IPV6, IPV6_2292HOPLIMIT, 8, ON_INET6),
	OPTION(SOL_IPV6, IPV6_FLOWINFO, 11, ON_INET6),
	/* Under SOL_IPV6 it is refused for ICMP. */
	OPTION(SOL_RAW, IPV6_CHECKSUM, 7, ON_INET6),
	OPTION(SOL_IPV6, IPV6_UNICAST_HOPS, 16, ON_INET6),
	OPTION(SOL_IPV6, IPV6_MULTICAST_IF, 17, ON_INET6 | NOT_TCP),
	OPTION(SOL_IPV6, IPV6_MULTICAST_HOPS, 18, ON_INET6 | NOT_TCP),
	OPTION(SOL_IPV6, IPV6_MULTICAST_LOOP, 19, ON_INET6),
	OPTION(SOL_IPV6, IPV6_MTU_DISCOVER, 23, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVERR, 25, ON_INET6),
	OPTION(SOL_IPV6, IPV6_MULTICAST_ALL, 29, ON_INET6),
	OPTION(SOL_IPV6, IPV6_ROUTER_ALERT_ISOLATE, 30, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVERR_RFC4884, 31, ON_INET6),
	OPTION(SOL_IPV6, IPV6_FLOWINFO_SEND, 33, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVHOPLIMIT, 51, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVRTHDR, 56, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVHOPOPTS, 53, ON_INET6),
	OPTION(SOL_IPV6, IPV6_HOPOPTS, 54, ON_INET6 | WIDE),
	OPTION(SOL_IPV6, IPV6_RTHDRDSTOPTS, 55, ON_INET6 | WIDE),
	OPTION(SOL_IPV6, IPV6_RTHDR, 57, ON_INET6 | WIDE),
	OPTION(SOL_IPV6, IPV6_DSTOPTS, 59, ON_INET6 | WIDE),
	OPTION(SOL_IPV6, IPV6_RECVDSTOPTS, 58, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVPATHMTU, 60, ON_INET6),
	OPTION(SOL_IPV6, IPV6_DONTFRAG, 62, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVTCLASS, 66, ON_INET6),
	OPTION(SOL_IPV6, IPV6_TCLASS, 67, ON_INET6),
	OPTION(SOL_IPV6, IPV6_AUTOFLOWLABEL, 70, ON_INET6),
	OPTION(SOL_IPV6, IPV6_ADDR_PREFERENCES, 72, ON_INET6),
	OPTION(SOL_IPV6, IPV6_MINHOPCOUNT, 73, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVORIGDSTADDR, 74, ON_INET6),
	OPTION(SOL_IPV6, IPV6_TRANSPARENT, 75, ON_INET6 | EARLY),
	OPTION(SOL_IPV6, IPV6_UNICAST_IF, 76, ON_INET6),
	OPTION(SOL_IPV6, IPV6_RECVFRAGSIZE, 77, ON_INET6),
	OPTION(SOL_TCP, TCP_MAXSEG, 2, ON_IP | ONLY_TCP | NOT_CONNECTED),
	OPTION(SOL_TCP, TCP_SYNCNT, 7, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_LINGER2, 8, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_DEFER_ACCEPT, 9, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_WINDOW_CLAMP, 10, ON_IP | ONLY_TCP | NOT_CONNECTED),
	OPTION(SOL_TCP, TCP_CONGESTION, 13, ON_IP | ONLY_TCP | MAY_LACK | WIDE),
	OPTION(SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, 16, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_USER_TIMEOUT, 18, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_FASTOPEN, 23, ON_IP | ONLY_TCP | NOT_CONNECTED),
	OPTION(SOL_TCP, TCP_NOTSENT_LOWAT, 25, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_SAVE_SYN, 27, ON_IP | ONLY_TCP | NOT_CONNECTED),
	OPTION(SOL_TCP, TCP_FASTOPEN_CONNECT, 30, ON_IP | ONLY_TCP | NOT_CONNECTED),
	OPTION(SOL_TCP, TCP_FASTOPEN_KEY, 33, ON_IP | ONLY_TCP | NOT_CONNECTED | WIDE),
	OPTION(SOL_TCP, TCP_FASTOPEN_NO_COOKIE, 34, ON_IP | ONLY_TCP | NOT_CONNECTED),
	OPTION(SOL_TCP, TCP_INQ, 36, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_TX_DELAY, 37, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_RTO_MAX_MS, 44, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_RTO_MIN_US, 45, ON_IP | ONLY_TCP),
	OPTION(SOL_TCP, TCP_DELACK_MAX_US, 46, ON_IP | ONLY_TCP),
	OPTION(IPPROTO_UDP, UDP_CORK, 1, ON_IP | ONLY_UDP),
	OPTION(IPPROTO_UDP, UDP_NO_CHECK6_TX, 101, ON_IP | ONLY_UDP),
	OPTION(IPPROTO_UDP, UDP_NO_CHECK6_RX, 102, ON_IP | ONLY_UDP),
	OPTION(IPPROTO_UDP, UDP_SEGMENT, 103, ON_IP | ONLY_UDP),
	OPTION(IPPROTO_UDP, UDP_GRO, 104, ON_IP | ONLY_UDP),
	OPTION(IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, 10, ON_IP | ONLY_UDP),
	OPTION(IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, 11, ON_IP | ONLY_UDP),
	OPTION(SOL_NETLINK, NETLINK_PKTINFO, 3, ON_NETLINK),
	OPTION(SOL_NETLINK, NETLINK_BROADCAST_ERROR, 4, ON_NETLINK),
	OPTION(SOL_NETLINK, NETLINK_NO_ENOBUFS, 5, ON_NETLINK),
	OPTION(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 8, ON_NETLINK),
	OPTION(SOL_NETLINK, NETLINK_CAP_ACK, 10, ON_NETLINK),
	OPTION(SOL_NETLINK, NETLINK_EXT_ACK, 11, ON_NETLINK),
	OPTION(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 12, ON_NETLINK),
	OPTION(SOL_PACKET, PACKET_TX_HAS_OFF, 19, ON_PACKET | EARLY),
	OPTION(SOL_PACKET, PACKET_QDISC_BYPASS, 20, ON_PACKET),
	OPTION(SOL_PACKET, PACKET_IGNORE_OUTGOING, 23, ON_PACKET),
	OPTION(SOL_PACKET, PACKET_VNET_HDR_SZ, 24, ON_PACKET | EARLY),
	/* After it the filter cannot be changed any more. */
	OPTION(SOL_SOCKET, SO_LOCK_FILTER, 44, ON_ANY),
};

enum {
	SOCKEXTRA_VALUE_BYTES = 2048,
	SOCKEXTRA_GROUPS_MAX = 65536,
	SOCKEXTRA_MPTCP = 262,
	SOCKEXTRA_TCP_ULP = 31,
	SOCKEXTRA_TCP_AO_INFO = 40, /* Linux 6.7 */
	SOCKEXTRA_TCP_AO_BYTES = 64,
};

struct sockextra_value {
	int code; /* 0, or why it cannot be read */
	socklen_t n;
	char bytes[SOCKEXTRA_VALUE_BYTES];
};

/* ------------------------------------------------------------------- common */

int sock_protocol(const struct fd_view *view, char ret_name[32])
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", view->look, view->fd);
	if (!S_ISSOCK(view->stat.st_mode))
		return -ENOTSOCK;
	ssize_t n = getxattr(path, "system.sockprotoname", ret_name, 31);
	if (n < 0)
		return -errno;
	ret_name[n] = '\0';
	return 0;
}

uint32_t sock_inode(const struct fd_view *view)
{
	static const char prefix[] = "socket:[";
	size_t n = sizeof(prefix) - 1;
	return strncmp(view->link, prefix, n) ? 0 : (uint32_t)strtoul(view->link + n, NULL, 10);
}

int sock_type_of(int fd, struct sock_type *ret, struct ferry_error *err)
{
	struct sock_type t = {0};
	int r = sock_get(fd, SOL_SOCKET, SO_DOMAIN, &t.domain);
	if (r >= 0)
		r = sock_get(fd, SOL_SOCKET, SO_TYPE, &t.type);
	if (r >= 0)
		r = sock_get(fd, SOL_SOCKET, SO_PROTOCOL, &t.protocol);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading the type of a socket");
	*ret = t;
	return 0;
}

static bool sockextra_fits(const struct sockextra_option *o, const struct sock_type *type)
{
	unsigned on = type->domain == AF_UNIX      ? ON_UNIX
		      : type->domain == AF_INET    ? ON_INET
		      : type->domain == AF_INET6   ? ON_INET6
		      : type->domain == AF_NETLINK ? ON_NETLINK
						   : ON_PACKET;
	if (!(o->flags & on) || (type->connected && o->flags & NOT_CONNECTED))
		return false;
	if (o->flags & NOT_TCP)
		return type->type != SOCK_STREAM;
	if (o->flags & ONLY_TCP)
		return type->protocol == IPPROTO_TCP || type->protocol == SOCKEXTRA_MPTCP;
	return !(o->flags & ONLY_UDP) || type->protocol == IPPROTO_UDP || type->protocol == IPPROTO_UDPLITE;
}

static void sockextra_value_of(int fd, const struct sockextra_option *o, struct sockextra_value *ret)
{
	*ret = (struct sockextra_value){.n = sizeof(ret->bytes)};
	if (!(o->flags & WIDE))
		ret->n = sizeof(int);
	ret->code = sock_get_bytes(fd, o->level, o->name, ret->bytes, &ret->n);
	/* Names are told with whatever lies behind them. */
	if (!ret->code && o->level == SOL_TCP && o->name == TCP_CONGESTION)
		ret->n = (socklen_t)strnlen(ret->bytes, ret->n);
}

static int sock_refuse(const char *who, const char *what, const char *hint, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: %s (Linux 6.18)", who, what);
	error_hint(err, "%s", hint);
	return -ENOTSUP;
}

/* Programs and keys that the kernel keeps to itself. */
static int sock_check_secrets(int fd, const char *who, struct ferry_error *err)
{
	char bytes[SOCKEXTRA_VALUE_BYTES] = "";
	socklen_t n = 0;
	if (sock_get_bytes(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) == -EACCES)
		return sock_refuse(who, "a socket with an eBPF filter, which no call reads",
				   "let the program use a classic filter (SO_ATTACH_FILTER)", err);
	n = sizeof(bytes);
	if (sock_get_bytes(fd, SOL_TCP, SOCKEXTRA_TCP_ULP, bytes, &n) >= 0 && n &&
	    strcmp(bytes, "mptcp") != 0)
		return sock_refuse(who,
				   "a TCP socket with another protocol in the kernel on top of it (TCP_ULP)",
				   "let the program do its encryption by itself, not by the kernel (kTLS)",
				   err);
	n = SOCKEXTRA_TCP_AO_BYTES;
	memset(bytes, 0, sizeof(bytes));
	if (sock_get_bytes(fd, SOL_TCP, SOCKEXTRA_TCP_AO_INFO, bytes, &n) >= 0)
		return sock_refuse(who, "a TCP socket with authentication (TCP_AO), whose keys no call reads",
				   "end the session first", err);
	return 0;
}

int sock_check(const struct fd_view *view, struct ferry_error *err)
{
	char who[64];
	_cleanup_loan_ struct fd_loan loan = {0};
	fd_view_name(view, who, sizeof(who));
	int r = fd_view_lend(view, &loan, err);
	if (r >= 0)
		r = net_stand(view, loan.fd, who, err);
	return r < 0 ? r : sock_check_secrets(loan.fd, who, err);
}

/* ------------------------------------------------------------------ collect */

int sock_copy(struct fd_view *view, const char *who, struct sock_type *ret, struct ferry_error *err)
{
	int r = fd_view_copy(view, err);
	if (r >= 0)
		r = net_stand(view, view->copy, who, err);
	return r < 0 ? r : sock_type_of(view->copy, ret, err);
}

static int sockextra_add(struct arena *a, FerrySocketEntry *extra, const struct sockextra_option *o,
			 const struct sockextra_value *value, struct ferry_error *err)
{
	FerrySocketOption *record = record_new(a, FerrySocketOption, ferry_socket_option);
	if (!record)
		return error_memory(err);
	record->level = o->level;
	record->name = o->name;
	record->value = record_bytes(a, value->bytes, value->n);
	extra->options[extra->n_options++] = record;
	return record->value.data ? 0 : error_memory(err);
}

static int sockextra_collect_options(struct arena *a, int fd, const struct sock_type *type,
				     FerrySocketEntry *extra, struct ferry_error *err)
{
	_cleanup_close_ int fresh = socket(type->domain, type->type | SOCK_CLOEXEC, type->protocol);
	if (fresh < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "making a socket to compare options with");
	extra->options = arena_array(a, FerrySocketOption *, ARRAY_SIZE(sockextra_options));
	if (!extra->options)
		return error_memory(err);
	for (size_t i = 0; i < ARRAY_SIZE(sockextra_options); i++) {
		const struct sockextra_option *o = &sockextra_options[i];
		struct sockextra_value now, usual;
		if (!sockextra_fits(o, type))
			continue;
		sockextra_value_of(fd, o, &now);
		sockextra_value_of(fresh, o, &usual);
		/* An option that this kernel lacks was not set. */
		if (now.code || (!usual.code && now.n == usual.n && !memcmp(now.bytes, usual.bytes, now.n)))
			continue;
		int r = sockextra_add(a, extra, o, &now, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int sockextra_collect(struct arena *a, int fd, const struct sock_type *type, uint32_t id,
		      FerrySocketEntry **ret, struct ferry_error *err)
{
	struct stat st;
	FerrySocketEntry *extra = record_new(a, FerrySocketEntry, ferry_socket_entry);
	if (!extra)
		return error_memory(err);
	extra->id = id;
	int r = sockextra_collect_options(a, fd, type, extra, err);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at a socket");
	if (st.st_uid)
		record_set(extra, uid, st.st_uid);
	if (st.st_gid)
		record_set(extra, gid, st.st_gid);
	*ret = extra;
	return 0;
}

/* --------------------------------------------------------------------- dump */

int sockextra_dump(struct dump *d, const FerrySocketEntry *extra, struct ferry_error *err)
{
	bool says = extra->n_options || extra->peer || extra->n_runs || extra->has_uid || extra->has_gid ||
		    extra->has_error || extra->has_fin_unsent || extra->has_dead || extra->has_gone_peer ||
		    extra->has_pending || extra->has_moved_to || extra->n_datagrams || extra->has_type ||
		    extra->n_groups || extra->has_oob_at || extra->n_chooser || extra->has_ring;
	struct image_writer *w;
	int r = says ? fdcommon_writer(d, IMAGE_FERRY_SOCKET, &w, err) : 0;
	return r < 0 || !says ? r : image_put(w, &extra->base, err);
}

/* ------------------------------------------------------------------ restore */

/* Which of the kinds that have records in one file is being read. */
struct sockextra_of {
	const struct kind_ops *kind;
};

static int sockextra_take(struct reader *r, struct image_reader *in unused, void *record, void *context,
			  struct ferry_error *err)
{
	FerrySocketEntry *extra = record;
	const struct sockextra_of *of = context;
	struct plan_file *file = plan_file(r->plan, extra->id);
	if (!file || (file->kind != &kind_unixsk && file->kind != &kind_inetsk &&
		      file->kind != &kind_netlinksk && file->kind != &kind_packetsk))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-socket.img: file id %u is no socket", extra->id);
	if (file->kind != of->kind)
		return 0;
	if (extra->peer && extra->peer->n_groups > SOCKEXTRA_GROUPS_MAX)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-socket.img: the peer of file id %u has too many groups", extra->id);
	((struct sock_plan *)file->data)->extra = extra;
	return 0;
}

int sockextra_read(struct reader *r, const struct kind_ops *kind, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_files; i++) {
		struct plan_file *file = &r->plan->files[i];
		if (file->kind == kind && !(file->data = arena_new(&r->plan->arena, struct sock_plan)))
			return error_memory(err);
	}
	struct sockextra_of of = {.kind = kind};
	return records_each(r, IMAGE_FERRY_SOCKET, 0, &ferry_socket_entry__descriptor, sockextra_take, &of,
			    err);
}

static const struct sockextra_option *sockextra_find(const FerrySocketOption *record)
{
	for (size_t i = 0; i < ARRAY_SIZE(sockextra_options); i++)
		if (sockextra_options[i].level == record->level && sockextra_options[i].name == record->name)
			return &sockextra_options[i];
	return NULL;
}

static size_t sockextra_longest(const struct sockextra_option *option)
{
	return option->flags & (WIDE | MAY_LACK) ? SOCKEXTRA_VALUE_BYTES : sizeof(int);
}

static int sockextra_apply_option(const struct opener *o, int fd, const struct sockextra_option *option,
				  const FerrySocketOption *record, uint32_t id, struct ferry_error *err)
{
	int r = sock_set_bytes(fd, option->level, option->name, record->value.data,
			       (socklen_t)record->value.len);
	if (r >= 0)
		return 0;
	if (option->flags & MAY_LACK) {
		log_write(o->log, LOG_WARN, "restore", NULL, 0,
			  "%s '%.*s' of file id %u is not available here, ignoring", option->word,
			  (int)record->value.len, record->value.data, id);
		return 0;
	}
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "setting %s of the socket of file id %u",
			   option->word, id);
}

static int sockextra_apply_owner(int fd, const FerrySocketEntry *extra, struct ferry_error *err)
{
	if (!extra->has_uid && !extra->has_gid)
		return 0;
	if (fchown(fd, extra->has_uid ? extra->uid : 0, extra->has_gid ? extra->gid : 0) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
				   "giving the socket of file id %u its owner", extra->id);
	return 0;
}

int sockextra_apply(const struct opener *o, int fd, const struct sock_type *type,
		    const FerrySocketEntry *extra, bool early, struct ferry_error *err)
{
	for (size_t i = 0; extra && i < extra->n_options; i++) {
		const FerrySocketOption *record = extra->options[i];
		const struct sockextra_option *option = sockextra_find(record);
		if (!option || !sockextra_fits(option, type) || record->value.len > sockextra_longest(option))
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "ferry-socket.img: file id %u cannot have option %d of level %d",
					 extra->id, record->name, record->level);
		int r = 0;
		if (!(option->flags & EARLY) == !early)
			r = sockextra_apply_option(o, fd, option, record, extra->id, err);
		if (r < 0)
			return r;
	}
	return extra && !early ? sockextra_apply_owner(fd, extra, err) : 0;
}

bool sockextra_int(const FerrySocketEntry *extra, int level, int name, int *ret_value)
{
	for (size_t i = 0; extra && i < extra->n_options; i++) {
		const FerrySocketOption *record = extra->options[i];
		if (record->level != level || record->name != name || record->value.len != sizeof(int))
			continue;
		memcpy(ret_value, record->value.data, sizeof(int));
		return true;
	}
	return false;
}

int sock_peek_walk(struct collect *c, int fd, int (*walk)(int fd, void *context), void *context)
{
	int peek_off = -1;
	int r = sock_get(fd, SOL_SOCKET, SO_PEEK_OFF, &peek_off);
	if (r < 0)
		return r;
	int entry = warden_arm(c->warden, WARDEN_PEEK_OFF, fd, (uint64_t)(int64_t)peek_off, NULL, 0);
	if (entry < 0)
		return entry;
	fault_effect(c->fault, "dump", "SO_PEEK_OFF on");
	r = sock_set(fd, SOL_SOCKET, SO_PEEK_OFF, 0);
	if (r >= 0)
		r = walk(fd, context);
	fault_effect(c->fault, "dump", "SO_PEEK_OFF off");
	int back = sock_set(fd, SOL_SOCKET, SO_PEEK_OFF, peek_off);
	if (back >= 0)
		warden_disarm(c->warden, entry);
	return r < 0 ? r : back < 0 ? back : r;
}
