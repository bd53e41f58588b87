/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the network namespace that ferry stands in while it looks at sockets or makes them.
 *
 * Kernel interface: setns(2), SIOCGSKNS (4.10), SO_NETNS_COOKIE (5.14).
 */
#include "kind/netplace.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/netns.h"
#include "kind/kinds.h"

/* kind_data of the kind of network namespaces. */
struct net_places {
	struct net_place *all;
	struct net_place *home; /* where ferry stood at first */
	struct net_place *here;
};

static struct net_place *net_place_find(struct arena *a, struct net_places *places, uint64_t inode,
					uint64_t cookie)
{
	struct net_place *p = places->all;
	while (p && p->inode != inode)
		p = p->next;
	if (!p && (p = arena_new(a, struct net_place))) {
		*p = (struct net_place){.next = places->all, .inode = inode};
		places->all = p;
	}
	if (p && cookie)
		p->cookie = cookie;
	return p;
}

static int net_begin(const struct fd_view *view, uint64_t cookie, struct net_places **ret)
{
	uint64_t inode;
	struct net_places *places = view->kind_data[KIND_netns];
	if (!places) {
		int r = netns_own_inode(&inode);
		places = arena_new(view->arena, struct net_places);
		if (r < 0 || !places)
			return r < 0 ? r : -ENOMEM;
		places->home = net_place_find(view->arena, places, inode, cookie);
		if (!places->home)
			return -ENOMEM;
		view->kind_data[KIND_netns] = places;
	}
	*ret = places;
	return 0;
}

static bool net_is_known(const struct net_places *places, uint64_t inode)
{
	const struct net_place *p = places->all;
	while (p && p->inode != inode)
		p = p->next;
	return p;
}

static bool net_is_holders(const struct fd_view *view, uint64_t inode)
{
	char path[32];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%d/ns/net", view->look);
	return stat(path, &st) == 0 && st.st_ino == inode;
}

static int net_refuse(const char *who, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
		  "%s: a socket of another network namespace", who);
	error_hint(err, "let the program close it, or start the program in the namespace of its sockets");
	return -ENOTSUP;
}

/* 1: we stand there, 0: it may not be. */
static int net_go(const struct fd_view *view, struct net_places *places, int fd, uint64_t cookie)
{
	uint64_t own, inode;
	_cleanup_close_ int netns = netns_of_socket(fd);
	int r = netns < 0 ? netns : netns_inode(netns, &inode);
	if (r >= 0)
		r = netns_own_inode(&own);
	if (r < 0)
		return r;
	/* What comes out of a queue is ferry's by now. */
	if (!net_is_known(places, inode) && !net_is_holders(view, inode))
		return 0;
	places->here = net_place_find(view->arena, places, inode, cookie);
	if (!places->here)
		return -ENOMEM;
	r = own == inode ? 0 : netns_enter(netns);
	return r < 0 ? r : 1;
}

/* 1: we stand there in any case. */
static int net_is_here(const struct fd_view *view, struct net_places *places, uint64_t cookie)
{
	uint64_t inode;
	for (struct net_place *p = places->all; p && cookie; p = p->next)
		if (p->cookie == cookie) {
			places->here = p;
			return 1;
		}
	int r = netns_own_inode(&inode);
	if (r < 0)
		return r;
	places->here = net_place_find(view->arena, places, inode, cookie);
	return places->here ? 1 : -ENOMEM;
}

int net_stand(const struct fd_view *view, int fd, const char *who, struct ferry_error *err)
{
	struct net_places *places = NULL;
	_cleanup_close_ int own = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint64_t ours = own < 0 ? 0 : netns_cookie(own), theirs = netns_cookie(fd);
	int r = net_begin(view, ours, &places);
	if (r >= 0)
		r = ours && ours == theirs ? net_is_here(view, places, ours)
					   : net_go(view, places, fd, theirs);
	if (!r)
		return net_refuse(who, err);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r,
				   "%s: going to the network namespace of a socket", who)
		     : 0;
}

struct net_place *net_here(const struct fd_view *view)
{
	const struct net_places *places = view->kind_data[KIND_netns];
	return places ? places->here : NULL;
}

uint32_t net_here_id(const struct collect *c, const struct fd_view *view)
{
	const struct net_place *here = net_here(view);
	const struct snap_ns *ns = here ? snapshot_ns(c->snap, PROC_NS_NET, here->inode) : NULL;
	return ns ? ns->id : NET_ID_OWN;
}

void net_go_home(const struct kind_options *options)
{
	if (options->home_net >= 0)
		(void)!netns_enter(options->home_net);
}

int net_stand_in(struct opener *o, uint32_t id, struct ferry_error *err)
{
	const struct plan_ns *ns = plan_ns(o->plan, PROC_NS_NET, id);
	if (o->net == id)
		return 0;
	int r = netns_enter(ns ? ns->fd : o->options->home_net);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "entering network namespace %u of the image",
				   id);
	o->net = id;
	return 0;
}

int net_stand_for(struct opener *o, const struct plan_file *file, struct ferry_error *err)
{
	return file->is_of_net ? net_stand_in(o, file->net, err) : 0;
}
