/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns user namespaces below ferry's own: owner, maps of ids, whether setgroups(2) is denied, which of the tree's other
 * namespaces belong to them, also such in between that no task lives in. A task enters its own last of all, with its
 * final ids, as the rights that its restore takes end there (creds.c). Files are ferry-userns-ID.img.
 *
 * Kernel interface: user_namespaces(7), ioctl_ns(2) NS_GET_USERNS, NS_GET_PARENT (4.9), NS_GET_OWNER_UID (4.11).
 * Does not handle: processes of several threads, which cannot enter one, and those that share working directory and root with
 * another process; PID namespaces that belong to one: their first process would have to be made by somebody inside, who may
 * not choose its number (kernel/pid.c, looked at in 6.18); all are refused. In which namespace a program was executed, which
 * decides who may look at a process that is not dumpable.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/userns.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "kind/ns_user.h"
#include "model/kind.h"
#include "model/record.h"
#include "proc/read.h"

static uint64_t userns_ino(int fd)
{
	struct stat st;
	return fstat(fd, &st) < 0 ? 0 : st.st_ino;
}

/* The user namespace that a namespace of a process belongs to: its inode; 0 = one that we may not see. */
static uint64_t userns_of(int proc_dir, enum proc_ns type, int *ret_fd)
{
	_cleanup_close_ int ns = proc_open_namespace(proc_dir, type, NULL);
	_cleanup_close_ int owner = ns < 0 ? -1 : ioctl(ns, NS_GET_USERNS);
	uint64_t ino = owner < 0 ? 0 : userns_ino(owner);
	if (ret_fd)
		*ret_fd = take_fd(owner);
	return ino;
}

/* -------------------------------------------------------------------- check */

static int userns_refuse(pid_t pid, const char *why, const char *hint, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
		  "pid %d lives in a user namespace other than ferry's and %s", pid, why);
	error_hint(err, "%s", hint);
	return -ENOTSUP;
}

/* With whom it was forked; others would be found by nobody but a look at all pairs. */
static bool userns_shares_fs(pid_t pid, pid_t ppid)
{
	return ppid > 0 && sys_kcmp(pid, ppid, KERN_KCMP_FS, 0, 0) == 0;
}

static int userns_check(pid_t pid, int proc_dir, const struct kind_options *options, struct ferry_error *err)
{
	static const char whole[] = "if the whole tree lives in there, dump it with --user-ns";
	const struct proc_namespaces *own = &options->own_namespaces;
	struct proc_namespaces theirs;
	struct proc_stat st;
	int r = proc_read_namespaces(proc_dir, &theirs, err);
	if (r >= 0)
		r = proc_read_stat(proc_dir, &st, err);
	if (r < 0)
		return r;
	if (st.num_threads > 1)
		return userns_refuse(
			pid,
			"has several threads, which cannot enter one (setns(2), looked at in Linux 6.18)",
			whole, err);
	if (userns_shares_fs(pid, st.ppid))
		return userns_refuse(pid, "shares its working directory with its parent (CLONE_FS)", whole,
				     err);
	if (theirs.ino[PROC_NS_PID] != own->ino[PROC_NS_PID] &&
	    userns_of(proc_dir, PROC_NS_PID, NULL) != own->ino[PROC_NS_USER])
		return userns_refuse(pid, "in a pid namespace that belongs to it", whole, err);
	return 0;
}

/* ----------------------------------------------------------- collect and dump */

int userns_record_extents(struct arena *a, const struct userns_extent *from, uint32_t n, size_t *ret_n,
			  FerryUsernsExtent ***ret)
{
	FerryUsernsExtent **list = arena_array(a, FerryUsernsExtent *, n + 1);
	FerryUsernsExtent *all = arena_array(a, FerryUsernsExtent, n + 1);
	if (!list || !all)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		ferry_userns_extent__init(&all[i]);
		all[i].first = from[i].first;
		all[i].lower = from[i].lower;
		all[i].count = from[i].count;
		list[i] = &all[i];
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

static int userns_record(struct snapshot *s, int fd, FerryUsernsEntry **ret, struct ferry_error *err)
{
	FerryUsernsEntry *entry = record_new(&s->arena, FerryUsernsEntry, ferry_userns_entry);
	struct userns_about *about = arena_new(&s->arena, struct userns_about);
	if (!entry || !about)
		return error_memory(err);
	int r = userns_look(fd, about, err);
	if (r < 0)
		return r;
	entry->owner = about->owner;
	if (about->deny_setgroups)
		record_set(entry, deny_setgroups, true);
	if (userns_record_extents(&s->arena, about->uids, about->n_uids, &entry->n_uids, &entry->uids) < 0 ||
	    userns_record_extents(&s->arena, about->gids, about->n_gids, &entry->n_gids, &entry->gids) < 0)
		return error_memory(err);
	*ret = entry;
	return 0;
}

/* Enter a user namespace, and those above it up to ours; ret_id: in the image, 0 = ours. */
static int userns_add(struct collect *c, int fd, int depth, uint32_t *ret_id, struct ferry_error *err)
{
	uint64_t ino = userns_ino(fd);
	struct snap_ns *known = snapshot_ns(c->snap, PROC_NS_USER, ino);
	if (ino == c->options->own_namespaces.ino[PROC_NS_USER]) {
		*ret_id = 0;
		return 0;
	}
	if (known && known->data) {
		*ret_id = known->id;
		return 0;
	}
	_cleanup_close_ int parent = ioctl(fd, NS_GET_PARENT);
	if (parent < 0 || depth == USERNS_DEPTH)
		return error_errno(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, parent < 0 ? errno : E2BIG,
				   "finding the user namespace above another");
	uint32_t above;
	FerryUsernsEntry *entry = NULL;
	int r = userns_add(c, parent, depth + 1, &above, err);
	if (r >= 0)
		r = userns_record(c->snap, fd, &entry, err);
	if (r < 0 || !entry)
		return r;
	entry->parent_id = above;
	known = snapshot_add_ns(c->snap, PROC_NS_USER, ino, 0);
	if (!known)
		return error_memory(err);
	known->data = entry;
	*ret_id = known->id;
	return 0;
}

static int userns_own(struct snapshot *s, uint32_t id, uint32_t owned, struct ferry_error *err)
{
	vec_foreach(ns, &s->namespaces) {
		FerryUsernsEntry *entry = ns->type == PROC_NS_USER && ns->id == id ? ns->data : NULL;
		if (!entry)
			continue;
		uint32_t *bigger = arena_array(&s->arena, uint32_t, entry->n_owns + 1);
		if (!bigger)
			return error_memory(err);
		if (entry->n_owns)
			memcpy(bigger, entry->owns, entry->n_owns * sizeof(*bigger));
		bigger[entry->n_owns++] = owned;
		entry->owns = bigger;
	}
	return 0;
}

/* By index: the list grows meanwhile. */
static int userns_collect_owner(struct collect *c, size_t index, struct ferry_error *err)
{
	const struct snap_ns ns = c->snap->namespaces.v[index];
	uint32_t id = 0;
	int fd = -1;
	_cleanup_close_ int dir = proc_open_look(ns.pid, err);
	if (dir < 0)
		return dir;
	uint64_t ino = userns_of(dir, ns.type, &fd);
	_cleanup_close_ int owner = fd;
	if (!ino)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
				 "the %s namespace of pid %d belongs to a user namespace above ferry's",
				 proc_ns_info(ns.type)->word, ns.pid);
	int r = userns_add(c, owner, 0, &id, err);
	return r < 0 || !id ? r : userns_own(c->snap, id, ns.id, err);
}

static int userns_collect_all(struct collect *c, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < c->snap->namespaces.n && r >= 0; i++) {
		const struct snap_ns ns = c->snap->namespaces.v[i];
		if (ns.type != PROC_NS_USER) {
			r = userns_collect_owner(c, i, err);
			continue;
		}
		uint32_t id;
		_cleanup_close_ int dir = ns.pid && !ns.data ? proc_open_look(ns.pid, err) : -1;
		_cleanup_close_ int fd = dir < 0 ? -1 : proc_open_namespace(dir, PROC_NS_USER, err);
		if (ns.pid && !ns.data)
			r = fd < 0 ? -ESRCH : userns_add(c, fd, 0, &id, err);
	}
	return r;
}

static int userns_dump(struct dump *d, struct snap_ns *ns, struct ferry_error *err)
{
	const FerryUsernsEntry *entry = ns->data;
	return image_put_one(d->dir, IMAGE_FERRY_USERNS, ns->id, &entry->base, err);
}

/* ------------------------------------------------------------------ restore */

int userns_take_extents(FerryUsernsExtent *const *from, size_t n, struct userns_extent *to, uint32_t *ret_n)
{
	if (n > USERNS_EXTENTS)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++)
		to[i] = (struct userns_extent){from[i]->first, from[i]->lower, from[i]->count};
	*ret_n = (uint32_t)n;
	return 0;
}

/* Those above come first: the reader of the image has found them, without a circle. */
static int userns_make_ns(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	const FerryUsernsEntry *entry = ns->data;
	const struct plan_ns *parent =
		entry->parent_id ? plan_ns(o->plan, PROC_NS_USER, entry->parent_id) : NULL;
	struct userns_about *about = arena_new(&o->plan->arena, struct userns_about);
	if (!about)
		return error_memory(err);
	about->owner = entry->owner;
	about->deny_setgroups = entry->has_deny_setgroups && entry->deny_setgroups;
	if (userns_take_extents(entry->uids, entry->n_uids, about->uids, &about->n_uids) < 0 ||
	    userns_take_extents(entry->gids, entry->n_gids, about->gids, &about->n_gids) < 0 ||
	    (entry->parent_id && (!parent || parent->fd < 0)))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "user namespace %u has too many ids, or none above it", ns->id);
	return userns_make(parent ? parent->fd : -1, about, &ns->fd, err);
}

static const struct ns_ops userns_ops = {
	.type = PROC_NS_USER,
	.check = userns_check,
	.collect_all = userns_collect_all,
	.dump = userns_dump,
	.make = userns_make_ns,
};

const struct kind_ops kind_userns = {
	.name = "userns",
	.what = "user namespaces: owner, maps of ids, what belongs to them",
	.fd_type = -1,
	.image_file = -1,
	.ns = &userns_ops,
};
