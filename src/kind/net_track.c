/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns connections that a network namespace tracks (conntrack), with the translation of their addresses, and what is expected of them. The
 * image has them as the kernel tells them, one message behind the other.
 *
 * Kernel interface: ctnetlink (NETLINK_NETFILTER, NFNL_SUBSYS_CTNETLINK and NFNL_SUBSYS_CTNETLINK_EXP).
 * Does not handle: counters and times of day, which no call sets; CRIU 4.2.1 has the connections in the file of what is expected again, so the
 * type of a message decides, not its file.
 *
 * The kernel takes a translation in words of what is to come out, and forgets the bits that tell that there is one. So the answer's side is told
 * as if nothing were translated, and the addresses that it had beside it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/netlink.h"
#include "kind/net.h"
#include "kind/netlist.h"

enum {
	TRACK_CONNECTION = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW,
	TRACK_EXPECTED = NFNL_SUBSYS_CTNETLINK_EXP << 8 | IPCTNL_MSG_EXP_NEW,
	TRACK_BATCH_BYTES = 32 * 1024,
	TRACK_STATUS = IPS_SEEN_REPLY | IPS_ASSURED | IPS_FIXED_TIMEOUT,
	TRACK_TCP_FLAGS = IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM | IP_CT_TCP_FLAG_CLOSE_INIT,
};

/* ------------------------------------------------------------------------ look */

struct track_list {
	struct arena *arena;
	char *bytes;
	size_t n, room;
};

static int track_each(const struct nlmsghdr *h, void *ctx)
{
	struct track_list *list = ctx;
	size_t n = NLMSG_ALIGN(h->nlmsg_len);
	if (list->n + n > NET_TEXT_MAX || h->nlmsg_len > NETLIST_MESSAGE_BYTES)
		return -E2BIG;
	if (list->n + n > list->room) {
		size_t room = list->room ? list->room * 2 : 4 * (size_t)NETLIST_MESSAGE_BYTES;
		char *more = arena_alloc(list->arena, room);
		if (!more)
			return -ENOMEM;
		if (list->n)
			memcpy(more, list->bytes, list->n);
		list->bytes = more;
		list->room = room;
	}
	memcpy(list->bytes + list->n, h, h->nlmsg_len);
	list->n += n;
	return 0;
}

static int track_get(struct netlink_socket *socket, uint16_t type, struct track_list *list)
{
	const struct nfgenmsg all = {0};
	int r = netlink_list(socket, type, &all, sizeof(all), track_each, list);
	/* A kernel that tracks nothing has none. */
	return r == -EOPNOTSUPP || r == -EINVAL ? 0 : r;
}

int net_track_look(struct arena *a, struct net_contents *c, struct ferry_error *err)
{
	static const uint16_t types[NET_TRACKED] = {
		[NET_TRACKED_CONNECTIONS] = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET,
		[NET_TRACKED_EXPECTED] = NFNL_SUBSYS_CTNETLINK_EXP << 8 | IPCTNL_MSG_EXP_GET,
	};
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	int r = netlink_open(-1, NETLINK_NETFILTER, &socket);
	if (r == -EPROTONOSUPPORT)
		return 0;
	for (int i = 0; i < NET_TRACKED && r >= 0; i++) {
		struct track_list list = {.arena = a};
		r = track_get(socket, types[i], &list);
		c->tracked[i] = (struct net_bytes){list.bytes, list.n};
	}
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r,
				   "reading the connections that a network namespace tracks")
		     : 0;
}

/* -------------------------------------------------------------------- messages */

static const struct nlattr *track_within(const struct nlattr *nest, unsigned type)
{
	if (!nest)
		return NULL;
	netlink_for_each_nested(attr, nest) {
		if (netlink_attr_type(attr) == type)
			return attr;
	}
	return NULL;
}

/* An address, a port: no image makes a request longer than there is room for. */
static const struct nlattr *track_value(const struct nlattr *nest, unsigned type)
{
	const struct nlattr *attr = track_within(nest, type);
	return attr && netlink_attr_len(attr) <= sizeof(struct in6_addr) ? attr : NULL;
}

static uint32_t track_number(const struct nlattr *attr)
{
	return attr && netlink_attr_len(attr) == sizeof(uint32_t) ? ntohl(netlink_attr_u32(attr)) : 0;
}

static void track_put(struct nlmsghdr *h, unsigned type, const struct nlattr *attr)
{
	if (attr)
		netlink_put(h, type, netlink_attr_len(attr), netlink_attr_body(attr));
}

/* The answer's side as it would be without a translation: what the first side has, the other way round. */
static void track_put_reply(struct nlmsghdr *h, const struct nlattr *first, const struct nlattr *reply)
{
	static const uint16_t turned[] = {
		[CTA_PROTO_SRC_PORT] = CTA_PROTO_DST_PORT,
		[CTA_PROTO_DST_PORT] = CTA_PROTO_SRC_PORT,
		[CTA_PROTO_ICMP_ID] = CTA_PROTO_ICMP_ID,
		[CTA_PROTO_ICMPV6_ID] = CTA_PROTO_ICMPV6_ID,
	};
	const struct nlattr *places = track_within(first, CTA_TUPLE_IP),
			    *ports = track_within(first, CTA_TUPLE_PROTO);
	struct nlattr *tuple = netlink_nest(h, CTA_TUPLE_REPLY), *nest = netlink_nest(h, CTA_TUPLE_IP);
	track_put(h, CTA_IP_V4_SRC, track_value(places, CTA_IP_V4_DST));
	track_put(h, CTA_IP_V4_DST, track_value(places, CTA_IP_V4_SRC));
	track_put(h, CTA_IP_V6_SRC, track_value(places, CTA_IP_V6_DST));
	track_put(h, CTA_IP_V6_DST, track_value(places, CTA_IP_V6_SRC));
	netlink_nest_end(h, nest);
	nest = netlink_nest(h, CTA_TUPLE_PROTO);
	if (track_within(reply, CTA_TUPLE_PROTO))
		netlink_for_each_nested(attr, track_within(reply, CTA_TUPLE_PROTO)) {
			unsigned type = netlink_attr_type(attr);
			const struct nlattr *other =
				type < ARRAY_SIZE(turned) ? track_value(ports, turned[type]) : NULL;
			bool fits = other && netlink_attr_len(other) == netlink_attr_len(attr);
			track_put(h, type, fits ? other : attr);
		}
	netlink_nest_end(h, nest);
	track_put(h, CTA_TUPLE_ZONE, track_value(reply, CTA_TUPLE_ZONE));
	netlink_nest_end(h, tuple);
}

/* What the answer's side has in the place of the first side's source (or destination). */
static void track_put_translation(struct nlmsghdr *h, unsigned type, const struct nlattr *reply)
{
	bool source = type == CTA_NAT_SRC;
	const struct nlattr *places = track_within(reply, CTA_TUPLE_IP),
			    *ports = track_within(reply, CTA_TUPLE_PROTO);
	const struct nlattr *four = track_value(places, source ? CTA_IP_V4_DST : CTA_IP_V4_SRC),
			    *six = track_value(places, source ? CTA_IP_V6_DST : CTA_IP_V6_SRC),
			    *port = track_value(ports, source ? CTA_PROTO_DST_PORT : CTA_PROTO_SRC_PORT);
	if (!port && source)
		port = track_value(ports, four ? CTA_PROTO_ICMP_ID : CTA_PROTO_ICMPV6_ID);
	struct nlattr *nat = netlink_nest(h, type);
	track_put(h, CTA_NAT_V4_MINIP, four);
	track_put(h, CTA_NAT_V4_MAXIP, four);
	track_put(h, CTA_NAT_V6_MINIP, six);
	track_put(h, CTA_NAT_V6_MAXIP, six);
	if (port) {
		struct nlattr *proto = netlink_nest(h, CTA_NAT_PROTO);
		track_put(h, CTA_PROTONAT_PORT_MIN, port);
		track_put(h, CTA_PROTONAT_PORT_MAX, port);
		netlink_nest_end(h, proto);
	}
	netlink_nest_end(h, nat);
}

/*
 * The kernel takes flags of TCP only under a mask that it does not tell. Where the windows are is not told at all, and it would guess from the
 * first packet: that may be one which is sent again, after which the peer's answer seemed to be out of any window. So it judges liberally.
 */
static void track_put_tcp(struct nlmsghdr *h, const struct nlattr *info)
{
	const struct nlattr *told = track_within(info, CTA_PROTOINFO_TCP);
	struct nlattr *outer = netlink_nest(h, CTA_PROTOINFO), *tcp = netlink_nest(h, CTA_PROTOINFO_TCP);
	netlink_for_each_nested(attr, told) {
		unsigned type = netlink_attr_type(attr);
		struct nf_ct_tcp_flags flags = {0};
		bool is_flags =
			type == CTA_PROTOINFO_TCP_FLAGS_ORIGINAL || type == CTA_PROTOINFO_TCP_FLAGS_REPLY;
		if (!is_flags || netlink_attr_len(attr) != sizeof(flags)) {
			track_put(h, type, attr);
			continue;
		}
		memcpy(&flags, netlink_attr_body(attr), sizeof(flags));
		flags.flags = (flags.flags & TRACK_TCP_FLAGS) | IP_CT_TCP_FLAG_BE_LIBERAL;
		flags.mask = 0xff;
		netlink_put(h, type, sizeof(flags), &flags);
	}
	netlink_nest_end(h, tcp);
	netlink_nest_end(h, outer);
}

static void track_put_connection(struct nlmsghdr *h, const struct nlmsghdr *told)
{
	static const uint16_t copied[] = {
		CTA_TUPLE_ORIG, CTA_TIMEOUT,      CTA_HELP,         CTA_MARK,          CTA_ZONE,
		CTA_LABELS,     CTA_TUPLE_MASTER, CTA_SEQ_ADJ_ORIG, CTA_SEQ_ADJ_REPLY, CTA_SYNPROXY,
	};
	const struct nlattr *found[CTA_MAX + 1] = {0};
	netlink_for_each(attr, told, sizeof(struct nfgenmsg)) {
		if (netlink_attr_type(attr) <= CTA_MAX)
			found[netlink_attr_type(attr)] = attr;
	}
	uint32_t status = track_number(found[CTA_STATUS]),
		 kept = htonl((status & TRACK_STATUS) | IPS_CONFIRMED);
	const struct nlattr *first = found[CTA_TUPLE_ORIG], *reply = found[CTA_TUPLE_REPLY];
	for (size_t i = 0; i < ARRAY_SIZE(copied); i++)
		if (found[copied[i]])
			track_put(h, found[copied[i]]->nla_type, found[copied[i]]);
	netlink_put(h, CTA_STATUS, sizeof(kept), &kept);
	if (track_within(found[CTA_PROTOINFO], CTA_PROTOINFO_TCP))
		track_put_tcp(h, found[CTA_PROTOINFO]);
	else
		track_put(h, NLA_F_NESTED | CTA_PROTOINFO, found[CTA_PROTOINFO]);
	if (!(status & (IPS_NAT_MASK | IPS_NAT_DONE_MASK))) {
		track_put(h, NLA_F_NESTED | CTA_TUPLE_REPLY, reply);
		return;
	}
	track_put_reply(h, first, reply);
	if (status & (IPS_DST_NAT | IPS_DST_NAT_DONE))
		track_put_translation(h, CTA_NAT_DST, reply);
	if (status & (IPS_SRC_NAT | IPS_SRC_NAT_DONE))
		track_put_translation(h, CTA_NAT_SRC, reply);
}

static void track_put_expected(struct nlmsghdr *h, const struct nlmsghdr *told)
{
	netlink_for_each(attr, told, sizeof(struct nfgenmsg)) {
		if (netlink_attr_type(attr) != CTA_EXPECT_ID)
			track_put(h, attr->nla_type, attr);
	}
}

struct nlmsghdr *net_track_request(const struct nlmsghdr *told, void *room)
{
	struct nlmsghdr *h = netlink_begin(room);
	h->nlmsg_type = told->nlmsg_type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
	memcpy(netlink_append(h, sizeof(struct nfgenmsg)), netlink_body(told), sizeof(struct nfgenmsg));
	if (told->nlmsg_type == TRACK_CONNECTION)
		track_put_connection(h, told);
	else
		track_put_expected(h, told);
	return h;
}

/* --------------------------------------------------------------------- restore */

/* What refers to another one comes after it. */
enum track_turn { TRACK_FIRST, TRACK_RELATED, TRACK_LAST, TRACK_TURNS };

static enum track_turn track_turn_of(const struct nlmsghdr *h)
{
	if (h->nlmsg_type == TRACK_EXPECTED)
		return TRACK_LAST;
	return netlist_attribute(netlink_body(h), netlink_body_len(h), sizeof(struct nfgenmsg),
				 CTA_TUPLE_MASTER)
		       ? TRACK_RELATED
		       : TRACK_FIRST;
}

bool net_track_valid(const struct net_bytes *b)
{
	int left = (int)b->n;
	const struct nlmsghdr *h = b->bytes;
	for (; netlink_ok(h, left); h = netlink_next(h, &left))
		if (h->nlmsg_len < NLMSG_HDRLEN + sizeof(struct nfgenmsg) ||
		    h->nlmsg_len > NETLIST_MESSAGE_BYTES ||
		    (h->nlmsg_type != TRACK_CONNECTION && h->nlmsg_type != TRACK_EXPECTED))
			return false;
	return left <= 0;
}

/* A connection that is there already was told twice. */
static int track_refused(const struct nlmsgerr *e, void *ctx unused)
{
	return e->error == -EEXIST ? 0 : e->error;
}

static int track_make_some(struct netlink_socket *socket, const struct net_bytes *b, enum track_turn turn)
{
	_cleanup_free_ char *batch = malloc(TRACK_BATCH_BYTES);
	size_t n = 0;
	int left = (int)b->n, r = batch ? 0 : -ENOMEM;
	const struct nlmsghdr *h = b->bytes;
	for (; r >= 0 && netlink_ok(h, left); h = netlink_next(h, &left)) {
		if (track_turn_of(h) != turn)
			continue;
		n += NLMSG_ALIGN(net_track_request(h, batch + n)->nlmsg_len);
		if (n > TRACK_BATCH_BYTES - 2 * NETLIST_MESSAGE_BYTES) {
			r = netlink_tell(socket, batch, n, track_refused, NULL);
			n = 0;
		}
	}
	return r >= 0 && n ? netlink_tell(socket, batch, n, track_refused, NULL) : r;
}

int net_track_make(const struct net_contents *c, struct ferry_error *err)
{
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	if (!c->tracked[NET_TRACKED_CONNECTIONS].n && !c->tracked[NET_TRACKED_EXPECTED].n)
		return 0;
	int r = netlink_open(-1, NETLINK_NETFILTER, &socket);
	for (int turn = 0; turn < TRACK_TURNS; turn++)
		for (int i = 0; i < NET_TRACKED && r >= 0; i++)
			r = track_make_some(socket, &c->tracked[i], (enum track_turn)turn);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "setting the connections that a network namespace tracks")
		     : 0;
}
