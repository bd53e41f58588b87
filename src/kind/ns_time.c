/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns time namespaces of single tasks. The root's clocks are in ferry-clocks.img and in timens-0.img; what those of another namespace
 * showed at the same instant is in timens-ID.img. A process that has made one for its children and stays outside of it makes it again
 * (restore/clocks.c).
 *
 * Kernel interface: time_namespaces(7) (5.6): /proc/PID/timens_offsets tells of the namespace that a process's children go to;
 * ioctl_ns(2) NS_GET_USERNS (4.9).
 * Does not handle: a namespace that belongs to a user namespace of the tree, or in which somebody lives whom its maker did not make,
 * both refused; processes that share their memory with others, which cannot enter one (setns(2)), refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/userns.h"
#include "image/dir.h"
#include "image/proto/timens.pb-c.h"
#include "kernel/syscalls.h"
#include "kind/kinds.h"
#include "kind/ns_time.h"
#include "model/kind.h"
#include "model/record.h"
#include "proc/read.h"

enum { TIME_SECOND = 1000000000 };

/* ---------------------------------------------------------------------- check */

static int time_refuse(pid_t pid, const char *what, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			 "pid %d lives in a time namespace %s", pid, what);
}

/* A namespace of a user namespace of the tree would have to be made by somebody inside of that. */
static int time_check_owner(pid_t pid, int proc_dir, enum proc_ns type, struct ferry_error *err)
{
	_cleanup_close_ int fd = proc_open_namespace(proc_dir, type, err);
	if (fd < 0)
		return fd;
	return userns_owns(fd) ? 0
			       : time_refuse(pid, "that belongs to another user namespace than ferry's", err);
}

static int time_check(pid_t pid, int proc_dir, const struct kind_options *options unused,
		      struct ferry_error *err)
{
	return time_check_owner(pid, proc_dir, PROC_NS_TIME, err);
}

/* -------------------------------------------------------------------- collect */

static int time_go(int ns, struct ferry_error *err)
{
	return setns(ns, CLONE_NEWTIME) < 0
		       ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "entering a time namespace")
		       : 0;
}

/* Who stands in a namespace has its children there, too, and so reads its offsets. */
static int time_read_inside(int proc_dir, struct timens_offsets *ret, struct ferry_error *err)
{
	_cleanup_close_ int home = fd_open(AT_FDCWD, "/proc/self/ns/time", O_RDONLY, 0);
	_cleanup_close_ int there = proc_open_namespace(proc_dir, PROC_NS_TIME, err);
	_cleanup_close_ int self = proc_open(getpid(), err);
	if (home < 0 || there < 0 || self < 0)
		return home < 0
			       ? error_errno(err, FERRY_ERROR_SYSTEM, -home, "opening ferry's time namespace")
			       : MIN(there, self);
	int r = time_go(there, err);
	if (r < 0)
		return r;
	r = timens_read(self, ret, err);
	int back = time_go(home, r < 0 ? NULL : err);
	return r < 0 ? r : back;
}

int ns_time_offsets(int proc_dir, const uint64_t *ns_ino, struct timens_offsets *ret, struct ferry_error *err)
{
	return ns_ino[PROC_NS_TIME] == ns_ino[PROC_NS_TIME_FOR_CHILDREN]
		       ? timens_read(proc_dir, ret, err)
		       : time_read_inside(proc_dir, ret, err);
}

/* The namespace of a task's children is known by them, or by nobody. */
static int time_collect_children(struct collect *c, struct snap_task *t, struct ferry_error *err)
{
	uint64_t ino = t->ns_ino[PROC_NS_TIME_FOR_CHILDREN];
	if (!ino || ino == t->ns_ino[PROC_NS_TIME])
		return 0;
	const struct snap_ns *ns = snapshot_add_ns(c->snap, PROC_NS_TIME, ino, t->pid);
	if (!ns)
		return error_memory(err);
	record_set(t->tree, children_time_ns_id, ns->id);
	vec_foreach(member, &c->snap->tasks) {
		const struct snap_task *above = member;
		while (above && above != t && member->ns_ino[PROC_NS_TIME] == ino)
			above = above->parent;
		if (!above)
			return time_refuse(member->pid,
					   "that is only for the children of a process that is not above it",
					   err);
	}
	return 0;
}

static int time_collect_all(struct collect *c, struct ferry_error *err)
{
	int r = 0;
	vec_foreach(t, &c->snap->tasks) {
		if (r >= 0)
			r = time_collect_children(c, t, err);
	}
	return r;
}

static void time_set(Timespec *to, uint64_t from_ns, int64_t ahead_ns)
{
	uint64_t ns = from_ns + (uint64_t)ahead_ns;
	to->tv_sec = ns / TIME_SECOND;
	to->tv_nsec = ns % TIME_SECOND;
}

static int time_collect(struct collect *c, struct snap_ns *ns, struct ferry_error *err)
{
	struct timens_offsets root, theirs;
	const struct snap_task *first = c->snap->tasks.v, *t = first;
	while (t < first + c->snap->tasks.n && t->ns_ino[PROC_NS_TIME_FOR_CHILDREN] != ns->ino)
		t++;
	if (t == first + c->snap->tasks.n)
		return time_refuse(ns->pid, "that only processes have which have another for their children",
				   err);
	_cleanup_close_ int dir = proc_open_look(t->look, err), of_root = proc_open_look(first->look, err);
	int r = dir < 0 || of_root < 0 ? MIN(dir, of_root)
				       : time_check_owner(ns->pid, dir, PROC_NS_TIME_FOR_CHILDREN, err);
	if (r >= 0)
		r = timens_read(dir, &theirs, err);
	if (r >= 0)
		r = ns_time_offsets(of_root, first->ns_ino, &root, err);
	TimensEntry *entry = record_new(&c->snap->arena, TimensEntry, timens_entry);
	if (r < 0 || !entry)
		return r < 0 ? r : error_memory(err);
	entry->monotonic = record_new(&c->snap->arena, Timespec, timespec);
	entry->boottime = record_new(&c->snap->arena, Timespec, timespec);
	if (!entry->monotonic || !entry->boottime)
		return error_memory(err);
	time_set(entry->monotonic, c->snap->monotonic_ns, theirs.monotonic_ns - root.monotonic_ns);
	time_set(entry->boottime, c->snap->boottime_ns, theirs.boottime_ns - root.boottime_ns);
	ns->data = entry;
	return 0;
}

static int time_dump(struct dump *d, struct snap_ns *ns, struct ferry_error *err)
{
	const TimensEntry *entry = ns->data;
	return image_put_one(d->dir, IMAGE_TIMENS, ns->id, &entry->base, err);
}

static const struct ns_ops time_ops = {
	.type = PROC_NS_TIME,
	.check = time_check,
	.collect = time_collect,
	.collect_all = time_collect_all,
	.dump = time_dump,
};

const struct kind_ops kind_timens = {
	.name = "timens",
	.what = "time namespaces: what the clocks of a task are ahead",
	.fd_type = -1,
	.image_file = -1,
	.ns = &time_ops,
};
