/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what the kernel's headers of 2022 (linux-libc-dev 6.1) do not name yet. Every group says which header it
 * belongs to and which kernel brought it. The system's own header is included first, so that a newer one wins.
 *
 * A structure has the kernel's name where a macro of the same header tells whether it is there already.
 * Where it cannot be told (glibc and the kernel both define it, or it grows from release to release) ours is
 * called kern_*, and the ioctl that carries its size is called KERN_*.
 */
#pragma once

#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/membarrier.h>
#include <linux/nsfs.h>
#include <linux/prctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include <netinet/tcp.h>

/* linux/fs.h */

#ifndef PROCFS_IOCTL_MAGIC /* 6.11 */
#define PROCFS_IOCTL_MAGIC 'f'
#endif

#ifndef PAGEMAP_SCAN /* 6.7: ioctl on /proc/PID/pagemap */
#define PAGE_IS_WPALLOWED (1 << 0)
#define PAGE_IS_WRITTEN (1 << 1)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#define PAGE_IS_PFNZERO (1 << 5)
#define PAGE_IS_HUGE (1 << 6)

#define PM_SCAN_WP_MATCHING (1 << 0)   /* write-protect what matched */
#define PM_SCAN_CHECK_WPASYNC (1 << 1) /* -EPERM at a page that is not registered with WP_ASYNC */

struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories; /* PAGE_IS_* */
};

struct pm_scan_arg {
	__u64 size;
	__u64 flags; /* PM_SCAN_* */
	__u64 start;
	__u64 end;
	__u64 walk_end; /* out: where the walk ended; below end when vec was full */
	__u64 vec;      /* struct page_region * */
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};

#define PAGEMAP_SCAN _IOWR(PROCFS_IOCTL_MAGIC, 16, struct pm_scan_arg)
#endif

#ifndef PAGE_IS_SOFT_DIRTY /* 6.7 */
#define PAGE_IS_SOFT_DIRTY (1 << 7)
#endif

#ifndef PAGE_IS_GUARD /* 6.15 */
#define PAGE_IS_GUARD (1 << 8)
#endif

#ifndef PROCMAP_QUERY /* 6.11: ioctl on /proc/PID/maps */
enum procmap_query_flags {
	PROCMAP_QUERY_VMA_READABLE = 0x01,
	PROCMAP_QUERY_VMA_WRITABLE = 0x02,
	PROCMAP_QUERY_VMA_EXECUTABLE = 0x04,
	PROCMAP_QUERY_VMA_SHARED = 0x08,
	PROCMAP_QUERY_COVERING_OR_NEXT_VMA = 0x10,
	PROCMAP_QUERY_FILE_BACKED_VMA = 0x20,
};

struct procmap_query {
	__u64 size;
	__u64 query_flags; /* in */
	__u64 query_addr;  /* in */
	__u64 vma_start;
	__u64 vma_end;
	__u64 vma_flags; /* PROCMAP_QUERY_VMA_* */
	__u64 vma_page_size;
	__u64 vma_offset;
	__u64 inode;
	__u32 dev_major;
	__u32 dev_minor;
	__u32 vma_name_size; /* in and out, with the NUL; 0 = no name */
	__u32 build_id_size; /* in and out */
	__u64 vma_name_addr; /* in */
	__u64 build_id_addr; /* in */
};

#define PROCMAP_QUERY _IOWR(PROCFS_IOCTL_MAGIC, 17, struct procmap_query)
#endif

/* linux/bpf.h: union bpf_iter_link_info of an iterator over tasks; 6.1 */
struct kern_bpf_iter_task {
	__u32 tid;
	__u32 pid;
	__u32 pid_fd;
};

/* linux/userfaultfd.h */

#ifndef UFFD_USER_MODE_ONLY /* 5.11 */
#define UFFD_USER_MODE_ONLY 1
#endif

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM /* 5.19 */
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

#ifndef UFFD_FEATURE_WP_UNPOPULATED /* 6.4 */
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif

#ifndef UFFD_FEATURE_POISON /* 6.6 */
#define UFFD_FEATURE_POISON (1 << 14)
#define _UFFDIO_POISON (0x08)

struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;    /* UFFDIO_POISON_MODE_* */
	__s64 updated; /* out: bytes poisoned or -errno */
};

#define UFFDIO_POISON _IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)
#endif

#ifndef UFFD_FEATURE_WP_ASYNC /* 6.7 */
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

#ifndef UFFD_FEATURE_MOVE /* 6.8 */
#define UFFD_FEATURE_MOVE (1 << 16)
#define _UFFDIO_MOVE (0x05)

struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode; /* UFFDIO_MOVE_MODE_* */
	__s64 move; /* out: bytes moved or -errno */
};

#define UFFDIO_MOVE_MODE_DONTWAKE ((__u64)1 << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#endif

#ifndef USERFAULTFD_IOC_NEW /* 6.1: ioctl on /dev/userfaultfd */
#define USERFAULTFD_IOC 0xAA
#define USERFAULTFD_IOC_NEW _IO(USERFAULTFD_IOC, 0x00)
#endif

/* linux/mman.h, asm-generic/mman-common.h */

#ifndef MAP_DROPPABLE /* 6.11 */
#define MAP_DROPPABLE 0x08
#endif

#ifndef MAP_FIXED_NOREPLACE /* 4.17 */
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#ifndef MREMAP_DONTUNMAP /* 5.7 */
#define MREMAP_DONTUNMAP 4
#endif

#ifndef MADV_POPULATE_READ /* 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#ifndef MADV_COLLAPSE /* 6.1 */
#define MADV_COLLAPSE 25
#endif

#ifndef MADV_GUARD_INSTALL /* 6.13 */
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

#ifndef MAP_ABOVE4G /* x86, 6.6 */
#define MAP_ABOVE4G 0x80
#endif

#ifndef SHADOW_STACK_SET_TOKEN /* x86, 6.6: map_shadow_stack(2) */
#define SHADOW_STACK_SET_TOKEN (1ULL << 0)
#endif

#ifndef ARCH_SHSTK_ENABLE /* asm/prctl.h, x86, 6.6: arch_prctl(2) */
#define ARCH_SHSTK_ENABLE 0x5001
#define ARCH_SHSTK_DISABLE 0x5002
#define ARCH_SHSTK_LOCK 0x5003
#define ARCH_SHSTK_UNLOCK 0x5004
#define ARCH_SHSTK_STATUS 0x5005
#define ARCH_SHSTK_SHSTK (1ULL << 0)
#define ARCH_SHSTK_WRSS (1ULL << 1)
#endif

#ifndef ARCH_GET_XCOMP_PERM /* asm/prctl.h, x86, 5.16 */
#define ARCH_GET_XCOMP_SUPP 0x1021
#define ARCH_GET_XCOMP_PERM 0x1022
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif

#ifndef ARCH_MAP_VDSO_64 /* asm/prctl.h, x86, 4.9 */
#define ARCH_MAP_VDSO_X32 0x2001
#define ARCH_MAP_VDSO_32 0x2002
#define ARCH_MAP_VDSO_64 0x2003
#endif

/* linux/mount.h */

#ifndef OPEN_TREE_CLONE /* 5.2 */
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif

#ifndef MOVE_MOUNT_F_EMPTY_PATH /* 5.2 */
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif

#ifndef MOVE_MOUNT_SET_GROUP /* 5.15 */
#define MOVE_MOUNT_SET_GROUP 0x00000100
#endif

#ifndef MOVE_MOUNT_BENEATH /* 6.5 */
#define MOVE_MOUNT_BENEATH 0x00000200
#endif

/*
 * statmount(2), 6.8; fields after mnt_ns_id by the release of their STATMOUNT_ bit. Strings are offsets into str.
 * Ours is the layout of 6.18; an older kernel leaves what it does not know zero and its bit of mask unset.
 */
struct kern_statmount {
	__u32 size;
	__u32 mnt_opts; /* string */
	__u64 mask;     /* STATMOUNT_*: what was filled */
	__u32 sb_dev_major;
	__u32 sb_dev_minor;
	__u64 sb_magic;
	__u32 sb_flags;
	__u32 fs_type; /* string */
	__u64 mnt_id;
	__u64 mnt_parent_id;
	__u32 mnt_id_old; /* the id that /proc/PID/mountinfo shows */
	__u32 mnt_parent_id_old;
	__u64 mnt_attr;        /* MOUNT_ATTR_* */
	__u64 mnt_propagation; /* MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE */
	__u64 mnt_peer_group;
	__u64 mnt_master;
	__u64 propagate_from;
	__u32 mnt_root;  /* string */
	__u32 mnt_point; /* string */
	__u64 mnt_ns_id;
	__u32 fs_subtype; /* string */
	__u32 sb_source;  /* string */
	__u32 opt_num;
	__u32 opt_array; /* strings, each with its NUL */
	__u32 opt_sec_num;
	__u32 opt_sec_array; /* strings */
	__u64 supported_mask;
	__u32 mnt_uidmap_num;
	__u32 mnt_uidmap; /* strings */
	__u32 mnt_gidmap_num;
	__u32 mnt_gidmap; /* strings */
	__u64 reserved[43];
	char str[];
};

_Static_assert(sizeof(struct kern_statmount) == 512, "statmount(2) fixes the size of its header");

struct kern_mnt_id_req {
	__u32 size;
	__u32 spare;
	__u64 mnt_id;
	__u64 param;     /* statmount: STATMOUNT_* wanted; listmount: last id seen */
	__u64 mnt_ns_id; /* 6.11; 0 = the caller's */
};

#ifndef STATMOUNT_SB_BASIC /* 6.8 */
#define STATMOUNT_SB_BASIC 0x00000001U
#define STATMOUNT_MNT_BASIC 0x00000002U
#define STATMOUNT_PROPAGATE_FROM 0x00000004U
#define STATMOUNT_MNT_ROOT 0x00000008U
#define STATMOUNT_MNT_POINT 0x00000010U
#define STATMOUNT_FS_TYPE 0x00000020U
#endif

#ifndef STATMOUNT_MNT_NS_ID /* 6.11 */
#define STATMOUNT_MNT_NS_ID 0x00000040U
#define STATMOUNT_MNT_OPTS 0x00000080U
#endif

#ifndef STATMOUNT_SB_SOURCE /* 6.13 */
#define STATMOUNT_FS_SUBTYPE 0x00000100U
#define STATMOUNT_SB_SOURCE 0x00000200U
#define STATMOUNT_OPT_ARRAY 0x00000400U
#define STATMOUNT_OPT_SEC_ARRAY 0x00000800U
#endif

#ifndef STATMOUNT_SUPPORTED_MASK /* 6.15 */
#define STATMOUNT_SUPPORTED_MASK 0x00001000U
#define STATMOUNT_MNT_UIDMAP 0x00002000U
#define STATMOUNT_MNT_GIDMAP 0x00004000U
#endif

#ifndef LSMT_ROOT /* 6.8 */
#define LSMT_ROOT 0xffffffffffffffff
#endif

#ifndef LISTMOUNT_REVERSE /* 6.11 */
#define LISTMOUNT_REVERSE (1 << 0)
#endif

/* linux/stat.h */

#ifndef STATX_MNT_ID /* 5.8 */
#define STATX_MNT_ID 0x00001000U
#endif

#ifndef STATX_MNT_ID_UNIQUE /* 6.8 */
#define STATX_MNT_ID_UNIQUE 0x00004000U
#endif

/* 4.11; glibc's ends where stx_mnt_id begins. */
struct kern_statx {
	__u32 mask;
	__u32 blksize;
	__u64 attributes;
	__u32 nlink;
	__u32 uid;
	__u32 gid;
	__u16 mode;
	__u16 spare0;
	__u64 ino;
	__u64 size;
	__u64 blocks;
	__u64 attributes_mask;
	struct kern_statx_time {
		__s64 sec;
		__u32 nsec;
		__s32 spare;
	} atime, btime, ctime, mtime;
	__u32 rdev_major;
	__u32 rdev_minor;
	__u32 dev_major;
	__u32 dev_minor;
	__u64 mnt_id; /* mask says of which kind: STATX_MNT_ID or STATX_MNT_ID_UNIQUE */
	__u64 spare1[13];
};

_Static_assert(sizeof(struct kern_statx) == 256, "statx(2) fixes the size");

/* linux/pidfd.h; included by no one here, because up to 6.1 it drags in a second struct flock */

#ifndef PIDFD_NONBLOCK /* 5.10 */
#define PIDFD_NONBLOCK O_NONBLOCK
#endif

#ifndef PIDFD_THREAD /* 6.9 */
#define PIDFD_THREAD O_EXCL
#endif

#ifndef PIDFD_SIGNAL_THREAD /* 6.9 */
#define PIDFD_SIGNAL_THREAD (1UL << 0)
#define PIDFD_SIGNAL_THREAD_GROUP (1UL << 1)
#define PIDFD_SIGNAL_PROCESS_GROUP (1UL << 2)
#endif

#ifndef PIDFD_INFO_PID /* 6.13 */
#define PIDFD_INFO_PID (1UL << 0)
#define PIDFD_INFO_CREDS (1UL << 1)
#define PIDFD_INFO_CGROUPID (1UL << 2)
#endif

#ifndef PIDFD_INFO_EXIT /* 6.15 */
#define PIDFD_INFO_EXIT (1UL << 3)
#endif

#ifndef PIDFD_GET_IPC_NAMESPACE /* 6.11: each gives a namespace descriptor */
#define PIDFD_GET_CGROUP_NAMESPACE _IO(0xFF, 1)
#define PIDFD_GET_IPC_NAMESPACE _IO(0xFF, 2)
#define PIDFD_GET_MNT_NAMESPACE _IO(0xFF, 3)
#define PIDFD_GET_NET_NAMESPACE _IO(0xFF, 4)
#define PIDFD_GET_PID_NAMESPACE _IO(0xFF, 5)
#define PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE _IO(0xFF, 6)
#define PIDFD_GET_TIME_NAMESPACE _IO(0xFF, 7)
#define PIDFD_GET_TIME_FOR_CHILDREN_NAMESPACE _IO(0xFF, 8)
#define PIDFD_GET_USER_NAMESPACE _IO(0xFF, 9)
#define PIDFD_GET_UTS_NAMESPACE _IO(0xFF, 10)
#endif

/* 6.13, in its first published size: a newer kernel accepts it and fills no more. */
struct kern_pidfd_info {
	__u64 mask; /* PIDFD_INFO_*: in wanted, out filled */
	__u64 cgroupid;
	__u32 pid;
	__u32 tgid;
	__u32 ppid;
	__u32 ruid;
	__u32 rgid;
	__u32 euid;
	__u32 egid;
	__u32 suid;
	__u32 sgid;
	__u32 fsuid;
	__u32 fsgid;
	__s32 exit_code; /* with PIDFD_INFO_EXIT */
};

#define KERN_PIDFD_GET_INFO _IOWR(0xFF, 11, struct kern_pidfd_info)

/* linux/nsfs.h */

#ifndef NS_GET_PID_IN_PIDNS /* 6.11 */
#define NS_GET_PID_FROM_PIDNS _IOR(NSIO, 0x6, int)
#define NS_GET_TGID_FROM_PIDNS _IOR(NSIO, 0x7, int)
#define NS_GET_PID_IN_PIDNS _IOR(NSIO, 0x8, int)
#define NS_GET_TGID_IN_PIDNS _IOR(NSIO, 0x9, int)
#endif

#ifndef NS_GET_MNTNS_ID /* 6.11 */
#define NS_GET_MNTNS_ID _IOR(NSIO, 5, __u64)
#endif

/* linux/prctl.h */

#ifndef PR_SET_VMA /* 5.17 */
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

#ifndef PR_SET_MDWE /* 6.3 */
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN (1UL << 0)
#define PR_GET_MDWE 66
#endif

#ifndef PR_MDWE_NO_INHERIT /* 6.6 */
#define PR_MDWE_NO_INHERIT (1UL << 1)
#endif

#ifndef PR_GET_AUXV /* 6.4 */
#define PR_GET_AUXV 0x41555856
#endif

#ifndef PR_SET_MEMORY_MERGE /* 6.4 */
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

/* linux/io_uring.h */

#ifndef IORING_SETUP_NO_MMAP /* 6.5 */
#define IORING_SETUP_NO_MMAP (1u << 14)
#endif
#ifndef IORING_SETUP_NO_SQARRAY /* 6.6 */
#define IORING_SETUP_NO_SQARRAY (1u << 16)
#endif
#ifndef IORING_NOP_INJECT_RESULT /* 6.11: in nop_flags, where rw_flags lie */
#define IORING_NOP_INJECT_RESULT (1u << 0)
#endif
/* Numbers of io_uring_register(2), an enum in the header: 6.8, 6.9, 6.13, 6.13 */
#define KERN_IORING_REGISTER_PBUF_STATUS 26u
#define KERN_IORING_REGISTER_NAPI 27u
#define KERN_IORING_REGISTER_RESIZE_RINGS 33u
#define KERN_IORING_REGISTER_MEM_REGION 34u

/* /proc/PID/stat, field 9: threads that the kernel makes in a task. include/linux/sched.h; io_uring 5.12, vhost 6.4 */
#define KERN_PF_EXITING 0x4u
#define KERN_PF_IO_WORKER 0x10u
#define KERN_PF_USER_WORKER 0x4000u

#ifndef PR_TIMER_CREATE_RESTORE_IDS /* 6.15 */
#define PR_TIMER_CREATE_RESTORE_IDS 77
#define PR_TIMER_CREATE_RESTORE_IDS_OFF 0
#define PR_TIMER_CREATE_RESTORE_IDS_ON 1
#define PR_TIMER_CREATE_RESTORE_IDS_GET 2
#endif

#ifndef PR_FUTEX_HASH /* 6.16 */
#define PR_FUTEX_HASH 78
#define PR_FUTEX_HASH_SET_SLOTS 1
#define PR_FUTEX_HASH_GET_SLOTS 2
#endif

#ifndef PR_SCHED_CORE /* 5.14 */
#define PR_SCHED_CORE 62
#define PR_SCHED_CORE_GET 0
#define PR_SCHED_CORE_CREATE 1
#define PR_SCHED_CORE_SHARE_TO 2
#define PR_SCHED_CORE_SHARE_FROM 3
#endif

/* linux/ptrace.h; cannot be included together with glibc's sys/ptrace.h */

#ifndef PTRACE_GET_RSEQ_CONFIGURATION /* 5.13 */
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

/* 5.13 */
struct kern_rseq_configuration {
	__u64 rseq_abi_pointer; /* 0 = none registered */
	__u32 rseq_abi_size;
	__u32 signature;
	__u32 flags;
	__u32 pad;
};

#ifndef PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG /* 6.4 */
#define PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG 0x4210
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211
#endif

/* 6.4 */
struct kern_sud_config {
	__u64 mode; /* PR_SYS_DISPATCH_* */
	__u64 selector;
	__u64 offset;
	__u64 len;
};

#ifndef PTRACE_SET_SYSCALL_INFO /* 6.16 */
#define PTRACE_SET_SYSCALL_INFO 0x4212
#endif

#ifndef PTRACE_O_SUSPEND_SECCOMP /* 4.3 */
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif

#ifndef NT_X86_SHSTK /* linux/elf.h, 6.6 */
#define NT_X86_SHSTK 0x204
#endif

/* linux/sched.h, linux/sched/types.h; the latter redefines glibc's struct sched_param */

#ifndef CLONE_PIDFD /* 5.2 */
#define CLONE_PIDFD 0x00001000
#endif

#ifndef CLONE_NEWTIME /* 5.6 */
#define CLONE_NEWTIME 0x00000080
#endif

#ifndef CLONE_CLEAR_SIGHAND /* 5.5 */
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif

#ifndef CLONE_INTO_CGROUP /* 5.7 */
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* 5.3; set_tid since 5.5, cgroup since 5.7 */
struct kern_clone_args {
	__u64 flags;
	__u64 pidfd;
	__u64 child_tid;
	__u64 parent_tid;
	__u64 exit_signal;
	__u64 stack;
	__u64 stack_size;
	__u64 tls;
	__u64 set_tid; /* pid_t *, innermost PID namespace first */
	__u64 set_tid_size;
	__u64 cgroup;
};

/* 3.14; util_min and util_max since 5.3 */
struct kern_sched_attr {
	__u32 size;
	__u32 sched_policy;
	__u64 sched_flags;
	__s32 sched_nice;
	__u32 sched_priority;
	__u64 sched_runtime;
	__u64 sched_deadline;
	__u64 sched_period;
	__u32 sched_util_min;
	__u32 sched_util_max;
};

#ifndef SCHED_EXT /* 6.12 */
#define SCHED_EXT 7
#endif

/* linux/ioprio.h, 2.6.13 */

#ifndef IOPRIO_WHO_PROCESS
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_WHO_PGRP 2
#define IOPRIO_WHO_USER 3
#endif

/* linux/kcmp.h, 3.5; KCMP_EPOLL_TFD 4.13 */

enum kern_kcmp_type {
	KERN_KCMP_FILE,
	KERN_KCMP_VM,
	KERN_KCMP_FILES,
	KERN_KCMP_FS,
	KERN_KCMP_SIGHAND,
	KERN_KCMP_IO,
	KERN_KCMP_SYSVSEM,
	KERN_KCMP_EPOLL_TFD,
};

struct kern_kcmp_epoll_slot {
	__u32 efd;
	__u32 tfd;
	__u32 toff; /* which one of several entries with this tfd */
};

/* linux/openat2.h, 5.6 */

struct kern_open_how {
	__u64 flags;
	__u64 mode;
	__u64 resolve; /* KERN_RESOLVE_* */
};

#define KERN_RESOLVE_NO_XDEV 0x01
#define KERN_RESOLVE_NO_MAGICLINKS 0x02
#define KERN_RESOLVE_NO_SYMLINKS 0x04
#define KERN_RESOLVE_BENEATH 0x08
#define KERN_RESOLVE_IN_ROOT 0x10
#define KERN_RESOLVE_CACHED 0x20 /* 5.12 */

/* linux/timerfd.h */

#ifndef TFD_IOC_SET_TICKS /* 3.17, CONFIG_CHECKPOINT_RESTORE */
#define TFD_IOC_SET_TICKS _IOW('T', 0, __u64)
#endif

/* linux/inotify.h */

#ifndef INOTIFY_IOC_SETNEXTWD /* 4.17, CONFIG_CHECKPOINT_RESTORE */
#define INOTIFY_IOC_SETNEXTWD _IOW('I', 0, __s32)
#endif

/* linux/membarrier.h */

#define KERN_MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9) /* 6.3 */

/* linux/futex.h */

#ifndef FUTEX2_SIZE_U32 /* 6.7 */
#define FUTEX2_SIZE_U8 0x00
#define FUTEX2_SIZE_U16 0x01
#define FUTEX2_SIZE_U32 0x02
#define FUTEX2_SIZE_U64 0x03
#define FUTEX2_NUMA 0x04
#define FUTEX2_PRIVATE FUTEX_PRIVATE_FLAG
#endif

#ifndef FUTEX2_MPOL /* 6.16 */
#define FUTEX2_MPOL 0x08
#endif

/* linux/tcp.h; TCP_REPAIR and its window are in every netinet/tcp.h that ferry builds with */

#ifndef TCPI_OPT_USEC_TS /* 6.7 */
#define TCPI_OPT_USEC_TS 64
#endif

#ifndef TCP_AO_INFO /* 6.7 */
#define TCP_AO_INFO 40
#define TCP_AO_REPAIR 42
#endif

/* asm-generic/socket.h */

#ifndef SO_PEEK_OFF /* 3.4 */
#define SO_PEEK_OFF 42
#endif

#ifndef SO_COOKIE /* 4.12 */
#define SO_COOKIE 57
#endif

#ifndef SO_PEERPIDFD /* 6.5 */
#define SO_PEERPIDFD 77
#endif

#ifndef SCM_PIDFD /* 6.5 */
#define SCM_PIDFD 0x04
#endif

/* asm/unistd.h: one number on every architecture since 5.3 */

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* 6.5 */
#endif
#ifndef SYS_map_shadow_stack
#define SYS_map_shadow_stack 453 /* 6.6 */
#endif
#ifndef SYS_futex_wake
#define SYS_futex_wake 454 /* 6.7 */
#endif
#ifndef SYS_futex_wait
#define SYS_futex_wait 455 /* 6.7 */
#endif
#ifndef SYS_futex_requeue
#define SYS_futex_requeue 456 /* 6.7 */
#endif
#ifndef SYS_statmount
#define SYS_statmount 457 /* 6.8 */
#endif
#ifndef SYS_listmount
#define SYS_listmount 458 /* 6.8 */
#endif
#ifndef SYS_lsm_get_self_attr
#define SYS_lsm_get_self_attr 459 /* 6.8 */
#endif
#ifndef SYS_mseal
#define SYS_mseal 462 /* 6.10 */
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447 /* 5.14 */
#endif
