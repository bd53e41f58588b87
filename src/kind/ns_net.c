/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns network namespaces: which of them come back how. One that is somebody else's (--external) is given again by a descriptor, the
 * contents of one may be left to the caller (--empty-ns net).
 *
 * Kernel interface: network_namespaces(7), unshare(2).
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/netdev.pb-c.h"
#include "kind/external.h"
#include "kind/inet.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "model/kind.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

/* ------------------------------------------------------------- check, collect */

static int net_check(pid_t pid, int proc_dir, const struct kind_options *options, struct ferry_error *err)
{
	uint64_t inode;
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
	error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
		  "pid %d lives in a network namespace of its own, whose devices are not stored", pid);
	error_hint(
		err,
		"leave its contents to whoever restores it (--empty-ns net), or name it (--external net[%llu]:NAME)",
		(unsigned long long)inode);
	return -ENOTSUP;
}

static int net_collect(struct collect *c, struct snap_ns *ns, struct ferry_error *err)
{
	const char *name = external_net(c->options, ns->ino);
	if (!name)
		return 0;
	NetnsEntry *entry = ns->data = record_new(&c->snap->arena, NetnsEntry, netns_entry);
	if (!entry || !(entry->ext_key = arena_string(&c->snap->arena, name)))
		return error_memory(err);
	return 0;
}

static int net_dump(struct dump *d, struct snap_ns *ns, struct ferry_error *err)
{
	const NetnsEntry *entry = ns->data;
	return entry ? image_put_one(d->dir, IMAGE_NETNS, ns->id, &entry->base, err) : 0;
}

/* ------------------------------------------------------------------ restore */

static bool net_is_given(const struct kind_options *options, const struct plan_ns *ns)
{
	const NetnsEntry *entry = ns->data;
	return ns->joined || (entry && entry->ext_key && external_inherited(options, entry->ext_key) >= 0);
}

static int net_read_one(struct reader *r, struct plan_ns *ns, struct ferry_error *err)
{
	const NetnsEntry *entry;
	bool told = image_dir_has(r->dir, IMAGE_NETNS, ns->id);
	int ret = told ? records_one(r, IMAGE_NETNS, ns->id, &ns->data, err) : 0;
	if (ret < 0 || net_is_given(r->options, ns))
		return ret;
	entry = ns->data;
	if (entry && entry->ext_key) {
		error_set(err, FERRY_ERROR_USAGE, EINVAL,
			  "the network namespace '%s' of the image is somebody else's, and is not given",
			  entry->ext_key);
		error_hint(err, "give it open: --inherit-fd fd[N]:%s", entry->ext_key);
		return -EINVAL;
	}
	if (r->options->empty_net)
		return 0;
	error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
		  "the image does not tell what was in network namespace %u, or ferry does not make it",
		  ns->id);
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
	const NetnsEntry *entry = ns->data;
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

static const struct ns_ops net_ops = {
	.type = PROC_NS_NET,
	.check = net_check,
	.collect = net_collect,
	.dump = net_dump,
	.find = net_find,
	.taken = net_block,
	.restore = net_block,
};

const struct kind_ops kind_netns = {
	.name = "netns",
	.what = "network namespaces, given by the caller or left empty",
	.fd_type = -1,
	.image_file = -1,
	.ns = &net_ops,
	.read = net_read,
};
