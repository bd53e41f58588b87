/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns files of /proc that show a process. Those of the tree's own processes are opened again when these exist. Those of a process
 * that ended are opened for a helper with the same number, which ends again: reading them fails as it did before.
 *
 * Kernel interface: /proc/PID (proc(5)), clone3(2) with set_tid (5.5).
 * Does not handle: files of threads other than the first, files of processes outside of the tree, and those that give each line
 * once (/proc/kmsg, trace_pipe) or keep what was written to them (pressure triggers). They are refused by name.
 */
#include "kind/procfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kind/fdcommon.h"

/* What holds a state that its path does not bring back. */
static const struct procfile_state {
	const char *start, *end; /* of the path; NULL = any */
	bool written;            /* only if it can be written to */
	const char *what;
} procfile_states[] = {
	{"/proc/kmsg", NULL, false, "gives each message once"},
	{"/sys/kernel/", "/trace_pipe", false, "gives each event once"},
	{"/sys/kernel/", "/trace_pipe_raw", false, "gives each event once"},
	{"/proc/pressure/", NULL, true, "keeps the trigger that was written to it"},
	{"/sys/fs/cgroup/", ".pressure", true, "keeps the trigger that was written to it"},
};

pid_t procfile_pid(const char *path)
{
	static const char proc[] = "/proc/";
	const char *number = path + sizeof(proc) - 1;
	char *end;
	if (strncmp(path, proc, sizeof(proc) - 1) != 0 || number[0] < '1' || number[0] > '9')
		return 0;
	long pid = strtol(number, &end, 10);
	bool whole = !*end || *end == '/' || !strcmp(end, " (deleted)");
	return !whole || pid > INT_MAX ? 0 : (pid_t)pid;
}

/* "/proc/41/task/42/stat": 42; 0 without a thread. */
static pid_t procfile_thread(const char *path)
{
	const char *task = strstr(path, "/task/");
	return task ? (pid_t)strtol(task + 6, NULL, 10) : 0;
}

bool procfile_ended(const struct fd_view *view)
{
	struct fd_view copied = *view;
	char byte, path[32];
	snprintf(path, sizeof(path), "/proc/%d", procfile_pid(view->link));
	if (strstr(view->link, " (deleted)"))
		return true;
	if (view->info->flags & O_PATH || fd_view_copy(&copied, NULL) < 0)
		return access(path, F_OK) < 0;
	bool gone;
	if (S_ISDIR(view->stat.st_mode))
		gone = faccessat(copied.copy, ".", F_OK, 0) < 0 ||
		       (faccessat(copied.copy, "stat", F_OK, 0) < 0 && access(path, F_OK) < 0);
	else
		gone = pread(copied.copy, &byte, 1, 0) < 0 && errno == ESRCH;
	if (view->copy < 0)
		close(copied.copy);
	/* In another proc file system, that of another PID namespace, the number is another process's. */
	struct stat proc;
	bool ours = stat("/proc", &proc) == 0 && proc.st_dev == view->stat.st_dev;
	return gone || (ours && access(path, F_OK) < 0);
}

int procfile_check(const struct fd_view *view, const struct snapshot *tree, struct ferry_error *err)
{
	char who[64];
	pid_t pid = procfile_pid(view->link), thread = procfile_thread(view->link);
	fd_view_name(view, who, sizeof(who));
	if (!S_ISREG(view->stat.st_mode) && !S_ISDIR(view->stat.st_mode))
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "%s: '%s' has no path to be opened again by", who, view->link);
	if (thread && thread != pid)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "%s: '%s' is of a thread other than the first of its process", who,
				 view->link);
	if (!tree || procfile_ended(view))
		return 0;
	vec_foreach(task, &tree->tasks) {
		if (snapshot_inner_pid(tree, task->pid) == pid)
			return 0;
	}
	return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			 "%s: '%s' is of a process outside of the tree", who, view->link);
}

int procfile_check_kernel(const struct fd_view *view, struct ferry_error *err)
{
	bool writes = (view->info->flags & O_ACCMODE) != O_RDONLY;
	size_t n = strlen(view->link);
	char who[64];
	if (view->info->flags & O_PATH)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(procfile_states); i++) {
		const struct procfile_state *s = &procfile_states[i];
		size_t end = s->end ? strlen(s->end) : 0;
		if (strncmp(view->link, s->start, strlen(s->start)) != 0 || (s->written && !writes) ||
		    (end && (n < end || strcmp(view->link + n - end, s->end) != 0)))
			continue;
		fd_view_name(view, who, sizeof(who));
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' %s", who, view->link,
				 s->what);
	}
	return 0;
}

/* A process of the tree's PID namespace that waits for its end; it dies with us. */
struct procfile_helper {
	pid_t pid;    /* as we know it */
	pid_t number; /* as /proc of the tasks has it; in: wanted, 0 = any */
};

static int procfile_start(struct procfile_helper *h)
{
	struct clone_args args = {.set_tid = (uint64_t)(uintptr_t)&h->number, .set_tid_size = h->number != 0};
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	h->pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	int code = errno;
	if (!h->pid) {
		h->number = (pid_t)syscall(SYS_getpid);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ends[0]);
		/* That is over when we are. */
		while (fd_write_all(ends[1], &h->number, sizeof(h->number)) == 0)
			pause();
		_exit(0);
	}
	close(ends[1]);
	int r = h->pid < 0 ? -code : fd_read_all(ends[0], &h->number, sizeof(h->number));
	close(ends[0]);
	return r;
}

static void procfile_end(const struct procfile_helper *h)
{
	if (h->pid <= 0)
		return;
	kill(h->pid, SIGKILL);
	while (waitpid(h->pid, NULL, __WALL) < 0 && errno == EINTR)
		continue;
}

/* The file of the helper, where the position is what it was. */
static int procfile_open_helper(const struct procfile_helper *h, const RegFileEntry *reg, int flags)
{
	char now[PATH_MAX];
	const char *rest = strchr(reg->name + strlen("/proc/"), '/');
	snprintf(now, sizeof(now), "/proc/%d%s", h->number, rest ? rest : "");
	_cleanup_close_ int fd = fd_open(AT_FDCWD, now, flags & ~(O_CREAT | O_TRUNC), 0);
	/* A position cannot be set once reading fails. */
	if (fd >= 0 && reg->pos && !(flags & O_PATH) && lseek(fd, (off_t)reg->pos, SEEK_SET) < 0)
		return -errno;
	return take_fd(fd);
}

/* Whose file is wanted. */
struct procfile_ended {
	const RegFileEntry *reg;
	pid_t pid;
	int flags;
};

static int procfile_make_ended(void *context)
{
	const struct procfile_ended *e = context;
	struct procfile_helper helper = {.number = e->pid};
	int r = procfile_start(&helper);
	if (r < 0) {
		procfile_end(&helper);
		helper = (struct procfile_helper){0}; /* somebody has the number: only the name will differ */
		r = procfile_start(&helper);
	}
	int fd = r < 0 ? r : procfile_open_helper(&helper, e->reg, e->flags);
	procfile_end(&helper);
	return fd;
}

int procfile_open_ended(const struct opener *o, const RegFileEntry *reg, pid_t pid, int flags, int *ret_fd,
			struct ferry_error *err)
{
	struct procfile_ended ended = {.reg = reg, .pid = pid, .flags = flags};
	if (procfile_pid(reg->name) != pid || procfile_thread(reg->name))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "'%s' is no file of pid %d", reg->name,
				 pid);
	int fd = fdcommon_with_children_there(o, procfile_make_ended, &ended, err);
	if (fd < 0)
		return error_is_set(err) ? fd
					 : error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd,
						       "opening '%s' of a process that ended", reg->name);
	*ret_fd = fd;
	return 0;
}
