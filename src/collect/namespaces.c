/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the namespaces of a tree: which of them are not ferry's, what hinders a dump of those, their numbers in the image,
 * what the tree's root calls its processes, and a look at its files from inside its mount namespace.
 *
 * Kernel interface: /proc/PID/ns (3.0), NSpid in /proc/PID/status (4.1), setns(2), unshare(2), mount(2).
 * A dump looks at paths in a copy of the mount namespace, so what is mounted for that (a /proc that knows ferry's numbers of
 * processes) is seen by nobody else and ends with ferry.
 */
#include "collect/namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lanes.h"
#include "collect/collect.h"
#include "kernel/syscalls.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/looker.h"
#include "proc/read.h"

enum {
	NS_PROC_LAYERS = 4,
	NS_THREADS_EACH = 128, /* to look at in one go */
};

enum ns_support {
	NS_ANY,    /* each task may have its own */
	NS_CLOCKS, /* each task may have another than the root, which gets a new one in any case */
	NS_SKIP,   /* looked at elsewhere */
};

static const enum ns_support ns_support[PROC_NS_COUNT] = {
	[PROC_NS_CGROUP] = NS_ANY,  [PROC_NS_IPC] = NS_ANY,
	[PROC_NS_MNT] = NS_ANY,     [PROC_NS_NET] = NS_ANY,
	[PROC_NS_PID] = NS_ANY,     [PROC_NS_PID_FOR_CHILDREN] = NS_SKIP,
	[PROC_NS_TIME] = NS_CLOCKS, [PROC_NS_TIME_FOR_CHILDREN] = NS_SKIP,
	[PROC_NS_USER] = NS_ANY,    [PROC_NS_UTS] = NS_ANY,
};

/* Whether a task has a namespace that a restore makes beside those it finds, which are ferry's, and the clocks, which the root gets. */
static bool ns_is_another(int ns, const uint64_t *theirs, const uint64_t *of_root, const uint64_t *ours)
{
	if (ns_support[ns] == NS_SKIP)
		return false;
	return theirs[ns] != (ns_support[ns] == NS_CLOCKS ? of_root : ours)[ns];
}

/* The namespace that a task will put its children into is only known by a child that is there. */
static int ns_check_children(pid_t pid, int proc_dir, const struct proc_namespaces *theirs,
			     struct ferry_error *err)
{
	uint64_t wanted = theirs->ino[PROC_NS_PID_FOR_CHILDREN];
	if (wanted == theirs->ino[PROC_NS_PID])
		return 0;
	struct proc_pid_list children = {0};
	bool found = false;
	if (wanted && proc_read_children(proc_dir, &children, NULL) >= 0)
		vec_foreach(child, &children.v) {
			struct proc_namespaces of_child;
			_cleanup_close_ int dir = proc_open_look(*child, NULL);
			found |= dir >= 0 && proc_read_namespaces(dir, &of_child, NULL) >= 0 &&
				 of_child.ino[PROC_NS_PID] == wanted;
		}
	proc_pid_list_release(&children);
	if (found)
		return 0;
	return error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			 "pid %d will put its children into a pid namespace in which it has none now", pid);
}

/* The first thread that a lane found in a namespace of its own; tid 0 = none. */
struct ns_own {
	pid_t tid;
	enum proc_ns ns;
};

/* Threads being looked at, some by each lane. */
struct ns_threads {
	pid_t pid;
	int proc_dir;
	const struct proc_namespaces *leader;
	const struct proc_looker *looker;
	const struct proc_thread_look *same; /* of the thread whose namespaces are known; NULL */
	struct proc_pid_list tids;
	struct ns_own *own; /* by lane */
};

/*
 * What a thread can leave alone. A thread is never made outside of its process's user and PID namespace (clone(2), CLONE_THREAD), and
 * enters another user or time namespace only while it is the only one (setns(2), unshare(2)).
 */
static bool ns_is_of_thread(enum proc_ns ns)
{
	return ns != PROC_NS_USER && ns != PROC_NS_PID && ns != PROC_NS_TIME;
}

static void ns_look_at_thread(const struct ns_threads *j, pid_t tid, struct ns_own *ret)
{
	const struct proc_thread_look *look = j->same ? proc_looker_find(j->looker, j->pid, tid) : NULL;
	/* One object of the kernel has all of them. */
	if (look && look->words.nsproxy && look->words.nsproxy == j->same->words.nsproxy)
		return;
	_cleanup_close_ int dir = tid == j->pid ? -1 : proc_open_task(j->proc_dir, tid, NULL);
	for (int ns = 0; ns < PROC_NS_COUNT && dir >= 0; ns++) {
		uint64_t ino;
		/* It may end meanwhile. */
		if (!ns_is_of_thread((enum proc_ns)ns) ||
		    proc_read_namespace(dir, (enum proc_ns)ns, &ino, NULL) < 0 || !ino ||
		    ino == j->leader->ino[ns])
			continue;
		*ret = (struct ns_own){tid, (enum proc_ns)ns};
		return;
	}
}

static int ns_look_at_some(void *context, struct lanes *l unused, unsigned lane, uint64_t number)
{
	struct ns_threads *j = context;
	size_t end = MIN(j->tids.v.n, (size_t)(number + 1) * NS_THREADS_EACH);
	for (size_t i = (size_t)number * NS_THREADS_EACH; i < end && !j->own[lane].tid; i++)
		ns_look_at_thread(j, j->tids.v.v[i], &j->own[lane]);
	return 0;
}

/* Threads may leave the namespaces of their process one by one. */
static int ns_check_threads(const struct check_task *t, struct ferry_error *err)
{
	pid_t pid = t->pid;
	int proc_dir = t->proc_dir;
	struct ns_own own[LANES_MAX] = {0};
	struct ns_threads j = {.pid = pid,
			       .proc_dir = proc_dir,
			       .leader = &t->namespaces,
			       .looker = t->options->looker,
			       .own = own};
	if (proc_looker_read(t->options->looker, pid, t->status.threads) >= 0)
		j.same = proc_looker_find(j.looker, pid, t->look);
	int r = proc_read_tasks(proc_dir, &j.tids, err);
	if (r >= 0)
		r = lanes_run(lanes_wanted(), (j.tids.v.n + NS_THREADS_EACH - 1) / NS_THREADS_EACH,
			      ns_look_at_some, &j);
	for (unsigned i = 0; i < LANES_MAX && r >= 0; i++)
		if (own[i].tid)
			r = error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
				      "thread %d of pid %d lives in a %s namespace of its own", own[i].tid,
				      pid, proc_ns_info(own[i].ns)->word);
	proc_pid_list_release(&j.tids);
	return r;
}

static int ns_check(pid_t pid, const struct proc_namespaces *theirs, const struct kind_options *options,
		    struct ferry_error *err)
{
	for (int ns = 0; ns < PROC_NS_COUNT; ns++)
		if (ns_support[ns] != NS_SKIP && !theirs->ino[ns] && options->own_namespaces.ino[ns])
			return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "pid %d is ending", pid);
	return 0;
}

/* What belongs to a user namespace above ours could not be made to do so again. */
static int ns_check_owners(pid_t pid, int proc_dir, const bool *another, struct ferry_error *err)
{
	for (int ns = 0; ns < PROC_NS_COUNT; ns++) {
		if (ns == PROC_NS_USER || !another[ns])
			continue;
		_cleanup_close_ int fd = proc_open_namespace(proc_dir, (enum proc_ns)ns, NULL);
		_cleanup_close_ int owner = fd < 0 ? -1 : ioctl(fd, NS_GET_USERNS);
		if (fd >= 0 && owner < 0 && errno == EPERM)
			return error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
					 "pid %d lives in a %s namespace that belongs to a user namespace "
					 "above ferry's",
					 pid, proc_ns_info((enum proc_ns)ns)->word);
	}
	return 0;
}

int collect_check_namespaces(const struct check_task *t, struct ferry_error *err)
{
	const struct proc_namespaces *theirs = &t->namespaces, *of_root = t->of_root ? t->of_root : theirs;
	const struct kind_options *options = t->options;
	pid_t pid = t->pid;
	int proc_dir = t->proc_dir;
	bool another[PROC_NS_COUNT];
	for (int ns = 0; ns < PROC_NS_COUNT; ns++)
		another[ns] = ns_is_another(ns, theirs->ino, of_root->ino, options->own_namespaces.ino);
	int r = ns_check(pid, theirs, options, err);
	if (r >= 0 && of_root->ino[PROC_NS_MNT] != theirs->ino[PROC_NS_MNT] && !another[PROC_NS_MNT])
		r = error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			      "pid %d lives in ferry's mount namespace, and the tree's root does not", pid);
	if (r >= 0)
		r = ns_check_owners(pid, proc_dir, another, err);
	if (r >= 0)
		r = ns_check_children(pid, proc_dir, theirs, err);
	if (r >= 0 && t->status.threads > 1)
		r = ns_check_threads(t, err);
	for (size_t i = 0; i < KIND_COUNT && r >= 0; i++) {
		const struct ns_ops *ops = kind_table[i]->ns;
		/* What is in the root's is looked at once. */
		bool seen = ops && t->of_root && (ops->type == PROC_NS_NET || ops->type == PROC_NS_MNT) &&
			    theirs->ino[ops->type] == of_root->ino[ops->type];
		if (ops && another[ops->type] && ops->check && !seen && !options->memory_only)
			r = ops->check(pid, proc_dir, options, err);
	}
	return r;
}

/* ------------------------------------------------------------------ collect */

static void ns_set_id(TaskKobjIdsEntry *ids, enum proc_ns type, uint32_t id)
{
	switch (type) {
	case PROC_NS_PID: record_set(ids, pid_ns_id, id); break;
	case PROC_NS_NET: record_set(ids, net_ns_id, id); break;
	case PROC_NS_IPC: record_set(ids, ipc_ns_id, id); break;
	case PROC_NS_UTS: record_set(ids, uts_ns_id, id); break;
	case PROC_NS_TIME: record_set(ids, time_ns_id, id); break;
	case PROC_NS_MNT: record_set(ids, mnt_ns_id, id); break;
	case PROC_NS_USER: record_set(ids, user_ns_id, id); break;
	case PROC_NS_CGROUP: record_set(ids, cgroup_ns_id, id); break;
	default: break;
	}
}

void collect_own_namespace_ids(TaskKobjIdsEntry *ids)
{
	static const enum proc_ns order[] = {PROC_NS_PID,  PROC_NS_NET, PROC_NS_IPC,  PROC_NS_UTS,
					     PROC_NS_TIME, PROC_NS_MNT, PROC_NS_USER, PROC_NS_CGROUP};
	for (size_t i = 0; i < ARRAY_SIZE(order); i++)
		ns_set_id(ids, order[i], (uint32_t)i + 1);
}

static int ns_collect(struct collect *c, struct snap_task *t, enum proc_ns type, uint64_t ino,
		      struct ferry_error *err)
{
	const struct snap_ns *ns = snapshot_add_ns(c->snap, type, ino, t->pid);
	if (!ns)
		return error_memory(err);
	ns_set_id(t->ids, type, ns->id);
	return 0;
}

static int ns_add_number(struct snapshot *s, const struct proc_pids *pids, struct ferry_error *err)
{
	struct snap_pid *known = pids->n > s->pid_level ? vec_push(&s->pids) : NULL;
	if (pids->n <= s->pid_level)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
				 "pid %d has no number in the pid namespace of the tree's root", pids->v[0]);
	if (!known)
		return error_memory(err);
	*known = (struct snap_pid){.pid = pids->v[0], .inner = pids->v[s->pid_level]};
	return 0;
}

static int ns_read_thread(struct snapshot *s, const struct frozen_task *ft, pid_t tid,
			  struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	_cleanup_close_ int dir = proc_open_task(ft->proc_dir, tid, err);
	int r = dir < 0 ? dir : proc_read_status(dir, &status, err);
	if (r >= 0)
		r = ns_add_number(s, &status.ns_pid, err);
	if (r >= 0 && tid == ft->pid)
		r = ns_add_number(s, &status.ns_pgid, err);
	if (r >= 0 && tid == ft->pid)
		r = ns_add_number(s, &status.ns_sid, err);
	return r;
}

static int ns_read_numbers(struct snapshot *s, const struct frozen_task *ft, struct ferry_error *err)
{
	/* A leader that has ended is none of those that were stopped. */
	int r = ft->look == ft->pid ? 0 : ns_read_thread(s, ft, ft->pid, err);
	for (size_t i = 0; i < ft->threads.n && r >= 0; i++)
		r = ns_read_thread(s, ft, ferry_thread_tid(ft->threads.v[i]), err);
	return r;
}

static int ns_read_zombie(struct snapshot *s, int proc_dir, struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	int r = proc_read_status(proc_dir, &status, err);
	if (r >= 0)
		r = ns_add_number(s, &status.ns_pid, err);
	if (r >= 0)
		r = ns_add_number(s, &status.ns_pgid, err);
	return r < 0 ? r : ns_add_number(s, &status.ns_sid, err);
}

int collect_numbers(struct collect *c, const struct frozen *f, struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	int r = proc_read_status(f->tasks.v[0].proc_dir, &status, err);
	c->snap->pid_level = r >= 0 && status.ns_pid.n ? status.ns_pid.n - 1 : 0;
	for (size_t i = 0; i < f->tasks.n && r >= 0; i++)
		r = ns_read_numbers(c->snap, &f->tasks.v[i], err);
	for (size_t i = 0; i < f->zombies.n && r >= 0; i++)
		r = ns_read_zombie(c->snap, f->zombies.v[i].proc_dir, err);
	return r;
}

int collect_namespaces(struct collect *c, struct snap_task *t, const struct proc_namespaces *theirs,
		       struct ferry_error *err)
{
	const struct proc_namespaces *ours = &c->options->own_namespaces;
	int r = 0;
	memcpy(t->ns_ino, theirs->ino, sizeof(t->ns_ino));
	t->own_userns = theirs->ino[PROC_NS_USER] != ours->ino[PROC_NS_USER];
	collect_own_namespace_ids(t->ids);
	for (int ns = 0; ns < PROC_NS_COUNT && r >= 0; ns++)
		if (ns_is_another(ns, theirs->ino, c->snap->tasks.v[0].ns_ino, ours->ino))
			r = ns_collect(c, t, (enum proc_ns)ns, theirs->ino[ns], err);
	return r;
}

/* The kind collects what a namespace holds, standing in it where that is needed. */
static int ns_collect_one(struct collect *c, const struct kind_ops *kind, struct snap_ns *ns,
			  struct ferry_error *err)
{
	if (!kind->ns->enter)
		return kind->ns->collect(c, ns, err);
	char name[32];
	snprintf(name, sizeof(name), "/proc/self/ns/%s", proc_ns_info(ns->type)->file);
	_cleanup_close_ int home = fd_open(AT_FDCWD, name, O_RDONLY, 0);
	_cleanup_close_ int dir = proc_open_look(ns->pid, err);
	_cleanup_close_ int there = dir < 0 ? dir : proc_open_namespace(dir, ns->type, err);
	if (there < 0)
		return there;
	int type = (int)proc_ns_info(ns->type)->clone_flag;
	if (home < 0 || setns(there, type) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "entering the %s namespace of pid %d",
				   proc_ns_info(ns->type)->word, ns->pid);
	int r = kind->ns->collect(c, ns, err);
	if (setns(home, type) < 0 && r >= 0)
		r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "leaving the %s namespace of pid %d",
				proc_ns_info(ns->type)->word, ns->pid);
	return r;
}

int collect_namespaces_end(struct collect *c, struct ferry_error *err)
{
	for (size_t i = 0; i < KIND_COUNT; i++) {
		const struct kind_ops *kind = kind_table[i];
		int r = kind->ns && kind->ns->collect_all ? kind->ns->collect_all(c, err) : 0;
		if (r < 0) {
			error_context(err, "collect", kind->name, 0);
			return r;
		}
	}
	for (size_t i = 0; i < KIND_COUNT; i++) {
		const struct kind_ops *kind = kind_table[i];
		for (size_t n = 0; n < c->snap->namespaces.n && kind->ns && kind->ns->collect; n++) {
			struct snap_ns *ns = &c->snap->namespaces.v[n];
			int r = ns->type == kind->ns->type ? ns_collect_one(c, kind, ns, err) : 0;
			if (r < 0) {
				error_context(err, "collect", kind->name, ns->pid);
				return r;
			}
		}
	}
	return 0;
}

/* --------------------------------------------------------------------- view */

static int ns_uncover_proc(void)
{
	for (int i = 0; i < NS_PROC_LAYERS; i++) {
		char text[16] = "";
		if (readlink("/proc/self", text, sizeof(text) - 1) > 0 && strtol(text, NULL, 10) == getpid())
			return 0;
		if (umount2("/proc", MNT_DETACH) < 0)
			return -errno;
	}
	return -ENOENT;
}

int collect_own_proc(int mount)
{
	return mount < 0 ? ns_uncover_proc()
			 : sys_move_mount(mount, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH);
}

int collect_enter_view(pid_t root, const struct kind_options *options, struct proc_mounts *ret_outside,
		       struct ferry_error *err)
{
	uint64_t theirs, ours = options->own_namespaces.ino[PROC_NS_MNT];
	_cleanup_close_ int leader = proc_open(root, err);
	int r = leader < 0 ? leader : proc_read_namespace(leader, PROC_NS_MNT, &theirs, err);
	if (r < 0 || (theirs && theirs == ours))
		return MIN(r, 0);
	/* A leader that has ended has none. */
	_cleanup_close_ int dir = proc_open_look(root, err);
	r = dir < 0 ? dir : proc_read_namespace(dir, PROC_NS_MNT, &theirs, err);
	if (r < 0 || !theirs || theirs == ours)
		return MIN(r, 0);
	_cleanup_close_ int mounts = proc_open_namespace(dir, PROC_NS_MNT, err);
	if (mounts < 0)
		return mounts;
	_cleanup_close_ int self = proc_open(getpid(), err);
	r = self < 0 ? self : proc_read_mounts(self, ret_outside, err);
	if (r < 0)
		return r;
	/* Ours has the numbers of processes that we work with; theirs may have others, or none. */
	_cleanup_close_ int proc = sys_open_tree(AT_FDCWD, "/proc", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (setns(mounts, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "entering the mount namespace of pid %d",
				   root);
	/* An ordinary user may not copy ours; but it lies under the tree's own, if that was mounted on top. */
	r = collect_own_proc(proc);
	if (r < 0) {
		error_errno(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, -r,
			    "mounting a /proc of ferry's in a copy of the mount namespace of pid %d", root);
		error_hint(err, "the tree needs a directory /proc");
	}
	return r < 0 ? r : 1;
}
