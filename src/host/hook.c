/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns running the command of --hook. It has a process group of its own, so that all of it can be killed, and dies with the worker: a
 * tree that runs on is no longer what it was started for.
 *
 * Kernel interface: pidfd_open(2), prctl(2) PR_SET_PDEATHSIG. Not handled: a command that leaves its process group is not killed.
 */
#include "host/hook.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"

struct hook {
	pid_t pid; /* 0: it is over */
	int control, pidfd;
};

enum { HOOK_NOT_RUN = 127 };

/* As a shell would have started it. The directory's path is what it is from here. */
static __attribute__((noreturn)) void hook_become(const char *command, int32_t tree, int dir)
{
	char pid[16], path[PATH_MAX];
	sigset_t none;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(pid, sizeof(pid), "%d", tree);
	if (fd_path(dir, path, sizeof(path)) < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
	    dup2(STDERR_FILENO, STDOUT_FILENO) < 0 || setenv("FERRY_PID", pid, 1) < 0 ||
	    setenv("FERRY_DIR", path, 1) < 0)
		_exit(HOOK_NOT_RUN);
	execl("/bin/sh", "sh", "-c", command, NULL);
	_exit(HOOK_NOT_RUN);
}

static __attribute__((noreturn)) void hook_wait(const char *command, int control, pid_t parent)
{
	int32_t tree;
	int dir = -1;
	size_t n = 0;
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || fd_recv(control, &tree, sizeof(tree), &dir, 1, &n) != sizeof(tree))
		_exit(0);
	hook_become(command, tree, dir);
}

int hook_start(const char *command, struct hook **ret, struct ferry_error *err)
{
	int pair[2];
	pid_t parent = getpid();
	struct hook *h = calloc(1, sizeof(*h));
	if (!h)
		return error_memory(err);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		free(h);
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a channel to the hook");
	}
	h->control = pair[0];
	h->pidfd = -1;
	h->pid = fork();
	if (!h->pid) {
		close(pair[0]);
		hook_wait(command, pair[1], parent);
	}
	int code = errno;
	close(pair[1]);
	if (h->pid > 0)
		h->pidfd = sys_pidfd_open(h->pid, 0);
	if (h->pid > 0 && h->pidfd >= 0) {
		*ret = h;
		return 0;
	}
	code = h->pid > 0 ? -h->pidfd : code;
	hook_free(h);
	return error_errno(err, FERRY_ERROR_SYSTEM, code, "starting the hook");
}

/* Its end, or that of its time. */
static int hook_reap(struct hook *h, int timeout_ms, int *ret_status)
{
	struct pollfd p = {.fd = h->pidfd, .events = POLLIN};
	int n = poll(&p, 1, timeout_ms);
	if (n <= 0) {
		kill(-h->pid, SIGKILL);
		kill(h->pid, SIGKILL);
	}
	while (waitpid(h->pid, ret_status, 0) < 0 && errno == EINTR)
		continue;
	h->pid = 0;
	return n < 0 ? -errno : n ? 0 : -ETIMEDOUT;
}

int hook_run(struct hook *h, pid_t pid, int dir, int timeout_ms, struct ferry_error *err)
{
	int32_t tree = pid;
	int status = 0, r = fd_send(h->control, &tree, sizeof(tree), &dir, 1);
	if (r >= 0)
		r = hook_reap(h, timeout_ms, &status);
	if (r == -ETIMEDOUT) {
		error_set(err, FERRY_ERROR_HOOK, ETIMEDOUT, "the command of --hook did not end within %d s",
			  timeout_ms / 1000);
		error_hint(err, "it was killed; --timeout SECONDS gives it more time");
		return r;
	}
	if (r < 0)
		return error_errno(err, FERRY_ERROR_HOOK, -r, "running the command of --hook");
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return error_set(err, FERRY_ERROR_HOOK, EIO, "the command of --hook %s %d",
				 WIFEXITED(status) ? "ended with status" : "was killed by signal",
				 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
	return 0;
}

void hook_free(struct hook *h)
{
	int status;
	if (!h)
		return;
	close(h->control);
	if (h->pid > 0 && hook_reap(h, 0, &status) < 0)
		status = 0; /* it was killed, as it was to be */
	if (h->pidfd >= 0)
		close(h->pidfd);
	free(h);
}
