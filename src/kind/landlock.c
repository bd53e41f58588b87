/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding threads that are in a Landlock domain, and refuses them: no interface of the kernel tells that there is one, or
 * what it forbids.
 *
 * It shows in one thing: a thread in a domain may look into no process outside of it, whatever its rights. So each thread asks
 * to compare a process with itself, which needs that right alone. The process is ferry when the thread may look into every
 * process, else a child that has the thread's own identity and no capabilities, in the thread's own user namespace.
 *
 * Kernel interface: landlock_create_ruleset(2) (5.13), kcmp(2).
 * Does not handle: a domain of a thread without no_new_privs and CAP_SYS_PTRACE, which it can have only if it gave up
 * CAP_SYS_ADMIN later; it is not looked for.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"

/* The identity of a child, and where it lives. */
struct landlock_like {
	const struct proc_status *status;
	int userns; /* -1 = ferry's own */
};

/* In the child: become like the thread, say so, and be looked at until the end. */
static __attribute__((noreturn)) void landlock_be_seen(const struct landlock_like *l, int pipe)
{
	const struct proc_status *like = l->status;
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
	uid_t uid = like->uid.real;
	gid_t gid = like->gid.real;
	if (l->userns >= 0)
		prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP);
	bool good = sys_call(SYS_setresgid, gid, gid, gid) >= 0 &&
		    sys_call(SYS_setresuid, uid, uid, uid) >= 0 &&
		    (l->userns < 0 || sys_call(SYS_setns, l->userns, CLONE_NEWUSER) >= 0) &&
		    sys_call(SYS_capset, &head, none) >= 0;
	/* Both are gone with the change of identity. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 1);
	if (!good || write(pipe, "", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static pid_t landlock_child(const struct landlock_like *like)
{
	int ends[2];
	char byte;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	pid_t pid = fork();
	if (!pid)
		landlock_be_seen(like, ends[1]);
	close(ends[1]);
	bool ready = pid > 0 && fd_read_all(ends[0], &byte, 1) >= 0;
	close(ends[0]);
	if (pid > 0 && !ready) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return ready ? pid : -ECHILD;
}

static bool landlock_is_there(void)
{
	return sys_call(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
}

/* The user namespace of a task, where that is not ours. */
static int landlock_userns(const struct snap_task *t)
{
	char path[64];
	if (!t->own_userns)
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", t->look);
	return fd_open(AT_FDCWD, path, O_RDONLY, 0);
}

static void landlock_ask_thread(const struct snap_task *t, const struct snap_thread *th, struct script *s)
{
	bool sees_all = th->status.cap_effective >> CAP_SYS_PTRACE & 1;
	pid_t seen = -1;
	_cleanup_close_ int userns = landlock_userns(t);
	const struct landlock_like like = {.status = &th->status, .userns = userns};
	if (landlock_is_there() && sees_all && userns < 0)
		seen = getpid();
	else if (landlock_is_there() && (sees_all || th->status.no_new_privs))
		seen = landlock_child(&like);
	script_call(s, "looking for a Landlock domain", SYS_kcmp, (uint64_t)seen, (uint64_t)seen,
		    KERN_KCMP_VM, 0, 0)
		->check = BLOB_CHECK_NONE;
}

static int landlock_collect_thread(struct collect *c unused, struct snap_task *t, struct snap_thread *th,
				   int proc_dir unused, const struct answers *a, struct ferry_error *err)
{
	pid_t seen = (pid_t)a->calls[0].arg[0];
	if (seen > 0 && seen != getpid()) {
		kill(seen, SIGKILL);
		waitpid(seen, NULL, 0);
	}
	if (seen < 0 || a->calls[0].ret != -EPERM)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP, "thread %d of pid %d is in a Landlock domain",
		  th->tid, t->pid);
	error_hint(err, "the kernel has no interface to read what a domain forbids");
	return -ENOTSUP;
}

const struct kind_ops kind_landlock = {
	.name = "landlock",
	.what = "Landlock domains, which are refused",
	.fd_type = -1,
	.image_file = -1,
	.ask_thread = landlock_ask_thread,
	.collect_thread = landlock_collect_thread,
};
