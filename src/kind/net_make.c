/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns filling a network namespace: devices first, with the numbers that they had, then settings, then everything up, then addresses and what
 * leads over them. What the kernel adds to a new namespace by itself is taken away where it was not there before.
 *
 * Kernel interface: rtnetlink(7), SIOCBRADDIF.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/address.h"
#include "host/netlink.h"
#include "host/netns.h"
#include "kind/external.h"
#include "kind/net.h"
#include "kind/netlist.h"
#include "kind/netplace.h"

enum {
	NET_REQUEST_BYTES = 8192,
	NET_WAITS = 100, /* without a carrier it never ends */
	NET_WAIT_NS = 2000000,
	NET_TAKEN_TRIES = 150,
	NET_TAKEN_NS = 20000000,
	NET_CHANGEABLE = IFF_UP | IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI | IFF_MULTICAST | IFF_DYNAMIC |
			 IFF_DEBUG | IFF_NOTRAILERS,
};

struct net_making {
	struct opener *o;
	const struct plan_ns *ns;
	const struct net_contents *c;
	struct netlink_socket *socket; /* in it */
	bool *made;                    /* by device */
	int *tunnels;                  /* descriptors that keep the carrier of one meanwhile; -1 */
	struct net_making *all;        /* this one and the others of the tree */
	size_t n_all;
};

static struct nlmsghdr *net_begin_link(uint8_t *bytes, uint16_t flags, uint32_t index)
{
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = RTM_NEWLINK;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	struct ifinfomsg *m = netlink_append(h, sizeof(*m));
	m->ifi_index = (int)index;
	return h;
}

/*
 * A namespace goes on existing for a moment when its last process has ended: names and addresses outside that its devices had are taken until
 * then.
 */
static int net_ask_patiently(struct netlink_socket *socket, struct nlmsghdr *h)
{
	const struct timespec pause = {.tv_nsec = NET_TAKEN_NS};
	int r = -EBUSY;
	for (int i = 0; i < NET_TAKEN_TRIES; i++) {
		r = netlink_ask(socket, h, NULL, NULL);
		if (r != -EEXIST && r != -EADDRINUSE && r != -EBUSY)
			break;
		nanosleep(&pause, NULL);
	}
	return r;
}

/* --------------------------------------------------------------------- devices */

static void net_put_queues(struct nlmsghdr *h, const FerryLinkEntry *l)
{
	if (l->has_tx_queues)
		netlink_put_u32(h, IFLA_NUM_TX_QUEUES, l->tx_queues);
	if (l->has_rx_queues)
		netlink_put_u32(h, IFLA_NUM_RX_QUEUES, l->rx_queues);
}

static void net_put_name(struct nlmsghdr *h, const FerryLinkEntry *l)
{
	netlink_put_string(h, IFLA_IFNAME, l->name);
	if (l->address.len)
		netlink_put(h, IFLA_ADDRESS, l->address.len, l->address.data);
	net_put_queues(h, l);
}

static int net_find(const struct net_contents *c, uint32_t index)
{
	for (size_t i = 0; i < c->net->n_links; i++)
		if (c->net->links[i]->index == index)
			return (int)i;
	return -1;
}

/* "OUT", "OUT@BRIDGE" */
static void net_outer_name(const char *word, char ret_name[IF_NAMESIZE], char ret_bridge[IF_NAMESIZE])
{
	size_t n = strcspn(word, "@");
	snprintf(ret_name, IF_NAMESIZE, "%.*s", (int)n, word);
	snprintf(ret_bridge, IF_NAMESIZE, "%s", word[n] ? word + n + 1 : "");
}

static const char *net_outer(const struct kind_options *options, const FerryLinkEntry *l)
{
	return external_value(options, l->kind, l->name);
}

/* The namespace of the tree that the other end of a device is in, or what it lies on, and which device it is there; -1: none. */
static int net_find_lower(const struct net_making *m, const FerryLinkEntry *l, struct net_making **ret)
{
	for (size_t i = 0; i < m->n_all && l->has_link; i++) {
		bool here = !l->link_outside && &m->all[i] == m;
		if (!here && !(l->link_outside && l->has_link_net && l->link_net == m->all[i].ns->id))
			continue;
		*ret = &m->all[i];
		return net_find(m->all[i].c, l->link);
	}
	return -1;
}

/* Outside of the tree: where ferry was started. */
static bool net_leads_out(const struct net_making *m, const FerryLinkEntry *l)
{
	struct net_making *other;
	return l->link_outside && net_find_lower(m, l, &other) < 0;
}

/* The other end: in the tree, or where ferry was started. */
static void net_put_peer(const struct net_making *m, struct nlmsghdr *h, const FerryLinkEntry *l)
{
	struct net_making *other = NULL;
	int peer = net_find_lower(m, l, &other);
	struct nlattr *attr = netlink_nest(h, VETH_INFO_PEER);
	struct ifinfomsg *info = netlink_append(h, sizeof(*info));
	if (peer >= 0) {
		info->ifi_index = (int)other->c->net->links[peer]->index;
		net_put_name(h, other->c->net->links[peer]);
		if (other != m)
			netlink_put_u32(h, IFLA_NET_NS_FD, (uint32_t)other->ns->fd);
	} else {
		char name[IF_NAMESIZE], bridge[IF_NAMESIZE];
		net_outer_name(net_outer(m->o->options, l), name, bridge);
		netlink_put_string(h, IFLA_IFNAME, name);
		netlink_put_u32(h, IFLA_NET_NS_FD, (uint32_t)m->o->options->home_net);
	}
	netlink_nest_end(h, attr);
}

/* Whether a macvlan takes packets of a list of senders alone. */
static bool net_has_sources(const FerryLinkEntry *l)
{
	const char *at = (const char *)l->data.data;
	netlink_for_each_between(attr, at, at + l->data.len)
	{
		if (netlink_attr_type(attr) == IFLA_MACVLAN_MACADDR_DATA)
			return netlink_attr_len(attr) > 0;
	}
	return false;
}

static void net_put_info(const struct net_making *m, struct nlmsghdr *h, const FerryLinkEntry *l)
{
	struct nlattr *info = netlink_nest(h, IFLA_LINKINFO);
	netlink_put_string(h, IFLA_INFO_KIND, l->kind);
	struct nlattr *data = netlink_nest(h, IFLA_INFO_DATA);
	if (!strcmp(l->kind, "veth"))
		net_put_peer(m, h, l);
	else if (l->has_data && !net_kind_of(l->kind)->tuned)
		memcpy(netlink_append(h, l->data.len), l->data.data, l->data.len);
	if (!strcmp(l->kind, "macvlan") && net_has_sources(l))
		netlink_put_u32(h, IFLA_MACVLAN_MACADDR_MODE, MACVLAN_MACADDR_SET);
	netlink_nest_end(h, data);
	netlink_nest_end(h, info);
}

/* The end that is outside gets its place: its bridge, and up. */
static int net_place_outer(const struct net_making *m, const FerryLinkEntry *l, struct ferry_error *err)
{
	char name[IF_NAMESIZE], bridge[IF_NAMESIZE];
	struct ifreq request = {0};
	int home = m->o->options->home_net, r = 0;
	net_outer_name(net_outer(m->o->options, l), name, bridge);
	if (bridge[0]) {
		_cleanup_close_ int fd = netns_socket(home, AF_INET, SOCK_DGRAM, 0);
		snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
		if (fd < 0 || ioctl(fd, SIOCGIFINDEX, &request) < 0)
			r = fd < 0 ? fd : -errno;
		snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
		if (r >= 0 && ioctl(fd, SIOCBRADDIF, &request) < 0)
			r = -errno;
	}
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "making the network device '%s' a port of '%s'", name, bridge);
	return link_set_up(home, name, true, err);
}

static int net_device_outside(const struct net_making *m, const FerryLinkEntry *l)
{
	char name[IF_NAMESIZE], none[IF_NAMESIZE];
	struct ifreq request = {0};
	_cleanup_close_ int fd = netns_socket(m->o->options->home_net, AF_INET, SOCK_DGRAM, 0);
	net_outer_name(net_outer(m->o->options, l), name, none);
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	return fd < 0 ? fd : ioctl(fd, SIOCGIFINDEX, &request) < 0 ? -errno : request.ifr_ifindex;
}

/* A device whose lower one is in another namespace is made there, and born here. */
static int net_make_above(const struct net_making *m, const FerryLinkEntry *l)
{
	uint8_t bytes[NET_REQUEST_BYTES] __attribute__((aligned(8)));
	struct net_making *other = NULL;
	_cleanup_netlink_ struct netlink_socket *outside = NULL;
	bool within = net_find_lower(m, l, &other) >= 0;
	int lower = within ? (int)l->link : net_device_outside(m, l), r = MIN(lower, 0);
	if (r >= 0 && !within)
		r = netlink_open(m->o->options->home_net, NETLINK_ROUTE, &outside);
	if (r < 0)
		return r;
	struct nlmsghdr *h = net_begin_link(bytes, NLM_F_CREATE | NLM_F_EXCL, l->index);
	net_put_name(h, l);
	netlink_put_u32(h, IFLA_LINK, (uint32_t)lower);
	netlink_put_u32(h, IFLA_NET_NS_FD, (uint32_t)m->ns->fd);
	net_put_info(m, h, l);
	return net_ask_patiently(within ? other->socket : outside, h);
}

static uint32_t net_data_byte(const FerryLinkEntry *l, unsigned type)
{
	const char *at = (const char *)l->data.data;
	netlink_for_each_between(attr, at, at + l->data.len)
	{
		if (netlink_attr_type(attr) == type)
			return netlink_attr_u8(attr);
	}
	return 0;
}

static int net_own_tun(int fd, const FerryLinkEntry *l)
{
	const char *at = (const char *)l->data.data;
	netlink_for_each_between(attr, at, at + l->data.len)
	{
		unsigned long request = netlink_attr_type(attr) == IFLA_TUN_OWNER   ? TUNSETOWNER
					: netlink_attr_type(attr) == IFLA_TUN_GROUP ? TUNSETGROUP
										    : 0;
		if (request && ioctl(fd, request, (unsigned long)netlink_attr_u32(attr)) < 0)
			return -errno;
	}
	return 0;
}

/*
 * Its carrier, which is there while somebody is attached, lets the kernel give it what it gives by itself before that is compared. Then it stays
 * although nobody is attached to it; whoever was does so again, and then it ends with them as it would have (kind/tun.c).
 */
static int net_make_tun(const struct net_making *m, size_t at)
{
	const FerryLinkEntry *l = m->c->net->links[at];
	uint8_t bytes[NET_REQUEST_BYTES] __attribute__((aligned(8)));
	struct ifreq request = {0};
	uint32_t type = net_data_byte(l, IFLA_TUN_TYPE), flags = type;
	unsigned index = l->index;
	flags |= net_data_byte(l, IFLA_TUN_PI) ? 0 : IFF_NO_PI;
	flags |= net_data_byte(l, IFLA_TUN_VNET_HDR) ? IFF_VNET_HDR : 0;
	flags |= net_data_byte(l, IFLA_TUN_MULTI_QUEUE) ? IFF_MULTI_QUEUE : 0;
	request.ifr_flags = (short)flags;
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", l->name);
	int r = netns_enter(m->ns->fd);
	if (r < 0)
		return r;
	m->o->net = m->ns->id;
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, TUNSETIFINDEX, &index) < 0 || ioctl(fd, TUNSETIFF, &request) < 0 ||
	    ioctl(fd, TUNSETPERSIST, 1ul) < 0 || ioctl(fd, TUNSETLINK, (unsigned long)l->type) < 0)
		return -errno;
	r = net_own_tun(fd, l);
	m->tunnels[at] = take_fd(fd);
	if (r < 0 || !l->address.len)
		return r;
	struct nlmsghdr *h = net_begin_link(bytes, 0, l->index);
	netlink_put(h, IFLA_ADDRESS, l->address.len, l->address.data);
	return netlink_ask(m->socket, h, NULL, NULL);
}

static int net_make_link(struct net_making *m, size_t index)
{
	uint8_t bytes[NET_REQUEST_BYTES] __attribute__((aligned(8)));
	const FerryLinkEntry *l = m->c->net->links[index];
	struct net_making *other = NULL;
	bool veth = !strcmp(l->kind, "veth");
	int peer = veth ? net_find_lower(m, l, &other) : -1;
	/* Both ends say so, or it is somebody's invention. */
	if (peer >= 0 && (!other->c->net->links[peer]->kind ||
			  strcmp(other->c->net->links[peer]->kind, "veth") != 0 || other->made[peer]))
		return -EBADMSG;
	if (!strcmp(l->kind, "tun"))
		return net_make_tun(m, index);
	if (l->link_outside && !veth)
		return net_make_above(m, l);
	struct nlmsghdr *h = net_begin_link(bytes, NLM_F_CREATE | NLM_F_EXCL, l->index);
	net_put_name(h, l);
	if (l->has_link && !veth)
		netlink_put_u32(h, IFLA_LINK, l->link);
	net_put_info(m, h, l);
	int r = net_ask_patiently(m->socket, h);
	if (r >= 0 && peer >= 0)
		other->made[peer] = true;
	return r;
}

/* Its lower device first. */
static bool net_may_make(const struct net_making *m, const FerryLinkEntry *l)
{
	struct net_making *other = NULL;
	int lower = strcmp(l->kind, "veth") != 0 ? net_find_lower(m, l, &other) : -1;
	return lower < 0 || other->made[lower];
}

/* 1: some were made. */
static int net_make_some(struct net_making *m, struct ferry_error *err)
{
	const FerryNetEntry *net = m->c->net;
	int more = 0;
	for (size_t i = 0; i < net->n_links; i++) {
		const FerryLinkEntry *l = net->links[i];
		if (m->made[i] || (l->kind && !net_may_make(m, l)))
			continue;
		int r = l->kind ? net_make_link(m, i) : 0;
		if (r < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
					   "making the network device '%s' (%s)", l->name, l->kind);
		m->made[i] = true;
		more = 1;
		if (l->kind && net_leads_out(m, l) && !strcmp(l->kind, "veth"))
			r = net_place_outer(m, l, err);
		if (r < 0)
			return r;
	}
	return more;
}

static int net_make_links(struct net_making *all, size_t n, struct ferry_error *err)
{
	int more = 1, r = 0;
	while (more && r >= 0) {
		more = 0;
		for (size_t i = 0; i < n && r >= 0; i++) {
			r = net_make_some(&all[i], err);
			more |= r > 0;
		}
	}
	for (size_t i = 0; i < n && r >= 0; i++)
		for (size_t k = 0; k < all[i].c->net->n_links && r >= 0; k++)
			if (!all[i].made[k])
				r = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					      "the network device '%s' lies on itself",
					      all[i].c->net->links[k]->name);
	return r;
}

static int net_set_link(const struct net_making *m, const FerryLinkEntry *l)
{
	uint8_t bytes[NET_REQUEST_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *h = net_begin_link(bytes, 0, l->index);
	/* An image of the common format alone does not tell the length of the queue. */
	if (l->type)
		netlink_put_u32(h, IFLA_TXQLEN, l->queue_packets);
	if (l->mtu)
		netlink_put_u32(h, IFLA_MTU, l->mtu);
	if (l->alias)
		netlink_put(h, IFLA_IFALIAS, strlen(l->alias), l->alias);
	if (l->has_group)
		netlink_put_u32(h, IFLA_GROUP, l->group);
	if (l->has_address_mode) {
		uint8_t mode = (uint8_t)l->address_mode;
		struct nlattr *families = netlink_nest(h, IFLA_AF_SPEC), *inet6 = netlink_nest(h, AF_INET6);
		netlink_put(h, IFLA_INET6_ADDR_GEN_MODE, sizeof(mode), &mode);
		netlink_nest_end(h, inet6);
		netlink_nest_end(h, families);
	}
	return netlink_ask(m->socket, h, NULL, NULL);
}

static int net_name_more(const struct net_making *m, const FerryLinkEntry *l)
{
	uint8_t bytes[NET_REQUEST_BYTES] __attribute__((aligned(8)));
	int r = 0;
	for (size_t i = 0; i < l->n_alt_names && r >= 0; i++) {
		struct nlmsghdr *h = net_begin_link(bytes, NLM_F_CREATE | NLM_F_EXCL, l->index);
		h->nlmsg_type = RTM_NEWLINKPROP;
		struct nlattr *names = netlink_nest(h, IFLA_PROP_LIST);
		netlink_put_string(h, IFLA_ALT_IFNAME, l->alt_names[i]);
		netlink_nest_end(h, names);
		r = netlink_ask(m->socket, h, NULL, NULL);
	}
	return r;
}

/* The kernel takes it only while the device listens to routers, which an administrator may have ended since. */
static int net_set_token(const struct net_making *m, const FerryLinkEntry *l)
{
	uint8_t bytes[NET_REQUEST_BYTES] __attribute__((aligned(8)));
	if (!l->has_token)
		return 0;
	struct nlmsghdr *h = net_begin_link(bytes, 0, l->index);
	struct nlattr *families = netlink_nest(h, IFLA_AF_SPEC), *inet6 = netlink_nest(h, AF_INET6);
	netlink_put(h, IFLA_INET6_TOKEN, l->token.len, l->token.data);
	netlink_nest_end(h, inet6);
	netlink_nest_end(h, families);
	int r = netlink_ask(m->socket, h, NULL, NULL);
	if (r < 0)
		log_write(m->o->log, LOG_WARN, "restore", "netns", 0,
			  "setting the token of the network device '%s': %s, ignoring", l->name,
			  strerror(-r));
	return 0;
}

static int net_join_groups(const struct net_making *m, const FerryLinkEntry *l)
{
	struct ifreq request = {0};
	(void)m;
	if (!l->n_groups)
		return 0;
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", l->name);
	for (size_t i = 0; i < l->n_groups && fd >= 0; i++) {
		memcpy(request.ifr_hwaddr.sa_data, l->groups[i].data, l->groups[i].len);
		if (ioctl(fd, SIOCADDMULTI, &request) < 0)
			return -errno;
	}
	return fd < 0 ? -errno : 0;
}

static bool net_has_attribute(const ProtobufCBinaryData *data, const struct nlattr *wanted)
{
	const char *at = (const char *)data->data;
	netlink_for_each_between(attr, at, at + data->len)
	{
		if (attr->nla_type == wanted->nla_type && attr->nla_len == wanted->nla_len &&
		    !memcmp(attr, wanted, wanted->nla_len))
			return true;
	}
	return false;
}

/* What a bridge takes a port to cost by its speed, which it learns again. */
static bool net_is_usual_cost(unsigned data_type, const struct nlattr *attr)
{
	static const uint32_t usual[] = {2, 4, 19, 100};
	bool cost = data_type == IFLA_INFO_SLAVE_DATA && netlink_attr_type(attr) == IFLA_BRPORT_COST &&
		    netlink_attr_len(attr) == sizeof(uint32_t);
	for (size_t i = 0; i < ARRAY_SIZE(usual) && cost; i++)
		if (netlink_attr_u32(attr) == usual[i])
			return true;
	return false;
}

/* One by one what is not as it was. kind: NULL = they are the link's own. */
static int net_tune(const struct net_making *m, const FerryLinkEntry *l, const char *kind,
		    const ProtobufCBinaryData *wanted, const ProtobufCBinaryData *now, unsigned kind_type,
		    unsigned data_type)
{
	const char *at = (const char *)wanted->data;
	int r = 0;
	netlink_for_each_between(attr, at, at + wanted->len)
	{
		uint8_t bytes[NET_REQUEST_BYTES] __attribute__((aligned(8)));
		if (r < 0 || net_has_attribute(now, attr) || net_is_usual_cost(data_type, attr))
			continue;
		struct nlmsghdr *h = net_begin_link(bytes, 0, l->index);
		struct nlattr *info = kind ? netlink_nest(h, IFLA_LINKINFO) : NULL, *data = NULL;
		if (kind) {
			netlink_put_string(h, kind_type, kind);
			data = netlink_nest(h, data_type);
		}
		netlink_put(h, attr->nla_type, netlink_attr_len(attr), netlink_attr_body(attr));
		if (kind) {
			netlink_nest_end(h, data);
			netlink_nest_end(h, info);
		}
		r = netlink_ask(m->socket, h, NULL, NULL);
	}
	return r;
}

static int net_tune_all(const struct net_making *m, struct ferry_error *err)
{
	struct arena a = {0};
	FerryNetEntry now = FERRY_NET_ENTRY__INIT;
	const FerryNetEntry *net = m->c->net;
	const FerryLinkEntry *l = NULL;
	int r = net_look_now(&a, m->socket, &now);
	for (size_t i = 0; i < now.n_links && r >= 0; i++) {
		int at = net_find(m->c, now.links[i]->index);
		l = at < 0 ? NULL : net->links[at];
		int master = l && l->has_master ? net_find(m->c, l->master) : -1;
		if (l)
			r = net_tune(m, l, NULL, &l->more, &now.links[i]->more, 0, 0);
		if (r >= 0 && l && l->kind && net_kind_of(l->kind)->tuned)
			r = net_tune(m, l, l->kind, &l->data, &now.links[i]->data, IFLA_INFO_KIND,
				     IFLA_INFO_DATA);
		if (r >= 0 && master >= 0 && net->links[master]->kind)
			r = net_tune(m, l, net->links[master]->kind, &l->port_data, &now.links[i]->port_data,
				     IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA);
	}
	arena_release(&a);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "setting the network device '%s'",
				   l ? l->name : "?")
		     : 0;
}

static int net_set_master(const struct net_making *m, const FerryLinkEntry *l)
{
	uint8_t bytes[NET_REQUEST_BYTES] __attribute__((aligned(8)));
	int master = l->has_master ? net_find(m->c, l->master) : -1;
	if (master < 0 || !m->c->net->links[master]->kind)
		return 0;
	struct nlmsghdr *h = net_begin_link(bytes, 0, l->index);
	netlink_put_u32(h, IFLA_MASTER, l->master);
	return netlink_ask(m->socket, h, NULL, NULL);
}

static int net_set_flags(const struct net_making *m, const FerryLinkEntry *l)
{
	uint8_t bytes[256] __attribute__((aligned(8)));
	struct nlmsghdr *h = net_begin_link(bytes, 0, l->index);
	struct ifinfomsg *info = (struct ifinfomsg *)((char *)h + NLMSG_HDRLEN);
	info->ifi_change = NET_CHANGEABLE;
	info->ifi_flags = l->flags & NET_CHANGEABLE;
	return net_ask_patiently(m->socket, h);
}

static int net_each(const struct net_making *m, const char *what,
		    int (*set)(const struct net_making *m, const FerryLinkEntry *l), struct ferry_error *err)
{
	for (size_t i = 0; i < m->c->net->n_links; i++) {
		const FerryLinkEntry *l = m->c->net->links[i];
		int r = set(m, l);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "%s the network device '%s'",
					   what, l->name);
	}
	return 0;
}

/* ----------------------------------------------------------------------- lists */

/* Nobody else has the addresses: they are there at once, without probing for them. */
static int net_set_probing(const struct net_making *m, bool on)
{
	char value[16] = "0";
	for (size_t i = 0; i < m->c->net->n_links; i++) {
		const char *name = m->c->net->links[i]->name;
		if (on)
			snprintf(value, sizeof(value), "%d", net_sysctl_probes(m->c, name));
		if (net_sysctl_write("ipv6", name, "accept_dad", value) < 0)
			return 0; /* no IPv6: nothing probes */
	}
	return 0;
}

/* An address has its routes when the kernel, in its own time, has found that it need not probe. */
static int net_wait_addresses(const struct net_making *m)
{
	const struct timespec pause = {.tv_nsec = NET_WAIT_NS};
	bool waits = true;
	int r = 0;
	for (int i = 0; i < NET_WAITS && waits && r >= 0; i++) {
		struct arena a = {0};
		struct netlist there = {.arena = &a};
		r = netlist_get(m->socket, &netlist_addresses, &there);
		waits = false;
		for (size_t k = 0; k < there.n && r >= 0; k++)
			waits |= ((const struct ifaddrmsg *)there.v[k].data)->ifa_flags & IFA_F_TENTATIVE;
		arena_release(&a);
		if (waits)
			nanosleep(&pause, NULL);
	}
	return r;
}

static int net_make_lists(const struct net_making *m, struct ferry_error *err)
{
	const FerryNetEntry *net = m->c->net;
	int r = netlist_restore(m->socket, &netlist_addresses, 0, net->addresses, net->n_addresses, true);
	if (r >= 0)
		r = net_wait_addresses(m);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "setting the addresses of a network namespace");
	const struct {
		const struct netlist_table *table;
		const ProtobufCBinaryData *v;
		size_t n;
		bool whole;
	} lists[] = {
		{&netlist_routes, net->routes, net->n_routes, m->c->whole},
		{&netlist_rules, net->rules, net->n_rules, m->c->whole},
		{&netlist_neighbours, net->neighbours, net->n_neighbours, false},
		{&netlist_labels, net->labels, net->n_labels, net->n_labels},
		{&netlist_forwarding, net->forwarding, net->n_forwarding, false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(lists) && r >= 0; i++)
		if (lists[i].n || lists[i].whole)
			r = netlist_restore(m->socket, lists[i].table, 0, lists[i].v, lists[i].n,
					    lists[i].whole);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "setting the routes of a network namespace")
		     : 0;
}

/* Everything of the devices, and they are up. */
static int net_start(const struct net_making *m, struct ferry_error *err)
{
	int r = net_each(m, "setting up", net_set_link, err);
	if (r >= 0)
		r = net_each(m, "naming", net_name_more, err);
	if (r >= 0)
		r = net_each(m, "giving a bridge", net_set_master, err);
	if (r >= 0)
		r = net_tune_all(m, err);
	if (r < 0)
		return r;
	net_sysctl_make(m->c, m->o->log);
	r = net_each(m, "setting the token of", net_set_token, err);
	if (r >= 0)
		r = net_each(m, "setting the groups of", net_join_groups, err);
	if (r >= 0)
		r = net_set_probing(m, false);
	return r < 0 ? r : net_each(m, "starting", net_set_flags, err);
}

static int net_finish(const struct net_making *m, struct ferry_error *err)
{
	int r = net_make_lists(m, err);
	if (r >= 0)
		r = net_set_probing(m, true);
	if (r >= 0)
		r = net_rules_make(m->o, m->c, err);
	return r < 0 ? r : net_track_make(m->c, err);
}

/* One step for each namespace, standing in it. */
static int net_make_in_each(const struct net_making *all, size_t n,
			    int (*step)(const struct net_making *m, struct ferry_error *err),
			    struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < n && r >= 0; i++) {
		r = net_stand_in(all[i].o, all[i].ns->id, err);
		if (r >= 0)
			r = step(&all[i], err);
	}
	return r;
}

/* Devices of all, then they go up, since an end of a pair has a carrier when the other one is up; then what lies on them. */
static int net_make_all(struct net_making *all, const struct net_target *v, size_t n, struct ferry_error *err)
{
	struct arena *a = &all->o->plan->arena;
	int r = 0;
	for (size_t i = 0; i < n && r >= 0; i++) {
		all[i].made = arena_array(a, bool, v[i].c->net->n_links + 1);
		all[i].tunnels = arena_array(a, int, v[i].c->net->n_links + 1);
		for (size_t k = 0; all[i].tunnels && k < v[i].c->net->n_links; k++)
			all[i].tunnels[k] = -1;
		r = all[i].made && all[i].tunnels ? netlink_open(v[i].ns->fd, NETLINK_ROUTE, &all[i].socket)
						  : -ENOMEM;
		if (r >= 0)
			net_number_make(all->o, &v[i], all[i].socket);
	}
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "making the devices of a network namespace");
	r = net_make_links(all, n, err);
	if (r >= 0)
		r = net_make_in_each(all, n, net_start, err);
	return r < 0 ? r : net_make_in_each(all, n, net_finish, err);
}

int net_make(struct opener *o, const struct net_target *v, size_t n, struct ferry_error *err)
{
	struct net_making *all = arena_array(&o->plan->arena, struct net_making, n);
	if (!all)
		return error_memory(err);
	for (size_t i = 0; i < n; i++)
		all[i] = (struct net_making){.o = o, .ns = v[i].ns, .c = v[i].c, .all = all, .n_all = n};
	int r = net_make_all(all, v, n, err);
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; all[i].tunnels && k < v[i].c->net->n_links; k++)
			if (all[i].tunnels[k] >= 0)
				close(all[i].tunnels[k]);
		netlink_close(all[i].socket);
	}
	return r;
}
