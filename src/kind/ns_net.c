/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns network namespaces: which of them come back how. The devices of a tree's own are made again, with what lies on them; one that is
 * somebody else's (--external) is given again by a descriptor, the contents of one may be left to the caller (--empty-ns net).
 *
 * Kernel interface: network_namespaces(7), unshare(2).
 * Does not handle: devices other than veth, bridge, macvlan, vxlan, VLAN, dummy ones and tunnels (tun, tap), bridges that filter VLANs, and what
 * net_others.c lists, refused by name, as are a namespace in which nobody of the tree lives and, in the stop, a tunnel that somebody
 * outside holds. What a device may leave to another (ethtool -K) is as the kernel makes it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
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

/* Go to the namespace of a process; *ret_here is where ferry stood. */
static int net_go_to(int proc_dir, pid_t pid, int *ret_here, struct ferry_error *err)
{
	_cleanup_close_ int here = netns_open(), there = proc_open_namespace(proc_dir, PROC_NS_NET, err);
	if (there < 0)
		return there;
	int r = netns_enter(there);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "entering the network namespace of pid %d",
				   pid);
	*ret_here = take_fd(here);
	return 0;
}

/* Who has no right to go back stays, and nothing that follows depends on it. */
static void net_go_back(int here)
{
	if (here >= 0)
		(void)!netns_enter(here);
}

/* The tree's root may live in one that is left to the caller; of others nobody else knows. */
static bool net_is_left(const struct kind_options *options, uint64_t inode)
{
	uint64_t of_root = 0;
	_cleanup_close_ int dir = options->empty_net ? proc_open_look(options->view_pid, NULL) : -1;
	return dir >= 0 && proc_read_namespace(dir, PROC_NS_NET, &of_root, NULL) >= 0 && of_root == inode;
}

/* Whether the tree's root lives in a network namespace whose devices no image has; *ret_fd is that. */
static int net_open_foreign_root(const struct kind_options *options, int *ret_fd, struct ferry_error *err)
{
	uint64_t inode = 0;
	_cleanup_close_ int dir = proc_open_look(options->view_pid, err);
	int r = dir < 0 ? dir : proc_read_namespace(dir, PROC_NS_NET, &inode, err);
	if (r < 0 || !(external_net(options, inode) || net_is_left(options, inode)))
		return r;
	*ret_fd = proc_open_namespace(dir, PROC_NS_NET, err);
	return *ret_fd < 0 ? *ret_fd : 1;
}

/* A device that leads there has its other end among what the image lacks, and who fills that namespace again knows nothing of it. */
static int net_check_ends(const struct kind_options *options, const char *who, const FerryNetEntry *net,
			  struct ferry_error *err)
{
	_cleanup_close_ int root = -1;
	int number, r = net_open_foreign_root(options, &root, err);
	if (r <= 0)
		return r;
	r = net_number_of(root, &number);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r,
				   "asking for the number of another network namespace");
	for (size_t i = 0; i < net->n_links && number >= 0; i++) {
		const FerryLinkEntry *l = net->links[i];
		if (!l->has_link_net || l->link_net != (uint32_t)number || !l->kind ||
		    external_value(options, l->kind, l->name))
			continue;
		error_set(
			err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			"%s: the network device '%s' (%s) leads to the root's network namespace, which comes from outside and whose devices no image has",
			who, l->name, l->kind);
		error_hint(err, "name what it leads to where it is restored: --external %s[%s]:NAME", l->kind,
			   l->name);
		return -ENOTSUP;
	}
	return 0;
}

static int net_check(pid_t pid, int proc_dir, const struct kind_options *options, struct ferry_error *err)
{
	uint64_t inode;
	struct arena a = {0};
	struct net_contents contents = {0};
	int r = proc_read_namespace(proc_dir, PROC_NS_NET, &inode, err);
	if (r < 0)
		return r;
	if (options->moving) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			  "pid %d lives in a network namespace of its own, which is not migrated", pid);
		error_hint(err, "dump it and restore it on the other node");
		return -ENOTSUP;
	}
	if (net_is_left(options, inode) || external_net(options, inode))
		return 0;
	char who[32];
	_cleanup_close_ int here = -1;
	snprintf(who, sizeof(who), "pid %d", pid);
	r = net_go_to(proc_dir, pid, &here, err);
	if (r < 0)
		return r;
	r = net_look(&a, who, &contents, err);
	if (r >= 0)
		r = net_check_ends(options, who, contents.net, err);
	if (r >= 0)
		r = net_rules_look(&a, options, who, &contents, err);
	if (r >= 0)
		r = net_rules_try(options, who, &contents, err);
	net_go_back(here);
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

static bool net_is_held(const struct snapshot *s, uint32_t id, const char *device)
{
	vec_foreach(file, &s->files) {
		const TunfileEntry *tunf = file->entry->tunf;
		if (tunf && tunf->netdev && tunf->ns_id == id && !strcmp(tunf->netdev, device))
			return true;
	}
	return false;
}

/* A tunnel lives as long as somebody is attached to it, who comes back as well. */
static int net_check_tunnels(const struct collect *c, const struct snap_ns *ns, const FerryNetEntry *net,
			     struct ferry_error *err)
{
	for (size_t i = 0; i < net->n_links; i++) {
		const FerryLinkEntry *l = net->links[i];
		if (!l->kind || strcmp(l->kind, "tun") != 0 || net_link_stays(l) ||
		    net_is_held(c->snap, ns->id, l->name))
			continue;
		error_set(
			err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			"pid %d lives in a network namespace with the tunnel '%s', which a program outside of the tree holds",
			ns->pid, l->name);
		error_hint(err,
			   "end that program, or leave the namespace to whoever restores it: --empty-ns net");
		return -ENOTSUP;
	}
	return 0;
}

/* ferry stands in it. */
static int net_collect_here(struct collect *c, const struct snap_ns *ns, struct net_contents *contents,
			    struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	char who[32];
	snprintf(who, sizeof(who), "pid %d", ns->pid);
	int r = net_look(a, who, contents, err);
	if (r >= 0)
		r = net_check_ends(c->options, who, contents->net, err);
	if (r >= 0)
		r = net_rules_look(a, c->options, who, contents, err);
	if (r >= 0)
		r = net_check_tunnels(c, ns, contents->net, err);
	if (r >= 0)
		r = net_number_look(c, contents, err);
	if (r >= 0 && net_describe(a, ns->id, contents) < 0)
		r = error_memory(err);
	if (r >= 0)
		r = net_sysctl_look(a, contents, err);
	return r < 0 ? r : net_track_look(a, contents, err);
}

static int net_collect(struct collect *c, struct snap_ns *ns, struct ferry_error *err)
{
	const char *name = external_net(c->options, ns->ino);
	_cleanup_close_ int here = -1;
	if (net_is_left(c->options, ns->ino) && !name)
		return 0;
	struct net_contents *contents = ns->data = arena_new(&c->snap->arena, struct net_contents);
	if (!contents)
		return error_memory(err);
	if (name)
		return net_collect_name(c, name, contents, err);
	_cleanup_close_ int dir = proc_open_look(ns->pid, err);
	int r = dir < 0 ? dir : net_go_to(dir, ns->pid, &here, err);
	if (r < 0)
		return r;
	r = net_collect_here(c, ns, contents, err);
	net_go_back(here);
	return r;
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

static bool net_has_link(const struct plan *p, uint32_t id, uint32_t index)
{
	const struct plan_ns *ns = plan_ns(p, PROC_NS_NET, id);
	const struct net_plan *plan = ns ? ns->data : NULL;
	return plan && plan->contents && net_link_numbered(plan->contents->net, index);
}

/* What takes the place of devices outside has to be known before anything is made. */
static int net_check_outer(const struct plan *p, const struct kind_options *options, const FerryNetEntry *net,
			   struct ferry_error *err)
{
	for (size_t i = 0; i < net->n_links; i++) {
		const FerryLinkEntry *l = net->links[i];
		if (l->kind && !net_kind_of(l->kind))
			return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
					 "the network device '%s' is of a kind that ferry does not make: %s",
					 l->name, l->kind);
		bool within = l->has_link_net && net_has_link(p, l->link_net, l->link);
		if (!l->kind || !l->link_outside || within || external_value(options, l->kind, l->name))
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
	bool left = r->options->empty_net && ns->id == r->plan->tasks[0].ns_id[PROC_NS_NET];
	if (ret >= 0 && !net_is_given(r->options, ns, entry) && entry && !entry->ext_key && !left)
		ret = net_load(r, ns, &plan->contents, err);
	ns->data = plan;
	if (ret < 0 || plan->contents || net_is_given(r->options, ns, entry) ||
	    (left && !(entry && entry->ext_key)))
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
	for (size_t i = 0; i < r->plan->namespaces.n && ret >= 0; i++) {
		const struct plan_ns *ns = &r->plan->namespaces.v[i];
		const struct net_plan *plan = ns->type == PROC_NS_NET ? ns->data : NULL;
		if (plan && plan->contents)
			ret = net_check_outer(r->plan, r->options, plan->contents->net, err);
	}
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

static int net_fill(struct opener *o, struct ferry_error *err)
{
	struct net_target *targets =
		arena_array(&o->plan->arena, struct net_target, o->plan->namespaces.n + 1);
	size_t n = 0;
	if (!targets)
		return error_memory(err);
	vec_foreach(ns, &o->plan->namespaces) {
		const struct net_plan *plan = ns->type == PROC_NS_NET ? ns->data : NULL;
		if (plan && plan->contents)
			targets[n++] = (struct net_target){ns, plan->contents};
	}
	return n ? net_make(o, targets, n, err) : 0;
}

static const struct ns_ops net_ops = {
	.type = PROC_NS_NET,
	.check = net_check,
	.collect = net_collect,
	.dump = net_dump,
	.find = net_find,
	.taken = net_block,
	.restore = net_block,
	.fill = net_fill,
};

const struct kind_ops kind_netns = {
	.name = "netns",
	.what = "network namespaces: devices, addresses, routes, rules, settings; or given by the caller, or left empty",
	.fd_type = -1,
	.image_file = -1,
	.ns = &net_ops,
	.read = net_read,
};
