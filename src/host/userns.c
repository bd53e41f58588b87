/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns entering user namespaces. Kernel interface: user_namespaces(7): unshare(2), setns(2), /proc/PID/uid_map, gid_map, setgroups.
 */
#include "host/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "proc/read.h"

static int userns_write(const char *path, const char *text, struct ferry_error *err)
{
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_WRONLY, 0);
	int r = fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
	return r < 0 ? error_errno(err, FERRY_ERROR_PERMISSION, -r, "writing '%s' to '%s'", text, path) : 0;
}

int userns_new(struct ferry_error *err)
{
	char uids[32], gids[32];
	snprintf(uids, sizeof(uids), "%u %u 1", geteuid(), geteuid());
	snprintf(gids, sizeof(gids), "%u %u 1", getegid(), getegid());
	/* After a change of ids the files in /proc/self are root's, who is somebody else in there. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (unshare(CLONE_NEWUSER) < 0) {
		error_errno(err, FERRY_ERROR_PERMISSION, errno, "creating a user namespace");
		error_hint(err, "the machine may forbid it: see sysctl user.max_user_namespaces");
		return -EPERM;
	}
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	int r = userns_write("/proc/self/setgroups", "deny", err);
	if (r >= 0)
		r = userns_write("/proc/self/uid_map", uids, err);
	return r < 0 ? r : userns_write("/proc/self/gid_map", gids, err);
}

int userns_enter(pid_t pid, struct ferry_error *err)
{
	struct proc_namespaces theirs, ours;
	_cleanup_close_ int dir = proc_open(pid, err);
	_cleanup_close_ int self = dir < 0 ? -1 : proc_open_self(err);
	int r = self < 0 ? -ESRCH : proc_read_namespaces(dir, &theirs, err);
	if (r >= 0)
		r = proc_read_namespaces(self, &ours, err);
	if (r < 0 || theirs.ino[PROC_NS_USER] == ours.ino[PROC_NS_USER])
		return r;
	_cleanup_close_ int fd = proc_open_namespace(dir, PROC_NS_USER, err);
	if (fd < 0)
		return fd;
	if (setns(fd, CLONE_NEWUSER) < 0)
		return error_errno(err, FERRY_ERROR_PERMISSION, errno,
				   "entering the user namespace of pid %d", pid);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return 0;
}
