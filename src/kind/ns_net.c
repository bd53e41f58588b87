/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns network namespaces: which of them come back how. The devices of a tree's own are made again, with what lies on them; one that is
 * somebody else's (--external) is given again by a descriptor, the contents of one may be left to the caller (--empty-ns net).
 *
 * Kernel interface: network_namespaces(7), unshare(2).
 * Does not handle: devices other than veth, bridge, macvlan, vxlan, VLAN and dummy ones, bridges that filter VLANs, and what net_others.c
 * lists, refused by name; numbers of other namespaces, which are left out; several network namespaces in one tree, refused. What a device
 * may leave to another (ethtool -K) is as the kernel makes it.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/netns.h"
#include "image/dir.h"
#include "image/proto/netdev.pb-c.h"
#include "kind/external.h"
#include "kind/inet.h"
#include "kind/kinds.h"
#include "kind/net.h"
#include "kind/netplace.h"
#include "model/kind.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

/* ------------------------------------------------------------- check, collect */

/* Look at a namespace from inside, and go back to where ferry stood. whole: not only for what stands in the way. */
static int net_look_in(struct arena *a, const struct kind_options *options, int proc_dir, pid_t pid,
		       uint32_t id, bool whole, struct net_contents *ret, struct ferry_error *err)
{
	char who[32];
	snprintf(who, sizeof(who), "pid %d", pid);
	_cleanup_close_ int here = netns_open(), there = proc_open_namespace(proc_dir, PROC_NS_NET, err);
	int r = there < 0 ? there : netns_enter(there);
	if (r < 0)
		return there < 0 ? there
				 : error_errno(err, FERRY_ERROR_SYSTEM, -r,
					       "entering the network namespace of pid %d", pid);
	r = net_look(a, options, id, who, ret, err);
	if (r >= 0 && whole)
		r = net_sysctl_look(a, ret, err);
	if (r >= 0 && whole)
		r = net_track_look(a, ret, err);
	/* Who has no right to go back stays, and nothing that follows depends on it. */
	if (here >= 0)
		(void)!netns_enter(here);
	return r;
}

static int net_check(pid_t pid, int proc_dir, const struct kind_options *options, struct ferry_error *err)
{
	uint64_t inode;
	struct arena a = {0};
	struct net_contents unused_contents;
	int r = proc_read_namespace(proc_dir, PROC_NS_NET, &inode, err);
	if (r < 0)
		return r;
	if (options->moving) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			  "pid %d lives in a network namespace of its own, which is not migrated", pid);
		error_hint(err, "dump it and restore it on the other node");
		return -ENOTSUP;
	}
	if (options->empty_net || external_net(options, inode))
		return 0;
	r = net_look_in(&a, options, proc_dir, pid, 0, false, &unused_contents, err);
	arena_release(&a);
	return r;
}

/* One that is somebody else's has a name alone. */
static int net_collect_name(struct collect *c, const char *name, struct net_contents *contents,
			    struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	contents->netns = record_new(a, NetnsEntry, netns_entry);
	if (!contents->netns || !(contents->netns->ext_key = arena_string(a, name)))
		return error_memory(err);
	return 0;
}

static int net_collect(struct collect *c, struct snap_ns *ns, struct ferry_error *err)
{
	const char *name = external_net(c->options, ns->ino);
	if (c->options->empty_net && !name)
		return 0;
	struct net_contents *contents = ns->data = arena_new(&c->snap->arena, struct net_contents);
	if (!contents)
		return error_memory(err);
	if (name)
		return net_collect_name(c, name, contents, err);
	_cleanup_close_ int dir = proc_open_look(ns->pid, err);
	return dir < 0 ? dir
		       : net_look_in(&c->snap->arena, c->options, dir, ns->pid, ns->id, true, contents, err);
}

static int net_dump(struct dump *d, struct snap_ns *ns, struct ferry_error *err)
{
	const struct net_contents *contents = ns->data;
	if (!contents)
		return 0;
	if (!contents->net)
		return image_put_one(d->dir, IMAGE_NETNS, ns->id, &contents->netns->base, err);
	return net_store(d, ns->id, contents, err);
}

/* ------------------------------------------------------------------ restore */

/* plan_ns.data */
struct net_plan {
	const NetnsEntry *netns;       /* NULL: the image has none */
	struct net_contents *contents; /* NULL: they are left to the caller */
};

static bool net_is_given(const struct kind_options *options, const struct plan_ns *ns,
			 const NetnsEntry *entry)
{
	return ns->joined || (entry && entry->ext_key && external_inherited(options, entry->ext_key) >= 0);
}

/* What takes the place of devices outside has to be known before anything is made. */
static int net_check_outer(const struct kind_options *options, const FerryNetEntry *net,
			   struct ferry_error *err)
{
	for (size_t i = 0; i < net->n_links; i++) {
		const FerryLinkEntry *l = net->links[i];
		if (l->kind && !net_kind_of(l->kind))
			return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
					 "the network device '%s' is of a kind that ferry does not make: %s",
					 l->name, l->kind);
		if (!l->kind || !l->link_outside || external_value(options, l->kind, l->name))
			continue;
		error_set(
			err, FERRY_ERROR_USAGE, EINVAL,
			"the network device '%s' (%s) leads to another namespace, and nothing is named there",
			l->name, l->kind);
		error_hint(err, "name what it leads to: --external %s[%s]:NAME", l->kind, l->name);
		return -EINVAL;
	}
	return 0;
}

static int net_read_one(struct reader *r, struct plan_ns *ns, struct ferry_error *err)
{
	NetnsEntry *entry = NULL;
	struct net_plan *plan = arena_new(&r->plan->arena, struct net_plan);
	if (!plan)
		return error_memory(err);
	int ret = image_dir_has(r->dir, IMAGE_NETNS, ns->id)
			  ? records_one(r, IMAGE_NETNS, ns->id, &entry, err)
			  : 0;
	plan->netns = entry;
	ns->data = entry;
	if (ret >= 0 && !net_is_given(r->options, ns, entry) && entry && !entry->ext_key &&
	    !r->options->empty_net) {
		ret = net_load(r, ns, &plan->contents, err);
		if (ret >= 0)
			ret = net_check_outer(r->options, plan->contents->net, err);
	}
	ns->data = plan;
	if (ret < 0 || plan->contents || net_is_given(r->options, ns, entry) ||
	    (r->options->empty_net && !(entry && entry->ext_key)))
		return ret;
	if (entry && entry->ext_key) {
		error_set(err, FERRY_ERROR_USAGE, EINVAL,
			  "the network namespace '%s' of the image is somebody else's, and is not given",
			  entry->ext_key);
		error_hint(err, "give it open: --inherit-fd fd[N]:%s", entry->ext_key);
		return -EINVAL;
	}
	error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
		  "the image does not tell what was in network namespace %u", ns->id);
	error_hint(err, "make it empty, and fill it before the tree runs: --empty-ns net");
	return -ENOTSUP;
}

static int net_read(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->namespaces.n && ret >= 0; i++)
		if (r->plan->namespaces.v[i].type == PROC_NS_NET)
			ret = net_read_one(r, &r->plan->namespaces.v[i], err);
	return ret;
}

static int net_find(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	const struct net_plan *plan = ns->data;
	const NetnsEntry *entry = plan->netns;
	int given = entry && entry->ext_key ? external_inherited(o->options, entry->ext_key) : -1;
	if (given < 0)
		return 0;
	ns->fd = fd_dup(given, 0);
	return ns->fd < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -ns->fd, "copying fd %d", given) : 1;
}

/* Whatever its network is connected to, nothing is to be answered before the connections are there. */
static int net_block(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	o->net = ns->id;
	return tcp_lock_plan(o, err);
}

static int net_restore(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	const struct net_plan *plan = ns->data;
	int r = net_block(o, ns, err);
	return r < 0 || !plan->contents ? r : net_make(o, plan->contents, err);
}

static const struct ns_ops net_ops = {
	.type = PROC_NS_NET,
	.check = net_check,
	.collect = net_collect,
	.dump = net_dump,
	.find = net_find,
	.taken = net_block,
	.restore = net_restore,
};

const struct kind_ops kind_netns = {
	.name = "netns",
	.what = "network namespaces: devices, addresses, routes, rules, settings; or given by the caller, or left empty",
	.fd_type = -1,
	.image_file = -1,
	.ns = &net_ops,
	.read = net_read,
};
