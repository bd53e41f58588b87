/* SPDX-License-Identifier: Apache-2.0 */
/* Probes of src/kernel: that they say what the kernel does, change nothing, and follow what is taken away. */
#include "unit.h"

#include <ctype.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/rseq.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/caps.h"
#include "kernel/syscalls.h"
#include "proc/read.h"

static unsigned version_number(const char *text)
{
	char *end;
	unsigned long major = strtoul(text, &end, 10);
	assert_int_equal(*end, '.');
	return (unsigned)(major * 1000 + strtoul(end + 1, NULL, 10));
}

static void test_table(unused void **state)
{
	for (int i = 0; i < KERN_CAP_COUNT; i++) {
		const struct kern_cap_info *info = kern_cap_info(i);
		assert_non_null(info->probe);
		assert_true(*info->text);
		assert_true(version_number(info->version) >= 2006);
		for (const char *p = info->word; *p; p++)
			assert_true(islower(*p) || isdigit(*p) || *p == '-');
		/* a word twice would find the first */
		assert_int_equal(kern_cap_find(info->word), i);
	}
	assert_int_equal(kern_cap_find("no-such-thing"), -EINVAL);
	assert_null(kern_cap_info(KERN_CAP_COUNT));
}

/* What no configuration takes away from the root of a kernel of that version or later. */
static void test_not_older_than_kernel(unused void **state)
{
	static const enum kern_cap_id always[] = {
		KERN_CAP_PIDFD_OPEN,    KERN_CAP_PIDFD_GETFD,        KERN_CAP_PIDFD_THREAD,
		KERN_CAP_PIDFD_INFO,    KERN_CAP_CLONE3_SET_TID,     KERN_CAP_CLOSE_RANGE,
		KERN_CAP_OPENAT2,       KERN_CAP_OPEN_TREE,          KERN_CAP_MOUNT_SETATTR,
		KERN_CAP_STATMOUNT,     KERN_CAP_PTRACE_PEEKSIGINFO, KERN_CAP_PTRACE_SYSCALL_INFO,
		KERN_CAP_PROCMAP_QUERY, KERN_CAP_SO_PEEK_OFF,        KERN_CAP_MOVE_MOUNT_GROUP,
	};
	struct kern_caps caps = {0};
	struct utsname uts;
	assert_int_equal(uname(&uts), 0);
	kern_caps_probe_some(&caps, always, ARRAY_SIZE(always));
	for (size_t i = 0; i < ARRAY_SIZE(always); i++) {
		const struct kern_cap_info *info = kern_cap_info(always[i]);
		if (version_number(uts.release) < version_number(info->version))
			continue;
		if (!kern_has(&caps, always[i]))
			fail_msg("%s is not found: %s", info->word, strerror(caps.reason[always[i]]));
	}
	/* and nothing else was probed */
	assert_int_equal(caps.state[KERN_CAP_NFTABLES], KERN_UNKNOWN);
	assert_false(kern_has(&caps, KERN_CAP_NFTABLES));
	kern_caps_init(&caps);
	assert_int_equal(caps.state[KERN_CAP_CLOSE_RANGE], KERN_UNKNOWN);
	assert_true(kern_has(&caps, KERN_CAP_CLOSE_RANGE));
	assert_int_equal(caps.state[KERN_CAP_CLOSE_RANGE], KERN_PRESENT);
	assert_false(kern_denied(&caps, KERN_CAP_CLOSE_RANGE));
	assert_false(kern_has(NULL, KERN_CAP_CLOSE_RANGE));
}

static size_t count_fds(void)
{
	struct proc_fds fds;
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	assert_int_equal(proc_read_fds(self, &fds, NULL), 0);
	size_t n = fds.v.n;
	proc_fds_release(&fds);
	return n;
}

static void test_nothing_stays(unused void **state)
{
	struct kern_caps caps = {0}, again = {0};
	uint64_t mask_before, mask_after;
	size_t before = count_fds();
	assert_int_equal(sys_rt_sigprocmask(SIG_BLOCK, NULL, &mask_before), 0);
	kern_caps_probe_all(&caps);
	kern_caps_probe_all(&again);
	for (int i = 0; i < KERN_CAP_COUNT; i++) {
		assert_int_not_equal(caps.state[i], KERN_UNKNOWN);
		assert_int_equal(caps.state[i], again.state[i]);
		if (caps.state[i] == KERN_PRESENT)
			assert_int_equal(caps.reason[i], 0);
		if (caps.state[i] == KERN_DENIED)
			assert_int_not_equal(caps.reason[i], 0);
	}
	assert_int_equal(count_fds(), before);
	assert_int_equal(waitpid(-1, NULL, __WALL | WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	assert_int_equal(sys_rt_sigprocmask(SIG_BLOCK, NULL, &mask_after), 0);
	assert_int_equal(mask_before, mask_after);
	assert_int_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
}

/* Run in a child; its assertions show in its exit code. */
static void in_child(void (*what)(void))
{
	int status;
	pid_t pid = fork();
	if (!pid) {
		what();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void child_check(bool good, int line)
{
	if (good)
		return;
	fprintf(stderr, "line %d is not so\n", line);
	_exit(1);
}

#define CHECK(good) child_check(good, __LINE__)

static void without_rights(void)
{
	struct kern_caps caps = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	CHECK(!setresuid(65534, 65534, 65534));
	kern_caps_probe_all(&caps);
	CHECK(caps.state[KERN_CAP_TCP_REPAIR] == KERN_DENIED);
	CHECK(caps.reason[KERN_CAP_TCP_REPAIR] == EPERM);
	CHECK(caps.state[KERN_CAP_CLONE3_SET_TID] == KERN_DENIED);
	CHECK(caps.state[KERN_CAP_PIDFD_OPEN] == KERN_PRESENT);
	CHECK(!kern_has(&caps, KERN_CAP_TCP_REPAIR));
	CHECK(kern_need(&caps, KERN_CAP_TCP_REPAIR, "fd 7", &err) == -EPERM);
	CHECK(err.id == FERRY_ERROR_PERMISSION && strstr(err.message, "fd 7 needs 'tcp-repair'"));
	kern_caps_init(&caps);
	CHECK(!kern_rights(&caps)->effective && !kern_capable(&caps, CAP_SYS_ADMIN));
}

static void test_without_rights(unused void **state)
{
	in_child(without_rights);
}

/* A filter under which these calls fail as on a kernel that lacks or forbids them. */
static void take_away(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_kcmp, 2, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	};
	struct sock_fprog program = {.len = ARRAY_SIZE(filter), .filter = filter};
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	      !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void with_filter(void)
{
	struct kern_caps caps = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	take_away();
	kern_caps_probe_all(&caps);
	CHECK(caps.state[KERN_CAP_CLONE3_SET_TID] == KERN_ABSENT &&
	      caps.reason[KERN_CAP_CLONE3_SET_TID] == ENOSYS);
	CHECK(caps.state[KERN_CAP_CLONE3_CGROUP] == KERN_ABSENT);
	CHECK(caps.state[KERN_CAP_UFFD] == KERN_ABSENT && caps.state[KERN_CAP_UFFD_WP_ASYNC] == KERN_ABSENT);
	CHECK(caps.state[KERN_CAP_KCMP] == KERN_DENIED && caps.state[KERN_CAP_KCMP_EPOLL] == KERN_DENIED);
	CHECK(caps.state[KERN_CAP_CLOSE_RANGE] == KERN_PRESENT);
	CHECK(kern_need(&caps, KERN_CAP_CLONE3_SET_TID, "restoring PIDs", &err) == -EOPNOTSUPP);
	CHECK(err.id == FERRY_ERROR_KERNEL_FEATURE && strstr(err.message, "restoring PIDs"));
	CHECK(strstr(err.hint, "5.5") != NULL);
}

static void test_follows_what_is_taken_away(unused void **state)
{
	in_child(with_filter);
}

static uint64_t file_number(const char *path)
{
	char text[32] = "";
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	return strtoull(text, NULL, 10);
}

static void test_limits(unused void **state)
{
	struct kern_caps caps, zeroed = {0};
	struct proc_status st;
	kern_caps_init(&caps);
	assert_int_equal(kern_limit(&caps, KERN_LIMIT_PID_MAX), file_number("/proc/sys/kernel/pid_max"));
	assert_int_equal(caps.limits[KERN_LIMIT_MAX_MAP_COUNT], 0);
	assert_int_equal(kern_limit(&caps, KERN_LIMIT_MAX_MAP_COUNT),
			 file_number("/proc/sys/vm/max_map_count"));
	assert_int_equal(kern_limit(&caps, KERN_LIMIT_CAP_LAST),
			 file_number("/proc/sys/kernel/cap_last_cap"));
	assert_int_equal(kern_limit(&zeroed, KERN_LIMIT_PID_MAX), 32768);
	assert_int_equal(kern_rights(&zeroed)->effective, 0);
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	assert_int_equal(proc_read_status(self, &st, NULL), 0);
	assert_int_equal(kern_rights(&caps)->effective, st.cap_effective);
	assert_int_equal(kern_rights(&caps)->bounding, st.cap_bounding);
	assert_int_equal(kern_capable(&caps, CAP_KILL), st.cap_effective >> CAP_KILL & 1);
	assert_false(kern_capable(&caps, 64));
	proc_status_release(&st);
}

static void test_calls_on_files(unused void **state)
{
	char seen[4] = "";
	int pipes[2], other;
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	other = dup(pipes[0]);
	assert_int_equal(sys_kcmp(getpid(), getpid(), KERN_KCMP_FILE, (unsigned long)pipes[0],
				  (unsigned long)other),
			 0);
	assert_int_not_equal(sys_kcmp(getpid(), getpid(), KERN_KCMP_FILE, (unsigned long)pipes[0],
				      (unsigned long)pipes[1]),
			     0);
	_cleanup_close_ int pidfd = sys_pidfd_open(getpid(), 0);
	_cleanup_close_ int taken = sys_pidfd_getfd(pidfd, pipes[0]);
	assert_int_equal(sys_kcmp(getpid(), getpid(), KERN_KCMP_FILE, (unsigned long)pipes[0],
				  (unsigned long)taken),
			 0);
	assert_int_equal(fcntl(taken, F_GETFD), FD_CLOEXEC);
	struct kern_pidfd_info info = {.mask = PIDFD_INFO_PID | PIDFD_INFO_CREDS};
	if (!sys_pidfd_get_info(pidfd, &info)) {
		assert_int_equal(info.pid, getpid());
		assert_int_equal(info.ppid, getppid());
		assert_int_equal(info.euid, geteuid());
	}
	assert_int_equal(sys_pidfd_send_signal(pidfd, 0, NULL, 0), 0);
	assert_int_equal(sys_pidfd_getfd(pidfd, 1 << 20), -EBADF);
	struct iovec local = {seen, 3}, remote = {(char *)(uintptr_t) "abc", 3};
	assert_int_equal(sys_process_vm_readv(getpid(), &local, 1, &remote, 1), 3);
	assert_string_equal(seen, "abc");
	remote.iov_base = (void *)8;
	assert_int_equal(sys_process_vm_readv(getpid(), &local, 1, &remote, 1), -EFAULT);
	close(pipes[0]);
	close(pipes[1]);
	close(other);
}

static void test_calls_on_tasks(unused void **state)
{
	struct kern_sched_attr attr = {.size = 1};
	uint64_t head = 0, len = 0;
	assert_int_equal(sys_sched_getattr(0, &attr), 0);
	assert_int_equal(attr.sched_policy, sched_getscheduler(0));
	assert_int_equal(sys_get_robust_list(0, &head, &len), 0);
	assert_int_not_equal(head, 0);
	assert_int_equal(len, 24);
	assert_true(sys_ioprio_get(IOPRIO_WHO_PROCESS, 0) >= 0);
	assert_int_equal(sys_tgkill(getpid(), sys_gettid(), 0), 0);
	assert_int_equal(sys_tgkill(getpid(), 1 << 30, 0), -ESRCH);
	uint32_t word = 5;
	assert_int_equal(sys_futex_wait_shared(&word, 4, NULL), -EAGAIN);
	assert_int_equal(sys_futex_wake_shared(&word, 1), 0);
	struct kern_open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = KERN_RESOLVE_BENEATH};
	int r = sys_openat2(AT_FDCWD, "/", &how);
	assert_true(r == -EXDEV || r == -ENOSYS);
}

/* The child of fork(2) has the same rseq area registered; glibc says where. */
static void test_rseq_configuration(unused void **state)
{
	struct kern_caps caps = {0};
	struct kern_rseq_configuration config = {0};
	int status;
	if (kern_caps_probe(&caps, KERN_CAP_RSEQ_CONFIG) != KERN_PRESENT || !__rseq_size)
		skip();
	pid_t pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(sys_ptrace(PTRACE_GET_RSEQ_CONFIGURATION, pid, sizeof(config), &config),
			 sizeof(config));
	assert_int_equal(config.rseq_abi_pointer,
			 (uintptr_t)__builtin_thread_pointer() + (uintptr_t)__rseq_offset);
	assert_int_equal(config.signature, RSEQ_SIG);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_pagemap_scan(unused void **state)
{
	struct kern_caps caps = {0};
	if (kern_caps_probe(&caps, KERN_CAP_PAGEMAP_SCAN) != KERN_PRESENT)
		skip();
	char *at = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(at != MAP_FAILED);
	madvise(at, 64 * 4096, MADV_NOHUGEPAGE);
	at[5 * 4096] = at[6 * 4096] = at[9 * 4096] = 1;
	struct page_region regions[8];
	struct pm_scan_arg arg = {
		.start = (uintptr_t)at,
		.end = (uintptr_t)at + 64 * 4096,
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_SIZE(regions),
		.category_mask = PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT,
	};
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	assert_int_equal(sys_pagemap_scan(fd, &arg), 2);
	assert_int_equal(regions[0].start, (uintptr_t)at + 5 * 4096);
	assert_int_equal(regions[0].end, (uintptr_t)at + 7 * 4096);
	assert_int_equal(regions[1].start, (uintptr_t)at + 9 * 4096);
	assert_int_equal(arg.walk_end, arg.end);
	munmap(at, 64 * 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_not_older_than_kernel),
		cmocka_unit_test(test_nothing_stays),
		cmocka_unit_test(test_without_rights),
		cmocka_unit_test(test_follows_what_is_taken_away),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_calls_on_files),
		cmocka_unit_test(test_calls_on_tasks),
		cmocka_unit_test(test_rseq_configuration),
		cmocka_unit_test(test_pagemap_scan),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
