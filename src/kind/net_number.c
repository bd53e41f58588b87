/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the numbers by which a network namespace calls others (nsids): those of the tree's, and of that which ferry was started in. Devices that
 * lead elsewhere tell a number, so by them it is known where.
 *
 * Kernel interface: rtnetlink(7) RTM_GETNSID, RTM_NEWNSID (Linux 4.0).
 * Does not handle: numbers of namespaces outside, which a warning tells. Most are the kernel's own, given when somebody listed devices.
 */
#include <errno.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/netlink.h"
#include "kind/net.h"
#include "kind/netlist.h"
#include "model/record.h"
#include "proc/read.h"

enum { NUMBER_REQUEST_BYTES = 128 };

static struct nlmsghdr *number_begin(void *bytes, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	netlink_append(h, sizeof(struct rtgenmsg));
	return h;
}

/* -1: it has none. */
static int number_of(const struct nlmsghdr *h)
{
	const struct nlattr *attr =
		netlist_attribute(netlink_body(h), netlink_body_len(h), sizeof(struct rtgenmsg), NETNSA_NSID);
	return attr && netlink_attr_len(attr) >= sizeof(uint32_t) ? (int)netlink_attr_u32(attr) : -1;
}

static int number_each(const struct nlmsghdr *h, void *ctx)
{
	*(int *)ctx = number_of(h);
	return 0;
}

static int number_count(const struct nlmsghdr *h, void *ctx)
{
	if (h->nlmsg_type == RTM_NEWNSID && number_of(h) >= 0)
		++*(size_t *)ctx;
	return 0;
}

static int number_ask(struct netlink_socket *socket, int netns, int *ret)
{
	uint8_t bytes[NUMBER_REQUEST_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *h = number_begin(bytes, RTM_GETNSID, NLM_F_ACK);
	*ret = -1;
	netlink_put_u32(h, NETNSA_FD, (uint32_t)netns);
	return netlink_ask(socket, h, number_each, ret);
}

int net_number_of(int netns_fd, int *ret)
{
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	int r = netlink_open(-1, NETLINK_ROUTE, &socket);
	return r < 0 ? r : number_ask(socket, netns_fd, ret);
}

/* One that has a number here: it goes into the image, and devices that lead there say so. */
static int number_add(struct arena *a, struct net_contents *contents, uint32_t id, int number)
{
	NetnsId *entry = record_new(a, NetnsId, netns_id);
	if (!entry)
		return -ENOMEM;
	entry->target_ns_id = id;
	entry->netnsid_value = number;
	contents->netns->nsids[contents->netns->n_nsids++] = entry;
	return 0;
}

static const NetnsId *number_find(const NetnsEntry *netns, uint32_t number)
{
	for (size_t i = 0; i < netns->n_nsids; i++)
		if ((uint32_t)netns->nsids[i]->netnsid_value == number)
			return netns->nsids[i];
	return NULL;
}

static int number_look_all(struct collect *c, struct netlink_socket *socket, struct net_contents *contents)
{
	struct arena *a = &c->snap->arena;
	int number, r = c->options->home_net < 0 ? 0 : number_ask(socket, c->options->home_net, &number);
	contents->netns->nsids = arena_array(a, NetnsId *, c->snap->namespaces.n + 1);
	if (!contents->netns->nsids)
		return -ENOMEM;
	if (r >= 0 && c->options->home_net >= 0 && number >= 0)
		record_set(contents->net, home_number, number);
	for (size_t i = 0; i < c->snap->namespaces.n && r >= 0; i++) {
		const struct snap_ns *ns = &c->snap->namespaces.v[i];
		if (ns->type != PROC_NS_NET)
			continue;
		_cleanup_close_ int dir = proc_open_look(ns->pid, NULL);
		_cleanup_close_ int fd = dir < 0 ? -1 : proc_open_namespace(dir, PROC_NS_NET, NULL);
		r = fd < 0 ? -ESRCH : number_ask(socket, fd, &number);
		if (r >= 0 && number >= 0)
			r = number_add(a, contents, ns->id, number);
	}
	return r;
}

int net_number_look(struct collect *c, struct net_contents *contents, struct ferry_error *err)
{
	uint8_t bytes[NUMBER_REQUEST_BYTES] __attribute__((aligned(8)));
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	size_t n = 0;
	int r = netlink_open(-1, NETLINK_ROUTE, &socket);
	if (r >= 0)
		r = netlink_ask(socket, number_begin(bytes, RTM_GETNSID, NLM_F_DUMP), number_count, &n);
	if (r >= 0 && n)
		r = number_look_all(c, socket, contents);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r,
				   "asking for the numbers of other network namespaces");
	size_t kept = contents->netns->n_nsids + (contents->net->has_home_number ? 1 : 0);
	if (n > kept)
		log_write(c->log, LOG_WARN, "collect", "netns", 0,
			  "%zu numbers of network namespaces outside are not kept", n - kept);
	for (size_t i = 0; i < contents->net->n_links; i++) {
		FerryLinkEntry *l = contents->net->links[i];
		const NetnsId *id = l->has_link_net ? number_find(contents->netns, l->link_net) : NULL;
		l->has_link_net = id != NULL;
		l->link_net = l->has_link_net ? id->target_ns_id : 0;
	}
	return 0;
}

static void number_give(struct opener *o, struct netlink_socket *socket, int number, int netns)
{
	uint8_t bytes[NUMBER_REQUEST_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *h = number_begin(bytes, RTM_NEWNSID, NLM_F_ACK);
	netlink_put_u32(h, NETNSA_NSID, (uint32_t)number);
	netlink_put_u32(h, NETNSA_FD, (uint32_t)netns);
	int r = netns < 0 ? -EBADF : netlink_ask(socket, h, NULL, NULL);
	if (r < 0)
		log_write(o->log, LOG_WARN, "restore", "netns", 0,
			  "giving the number %d to a network namespace: %s, ignoring", number, strerror(-r));
}

void net_number_make(struct opener *o, const struct net_target *t, struct netlink_socket *socket)
{
	const NetnsEntry *netns = t->c->netns;
	for (size_t i = 0; netns && i < netns->n_nsids; i++) {
		const struct plan_ns *ns = plan_ns(o->plan, PROC_NS_NET, netns->nsids[i]->target_ns_id);
		if (ns)
			number_give(o, socket, netns->nsids[i]->netnsid_value, ns->fd);
	}
	if (t->c->net->has_home_number)
		number_give(o, socket, t->c->net->home_number, o->options->home_net);
}
