/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns looking at what is in a network namespace, and its files in the image.
 *
 * Kernel interface: rtnetlink(7); /proc/net/dev_mcast; the form in which ip(8) saves its lists: a number, and the messages of the kernel
 * behind it.
 * Does not handle: devices of other kinds than those in the table, programs (XDP), bridges and VXLAN devices that filter, refused by name; what
 * else stands in the way is in net_others.c.
 */
#include <errno.h>
#include <linux/if_addrlabel.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/netlink.h"
#include "image/dir.h"
#include "image/file.h"
#include "kind/external.h"
#include "kind/net.h"
#include "kind/netlist.h"
#include "kind/netplace.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/lex.h"

/* What ip(8) writes before the messages. */
enum { NET_MAGIC_ADDRESS = 0x47361222, NET_MAGIC_ROUTE = 0x45311224, NET_MAGIC_RULE = 0x71706986 };

enum {
	NET_TABLE_MAIN = 254,
	NET_BRPORT_MCAST_N_GROUPS = 41 /* Linux 6.3 */,
	NET_VXLAN_RESERVED_BITS = 33 /* 6.14 */,
	NET_BR_FDB_N_LEARNED = 48 /* 6.7 */,
	NET_GSO_IPV4_MAX_SIZE = 63 /* 6.3 */,
	NET_GRO_IPV4_MAX_SIZE = 64,
	NET_VXLAN_VNIFILTER = 30 /* 5.18 */,
	NET_ALT_NAMES_MAX = 64,
	NET_GROUPS_MAX = 1024,
	NET_MORE_BYTES = 256,
};

/* Attributes that the image keeps as they are told, and that a new device gets where it has others. */
static const uint16_t net_settable[] = {
	IFLA_BROADCAST,        IFLA_LINKMODE,         IFLA_PROTO_DOWN,
	IFLA_GSO_MAX_SEGS,     IFLA_GSO_MAX_SIZE,     IFLA_GRO_MAX_SIZE,
	NET_GSO_IPV4_MAX_SIZE, NET_GRO_IPV4_MAX_SIZE, 0,
};

/* -------------------------------------------------------------------- kinds */

static const uint16_t bridge_ignored[] = {
	IFLA_BR_ROOT_ID,
	IFLA_BR_BRIDGE_ID,
	IFLA_BR_ROOT_PORT,
	IFLA_BR_ROOT_PATH_COST,
	IFLA_BR_TOPOLOGY_CHANGE,
	IFLA_BR_TOPOLOGY_CHANGE_DETECTED,
	IFLA_BR_HELLO_TIMER,
	IFLA_BR_TCN_TIMER,
	IFLA_BR_TOPOLOGY_CHANGE_TIMER,
	IFLA_BR_GC_TIMER,
	IFLA_BR_GROUP_ADDR,
	IFLA_BR_FDB_FLUSH,
	IFLA_BR_MCAST_QUERIER_STATE,
	NET_BR_FDB_N_LEARNED,
	0,
};

/* Of a port of a bridge. */
static const uint16_t port_ignored[] = {
	IFLA_BRPORT_ROOT_ID,
	IFLA_BRPORT_BRIDGE_ID,
	IFLA_BRPORT_DESIGNATED_PORT,
	IFLA_BRPORT_DESIGNATED_COST,
	IFLA_BRPORT_ID,
	IFLA_BRPORT_NO,
	IFLA_BRPORT_TOPOLOGY_CHANGE_ACK,
	IFLA_BRPORT_CONFIG_PENDING,
	IFLA_BRPORT_MESSAGE_AGE_TIMER,
	IFLA_BRPORT_FORWARD_DELAY_TIMER,
	IFLA_BRPORT_HOLD_TIMER,
	IFLA_BRPORT_FLUSH,
	IFLA_BRPORT_STATE,
	IFLA_BRPORT_PAD,
	IFLA_BRPORT_MCAST_EHT_HOSTS_CNT,
	NET_BRPORT_MCAST_N_GROUPS,
	0,
};

static const uint16_t macvlan_ignored[] = {IFLA_MACVLAN_MACADDR_COUNT, IFLA_MACVLAN_BC_QUEUE_LEN_USED, 0};

static const uint16_t tun_ignored[] = {IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES, 0};
static const uint16_t vxlan_ignored[] = {NET_VXLAN_RESERVED_BITS, 0};
static const uint16_t vxlan_flags[] = {IFLA_VXLAN_TTL_INHERIT, 0};

static const struct net_kind net_kinds[] = {
	{.word = "veth", .type = ND_TYPE__VETH, .common = true, .no_data = true},
	{.word = "bridge", .type = ND_TYPE__BRIDGE, .common = true, .ignored = bridge_ignored, .tuned = true},
	{.word = "macvlan", .type = ND_TYPE__MACVLAN, .common = true, .ignored = macvlan_ignored},
	{.word = "vxlan", .ignored = vxlan_ignored, .flags = vxlan_flags},
	{.word = "dummy", .no_data = true},
	{.word = "vlan"},
	{.word = "tun", .ignored = tun_ignored},
};

const struct net_kind *net_kind_of(const char *word)
{
	for (size_t i = 0; word && i < ARRAY_SIZE(net_kinds); i++)
		if (!strcmp(net_kinds[i].word, word))
			return &net_kinds[i];
	return NULL;
}

static bool net_is_among(const uint16_t *types, unsigned type)
{
	for (; types && *types; types++)
		if (*types == type)
			return true;
	return false;
}

/* Attributes but those that are ignored, one behind the other. */
static int net_copy_data(struct arena *a, const struct nlattr *data, const uint16_t *ignored,
			 const uint16_t *flags, ProtobufCBinaryData *ret)
{
	uint8_t *bytes = arena_alloc(a, netlink_attr_len(data) + NLMSG_ALIGNTO);
	size_t n = 0;
	if (!bytes)
		return -ENOMEM;
	netlink_for_each_nested(attr, data) {
		bool flag = net_is_among(flags, netlink_attr_type(attr));
		if (net_is_among(ignored, netlink_attr_type(attr)) || (flag && !netlink_attr_u8(attr)))
			continue;
		memcpy(bytes + n, attr, flag ? NLA_HDRLEN : attr->nla_len);
		if (flag) {
			((struct nlattr *)(void *)(bytes + n))->nla_len = NLA_HDRLEN;
			n += NLA_HDRLEN;
			continue;
		}
		memset(bytes + n + attr->nla_len, 0, NLA_ALIGN(attr->nla_len) - attr->nla_len);
		n += NLA_ALIGN(attr->nla_len);
	}
	*ret = (ProtobufCBinaryData){.data = bytes, .len = n};
	return 0;
}

/* -------------------------------------------------------------------- links */

struct net_links {
	struct arena *arena;
	const char *who;
	FerryNetEntry *net;
	char obstacle[160]; /* the first; "" = none */
};

static int net_link_info(struct net_links *links, FerryLinkEntry *l, const struct nlattr *info)
{
	const struct nlattr *data = NULL, *port = NULL;
	netlink_for_each_nested(attr, info) {
		switch (netlink_attr_type(attr)) {
		case IFLA_INFO_KIND: l->kind = arena_string(links->arena, netlink_attr_string(attr)); break;
		case IFLA_INFO_DATA: data = attr; break;
		case IFLA_INFO_SLAVE_DATA: port = attr; break;
		default: break;
		}
	}
	const struct net_kind *kind = net_kind_of(l->kind);
	int r = 0;
	if (data && kind && !kind->no_data) {
		r = net_copy_data(links->arena, data, kind->ignored, kind->flags, &l->data);
		l->has_data = r >= 0;
	}
	if (port && r >= 0) {
		r = net_copy_data(links->arena, port, port_ignored, NULL, &l->port_data);
		l->has_port_data = r >= 0;
	}
	return r;
}

static bool net_is_zero(const struct nlattr *attr)
{
	const uint8_t *bytes = netlink_attr_body(attr);
	for (size_t i = 0; i < netlink_attr_len(attr); i++)
		if (bytes[i])
			return false;
	return true;
}

static void net_link_family(struct arena *a, FerryLinkEntry *l, const struct nlattr *families)
{
	netlink_for_each_nested(family, families) {
		if (netlink_attr_type(family) != AF_INET6)
			continue;
		netlink_for_each_nested(attr, family) {
			if (netlink_attr_type(attr) == IFLA_INET6_ADDR_GEN_MODE)
				record_set(l, address_mode, netlink_attr_u8(attr));
			if (netlink_attr_type(attr) == IFLA_INET6_TOKEN && !net_is_zero(attr))
				record_set(l, token,
					   record_bytes(a, netlink_attr_body(attr), netlink_attr_len(attr)));
		}
	}
}

static int net_link_names(struct arena *a, FerryLinkEntry *l, const struct nlattr *names)
{
	l->alt_names = arena_array(a, char *, NET_ALT_NAMES_MAX);
	if (!l->alt_names)
		return -ENOMEM;
	netlink_for_each_nested(attr, names) {
		if (netlink_attr_type(attr) != IFLA_ALT_IFNAME)
			continue;
		if (l->n_alt_names == NET_ALT_NAMES_MAX)
			return -E2BIG;
		l->alt_names[l->n_alt_names] = arena_string(a, netlink_attr_string(attr));
		if (!l->alt_names[l->n_alt_names++])
			return -ENOMEM;
	}
	return 0;
}

/* One behind the other. */
static int net_link_more(struct arena *a, FerryLinkEntry *l, const struct nlattr *attr)
{
	size_t n = NLA_ALIGN(attr->nla_len);
	if (!l->has_more)
		record_set(l, more, (ProtobufCBinaryData){.data = arena_alloc(a, NET_MORE_BYTES)});
	if (!l->more.data || l->more.len + n > NET_MORE_BYTES)
		return l->more.data ? -E2BIG : -ENOMEM;
	memcpy(l->more.data + l->more.len, attr, attr->nla_len);
	l->more.len += n;
	return 0;
}

static int net_link_attribute(struct net_links *links, FerryLinkEntry *l, const struct nlattr *attr)
{
	struct arena *a = links->arena;
	switch (netlink_attr_type(attr)) {
	case IFLA_IFNAME: l->name = arena_string(a, netlink_attr_string(attr)); break;
	case IFLA_MTU: l->mtu = netlink_attr_u32(attr); break;
	case IFLA_TXQLEN: l->queue_packets = netlink_attr_u32(attr); break;
	case IFLA_ADDRESS:
		l->address = record_bytes(a, netlink_attr_body(attr), netlink_attr_len(attr));
		break;
	case IFLA_IFALIAS: l->alias = arena_string(a, netlink_attr_string(attr)); break;
	case IFLA_GROUP:
		if (netlink_attr_u32(attr))
			record_set(l, group, netlink_attr_u32(attr));
		break;
	case IFLA_MASTER: record_set(l, master, netlink_attr_u32(attr)); break;
	case IFLA_LINK: record_set(l, link, netlink_attr_u32(attr)); break;
	case IFLA_LINK_NETNSID:
		/* What this namespace calls it, until net_number_look(). */
		record_set(l, link_outside, true);
		record_set(l, link_net, netlink_attr_u32(attr));
		break;
	case IFLA_NUM_TX_QUEUES: record_set(l, tx_queues, netlink_attr_u32(attr)); break;
	case IFLA_NUM_RX_QUEUES: record_set(l, rx_queues, netlink_attr_u32(attr)); break;
	case IFLA_AF_SPEC: net_link_family(a, l, attr); break;
	case IFLA_PROP_LIST: return net_link_names(a, l, attr);
	case IFLA_LINKINFO: return net_link_info(links, l, attr);
	case IFLA_XDP:
		netlink_for_each_nested(xdp, attr) {
			if (netlink_attr_type(xdp) == IFLA_XDP_ATTACHED && netlink_attr_u8(xdp))
				snprintf(links->obstacle, sizeof(links->obstacle),
					 "a network device with a program (XDP), which nobody can read");
		}
		break;
	default: return net_is_among(net_settable, netlink_attr_type(attr)) ? net_link_more(a, l, attr) : 0;
	}
	return 0;
}

static bool net_data_says(const FerryLinkEntry *l, unsigned type)
{
	const char *at = (const char *)l->data.data, *end = at + (l->has_data ? l->data.len : 0);
	netlink_for_each_between(attr, at, end)
	{
		if (netlink_attr_type(attr) == type && netlink_attr_len(attr) && netlink_attr_u8(attr))
			return true;
	}
	return false;
}

bool net_link_stays(const FerryLinkEntry *l)
{
	return net_data_says(l, IFLA_TUN_PERSIST);
}

static void net_judge_link(struct net_links *links, const FerryLinkEntry *l)
{
	const struct net_kind *kind = net_kind_of(l->kind);
	const char *what = NULL;
	if (links->obstacle[0] || (l->flags & IFF_LOOPBACK && !l->kind))
		return;
	if (!kind)
		what = l->kind ? l->kind : "a machine's own";
	else if (l->link_outside && strcmp(l->kind, "veth") != 0 && strcmp(l->kind, "macvlan") != 0)
		what = "a kind whose lower device is in another namespace";
	if (what)
		snprintf(links->obstacle, sizeof(links->obstacle),
			 "the network device '%.15s' of a kind that is not made again: %.64s", l->name, what);
	else if (!strcmp(l->kind, "vxlan") && net_data_says(l, NET_VXLAN_VNIFILTER))
		snprintf(links->obstacle, sizeof(links->obstacle),
			 "the device '%.15s', which filters numbers of VXLAN", l->name);
	else if (!strcmp(l->kind, "bridge") && net_data_says(l, IFLA_BR_VLAN_FILTERING))
		snprintf(links->obstacle, sizeof(links->obstacle), "the bridge '%.15s', which filters VLANs",
			 l->name);
}

static int net_each_link(const struct nlmsghdr *h, void *ctx)
{
	struct net_links *links = ctx;
	const struct ifinfomsg *m = netlink_body(h);
	if (h->nlmsg_type != RTM_NEWLINK || netlink_body_len(h) < sizeof(*m))
		return 0;
	FerryLinkEntry *l = record_new(links->arena, FerryLinkEntry, ferry_link_entry);
	if (!l || links->net->n_links == NET_LINKS_MAX)
		return l ? -E2BIG : -ENOMEM;
	l->index = (uint32_t)m->ifi_index;
	l->type = m->ifi_type;
	l->flags = m->ifi_flags;
	int r = 0;
	netlink_for_each(attr, h, sizeof(*m)) {
		r = r < 0 ? r : net_link_attribute(links, l, attr);
	}
	if (r < 0 || !l->name)
		return r < 0 ? r : -ENOMEM;
	net_judge_link(links, l);
	links->net->links[links->net->n_links++] = l;
	return 0;
}

static int net_compare_links(const void *a, const void *b)
{
	const FerryLinkEntry *x = *(FerryLinkEntry *const *)a, *y = *(FerryLinkEntry *const *)b;
	return x->index < y->index ? -1 : x->index > y->index;
}

static int net_look_links(struct netlink_socket *socket, struct net_links *links)
{
	static const struct {
		struct ifinfomsg all;
		struct nlattr attr;
		uint32_t value;
	} links_without_statistics = {.attr = {.nla_type = IFLA_EXT_MASK,
					       .nla_len = NLA_HDRLEN + sizeof(uint32_t)},
				      .value = RTEXT_FILTER_SKIP_STATS};
	links->net->links = arena_array(links->arena, FerryLinkEntry *, NET_LINKS_MAX);
	int r = links->net->links ? netlink_list(socket, RTM_GETLINK, &links_without_statistics,
						 sizeof(links_without_statistics), net_each_link, links)
				  : -ENOMEM;
	if (r >= 0 && links->net->n_links)
		qsort(links->net->links, links->net->n_links, sizeof(*links->net->links), net_compare_links);
	return r;
}

FerryLinkEntry *net_link_numbered(const FerryNetEntry *net, unsigned index)
{
	for (size_t i = 0; i < net->n_links; i++)
		if (net->links[i]->index == index)
			return net->links[i];
	return NULL;
}

static int net_add_group(struct arena *a, FerryLinkEntry *l, struct lex hex)
{
	uint8_t address[NET_ADDRESS_BYTES];
	size_t n = lex_left(&hex) / 2;
	if (!l->groups && !(l->groups = arena_array(a, ProtobufCBinaryData, NET_GROUPS_MAX)))
		return -ENOMEM;
	if (l->n_groups == NET_GROUPS_MAX || n > sizeof(address))
		return -E2BIG;
	if (!lex_bytes(&hex, address, n))
		return -EBADMSG;
	l->groups[l->n_groups] = record_bytes(a, address, n);
	return l->groups[l->n_groups++].data ? 0 : -ENOMEM;
}

/* Those that a device was told by itself (ip maddr), not because of a socket: rtnetlink does not tell them apart. */
static int net_look_groups(struct arena *a, FerryNetEntry *net)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/thread-self/net/dev_mcast", "re");
	char line[256];
	int r = 0;
	while (f && r >= 0 && fgets(line, sizeof(line), f)) {
		/* Number and name of the device, users, of them by hand, address. */
		struct lex words = lex_new(line, strcspn(line, "\n")), hex;
		uint32_t index, told;
		FerryLinkEntry *l = NULL;
		if (lex_u32(&words, &index) && lex_skip_words(&words, 2) && lex_u32(&words, &told) && told &&
		    lex_skip_words(&words, 0) && lex_word(&words, &hex))
			l = net_link_numbered(net, index);
		r = l ? net_add_group(a, l, hex) : 0;
	}
	return r;
}

int net_read_link(struct arena *a, const struct nlmsghdr *h, FerryNetEntry *net)
{
	struct net_links links = {.arena = a, .net = net};
	if (!net->links && !(net->links = arena_array(a, FerryLinkEntry *, NET_LINKS_MAX)))
		return -ENOMEM;
	return net_each_link(h, &links);
}

int net_look_now(struct arena *a, struct netlink_socket *socket, FerryNetEntry *ret)
{
	struct net_links links = {.arena = a, .net = ret};
	return net_look_links(socket, &links);
}

/* --------------------------------------------------------------------- look */

static int net_look_lists(struct arena *a, struct netlink_socket *socket, FerryNetEntry *net)
{
	struct {
		const struct netlist_table *table;
		ProtobufCBinaryData **v;
		size_t *n;
	} lists[] = {
		{&netlist_addresses, &net->addresses, &net->n_addresses},
		{&netlist_routes, &net->routes, &net->n_routes},
		{&netlist_rules, &net->rules, &net->n_rules},
		{&netlist_neighbours, &net->neighbours, &net->n_neighbours},
		{&netlist_labels, &net->labels, &net->n_labels},
		{&netlist_forwarding, &net->forwarding, &net->n_forwarding},
	};
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct netlist list = {.arena = a};
		int r = netlist_get(socket, lists[i].table, &list);
		if (r < 0)
			return r;
		*lists[i].v = list.v;
		*lists[i].n = list.n;
	}
	return 0;
}

static NetDeviceEntry *net_device(struct arena *a, const FerryLinkEntry *l, uint32_t id)
{
	const struct net_kind *kind = net_kind_of(l->kind);
	NetDeviceEntry *d = record_new(a, NetDeviceEntry, net_device_entry);
	if (!d)
		return NULL;
	d->type = kind ? kind->type : ND_TYPE__LOOPBACK;
	d->ifindex = l->index;
	d->mtu = l->mtu;
	d->flags = l->flags;
	d->name = l->name;
	if (kind) {
		d->has_address = 1;
		d->address = l->address;
	}
	record_set(d, peer_ifindex, l->has_link ? l->link : l->index);
	record_set(d, peer_nsid,
		   !l->link_outside  ? id
		   : l->has_link_net ? l->link_net
				     : (uint32_t)NET_ID_OWN);
	if (l->has_master)
		record_set(d, master, l->master);
	if (d->type != ND_TYPE__MACVLAN)
		return d;
	d->macvlan = record_new(a, MacvlanLinkEntry, macvlan_link_entry);
	const char *at = (const char *)l->data.data, *end = at + (l->has_data ? l->data.len : 0);
	netlink_for_each_between(attr, at, end)
	{
		if (d->macvlan && netlink_attr_type(attr) == IFLA_MACVLAN_MODE)
			d->macvlan->mode = netlink_attr_u32(attr);
	}
	return d->macvlan ? d : NULL;
}

int net_describe(struct arena *a, uint32_t id, struct net_contents *c)
{
	c->devices = arena_array(a, NetDeviceEntry *, c->net->n_links + 1);
	if (!c->devices)
		return -ENOMEM;
	for (size_t i = 0; i < c->net->n_links; i++) {
		const FerryLinkEntry *l = c->net->links[i];
		const struct net_kind *kind = net_kind_of(l->kind);
		if (kind && !kind->common)
			continue;
		NetDeviceEntry *d = net_device(a, l, id);
		if (!d)
			return -ENOMEM;
		c->devices[c->n_devices++] = d;
	}
	return 0;
}

int net_look(struct arena *a, const char *who, struct net_contents *ret, struct ferry_error *err)
{
	struct net_contents c = {.net = record_new(a, FerryNetEntry, ferry_net_entry)};
	struct net_links links = {.arena = a, .who = who, .net = c.net};
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	const char *other = NULL;
	int r = c.net ? netlink_open(-1, NETLINK_ROUTE, &socket) : -ENOMEM;
	if (r >= 0)
		r = net_look_links(socket, &links);
	if (r >= 0)
		r = net_look_groups(a, c.net);
	if (r >= 0)
		r = net_look_lists(a, socket, c.net);
	if (r >= 0)
		r = net_look_for_others(a, c.net, &other);
	if (r >= 0 && !(c.netns = record_new(a, NetnsEntry, netns_entry)))
		r = -ENOMEM;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "%s: looking at a network namespace", who);
	if (other && !links.obstacle[0])
		snprintf(links.obstacle, sizeof(links.obstacle), "%s", other);
	if (links.obstacle[0]) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			  "%s lives in a network namespace of its own with %s", who, links.obstacle);
		error_hint(
			err,
			"take that down first, or leave the namespace to whoever restores it: --empty-ns net");
		return -ENOTSUP;
	}
	*ret = c;
	return 0;
}

/* --------------------------------------------------------------------- image */

static const enum image_kind net_tracked_files[NET_TRACKED] = {
	[NET_TRACKED_CONNECTIONS] = IMAGE_NETNF_CT,
	[NET_TRACKED_EXPECTED] = IMAGE_NETNF_EXP,
};

/* As ip(8) saves a list: a number, and messages as the kernel sends them. */
static int net_put_list(struct image_writer *w, uint32_t magic, uint16_t type, const ProtobufCBinaryData *v,
			size_t n, bool (*wanted)(const ProtobufCBinaryData *b), struct ferry_error *err)
{
	static const uint8_t zeroes[NLMSG_ALIGNTO];
	int r = image_put_raw(w, &magic, sizeof(magic), err);
	for (size_t i = 0; i < n && r >= 0; i++) {
		if (!wanted(&v[i]))
			continue;
		const struct nlmsghdr h = {.nlmsg_len = (uint32_t)(NLMSG_HDRLEN + v[i].len),
					   .nlmsg_type = type,
					   .nlmsg_flags = NLM_F_MULTI};
		r = image_put_raw(w, &h, sizeof(h), err);
		if (r >= 0)
			r = image_put_raw(w, v[i].data, v[i].len, err);
		if (r >= 0 && NLMSG_ALIGN(v[i].len) > v[i].len)
			r = image_put_raw(w, zeroes, NLMSG_ALIGN(v[i].len) - v[i].len, err);
	}
	return r;
}

static bool net_is_any(const ProtobufCBinaryData *b unused)
{
	return true;
}

static bool net_is_main(const ProtobufCBinaryData *b, unsigned char family)
{
	const struct rtmsg *m = (const struct rtmsg *)b->data;
	const struct nlattr *table = netlist_attribute(b->data, b->len, sizeof(*m), RTA_TABLE);
	return m->rtm_family == family && (table ? netlink_attr_u32(table) : m->rtm_table) == NET_TABLE_MAIN;
}

static bool net_is_route4(const ProtobufCBinaryData *b)
{
	return net_is_main(b, AF_INET);
}

static bool net_is_route6(const ProtobufCBinaryData *b)
{
	return net_is_main(b, AF_INET6);
}

static bool net_is_rule4(const ProtobufCBinaryData *b)
{
	return b->data[0] == AF_INET;
}

static int net_store_lists(struct dump *d, uint32_t id, const FerryNetEntry *net, struct ferry_error *err)
{
	const struct {
		enum image_kind file;
		uint32_t magic;
		uint16_t type;
		const ProtobufCBinaryData *v;
		size_t n;
		bool (*wanted)(const ProtobufCBinaryData *b);
	} lists[] = {
		{IMAGE_IFADDR, NET_MAGIC_ADDRESS, RTM_NEWADDR, net->addresses, net->n_addresses, net_is_any},
		{IMAGE_ROUTE, NET_MAGIC_ROUTE, RTM_NEWROUTE, net->routes, net->n_routes, net_is_route4},
		{IMAGE_ROUTE6, NET_MAGIC_ROUTE, RTM_NEWROUTE, net->routes, net->n_routes, net_is_route6},
		{IMAGE_RULE, NET_MAGIC_RULE, RTM_NEWRULE, net->rules, net->n_rules, net_is_rule4},
	};
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(lists) && r >= 0; i++) {
		struct image_writer *w;
		r = image_create(d->dir, lists[i].file, id, &w, err);
		if (r >= 0)
			r = net_put_list(w, lists[i].magic, lists[i].type, lists[i].v, lists[i].n,
					 lists[i].wanted, err);
		if (r >= 0)
			r = image_close(w, err);
	}
	return r;
}

static int net_store_bytes(struct dump *d, enum image_kind file, uint32_t id, const struct net_bytes *b,
			   struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(d->dir, file, id, &w, err);
	if (r >= 0 && b->n)
		r = image_put_raw(w, b->bytes, b->n, err);
	return r < 0 ? r : image_close(w, err);
}

int net_store(struct dump *d, uint32_t id, const struct net_contents *c, struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_put_one(d->dir, IMAGE_NETNS, id, &c->netns->base, err);
	if (r >= 0)
		r = image_create(d->dir, IMAGE_NETDEV, id, &w, err);
	for (size_t i = 0; i < c->n_devices && r >= 0; i++)
		r = image_put(w, &c->devices[i]->base, err);
	if (r >= 0)
		r = image_close(w, err);
	if (r >= 0)
		r = net_store_lists(d, id, c->net, err);
	for (int i = 0; i < NET_RULES && r >= 0; i++)
		r = net_store_bytes(d, net_rules_file((enum net_rules)i), id, &c->rules[i], err);
	for (int i = 0; i < NET_TRACKED && r >= 0; i++)
		if (c->tracked[i].n)
			r = net_store_bytes(d, net_tracked_files[i], id, &c->tracked[i], err);
	return r < 0 ? r : image_put_one(d->dir, IMAGE_FERRY_NET, id, &c->net->base, err);
}

/* ---------------------------------------------------------------------- load */

static int net_load_bytes(struct reader *r, enum image_kind file, uint32_t id, struct net_bytes *ret,
			  struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	int ret_code = image_open_optional(r->dir, file, id, &in, err);
	if (ret_code < 0 || !in)
		return MIN(ret_code, 0);
	uint64_t n = image_reader_left(in);
	if (n > NET_TEXT_MAX)
		return image_bad(in, err, "%llu bytes", (unsigned long long)n);
	/* With room behind it, and aligned as messages are. */
	char *bytes = arena_alloc(&r->plan->arena, (size_t)n + 8);
	if (!bytes)
		return error_memory(err);
	bytes[n] = '\0';
	*ret = (struct net_bytes){bytes, (size_t)n};
	return n ? image_get_raw(in, bytes, (size_t)n, err) : 0;
}

int net_parse_list(const struct net_bytes *b, uint32_t magic, uint16_t type, size_t head,
		   struct netlist *list)
{
	uint32_t found = 0;
	int r = 0;
	if (b->n >= sizeof(found))
		memcpy(&found, b->bytes, sizeof(found));
	if (found != magic)
		return -EBADMSG;
	int left = (int)(b->n - sizeof(found));
	const struct nlmsghdr *h = (const void *)((const char *)b->bytes + sizeof(found));
	for (; netlink_ok(h, left) && r >= 0; h = netlink_next(h, &left))
		if (h->nlmsg_type == type && netlink_body_len(h) >= head)
			r = netlist_add(list, netlink_body(h), netlink_body_len(h));
	return r;
}

/* Messages of one type, behind the number. */
static int net_load_list(struct reader *r, enum image_kind file, uint32_t id, uint32_t magic, uint16_t type,
			 size_t head, struct netlist *list, struct ferry_error *err)
{
	struct net_bytes b = {0};
	int ret = net_load_bytes(r, file, id, &b, err);
	if (ret < 0 || !b.n)
		return ret;
	ret = net_parse_list(&b, magic, type, head, list);
	return ret < 0 ? error_errno(
				 err, FERRY_ERROR_IMAGE_BAD, -ret,
				 "reading a list of network namespace %u, which is not as ip(8) writes it",
				 id)
		       : 0;
}

static int net_load_lists(struct reader *r, uint32_t id, FerryNetEntry *net, struct ferry_error *err)
{
	struct netlist addresses = {.arena = &r->plan->arena}, routes = addresses, rules = addresses;
	int ret = net_load_list(r, IMAGE_IFADDR, id, NET_MAGIC_ADDRESS, RTM_NEWADDR, sizeof(struct ifaddrmsg),
				&addresses, err);
	if (ret >= 0)
		ret = net_load_list(r, IMAGE_ROUTE, id, NET_MAGIC_ROUTE, RTM_NEWROUTE, sizeof(struct rtmsg),
				    &routes, err);
	if (ret >= 0)
		ret = net_load_list(r, IMAGE_ROUTE6, id, NET_MAGIC_ROUTE, RTM_NEWROUTE, sizeof(struct rtmsg),
				    &routes, err);
	if (ret >= 0)
		ret = net_load_list(r, IMAGE_RULE, id, NET_MAGIC_RULE, RTM_NEWRULE, sizeof(struct rtmsg),
				    &rules, err);
	net->addresses = addresses.v;
	net->n_addresses = addresses.n;
	net->routes = routes.v;
	net->n_routes = routes.n;
	net->rules = rules.v;
	net->n_rules = rules.n;
	return ret;
}

/* What the common format has of a device. */
static FerryLinkEntry *net_link_of(const struct plan *p, struct arena *a, const NetDeviceEntry *d,
				   uint32_t id)
{
	FerryLinkEntry *l = record_new(a, FerryLinkEntry, ferry_link_entry);
	if (!l)
		return NULL;
	l->index = d->ifindex;
	l->name = d->name;
	l->flags = d->flags;
	l->mtu = d->mtu;
	if (d->has_address)
		l->address = d->address;
	for (size_t i = 0; i < ARRAY_SIZE(net_kinds); i++)
		if (net_kinds[i].common && net_kinds[i].type == d->type)
			l->kind = arena_string(a, net_kinds[i].word);
	if (d->type != ND_TYPE__LOOPBACK && !l->kind)
		l->kind = arena_string(a, "unknown");
	if (d->has_master && d->master)
		record_set(l, master, d->master);
	bool layered = d->type == ND_TYPE__VETH || d->type == ND_TYPE__MACVLAN;
	if (layered && d->has_peer_ifindex)
		record_set(l, link, d->peer_ifindex);
	if (layered && (!d->has_peer_nsid || d->peer_nsid != id))
		record_set(l, link_outside, true);
	if (l->link_outside && d->has_peer_nsid && plan_ns(p, PROC_NS_NET, d->peer_nsid))
		record_set(l, link_net, d->peer_nsid);
	if (d->macvlan) {
		uint8_t bytes[16] __attribute__((aligned(8))) = {0};
		struct nlattr *attr = (struct nlattr *)bytes;
		*attr = (struct nlattr){.nla_type = IFLA_MACVLAN_MODE,
					.nla_len = NLA_HDRLEN + sizeof(uint32_t)};
		memcpy(netlink_attr_body(attr), &d->macvlan->mode, sizeof(uint32_t));
		l->has_data = 1;
		l->data = record_bytes(a, bytes, NLA_HDRLEN + sizeof(uint32_t));
	}
	return l;
}

static int net_take_device(struct reader *r, struct image_reader *in, void *record, void *context,
			   struct ferry_error *err)
{
	struct net_contents *c = context;
	(void)r;
	if (c->n_devices == NET_LINKS_MAX)
		return image_bad(in, err, "more than %d devices", NET_LINKS_MAX);
	c->devices[c->n_devices++] = record;
	return 0;
}

static int net_load_common(struct reader *r, uint32_t id, struct net_contents *c, struct ferry_error *err)
{
	struct arena *a = &r->plan->arena;
	c->net = record_new(a, FerryNetEntry, ferry_net_entry);
	if (!c->net || !(c->net->links = arena_array(a, FerryLinkEntry *, c->n_devices + 1)))
		return error_memory(err);
	for (size_t i = 0; i < c->n_devices; i++)
		if (!(c->net->links[c->net->n_links++] = net_link_of(r->plan, a, c->devices[i], id)))
			return error_memory(err);
	qsort(c->net->links, c->net->n_links, sizeof(*c->net->links), net_compare_links);
	return net_load_lists(r, id, c->net, err);
}

static bool net_valid_name(const char *name)
{
	size_t n = strlen(name);
	return n && n < IF_NAMESIZE && name[0] != '.' && !strpbrk(name, "/ \t\n:");
}

static bool net_valid_list(const ProtobufCBinaryData *v, size_t n, size_t head)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].len < head || v[i].len > NETLIST_MESSAGE_BYTES)
			return false;
	return n <= NETLIST_MAX;
}

static bool net_valid_more(const FerryLinkEntry *l)
{
	bool good = l->n_alt_names <= NET_ALT_NAMES_MAX && l->n_groups <= NET_GROUPS_MAX &&
		    (!l->has_token || l->token.len == 16) && l->more.len <= NET_MORE_BYTES;
	for (size_t i = 0; i < l->n_alt_names && good; i++)
		good = l->alt_names[i][0] && strlen(l->alt_names[i]) < NET_ALT_NAME_BYTES;
	for (size_t i = 0; i < l->n_groups && good; i++)
		good = l->groups[i].len && l->groups[i].len <= sizeof(((struct sockaddr *)0)->sa_data);
	return good;
}

static bool net_valid(const struct net_contents *c)
{
	const FerryNetEntry *net = c->net;
	bool good = net->n_links <= NET_LINKS_MAX;
	for (size_t i = 0; i < net->n_links && good; i++) {
		const FerryLinkEntry *l = net->links[i];
		good = net_valid_name(l->name) && l->index && l->index <= INT32_MAX &&
		       l->address.len <= NET_ADDRESS_BYTES && l->data.len <= NETLIST_MESSAGE_BYTES &&
		       l->port_data.len <= NETLIST_MESSAGE_BYTES && (!l->alias || strlen(l->alias) < 256) &&
		       (!l->kind || strlen(l->kind) < 32) && (!i || l->index > net->links[i - 1]->index) &&
		       net_valid_more(l);
	}
	for (int i = 0; i < NET_TRACKED && good; i++)
		good = net_track_valid(&c->tracked[i]);
	for (size_t i = 0; i < c->n_devices && good; i++)
		good = net_valid_name(c->devices[i]->name);
	return good && net_valid_list(net->addresses, net->n_addresses, sizeof(struct ifaddrmsg)) &&
	       net_valid_list(net->routes, net->n_routes, sizeof(struct rtmsg)) &&
	       net_valid_list(net->rules, net->n_rules, sizeof(struct rtmsg)) &&
	       net_valid_list(net->neighbours, net->n_neighbours, sizeof(struct ndmsg)) &&
	       net_valid_list(net->labels, net->n_labels, sizeof(struct ifaddrlblmsg)) &&
	       net_valid_list(net->forwarding, net->n_forwarding, sizeof(struct ndmsg));
}

int net_load(struct reader *r, const struct plan_ns *ns, struct net_contents **ret, struct ferry_error *err)
{
	struct arena *a = &r->plan->arena;
	struct net_contents *c = arena_new(a, struct net_contents);
	if (!c || !(c->devices = arena_array(a, NetDeviceEntry *, NET_LINKS_MAX)))
		return error_memory(err);
	c->netns = ns->data;
	int ret_code =
		records_each(r, IMAGE_NETDEV, ns->id, &net_device_entry__descriptor, net_take_device, c, err);
	if (ret_code >= 0 && image_dir_has(r->dir, IMAGE_FERRY_NET, ns->id))
		ret_code = records_one(r, IMAGE_FERRY_NET, ns->id, &c->net, err);
	c->whole = c->net != NULL;
	if (ret_code >= 0 && !c->whole)
		ret_code = net_load_common(r, ns->id, c, err);
	for (int i = 0; i < NET_RULES && ret_code >= 0; i++)
		ret_code = net_load_bytes(r, net_rules_file((enum net_rules)i), ns->id, &c->rules[i], err);
	for (int i = 0; i < NET_TRACKED && ret_code >= 0; i++)
		ret_code = net_load_bytes(r, net_tracked_files[i], ns->id, &c->tracked[i], err);
	if (ret_code >= 0 && !net_valid(c))
		ret_code = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				     "what is in network namespace %u makes no sense", ns->id);
	if (ret_code >= 0)
		*ret = c;
	return ret_code;
}
