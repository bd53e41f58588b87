/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns control groups as such: mounts of hierarchies, moving processes, and namespaces. The root of a namespace is the group in which
 * its maker was, so a child of ours goes there, makes it and ends.
 *
 * Kernel interface: cgroups(7), cgroup_namespaces(7) (4.6), fsopen(2) and fsmount(2) (5.2).
 */
#include "host/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "proc/mountinfo.h"

enum { CGROUP_FILE_MAX = 1 << 16, CGROUP_WAIT_MS = 10000 };

/* A controller of v1, or the name of a hierarchy that has none. */
static int cgroup_mount_option(int fs, const char *word)
{
	if (strncmp(word, "name=", 5))
		return sys_fsconfig(fs, FSCONFIG_SET_FLAG, word, NULL, 0);
	int r = sys_fsconfig(fs, FSCONFIG_SET_FLAG, "none", NULL, 0);
	return r < 0 ? r : sys_fsconfig(fs, FSCONFIG_SET_STRING, "name", word + 5, 0);
}

int cgroup_mount(const char *controllers)
{
	char list[256];
	_cleanup_close_ int fs = sys_fsopen(*controllers ? "cgroup" : "cgroup2", FSOPEN_CLOEXEC);
	if (fs < 0)
		return fs;
	snprintf(list, sizeof(list), "%s", controllers);
	int r = 0;
	for (char *save = NULL, *word = strtok_r(list, ",", &save); word && r >= 0;
	     word = strtok_r(NULL, ",", &save))
		r = cgroup_mount_option(fs, word);
	if (r >= 0)
		r = sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	return r < 0 ? r : sys_fsmount(fs, FSMOUNT_CLOEXEC, 0);
}

static bool cgroup_is_mounted_by(const struct proc_mount *m, const char *controllers)
{
	char list[256];
	if (strcmp(m->root, "/") != 0 || proc_mount_has_option(m->options, "ro") ||
	    strcmp(m->fstype, *controllers ? "cgroup" : "cgroup2") != 0)
		return false;
	snprintf(list, sizeof(list), "%s", controllers);
	bool all = true;
	for (char *save = NULL, *word = strtok_r(list, ",", &save); word && all;
	     word = strtok_r(NULL, ",", &save))
		all = proc_mount_has_option(m->super_options, word);
	return all;
}

int cgroup_reach(const struct proc_mounts *mounts, int root, const char *controllers)
{
	vec_foreach(m, &mounts->v) {
		struct stat st;
		if (!cgroup_is_mounted_by(m, controllers))
			continue;
		int fd = fd_open(root, m->point + strspn(m->point, "/"), O_RDONLY | O_DIRECTORY, 0);
		/* Something else may be mounted over it. */
		if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == m->dev)
			return fd;
		if (fd >= 0)
			close(fd);
	}
	return cgroup_mount(controllers);
}

int cgroup_move(int dir, const char *file, pid_t pid)
{
	char text[16];
	snprintf(text, sizeof(text), "%d", pid);
	_cleanup_close_ int fd = fd_open(dir, file, O_WRONLY, 0);
	return fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
}

bool cgroup_is_frozen(int dir)
{
	_cleanup_free_ char *v1 = NULL, *v2 = NULL;
	size_t n;
	if (fd_read_path(dir, "freezer.state", CGROUP_FILE_MAX, &v1, &n) >= 0)
		return !strstr(v1, "THAWED");
	return fd_read_path(dir, "cgroup.events", CGROUP_FILE_MAX, &v2, &n) >= 0 && strstr(v2, "frozen 1");
}

static __attribute__((noreturn)) void cgroup_ns_main(const int *dirs, size_t n, int tell)
{
	int r = 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < n && r >= 0; i++)
		r = dirs[i] < 0 ? 0 : cgroup_move(dirs[i], "cgroup.procs", 0);
	if (r >= 0 && unshare(CLONE_NEWCGROUP) < 0)
		r = -errno;
	if (fd_write_all(tell, &r, sizeof(r)) < 0)
		_exit(1);
	for (;;)
		pause();
}

/* It may be frozen on its way, or wait for memory that its new group does not have. */
static int cgroup_ns_answer(int tell)
{
	int r = -ECHILD;
	struct pollfd p = {.fd = tell, .events = POLLIN};
	int ready = poll(&p, 1, CGROUP_WAIT_MS);
	if (ready <= 0)
		return ready ? -errno : -EBUSY;
	return read(tell, &r, sizeof(r)) == sizeof(r) ? r : -ECHILD;
}

int cgroup_make_ns(const int *dirs, size_t n, int *ret_fd, struct ferry_error *err)
{
	int ends[2], fd = -1;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	pid_t pid = fork();
	if (!pid) {
		close(ends[0]);
		cgroup_ns_main(dirs, n, ends[1]);
	}
	close(ends[1]);
	int r = pid < 0 ? -errno : cgroup_ns_answer(ends[0]);
	close(ends[0]);
	if (r >= 0)
		r = fd = fd_openf(O_RDONLY, "/proc/%d/ns/cgroup", pid);
	if (pid > 0)
		kill(pid, SIGKILL);
	/* Frozen meanwhile it may end only when somebody thaws it. */
	if (pid > 0 && r != -EBUSY)
		while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
			continue;
	if (r < 0)
		return error_errno(err, r == -EBUSY ? FERRY_ERROR_BUSY_TASK : FERRY_ERROR_SYSTEM, -r,
				   "creating a cgroup namespace");
	*ret_fd = fd;
	return 0;
}
