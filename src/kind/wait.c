/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what a process has not been told yet of its children: that one stopped or went on again. (Of those that ended, the
 * zombies, see collect/family.c.) Brought back by the parent itself while its children are stopped, see restore/stop.c.
 *
 * Kernel interface: waitid(2) with WNOWAIT in the parent; that the child is traced makes no difference to it.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "kind/kinds.h"
#include "proc/read.h"

enum { WAIT_INFO_BYTES = 128 };
_Static_assert(sizeof(siginfo_t) == WAIT_INFO_BYTES, "as waitid writes it");

/* What a task's own PID namespace, which is so many below that of our /proc, calls a child. */
static pid_t wait_number(size_t level, pid_t child)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	_cleanup_close_ int dir = level > 1 ? proc_open(child, NULL) : -1;
	if (dir < 0 || proc_read_status(dir, &status, NULL) < 0 || status.ns_pid.n < level)
		return child;
	return status.ns_pid.v[level - 1];
}

static void wait_ask_task(const struct snap_task *t, int proc_dir unused, struct script *s)
{
	size_t level = snapshot_look(t)->status.ns_pid.n;
	vec_foreach(pid, &t->children) {
		script_call(s, "asking what is to be told of a child", SYS_waitid, P_PID,
			    (uint64_t)wait_number(level, *pid), script_put(s, NULL, WAIT_INFO_BYTES),
			    WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT | __WALL, 0)
			->data_mask = 1 << 2;
		s->calls.v[script_last(s)].check = BLOB_CHECK_NONE;
	}
}

static bool wait_is_traced(const struct snapshot *snap, pid_t pid)
{
	_cleanup_close_ int dir = proc_open(pid, NULL);
	_cleanup_proc_status_ struct proc_status status = {0};
	return dir >= 0 && proc_read_status(dir, &status, NULL) >= 0 && status.tracer_pid != getpid() &&
	       snapshot_inner_pid(snap, status.tracer_pid);
}

static int wait_collect_task(struct collect *c, struct snap_task *t, int proc_dir unused,
			     const struct answers *a, struct ferry_error *err)
{
	for (size_t i = 0; i < t->children.n; i++) {
		siginfo_t info;
		memcpy(&info, a->data + i * WAIT_INFO_BYTES, sizeof(info));
		/* Of a tracee any stop is told, which is the business of the kind trace. */
		if (a->calls[i].ret < 0 || !info.si_pid || info.si_code == CLD_TRAPPED ||
		    wait_is_traced(c->snap, t->children.v[i]))
			continue;
		struct snap_untold *untold = vec_push(&c->snap->untold);
		if (!untold)
			return error_memory(err);
		*untold = (struct snap_untold){.pid = t->children.v[i],
					       .continued = info.si_code == CLD_CONTINUED};
	}
	return 0;
}

const struct kind_ops kind_wait = {
	.name = "wait",
	.what = "what waits of the parents have yet to tell of stopped and continued children",
	.fd_type = -1,
	.image_file = -1,
	.ask_task = wait_ask_task,
	.collect_task = wait_collect_task,
};
