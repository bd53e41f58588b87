/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns lists of network namespaces and devices, read for a dump and set again.
 *
 * Kernel interface: rtnetlink(7).
 */
#include "kind/netlist.h"

#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if_addrlabel.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

#include "host/netlink.h"
#include "model/record.h"

/* What the kernel tells of the moment. */
#define NETLIST_ROUTE_STATE ((unsigned)(RTNH_F_DEAD | RTNH_F_LINKDOWN | RTNH_F_OFFLOAD | RTNH_F_TRAP))

/* ------------------------------------------------------------------ messages */

const struct nlattr *netlist_attribute(const void *message, size_t n, size_t head, unsigned type)
{
	size_t at = NLMSG_ALIGN(head);
	const struct nlattr *attr = (const void *)((const char *)message + at);
	for (int left = n > at ? (int)(n - at) : 0; netlink_attr_ok(attr, left);) {
		if (netlink_attr_type(attr) == type)
			return attr;
		left -= (int)NLMSG_ALIGN(attr->nla_len);
		attr = netlink_attr_next(attr);
	}
	return NULL;
}

int netlist_add(struct netlist *list, const void *message, size_t n)
{
	if (n > NETLIST_MESSAGE_BYTES || list->n >= NETLIST_MAX)
		return -E2BIG;
	if (list->n == list->room) {
		size_t room = list->room ? list->room * 2 : 16;
		ProtobufCBinaryData *more = arena_array(list->arena, ProtobufCBinaryData, room);
		if (!more)
			return -ENOMEM;
		if (list->n)
			memcpy(more, list->v, list->n * sizeof(*more));
		list->v = more;
		list->room = room;
	}
	list->v[list->n] = record_bytes(list->arena, message, n);
	return list->v[list->n++].data ? 0 : -ENOMEM;
}

static int netlist_each_address(const struct nlmsghdr *h, void *ctx)
{
	struct netlist *list = ctx;
	const struct ifaddrmsg *m = netlink_body(h);
	size_t n = netlink_body_len(h);
	if (h->nlmsg_type != RTM_NEWADDR || n < sizeof(*m) || (list->index && m->ifa_index != list->index))
		return 0;
	return netlist_add(list, m, n);
}

static bool netlist_hops_have(const struct nlattr *hops, uint32_t index)
{
	const struct rtnexthop *hop = netlink_attr_body(hops);
	int left = netlink_attr_len(hops);
	for (; RTNH_OK(hop, left); left -= (int)NLMSG_ALIGN(hop->rtnh_len), hop = RTNH_NEXT(hop))
		if ((uint32_t)hop->rtnh_ifindex == index)
			return true;
	return false;
}

static int netlist_each_route(const struct nlmsghdr *h, void *ctx)
{
	struct netlist *list = ctx;
	const struct rtmsg *m = netlink_body(h);
	size_t n = netlink_body_len(h);
	if (h->nlmsg_type != RTM_NEWROUTE || n < sizeof(*m) || m->rtm_flags & RTM_F_CLONED)
		return 0;
	const struct nlattr *device = netlist_attribute(m, n, sizeof(*m), RTA_OIF);
	const struct nlattr *hops = netlist_attribute(m, n, sizeof(*m), RTA_MULTIPATH);
	bool ours = !list->index || (device && netlink_attr_u32(device) == list->index);
	bool object = ours && netlist_attribute(m, n, sizeof(*m), RTA_NH_ID);
	list->several |= (hops && netlist_hops_have(hops, list->index)) || object;
	return ours ? netlist_add(list, m, n) : 0;
}

/* What was learned is learned again, but by a program that told the kernel. */
static bool netlist_stays(const struct ndmsg *m, size_t n)
{
	const struct nlattr *more = netlist_attribute(m, n, sizeof(*m), NDA_FLAGS_EXT);
	return m->ndm_state & NUD_PERMANENT || m->ndm_flags & (NTF_PROXY | NTF_EXT_LEARNED | NTF_STICKY) ||
	       (more && netlink_attr_len(more) >= sizeof(uint32_t) &&
		netlink_attr_u32(more) & NTF_EXT_MANAGED);
}

static int netlist_each_neighbour(const struct nlmsghdr *h, void *ctx)
{
	struct netlist *list = ctx;
	const struct ndmsg *m = netlink_body(h);
	size_t n = netlink_body_len(h);
	if (h->nlmsg_type != RTM_NEWNEIGH || n < sizeof(*m) ||
	    (list->index && (uint32_t)m->ndm_ifindex != list->index) || !netlist_stays(m, n) ||
	    (m->ndm_family != AF_INET && m->ndm_family != AF_INET6))
		return 0;
	return netlist_add(list, m, n);
}

/* Whether a device receives for this address because somebody on the machine listens for it; then that is asked for again. */
static bool netlist_is_group(const struct ndmsg *m, size_t n)
{
	const struct nlattr *address = netlist_attribute(m, n, sizeof(*m), NDA_LLADDR);
	return !netlist_attribute(m, n, sizeof(*m), NDA_MASTER) && address && netlink_attr_len(address) &&
	       netlink_attr_u8(address) & 1;
}

/* Told is who has the entry, asked for is to whom it is to be given. */
static int netlist_each_forwarding(const struct nlmsghdr *h, void *ctx)
{
	struct netlist *list = ctx;
	const struct ndmsg *m = netlink_body(h);
	size_t n = netlink_body_len(h);
	if (h->nlmsg_type != RTM_NEWNEIGH || n < sizeof(*m) || m->ndm_family != AF_BRIDGE ||
	    (!netlist_stays(m, n) && !(m->ndm_state & NUD_NOARP)) || netlist_is_group(m, n))
		return 0;
	const struct nlattr *master = netlist_attribute(m, n, sizeof(*m), NDA_MASTER);
	bool is_port = master && netlink_attr_len(master) >= sizeof(uint32_t) &&
		       netlink_attr_u32(master) != (uint32_t)m->ndm_ifindex;
	int r = netlist_add(list, m, n);
	if (r < 0)
		return r;
	struct ndmsg *kept = (struct ndmsg *)(void *)list->v[list->n - 1].data;
	kept->ndm_flags = (uint8_t)((kept->ndm_flags & ~(NTF_OFFLOADED | NTF_MASTER | NTF_SELF)) |
				    (is_port ? NTF_MASTER : NTF_SELF));
	return 0;
}

static int netlist_each_label(const struct nlmsghdr *h, void *ctx)
{
	return h->nlmsg_type == RTM_NEWADDRLABEL && netlink_body_len(h) >= sizeof(struct ifaddrlblmsg)
		       ? netlist_add(ctx, netlink_body(h), netlink_body_len(h))
		       : 0;
}

static int netlist_each_rule(const struct nlmsghdr *h, void *ctx)
{
	return h->nlmsg_type == RTM_NEWRULE && netlink_body_len(h) >= sizeof(struct fib_rule_hdr)
		       ? netlist_add(ctx, netlink_body(h), netlink_body_len(h))
		       : 0;
}

static const struct netlist_ask netlist_of_both[] = {{.family = AF_INET}, {.family = AF_INET6}};

/* Whom a device answers for is told apart from its neighbours. */
static const struct netlist_ask netlist_of_neighbours[] = {
	{.family = AF_INET},
	{.family = AF_INET6},
	{AF_INET, offsetof(struct ndmsg, ndm_flags), NTF_PROXY},
	{AF_INET6, offsetof(struct ndmsg, ndm_flags), NTF_PROXY},
};

static const struct netlist_ask netlist_of_six[] = {{.family = AF_INET6}};
static const struct netlist_ask netlist_of_bridges[] = {{.family = AF_BRIDGE}};

#define NETLIST_ASKS(list) .asks = (list), .n_asks = ARRAY_SIZE(list)

const struct netlist_table netlist_addresses = {
	.get = RTM_GETADDR,
	.add = RTM_NEWADDR,
	.remove = RTM_DELADDR,
	.add_flags = NLM_F_CREATE | NLM_F_EXCL,
	NETLIST_ASKS(netlist_of_both),
	.alike = {offsetof(struct ifaddrmsg, ifa_family), offsetof(struct ifaddrmsg, ifa_prefixlen)},
	.head = sizeof(struct ifaddrmsg),
	.index_at = offsetof(struct ifaddrmsg, ifa_index),
	.each = netlist_each_address,
	.key = (const uint16_t[]){IFA_LOCAL, IFA_ADDRESS, 0},
};

const struct netlist_table netlist_routes = {
	.get = RTM_GETROUTE,
	.add = RTM_NEWROUTE,
	.remove = RTM_DELROUTE,
	.add_flags = NLM_F_CREATE | NLM_F_EXCL,
	NETLIST_ASKS(netlist_of_both),
	.alike = {offsetof(struct rtmsg, rtm_family), offsetof(struct rtmsg, rtm_dst_len)},
	.head = sizeof(struct rtmsg),
	.each = netlist_each_route,
	.key = (const uint16_t[]){RTA_TABLE, RTA_DST, RTA_SRC, RTA_PRIORITY, RTA_GATEWAY, RTA_PREFSRC, 0},
};

const struct netlist_table netlist_neighbours = {
	.get = RTM_GETNEIGH,
	.add = RTM_NEWNEIGH,
	.remove = RTM_DELNEIGH,
	.add_flags = NLM_F_CREATE | NLM_F_EXCL,
	NETLIST_ASKS(netlist_of_neighbours),
	.alike = {offsetof(struct ndmsg, ndm_family), offsetof(struct ndmsg, ndm_flags)},
	.head = sizeof(struct ndmsg),
	.index_at = offsetof(struct ndmsg, ndm_ifindex),
	.each = netlist_each_neighbour,
	.key = (const uint16_t[]){NDA_DST, 0},
};

/* A VXLAN has several ends of one address. */
const struct netlist_table netlist_forwarding = {
	.get = RTM_GETNEIGH,
	.add = RTM_NEWNEIGH,
	.remove = RTM_DELNEIGH,
	.add_flags = NLM_F_CREATE | NLM_F_APPEND,
	NETLIST_ASKS(netlist_of_bridges),
	.alike = {offsetof(struct ndmsg, ndm_family), offsetof(struct ndmsg, ndm_flags)},
	.head = sizeof(struct ndmsg),
	.index_at = offsetof(struct ndmsg, ndm_ifindex),
	.each = netlist_each_forwarding,
	.key = (const uint16_t[]){NDA_LLADDR, NDA_DST, NDA_VLAN, NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_SRC_VNI,
				  0},
};

const struct netlist_table netlist_labels = {
	.get = RTM_GETADDRLABEL,
	.add = RTM_NEWADDRLABEL,
	.remove = RTM_DELADDRLABEL,
	.add_flags = NLM_F_CREATE | NLM_F_REPLACE,
	NETLIST_ASKS(netlist_of_six),
	.alike = {offsetof(struct ifaddrlblmsg, ifal_family), offsetof(struct ifaddrlblmsg, ifal_prefixlen)},
	.head = sizeof(struct ifaddrlblmsg),
	.index_at = offsetof(struct ifaddrlblmsg, ifal_index),
	.each = netlist_each_label,
	.key = (const uint16_t[]){IFAL_ADDRESS, IFAL_LABEL, 0},
};

const struct netlist_table netlist_rules = {
	.get = RTM_GETRULE,
	.add = RTM_NEWRULE,
	.remove = RTM_DELRULE,
	.add_flags = NLM_F_CREATE | NLM_F_EXCL,
	NETLIST_ASKS(netlist_of_both),
	.alike = {offsetof(struct fib_rule_hdr, family), offsetof(struct fib_rule_hdr, dst_len)},
	.head = sizeof(struct fib_rule_hdr),
	.each = netlist_each_rule,
	.key = (const uint16_t[]){FRA_PRIORITY, FRA_TABLE, FRA_SRC, FRA_DST, FRA_FWMARK, FRA_FWMASK,
				  FRA_IIFNAME, FRA_OIFNAME, FRA_GOTO, FRA_UID_RANGE, FRA_IP_PROTO,
				  FRA_SPORT_RANGE, FRA_DPORT_RANGE, FRA_L3MDEV, 0},
};

int netlist_get(struct netlink_socket *socket, const struct netlist_table *table, struct netlist *list)
{
	int r = 0;
	for (size_t i = 0; i < table->n_asks && r >= 0; i++) {
		const struct netlist_ask *ask = &table->asks[i];
		/* Each kind of message begins with its family. */
		uint8_t head[NETLIST_HEAD_BYTES] = {ask->family};
		if (ask->flags)
			head[ask->flags_at] = ask->flags;
		r = netlink_list(socket, table->get, head, table->head, table->each, list);
	}
	/* A kernel without IPv6 says so. */
	return r == -EOPNOTSUPP || r == -EAFNOSUPPORT ? 0 : r;
}

/* ------------------------------------------------------------------ restore */

/* The number of the device may be another one than when the message was made. */
static int netlist_message(const struct netlist_table *table, const ProtobufCBinaryData *b, uint32_t index,
			   uint16_t type, uint16_t flags, struct nlmsghdr *h)
{
	netlink_begin(h);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	uint8_t *body = netlink_append(h, b->len);
	memcpy(body, b->data, b->len);
	if (table == &netlist_routes)
		((struct rtmsg *)body)->rtm_flags &= ~NETLIST_ROUTE_STATE;
	if (!index)
		return 0;
	if (table->index_at) {
		memcpy(body + table->index_at, &index, sizeof(index));
		return 0;
	}
	const struct nlattr *device = netlist_attribute(body, b->len, table->head, RTA_OIF);
	if (!device || netlink_attr_len(device) != sizeof(index))
		return -EBADMSG;
	memcpy(netlink_attr_body(device), &index, sizeof(index));
	return 0;
}

static bool netlist_same_attribute(const struct nlattr *a, const struct nlattr *b)
{
	return !a == !b && (!a || (netlink_attr_len(a) == netlink_attr_len(b) &&
				   !memcmp(netlink_attr_body(a), netlink_attr_body(b), netlink_attr_len(a))));
}

static bool netlist_same_device(const struct netlist_table *table, const ProtobufCBinaryData *a,
				const ProtobufCBinaryData *b)
{
	if (table->index_at)
		return !memcmp(a->data + table->index_at, b->data + table->index_at, sizeof(uint32_t));
	return table != &netlist_routes ||
	       netlist_same_attribute(netlist_attribute(a->data, a->len, table->head, RTA_OIF),
				      netlist_attribute(b->data, b->len, table->head, RTA_OIF));
}

/* index: of the only device, whose number may be another one than when the entry was told; 0 = all. */
static bool netlist_same_entry(const struct netlist_table *table, uint32_t index,
			       const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	for (size_t i = 0; i < ARRAY_SIZE(table->alike); i++)
		if (a->data[table->alike[i]] != b->data[table->alike[i]])
			return false;
	if (!index && !netlist_same_device(table, a, b))
		return false;
	for (const uint16_t *key = table->key; *key; key++)
		if (!netlist_same_attribute(netlist_attribute(a->data, a->len, table->head, *key),
					    netlist_attribute(b->data, b->len, table->head, *key)))
			return false;
	return true;
}

static bool netlist_has(const struct netlist_table *table, uint32_t index, const ProtobufCBinaryData *v,
			size_t n, const ProtobufCBinaryData *entry)
{
	for (size_t i = 0; i < n; i++)
		if (netlist_same_entry(table, index, &v[i], entry))
			return true;
	return false;
}

/* What the kernel gave to the new device by itself, and the old one did not have. */
static int netlist_less(struct netlink_socket *socket, const struct netlist_table *table, uint32_t index,
			const ProtobufCBinaryData *v, size_t n)
{
	uint8_t bytes[NETLIST_REQUEST_BYTES] __attribute__((aligned(8)));
	struct arena a = {0};
	struct netlist there = {.arena = &a, .index = index};
	int r = netlist_get(socket, table, &there);
	for (size_t i = 0; i < there.n && r >= 0; i++) {
		struct nlmsghdr *h = (struct nlmsghdr *)bytes;
		if (netlist_has(table, index, v, n, &there.v[i]))
			continue;
		r = netlist_message(table, &there.v[i], index, table->remove, 0, h);
		if (r >= 0)
			r = netlink_ask(socket, h, NULL, NULL);
		if (r == -ESRCH || r == -ENOENT || r == -EADDRNOTAVAIL)
			r = 0;
	}
	arena_release(&a);
	return r;
}

/* 1: it is there, or cannot be before another one is. */
static int netlist_restore_one(struct netlink_socket *socket, const struct netlist_table *table,
			       uint32_t index, const ProtobufCBinaryData *entry)
{
	uint8_t bytes[NETLIST_REQUEST_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *h = (struct nlmsghdr *)bytes;
	int r = netlist_message(table, entry, index, table->add, table->add_flags, h);
	if (r >= 0)
		r = netlink_ask(socket, h, NULL, NULL);
	return r == -EEXIST ? 0 : r;
}

/* A route by way of a gateway wants the one that leads there, which the kernel may tell later. */
static bool netlist_waits(int code)
{
	return code == -ENETUNREACH || code == -EHOSTUNREACH || code == -EINVAL;
}

int netlist_restore(struct netlink_socket *socket, const struct netlist_table *table, uint32_t index,
		    const ProtobufCBinaryData *v, size_t n, bool whole)
{
	struct arena a = {0};
	struct netlist there = {.arena = &a, .index = index};
	bool *done = arena_array(&a, bool, n + 1);
	int r = done ? netlist_get(socket, table, &there) : -ENOMEM, waits = 0;
	for (size_t left = n, before = n + 1; left && left < before && r >= 0;) {
		before = left;
		waits = 0;
		for (size_t i = 0; i < n && r >= 0; i++) {
			if (done[i])
				continue;
			bool has = netlist_has(table, index, there.v, there.n, &v[i]);
			r = has ? 0 : netlist_restore_one(socket, table, index, &v[i]);
			done[i] = r >= 0;
			left -= r >= 0;
			if (r < 0 && netlist_waits(r)) {
				waits = r;
				r = 0;
			}
		}
	}
	arena_release(&a);
	if (r >= 0)
		r = waits;
	return r < 0 || !whole ? r : netlist_less(socket, table, index, v, n);
}
