/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns UTS namespaces: the names of the host and of its NIS domain. Each task may live in its own.
 *
 * Kernel interface: uname(2), sethostname(2), setdomainname(2), unshare(2) with CLONE_NEWUTS.
 */
#include <errno.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/error.h"
#include "image/dir.h"
#include "image/proto/utsns.pb-c.h"
#include "kind/kinds.h"
#include "model/kind.h"
#include "model/record.h"

static int uts_collect(struct collect *c, struct snap_ns *ns, struct ferry_error *err)
{
	struct utsname names;
	UtsnsEntry *entry = record_new(&c->snap->arena, UtsnsEntry, utsns_entry);
	if (!entry)
		return error_memory(err);
	if (uname(&names) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the host name of pid %d",
				   ns->pid);
	entry->nodename = arena_string(&c->snap->arena, names.nodename);
	entry->domainname = arena_string(&c->snap->arena, names.domainname);
	ns->data = entry;
	return entry->nodename && entry->domainname ? 0 : error_memory(err);
}

static int uts_dump(struct dump *d, struct snap_ns *ns, struct ferry_error *err)
{
	const UtsnsEntry *entry = ns->data;
	return image_put_one(d->dir, IMAGE_UTSNS, ns->id, &entry->base, err);
}

static int uts_restore(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	_cleanup_message_ UtsnsEntry *entry = NULL;
	int r = image_get_one(o->dir, IMAGE_UTSNS, ns->id, &entry, err);
	if (r < 0)
		return r;
	if (sethostname(entry->nodename, strlen(entry->nodename)) < 0 ||
	    setdomainname(entry->domainname, strlen(entry->domainname)) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "naming the host '%s', '%s'",
				   entry->nodename, entry->domainname);
	return 0;
}

static const struct ns_ops uts_ops = {
	.type = PROC_NS_UTS,
	.enter = true,
	.collect = uts_collect,
	.dump = uts_dump,
	.restore = uts_restore,
};

const struct kind_ops kind_uts = {
	.name = "uts",
	.what = "UTS namespaces: host and domain name",
	.fd_type = -1,
	.image_file = -1,
	.ns = &uts_ops,
};
