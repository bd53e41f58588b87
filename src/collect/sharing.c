/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns who shares what with whom: processes that clone(2) made with more in common than fork(2) leaves.
 *
 * Kernel interface: kcmp(2) KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND (3.5), whose answers order objects, so who has one that is
 * known already is found by bisection.
 *
 * Does not handle: processes that share memory (CLONE_VM without CLONE_THREAD) while one of them is stopped, traces, is traced or
 * has lost its first thread: each would wait for the other while the memory is made again, so a dump refuses them by name.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "collect/collect.h"
#include "freeze/freeze.h"
#include "kernel/syscalls.h"
#include "proc/read.h"

enum { SHARING_EQUAL, SHARING_LESS };

static const struct {
	enum kern_kcmp_type type;
	const char *what;
} sharing_types[SHARING_TYPES] = {
	[SHARING_VM] = {KERN_KCMP_VM, "its memory"},
	[SHARING_SIGHAND] = {KERN_KCMP_SIGHAND, "its signal actions"},
	[SHARING_FILES] = {KERN_KCMP_FILES, "its descriptor table"},
	[SHARING_FS] = {KERN_KCMP_FS, "its working directory"},
};

void sharing_release(struct sharing *s)
{
	for (int i = 0; i < SHARING_TYPES; i++)
		vec_release(&s->order[i]);
}

/* Whoever runs may end meanwhile; whether it was the one that others are compared with, who is forgotten then. */
static bool sharing_forget(struct sharing *s, enum sharing_type type, pid_t look, size_t at)
{
	typeof(s->order[type]) *order = &s->order[type];
	if (sys_kcmp(look, look, sharing_types[type].type, 0, 0) < 0)
		return false;
	memmove(order->v + at, order->v + at + 1, (order->n - 1 - at) * sizeof(*order->v));
	order->n--;
	return true;
}

/*
 * The place of a process among those that are known: 1 if the one there has the same object, 0 if that is where it belongs. Negative
 * errno; -ESRCH: one of the two has ended.
 */
static int sharing_search(const struct sharing *s, enum sharing_type type, pid_t look, size_t *ret_at)
{
	const typeof(s->order[type]) *order = &s->order[type];
	size_t low = 0, high = order->n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int r = sys_kcmp(look, order->v[middle].look, sharing_types[type].type, 0, 0);
		*ret_at = middle;
		if (r < 0 || r == SHARING_EQUAL)
			return r < 0 ? r : 1;
		if (r == SHARING_LESS)
			high = middle;
		else
			low = middle + 1;
	}
	*ret_at = low;
	return 0;
}

/* The first known process that has the same object; the process itself when none does, which is known from then on. */
static int sharing_find(struct sharing *s, enum sharing_type type, struct sharing_process process,
			pid_t *ret_owner)
{
	typeof(s->order[type]) *order = &s->order[type];
	size_t at;
	int r;
	do {
		r = sharing_search(s, type, process.look, &at);
	} while (r == -ESRCH && sharing_forget(s, type, process.look, at));
	if (r < 0)
		return r;
	*ret_owner = r ? order->v[at].pid : process.pid;
	if (r)
		return 0;
	if (!vec_push(order))
		return -ENOMEM;
	memmove(order->v + at + 1, order->v + at, (order->n - 1 - at) * sizeof(*order->v));
	order->v[at] = process;
	return 0;
}

/*
 * Signal actions are in common only where memory is (clone(2) refuses anything else, and exec(2) parts both), so they are looked for
 * among those who share that: its owner, and whoever else has actions that are not the owner's. Else *ret_owner stays.
 */
static int sharing_find_actions(struct sharing *s, struct sharing_process process, pid_t memory_owner,
				pid_t *ret_owner)
{
	if (memory_owner == process.pid)
		return 0;
	if (sys_kcmp(process.look, proc_look(memory_owner), KERN_KCMP_SIGHAND, 0, 0) != SHARING_EQUAL)
		return sharing_find(s, SHARING_SIGHAND, process, ret_owner);
	*ret_owner = memory_owner;
	return 0;
}

/* Such a child has the memory of its parent. */
bool collect_in_vfork(struct sharing_process process, struct sharing_process parent)
{
	struct proc_pid_list tids = {0};
	pid_t child = 0;
	if (sys_kcmp(process.look, parent.look, KERN_KCMP_VM, 0, 0) != SHARING_EQUAL)
		return false;
	_cleanup_close_ int dir = proc_open(parent.pid, NULL);
	if (dir < 0 || proc_read_tasks(dir, &tids, NULL) < 0)
		return false;
	bool found = false;
	vec_foreach(tid, &tids.v)
		found = found || (proc_is_in_vfork(dir, *tid, &child) && child == process.pid);
	proc_pid_list_release(&tids);
	return found;
}

static int sharing_refuse_outside(pid_t pid, pid_t other, enum sharing_type type, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			 "pid %d shares %s with pid %d, which is outside the tree (clone flags)", pid,
			 sharing_types[type].what, other);
}

/* The first of the tree may share with its parent as well. */
static int sharing_outside(struct sharing_process process, struct sharing_process parent,
			   struct ferry_error *err)
{
	for (int type = 0; type < SHARING_TYPES; type++)
		if (parent.pid &&
		    sys_kcmp(process.look, parent.look, sharing_types[type].type, 0, 0) == SHARING_EQUAL)
			return sharing_refuse_outside(process.pid, parent.pid, (enum sharing_type)type, err);
	return 0;
}

int collect_sharing(struct sharing *s, struct sharing_process process, struct sharing_process parent,
		    bool is_root, pid_t ret_owners[SHARING_TYPES], struct ferry_error *err)
{
	pid_t owners[SHARING_TYPES], pid = process.pid, ppid = parent.pid;
	int r = is_root ? sharing_outside(process, parent, err) : 0;
	if (!is_root && collect_in_vfork(process, parent)) {
		error_set(
			err, FERRY_ERROR_BUSY_TASK, EBUSY,
			"pid %d waits in vfork for its child, pid %d, which neither executes a program nor ends",
			ppid, pid);
		error_hint(err, "try again when pid %d has, or end it", pid);
		return -EBUSY;
	}
	for (int type = 0; type < SHARING_TYPES && r >= 0; type++) {
		owners[type] = pid;
		r = type == SHARING_SIGHAND
			    ? sharing_find_actions(s, process, owners[SHARING_VM], &owners[type])
			    : sharing_find(s, (enum sharing_type)type, process, &owners[type]);
		if (r < 0)
			return r == -ENOMEM ? error_memory(err)
					    : error_errno(err, FERRY_ERROR_SYSTEM, -r,
							  "comparing pid %d with others (kcmp)", pid);
	}
	if (r >= 0)
		memcpy(ret_owners, owners, sizeof(owners));
	return r;
}

/* Whoever ends has nothing left, and that is the same for all that end, and for threads of the kernel. */
static bool sharing_ends(pid_t pid)
{
	struct proc_stat st;
	_cleanup_close_ int dir = proc_open(pid, NULL);
	return dir < 0 || proc_read_stat(dir, &st, NULL) < 0 || st.flags & KERN_PF_EXITING;
}

/* What a process of the tree has in common with one that is not; SHARING_TYPES: nothing, or one of them ends or is not ours to look at. */
static int sharing_find_outside(const struct sharing *s, pid_t outside, pid_t *ret_pid)
{
	for (int type = 0; type < SHARING_TYPES; type++) {
		size_t at;
		if (sharing_search(s, (enum sharing_type)type, outside, &at) != 1 ||
		    sharing_ends(s->order[type].v[at].look))
			continue;
		*ret_pid = s->order[type].v[at].pid;
		return type;
	}
	return SHARING_TYPES;
}

int collect_check_outside(const struct sharing *s, const struct family *f, pid_t parent,
			  struct ferry_error *err)
{
	pid_t root = f->members.n ? f->members.v[0].pid : 0;
	_cleanup_closedir_ DIR *dir = opendir("/proc");
	for (struct dirent *d; dir && (d = readdir(dir));) {
		pid_t inside, pid = (pid_t)strtol(d->d_name, NULL, 10);
		char path[32];
		/* The parent of the first was looked at. */
		if (pid <= 0 || pid == getpid() || pid == parent || family_find(f, pid) != FAMILY_NONE)
			continue;
		int type = sharing_find_outside(s, pid, &inside);
		snprintf(path, sizeof(path), "/proc/%d", pid);
		/* It may be one that the tree has made since, by vfork for instance, or have ended. */
		if (type != SHARING_TYPES && !collect_is_below(pid, root) && access(path, F_OK) == 0)
			return sharing_refuse_outside(inside, pid, (enum sharing_type)type, err);
	}
	return 0;
}

static int sharing_refuse(pid_t pid, pid_t other, pid_t who, const char *what, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
		  "pid %d shares its memory with pid %d, and pid %d %s", pid, other, who, what);
	error_hint(err, "let it go on, or end one of the two");
	return -ENOTSUP;
}

int collect_check_sharer(pid_t pid, pid_t owner, struct ferry_error *err)
{
	const pid_t both[2] = {pid, owner};
	for (int i = 0; i < 2; i++) {
		_cleanup_proc_status_ struct proc_status st = {0};
		_cleanup_close_ int dir = proc_open(both[i], NULL);
		if (dir < 0 || proc_read_status(dir, &st, NULL) < 0)
			continue; /* it ended meanwhile */
		if (st.tracer_pid)
			return sharing_refuse(pid, owner, both[i], "is traced", err);
		if (st.state == 'T')
			return sharing_refuse(pid, owner, both[i], "is stopped", err);
		if (proc_look(both[i]) != both[i])
			return sharing_refuse(pid, owner, both[i], "has lost its first thread", err);
	}
	return 0;
}

static bool sharing_has_thread(const struct snap_task *t, pid_t tid)
{
	bool found = false;
	vec_foreach(th, &t->threads)
		found |= th->tid == tid;
	return found;
}

/* Whether some thread of the tree has this one for a tracee. */
static bool sharing_traces(const struct snapshot *snap, const struct snap_task *t)
{
	bool found = false;
	for (size_t i = 0; i < snap->tasks.n; i++)
		vec_foreach(th, &snap->tasks.v[i].threads)
			found |= th->tracer && sharing_has_thread(t, th->tracer);
	return found;
}

static const char *sharing_obstacle(const struct snapshot *snap, const struct snap_task *t)
{
	if (t->threads.v[0].ended)
		return "has lost its first thread";
	if (t->threads.v[0].core->tc->has_stop_signo)
		return "is stopped";
	vec_foreach(th, &t->threads)
		if (th->tracer)
			return "is traced";
	return sharing_traces(snap, t) ? "traces another" : NULL;
}

int collect_check_shared(const struct snapshot *snap, struct ferry_error *err)
{
	for (size_t i = 0; i < snap->tasks.n; i++) {
		const struct snap_task *t = &snap->tasks.v[i], *owner = t->memory;
		const char *own = t == owner ? NULL : sharing_obstacle(snap, t);
		const char *owners = t == owner ? NULL : sharing_obstacle(snap, owner);
		if (own || owners)
			return sharing_refuse(t->pid, owner->pid, own ? t->pid : owner->pid,
					      own ? own : owners, err);
	}
	return 0;
}
