/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns who shares what with whom: processes that clone(2) made with more in common than fork(2) leaves.
 *
 * Kernel interface: kcmp(2) KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND (3.5), whose answers order objects, so who has one that is
 * known already is found by bisection.
 *
 * Does not handle: memory and signal actions that processes share (CLONE_VM, CLONE_SIGHAND without CLONE_THREAD). Both would have
 * to be made from within the other's memory; a dump refuses them by name.
 */
#include <errno.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "collect/collect.h"
#include "kernel/syscalls.h"
#include "proc/read.h"

enum { SHARING_EQUAL, SHARING_LESS };

static const struct {
	enum kern_kcmp_type type;
	const char *what;
	bool refused;
} sharing_types[SHARING_TYPES] = {
	[SHARING_VM] = {KERN_KCMP_VM, "its memory", true},
	[SHARING_SIGHAND] = {KERN_KCMP_SIGHAND, "its signal actions", true},
	[SHARING_FILES] = {KERN_KCMP_FILES, "its descriptor table", false},
	[SHARING_FS] = {KERN_KCMP_FS, "its working directory", false},
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

static int sharing_refuse(pid_t pid, pid_t other, enum sharing_type type, const char *where,
			  struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			 "pid %d shares %s with pid %d%s (clone flags)", pid, sharing_types[type].what, other,
			 where);
}

/* The first of the tree may share with its parent as well. */
static int sharing_outside(const struct sharing_process *process, pid_t ppid, struct ferry_error *err)
{
	pid_t pid = process->pid, above = ppid ? proc_look(ppid) : 0;
	for (int type = 0; type < SHARING_TYPES; type++)
		if (ppid && sys_kcmp(process->look, above, sharing_types[type].type, 0, 0) == SHARING_EQUAL)
			return sharing_refuse(pid, ppid, (enum sharing_type)type,
					      ", which is outside the tree", err);
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
		if (sharing_types[type].refused && owners[type] != pid)
			r = sharing_refuse(pid, owners[type], (enum sharing_type)type, "", err);
	}
	if (r >= 0)
		memcpy(ret_owners, owners, sizeof(owners));
	return r;
}
