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

/* The first known process that has the same object; the process itself when none does, which is known from then on. */
static int sharing_find(struct sharing *s, enum sharing_type type, struct sharing_process process,
			pid_t *ret_owner)
{
	typeof(s->order[type]) *order = &s->order[type];
	size_t low = 0, high = order->n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int r = sys_kcmp(process.look, order->v[middle].look, sharing_types[type].type, 0, 0);
		if (r == -ESRCH && sharing_forget(s, type, process.look, middle)) {
			low = 0;
			high = order->n;
			continue;
		}
		if (r < 0)
			return r;
		if (r == SHARING_EQUAL) {
			*ret_owner = order->v[middle].pid;
			return 0;
		}
		if (r == SHARING_LESS)
			high = middle;
		else
			low = middle + 1;
	}
	if (!vec_push(order))
		return -ENOMEM;
	memmove(order->v + low + 1, order->v + low, (order->n - 1 - low) * sizeof(*order->v));
	order->v[low] = process;
	*ret_owner = process.pid;
	return 0;
}

bool collect_owns_memory(struct sharing *s, pid_t pid)
{
	const struct sharing_process process = {pid, proc_look(pid)};
	pid_t owner = pid;
	return sharing_find(s, SHARING_VM, process, &owner) < 0 || owner == pid;
}

bool collect_in_vfork(pid_t pid, pid_t ppid)
{
	struct proc_pid_list tids = {0};
	pid_t child = 0;
	_cleanup_close_ int dir = proc_open(ppid, NULL);
	if (dir < 0 || proc_read_tasks(dir, &tids, NULL) < 0)
		return false;
	bool found = false;
	vec_foreach(tid, &tids.v)
		found = found || (proc_is_in_vfork(dir, *tid, &child) && child == pid);
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
static int sharing_outside(const struct sharing_process *process, pid_t ppid, struct ferry_error *err)
{
	pid_t pid = process->pid, above = ppid ? proc_look(ppid) : 0;
	for (int type = 0; type < SHARING_TYPES; type++)
		if (ppid && sys_kcmp(process->look, above, sharing_types[type].type, 0, 0) == SHARING_EQUAL)
			return sharing_refuse_outside(pid, ppid, (enum sharing_type)type, err);
	return 0;
}

int collect_sharing(struct sharing *s, struct sharing_process process, pid_t ppid, bool is_root,
		    pid_t ret_owners[SHARING_TYPES], struct ferry_error *err)
{
	pid_t owners[SHARING_TYPES], pid = process.pid;
	int r = is_root ? sharing_outside(&process, ppid, err) : 0;
	if (!is_root && collect_in_vfork(pid, ppid)) {
		error_set(
			err, FERRY_ERROR_BUSY_TASK, EBUSY,
			"pid %d waits in vfork for its child, pid %d, which neither executes a program nor ends",
			ppid, pid);
		error_hint(err, "try again when pid %d has, or end it", pid);
		return -EBUSY;
	}
	for (int type = 0; type < SHARING_TYPES && r >= 0; type++) {
		owners[type] = pid;
		r = sharing_find(s, (enum sharing_type)type, process, &owners[type]);
		if (r < 0)
			return r == -ENOMEM ? error_memory(err)
					    : error_errno(err, FERRY_ERROR_SYSTEM, -r,
							  "comparing pid %d with others (kcmp)", pid);
	}
	if (r >= 0)
		memcpy(ret_owners, owners, sizeof(owners));
	return r;
}

/* What a process of the tree has in common with one that is not; SHARING_TYPES: nothing. */
static int sharing_find_outside(const struct sharing *s, pid_t outside, pid_t *ret_pid)
{
	for (int type = 0; type < SHARING_TYPES; type++) {
		size_t low = 0, high = s->order[type].n;
		while (low < high) {
			size_t middle = low + (high - low) / 2;
			const struct sharing_process *known = &s->order[type].v[middle];
			int r = sys_kcmp(outside, known->look, sharing_types[type].type, 0, 0);
			if (r < 0)
				break; /* one of them has ended, or it is not ours to look at */
			if (r == SHARING_EQUAL) {
				*ret_pid = known->pid;
				return type;
			}
			if (r == SHARING_LESS)
				high = middle;
			else
				low = middle + 1;
		}
	}
	return SHARING_TYPES;
}

int collect_check_outside(const struct sharing *s, const struct family *f, struct ferry_error *err)
{
	pid_t root = f->members.n ? f->members.v[0].pid : 0;
	struct proc_stat st = {0};
	_cleanup_close_ int first = proc_open(root, NULL);
	_cleanup_closedir_ DIR *dir = opendir("/proc");
	if (first < 0 || proc_read_stat(first, &st, NULL) < 0)
		return 0;
	for (struct dirent *d; dir && (d = readdir(dir));) {
		pid_t inside, pid = (pid_t)strtol(d->d_name, NULL, 10);
		char path[32];
		/* The parent of the first was looked at. */
		if (pid <= 0 || pid == getpid() || pid == st.ppid || family_find(f, pid) != FAMILY_NONE)
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
