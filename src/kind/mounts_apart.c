/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns copies of mount namespaces for a moment.
 * Kernel interface: unshare(2) and setns(2) with CLONE_NEWNS.
 */
#include "kind/mounts_apart.h"

#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

static int apart_run(int ns, int (*run)(void *ctx), void *ctx)
{
	if ((ns >= 0 && setns(ns, CLONE_NEWNS) < 0) || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	return run(ctx);
}

int mounts_apart(int ns, int (*run)(void *ctx), void *ctx)
{
	int ends[2], fd = -1, result = -EPIPE;
	size_t n = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	pid_t pid = fork();
	if (!pid) {
		fd = apart_run(ns, run, ctx);
		result = MIN(fd, 0);
		_exit(fd_send(ends[1], &result, sizeof(result), &fd, fd >= 0) < 0);
	}
	close(ends[1]);
	int r = pid < 0 ? -errno : (int)fd_recv(ends[0], &result, sizeof(result), &fd, 1, &n);
	close(ends[0]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
	if (r >= 0 && (result < 0 || n != 1))
		r = result < 0 ? result : -EPIPE;
	return r < 0 ? r : fd;
}
