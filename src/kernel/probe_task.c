/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the probes about tasks: pidfds, clone3, kcmp, ptrace, timers, namespaces. The ptrace ones try the request
 * on a child of their own, which is cloned without an exit signal and reaped with __WALL.
 */
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "kernel/probe.h"
#include "kernel/syscalls.h"

enum { CAP_CHECKPOINT_RESTORE_ = 40 };

enum kern_cap_state probe_privilege(enum kern_cap_state state, unsigned cap, unsigned or_cap, int *ret_reason)
{
	uint64_t effective;
	if (state != KERN_PRESENT || kern_capabilities(&effective) < 0)
		return state;
	if (effective >> cap & 1 || effective >> or_cap & 1)
		return state;
	*ret_reason = EPERM;
	return KERN_DENIED;
}

/* For an interface that only gives a descriptor. */
static enum kern_cap_state probe_fd(int fd, int *ret_reason)
{
	if (fd >= 0)
		close(fd);
	return probe_verdict(fd, ret_reason);
}

enum kern_cap_state kern_probe_pidfd_open(unused struct kern_caps *caps, int *ret_reason)
{
	return probe_fd(sys_pidfd_open(getpid(), 0), ret_reason);
}

enum kern_cap_state kern_probe_pidfd_getfd(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_close_ int pidfd = sys_pidfd_open(getpid(), 0);
	if (pidfd < 0)
		return probe_verdict(pidfd, ret_reason);
	return probe_fd(sys_pidfd_getfd(pidfd, pidfd), ret_reason);
}

enum kern_cap_state kern_probe_pidfd_thread(unused struct kern_caps *caps, int *ret_reason)
{
	return probe_fd(sys_pidfd_open(sys_gettid(), PIDFD_THREAD), ret_reason);
}

enum kern_cap_state kern_probe_pidfd_namespace(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_close_ int pidfd = sys_pidfd_open(getpid(), 0);
	if (pidfd < 0)
		return probe_verdict(pidfd, ret_reason);
	return probe_fd((int)sys_ret(ioctl(pidfd, PIDFD_GET_PID_NAMESPACE, 0)), ret_reason);
}

enum kern_cap_state kern_probe_pidfd_info(unused struct kern_caps *caps, int *ret_reason)
{
	struct kern_pidfd_info info = {.mask = PIDFD_INFO_PID};
	_cleanup_close_ int pidfd = sys_pidfd_open(getpid(), 0);
	if (pidfd < 0)
		return probe_verdict(pidfd, ret_reason);
	return probe_verdict(sys_pidfd_get_info(pidfd, &info), ret_reason);
}

enum kern_cap_state kern_probe_kcmp(unused struct kern_caps *caps, int *ret_reason)
{
	return probe_verdict(sys_kcmp(getpid(), getpid(), KERN_KCMP_VM, 0, 0), ret_reason);
}

enum kern_cap_state kern_probe_kcmp_epoll(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_close_ int epoll = epoll_create1(EPOLL_CLOEXEC), event = eventfd(0, EFD_CLOEXEC);
	struct epoll_event entry = {.events = EPOLLIN};
	if (epoll < 0 || event < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, event, &entry) < 0)
		return probe_verdict(-errno, ret_reason);
	struct kern_kcmp_epoll_slot slot = {.efd = (uint32_t)epoll, .tfd = (uint32_t)event};
	long r =
		sys_kcmp(getpid(), getpid(), KERN_KCMP_EPOLL_TFD, (unsigned long)event, (unsigned long)&slot);
	return probe_verdict(r, ret_reason);
}

/* A clone3 that is meant to fail; should it succeed, the child ends at once and the answer is -ENOTSUP. */
static long clone3_that_fails(const struct kern_clone_args *args)
{
	pid_t pid = sys_clone3(args);
	if (!pid)
		for (;;)
			syscall(SYS_exit_group, 0);
	if (pid < 0)
		return pid;
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return -ENOTSUP;
}

enum kern_cap_state kern_probe_clone3_set_tid(unused struct kern_caps *caps, int *ret_reason)
{
	/* the array is read before anything is created; an older kernel says E2BIG to the longer structure */
	struct kern_clone_args args = {.set_tid = 8, .set_tid_size = 1};
	enum kern_cap_state state = probe_expect(clone3_that_fails(&args), EFAULT, ret_reason);
	return probe_privilege(state, CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE_, ret_reason);
}

enum kern_cap_state kern_probe_clone3_cgroup(unused struct kern_caps *caps, int *ret_reason)
{
	struct kern_clone_args args = {.flags = CLONE_INTO_CGROUP, .cgroup = INT32_MAX};
	return probe_expect(clone3_that_fails(&args), EBADF, ret_reason);
}

static enum kern_cap_state probe_path(const char *path, int *ret_reason)
{
	return probe_verdict(sys_ret(access(path, F_OK)), ret_reason);
}

enum kern_cap_state kern_probe_time_namespace(unused struct kern_caps *caps, int *ret_reason)
{
	return probe_path("/proc/self/ns/time", ret_reason);
}

enum kern_cap_state kern_probe_proc_timers(unused struct kern_caps *caps, int *ret_reason)
{
	return probe_path("/proc/self/timers", ret_reason);
}

enum kern_cap_state kern_probe_proc_children(unused struct kern_caps *caps, int *ret_reason)
{
	return probe_path("/proc/thread-self/children", ret_reason);
}

enum kern_cap_state kern_probe_timer_restore_ids(unused struct kern_caps *caps, int *ret_reason)
{
	long r = prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0);
	return probe_verdict(sys_ret(r), ret_reason);
}

enum kern_cap_state kern_probe_membarrier_get(unused struct kern_caps *caps, int *ret_reason)
{
	return probe_verdict(sys_membarrier(KERN_MEMBARRIER_CMD_GET_REGISTRATIONS, 0), ret_reason);
}

/* The child of the ptrace probes: with a seccomp filter if asked, stopped by its own signal, never run again. */
static void tracee_main(bool with_filter)
{
	struct sock_filter allow = {.code = BPF_RET | BPF_K, .k = SECCOMP_RET_ALLOW};
	struct sock_fprog program = {.len = 1, .filter = &allow};
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (with_filter) {
		syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
	}
	if (!syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0))
		syscall(SYS_kill, syscall(SYS_getpid), SIGSTOP);
	for (;;)
		syscall(SYS_exit_group, 1);
}

/* A stopped, traced child, or -errno. */
static pid_t tracee_start(bool with_filter)
{
	int status;
	pid_t pid = (pid_t)sys_call(SYS_clone, 0, 0, 0, 0, 0);
	if (!pid)
		tracee_main(with_filter);
	if (pid < 0)
		return pid;
	while (waitpid(pid, &status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFSTOPPED(status) ? pid : -EPERM;
}

static void tracee_end(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}

static enum kern_cap_state probe_ptrace(long request, unsigned long addr, void *data, bool with_filter,
					int *ret_reason)
{
	pid_t pid = tracee_start(with_filter);
	if (pid < 0)
		return probe_verdict(pid, ret_reason);
	long r = sys_ptrace(request, pid, addr, data);
	tracee_end(pid);
	return probe_verdict(r, ret_reason);
}

enum kern_cap_state kern_probe_ptrace_peeksiginfo(unused struct kern_caps *caps, int *ret_reason)
{
	siginfo_t info;
	struct __ptrace_peeksiginfo_args args = {.nr = 1};
	return probe_ptrace(PTRACE_PEEKSIGINFO, (unsigned long)&args, &info, false, ret_reason);
}

enum kern_cap_state kern_probe_ptrace_seccomp_filter(unused struct kern_caps *caps, int *ret_reason)
{
	struct sock_filter filter[16];
	return probe_ptrace(PTRACE_SECCOMP_GET_FILTER, 0, filter, true, ret_reason);
}

enum kern_cap_state kern_probe_ptrace_syscall_info(unused struct kern_caps *caps, int *ret_reason)
{
	struct __ptrace_syscall_info info;
	return probe_ptrace(PTRACE_GET_SYSCALL_INFO, sizeof(info), &info, false, ret_reason);
}

enum kern_cap_state kern_probe_rseq_config(unused struct kern_caps *caps, int *ret_reason)
{
	struct kern_rseq_configuration config;
	return probe_ptrace(PTRACE_GET_RSEQ_CONFIGURATION, sizeof(config), &config, false, ret_reason);
}

enum kern_cap_state kern_probe_syscall_dispatch(unused struct kern_caps *caps, int *ret_reason)
{
	struct kern_sud_config config;
	return probe_ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, sizeof(config), &config, false,
			    ret_reason);
}

enum kern_cap_state kern_probe_lsm_labels(unused struct kern_caps *caps, int *ret_reason)
{
	char label;
	_cleanup_close_ int fd = fd_open(AT_FDCWD, "/proc/thread-self/attr/current", O_RDONLY, 0);
	ssize_t n = fd < 0 ? fd : read(fd, &label, 1);
	return probe_verdict(fd >= 0 && n < 0 ? -errno : n, ret_reason);
}
