/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns taking a copy of another task's descriptor. Kernel interface: pidfd_open(2) (Linux 5.3),
 * pidfd_getfd(2) (5.6); needs the right to attach with ptrace. A thread other than the leader, which has
 * the descriptors when the leader is a zombie or the thread has a table of its own, needs PIDFD_THREAD
 * (6.9).
 */
#include <ferry/inject.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "inject/internal.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

/* A process by the PID of its leader, any other thread as a thread. */
static int task_pidfd(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	/* ENOENT since 6.16 for a thread that leads no process. */
	if (fd < 0 && pid > 0 && (errno == EINVAL || errno == ENOENT))
		fd = (int)syscall(SYS_pidfd_open, pid, PIDFD_THREAD);
	return fd;
}

int ferry_inject_get_fd(pid_t pid, int fd, struct ferry_error *err)
{
	_cleanup_close_ int pidfd = task_pidfd(pid);
	int code = errno;

	if (pidfd < 0) {
		if (code == ESRCH || code == EINVAL)
			return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "there is no process %d", pid);
		if (code == ENOSYS)
			return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOSYS,
					 "pidfd_open needs Linux 5.3");
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "pidfd_open of process %d", pid);
	}
	int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	if (copy >= 0)
		return copy;
	code = errno;
	switch (code) {
	case EBADF:
		return error_set(err, FERRY_ERROR_SYSTEM, EBADF, "process %d has no descriptor %d", pid, fd);
	case ESRCH: return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "process %d has exited", pid);
	case ENOSYS: return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOSYS, "pidfd_getfd needs Linux 5.6");
	case EPERM:
		error_errno(err, FERRY_ERROR_PERMISSION, EPERM, "fd %d of process %d", fd, pid);
		error_hint(err, "copying a descriptor needs the right to trace its process");
		return -EPERM;
	default: return error_errno(err, FERRY_ERROR_SYSTEM, code, "fd %d of process %d", fd, pid);
	}
}
