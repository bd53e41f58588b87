/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw system calls that libc lacks, hides behind a signature of its own, or reports through errno. Every one
 * returns what the kernel returned: a value >= 0, or -errno. Names are sys_ and the call's own; sections 2 of the
 * man pages and the kernel's source describe them. Descriptors are born close-on-exec where the call allows it.
 */
#pragma once

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "kernel/uapi.h"

struct file_handle;

/* errno style to -errno style, for libc calls: sys_ret(ioctl(...)). */
static inline long sys_ret(long r)
{
	return r < 0 ? -errno : r;
}

#define sys_call(...) sys_ret(syscall(__VA_ARGS__))

/* Tasks: pidfd_open 5.3 (PIDFD_THREAD 6.9), pidfd_getfd 5.6, pidfd_send_signal 5.1, process_mrelease 5.15, kcmp 3.5, clone3 5.3 */

must_check static inline int sys_pidfd_open(pid_t pid, unsigned flags)
{
	return (int)sys_call(SYS_pidfd_open, pid, flags);
}

/* Give back the memory of a process that was killed, beside itself. Where that is not possible it does so alone. */
static inline void sys_process_mrelease(int pidfd)
{
	syscall(SYS_process_mrelease, pidfd, 0);
}

must_check static inline int sys_pidfd_getfd(int pidfd, int target_fd)
{
	return (int)sys_call(SYS_pidfd_getfd, pidfd, target_fd, 0);
}

must_check static inline int sys_pidfd_send_signal(int pidfd, int sig, siginfo_t *info, unsigned flags)
{
	return (int)sys_call(SYS_pidfd_send_signal, pidfd, sig, info, flags);
}

/* info->mask says in what is wanted and out what was filled; 6.13. */
must_check static inline int sys_pidfd_get_info(int pidfd, struct kern_pidfd_info *info)
{
	return (int)sys_ret(ioctl(pidfd, KERN_PIDFD_GET_INFO, info));
}

/* 0 equal, 1 less, 2 greater, 3 unordered. */
must_check static inline int sys_kcmp(pid_t a, pid_t b, enum kern_kcmp_type type, unsigned long ia,
				      unsigned long ib)
{
	return (int)sys_call(SYS_kcmp, a, b, (int)type, ia, ib);
}

/*
 * Fork-like use only (no CLONE_VM unless with CLONE_VFORK and a stack of its own): libc's cached state in the
 * child is the parent's, so the child may call only what is safe after vfork(2).
 */
must_check static inline pid_t sys_clone3(const struct kern_clone_args *args)
{
	return (pid_t)sys_call(SYS_clone3, args, sizeof(*args));
}

must_check static inline pid_t sys_gettid(void)
{
	return (pid_t)sys_call(SYS_gettid);
}

must_check static inline int sys_tgkill(pid_t tgid, pid_t tid, int sig)
{
	return (int)sys_call(SYS_tgkill, tgid, tid, sig);
}

must_check static inline int sys_rt_sigqueueinfo(pid_t tgid, int sig, const siginfo_t *info)
{
	return (int)sys_call(SYS_rt_sigqueueinfo, tgid, sig, info);
}

must_check static inline int sys_rt_tgsigqueueinfo(pid_t tgid, pid_t tid, int sig, const siginfo_t *info)
{
	return (int)sys_call(SYS_rt_tgsigqueueinfo, tgid, tid, sig, info);
}

/* The kernel's 64-bit set, not libc's sigset_t, and no call hidden from the mask. */
must_check static inline int sys_rt_sigprocmask(int how, const uint64_t *set, uint64_t *ret_old)
{
	return (int)sys_call(SYS_rt_sigprocmask, how, set, ret_old, sizeof(uint64_t));
}

must_check static inline int sys_get_robust_list(pid_t tid, uint64_t *ret_head, uint64_t *ret_len)
{
	void *head = NULL;
	size_t len = 0;
	long r = sys_call(SYS_get_robust_list, tid, &head, &len);
	if (r < 0)
		return (int)r;
	*ret_head = (uint64_t)(uintptr_t)head;
	*ret_len = len;
	return 0;
}

must_check static inline int sys_sched_getattr(pid_t tid, struct kern_sched_attr *ret_attr)
{
	return (int)sys_call(SYS_sched_getattr, tid, ret_attr, sizeof(*ret_attr), 0);
}

must_check static inline int sys_sched_setattr(pid_t tid, const struct kern_sched_attr *attr)
{
	return (int)sys_call(SYS_sched_setattr, tid, attr, 0);
}

/* Bytes of mask that the kernel filled, a multiple of 8. */
must_check static inline ssize_t sys_sched_getaffinity(pid_t tid, void *mask, size_t n)
{
	return sys_call(SYS_sched_getaffinity, tid, n, mask);
}

must_check static inline int sys_sched_setaffinity(pid_t tid, const void *mask, size_t n)
{
	return (int)sys_call(SYS_sched_setaffinity, tid, n, mask);
}

must_check static inline int sys_ioprio_get(int which, int who)
{
	return (int)sys_call(SYS_ioprio_get, which, who);
}

must_check static inline int sys_ioprio_set(int which, int who, int ioprio)
{
	return (int)sys_call(SYS_ioprio_set, which, who, ioprio);
}

must_check static inline int sys_setns(int fd, int nstype)
{
	return (int)sys_call(SYS_setns, fd, nstype);
}

must_check static inline int sys_unshare(unsigned long flags)
{
	return (int)sys_call(SYS_unshare, flags);
}

/* ptrace whose PEEK calls and errno games stay out of the way: data goes where the kernel puts it. */
must_check static inline long sys_ptrace(long request, pid_t tid, unsigned long addr, const void *data)
{
	return sys_call(SYS_ptrace, request, tid, addr, data);
}

/* Memory: process_vm_readv 3.2, userfaultfd 4.3, membarrier 4.3, memfd_secret 5.14, mseal 6.10 */

must_check static inline ssize_t sys_process_vm_readv(pid_t pid, const struct iovec *local, size_t n_local,
						      const struct iovec *remote, size_t n_remote)
{
	return sys_call(SYS_process_vm_readv, pid, local, n_local, remote, n_remote, 0);
}

must_check static inline ssize_t sys_process_vm_writev(pid_t pid, const struct iovec *local, size_t n_local,
						       const struct iovec *remote, size_t n_remote)
{
	return sys_call(SYS_process_vm_writev, pid, local, n_local, remote, n_remote, 0);
}

must_check static inline int sys_userfaultfd(int flags)
{
	return (int)sys_call(SYS_userfaultfd, flags);
}

must_check static inline int sys_membarrier(int cmd, unsigned flags)
{
	return (int)sys_call(SYS_membarrier, cmd, flags, 0);
}

must_check static inline int sys_memfd_secret(unsigned flags)
{
	return (int)sys_call(SYS_memfd_secret, flags);
}

must_check static inline int sys_mseal(void *addr, size_t n)
{
	return (int)sys_call(SYS_mseal, addr, n, 0);
}

must_check static inline long sys_map_shadow_stack(uint64_t addr, uint64_t n, unsigned flags)
{
	return sys_call(SYS_map_shadow_stack, addr, n, flags);
}

/* Regions filled in vec, or -errno; 6.7. Call again from arg->walk_end until that is arg->end. */
must_check static inline int sys_pagemap_scan(int pagemap_fd, struct pm_scan_arg *arg)
{
	arg->size = sizeof(*arg);
	return (int)sys_ret(ioctl(pagemap_fd, PAGEMAP_SCAN, arg));
}

/* A union of the size that our headers have. */
#define sys_bpf(command, attr) ((int)sys_call(SYS_bpf, (command), (attr), sizeof(*(attr))))

/* -ENOENT: no VMA there; -ESRCH: the task has no memory any more; 6.11. */
must_check static inline int sys_procmap_query(int maps_fd, struct procmap_query *query)
{
	query->size = sizeof(*query);
	return (int)sys_ret(ioctl(maps_fd, PROCMAP_QUERY, query));
}

/* Files and mounts: open_tree and move_mount 5.2, openat2 5.6, close_range 5.9, mount_setattr 5.12, statmount 6.8 */

must_check static inline int sys_openat2(int dir_fd, const char *path, const struct kern_open_how *how)
{
	return (int)sys_call(SYS_openat2, dir_fd, path, how, sizeof(*how));
}

must_check static inline int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
	return (int)sys_call(SYS_close_range, first, last, flags);
}

must_check static inline int sys_open_tree(int dir_fd, const char *path, unsigned flags)
{
	return (int)sys_call(SYS_open_tree, dir_fd, path, flags);
}

must_check static inline int sys_move_mount(int from_fd, const char *from, int to_fd, const char *to,
					    unsigned flags)
{
	return (int)sys_call(SYS_move_mount, from_fd, from, to_fd, to, flags);
}

must_check static inline int sys_fsopen(const char *fstype, unsigned flags)
{
	return (int)sys_call(SYS_fsopen, fstype, flags);
}

must_check static inline int sys_fsconfig(int fd, unsigned cmd, const char *key, const void *value, int aux)
{
	return (int)sys_call(SYS_fsconfig, fd, cmd, key, value, aux);
}

must_check static inline int sys_fsmount(int fd, unsigned flags, unsigned attr_flags)
{
	return (int)sys_call(SYS_fsmount, fd, flags, attr_flags);
}

must_check static inline int sys_fspick(int dir_fd, const char *path, unsigned flags)
{
	return (int)sys_call(SYS_fspick, dir_fd, path, flags);
}

must_check static inline int sys_mount_setattr(int dir_fd, const char *path, unsigned flags,
					       const struct mount_attr *attr)
{
	return (int)sys_call(SYS_mount_setattr, dir_fd, path, flags, attr, sizeof(*attr));
}

/*
 * buf takes the header and the strings, n bytes in all; -EOVERFLOW when they do not fit. mnt_id is the unique id
 * (statx with STATX_MNT_ID_UNIQUE), ns_id 0 the caller's mount namespace.
 */
must_check static inline int sys_statmount(uint64_t mnt_id, uint64_t ns_id, uint64_t mask,
					   struct kern_statmount *buf, size_t n)
{
	struct kern_mnt_id_req req = {.mnt_id = mnt_id, .param = mask, .mnt_ns_id = ns_id};
	/* the first published size, which 6.8 knows, unless the namespace is asked for */
	req.size = ns_id ? sizeof(req) : offsetof(struct kern_mnt_id_req, mnt_ns_id);
	return (int)sys_call(SYS_statmount, &req, buf, n, 0);
}

/* Ids of the mounts below mnt_id (LSMT_ROOT: all), after last_id; the number written. */
must_check static inline ssize_t sys_listmount(uint64_t mnt_id, uint64_t ns_id, uint64_t last_id,
					       uint64_t *ids, size_t n)
{
	struct kern_mnt_id_req req = {.mnt_id = mnt_id, .param = last_id, .mnt_ns_id = ns_id};
	req.size = ns_id ? sizeof(req) : offsetof(struct kern_mnt_id_req, mnt_ns_id);
	return sys_call(SYS_listmount, &req, ids, n, 0);
}

/* mask: STATX_*; what was filled is in ret_statx->mask. */
must_check static inline int sys_statx(int dir_fd, const char *path, int flags, unsigned mask,
				       struct kern_statx *ret_statx)
{
	return (int)sys_call(SYS_statx, dir_fd, path, flags, mask, ret_statx);
}

/* The number of the mount that a path leads to, which no other mount ever had and later ones exceed (6.8); 0: the kernel does not tell. */
static inline uint64_t sys_mount_unique_id(int dir_fd, const char *path, int flags)
{
	struct kern_statx stx;
	int r = sys_statx(dir_fd, path, flags, STATX_MNT_ID_UNIQUE, &stx);
	return r >= 0 && stx.mask & STATX_MNT_ID_UNIQUE ? stx.mnt_id : 0;
}

/* A device number as the kernel keeps it, and images have it; st_dev and the like are glibc's. */
static inline uint32_t kern_dev(uint64_t dev)
{
	return (uint32_t)(major(dev) << 20 | minor(dev));
}

must_check static inline int sys_name_to_handle_at(int dir_fd, const char *path, struct file_handle *handle,
						   int *ret_mount_id, int flags)
{
	return (int)sys_call(SYS_name_to_handle_at, dir_fd, path, handle, ret_mount_id, flags);
}

must_check static inline int sys_open_by_handle_at(int mount_fd, struct file_handle *handle, int flags)
{
	return (int)sys_call(SYS_open_by_handle_at, mount_fd, handle, flags);
}

must_check static inline int sys_pivot_root(const char *new_root, const char *put_old)
{
	return (int)sys_call(SYS_pivot_root, new_root, put_old);
}

/* Timers, by the kernel's own ids (libc's timer_t is not one) */

must_check static inline int sys_timer_create(clockid_t clock, struct sigevent *event, int *ret_id)
{
	return (int)sys_call(SYS_timer_create, clock, event, ret_id);
}

must_check static inline int sys_timer_settime(int id, int flags, const struct itimerspec *value)
{
	return (int)sys_call(SYS_timer_settime, id, flags, value, NULL);
}

must_check static inline int sys_timer_gettime(int id, struct itimerspec *ret_value)
{
	return (int)sys_call(SYS_timer_gettime, id, ret_value);
}

must_check static inline int sys_timer_getoverrun(int id)
{
	return (int)sys_call(SYS_timer_getoverrun, id);
}

must_check static inline int sys_timer_delete(int id)
{
	return (int)sys_call(SYS_timer_delete, id);
}

/* futex(2), the operations that a barrier needs; -EAGAIN when the word differs, -ETIMEDOUT, -EINTR */

must_check static inline int sys_futex_wait_shared(uint32_t *word, uint32_t expected,
						   const struct timespec *timeout)
{
	return (int)sys_call(SYS_futex, word, FUTEX_WAIT, expected, timeout, NULL, 0);
}

/* Waiters woken. */
static inline int sys_futex_wake_shared(uint32_t *word, int n)
{
	return (int)sys_call(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0);
}

/*
 * A call of the 32-bit table, whose pointers are addresses below 4 GiB. The numbers are those of
 * arch/x86/entry/syscalls/syscall_32.tbl. A kernel without 32-bit programs answers by SIGSEGV: only for those of a task that is one.
 */
must_check static inline int sys_call_i386(uint32_t nr, uint32_t a, uint32_t b, uint32_t c)
{
	int32_t ret;
	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c)
			 : "r8", "r9", "r10", "r11", "memory");
	return ret;
}
