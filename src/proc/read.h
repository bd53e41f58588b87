/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading one task: open /proc/PID once, then read its files relative to that descriptor. The descriptor stays
 * with the task: when it is gone every read fails, even if its PID was given to another.
 *
 * Every function returns 0, or -errno with *err filled: -ESRCH and NO_SUCH_TASK when the task is gone, -EACCES or
 * -EPERM and PERMISSION, -EBADMSG when the kernel's text is not understood. dirfd may also be of
 * /proc/PID/task/TID. What is returned owns memory only where its structure has a release function; that is to be
 * called after success only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "proc/dirs.h"
#include "proc/fdinfo.h"
#include "proc/locks.h"
#include "proc/maps.h"
#include "proc/mountinfo.h"
#include "proc/status.h"
#include "proc/task.h"

struct kern_caps;

/* A descriptor of /proc/PID, /proc/PID/task/TID. */
must_check int proc_open(pid_t pid, struct ferry_error *err);

/* Of the caller, whichever PID namespace the mounted /proc belongs to. */
must_check int proc_open_self(struct ferry_error *err);

must_check int proc_open_task(int dirfd, pid_t tid, struct ferry_error *err);

/*
 * The thread through which a process is looked at: its leader, or when that has ended the first one that runs. /proc/PID
 * shows no memory, descriptors and folders of such a process, and calls that take a PID find none; the TID of a living
 * thread serves both.
 */
pid_t proc_look(pid_t pid);

/* The same for a process whose stat was read just now; dirfd: its directory. */
pid_t proc_look_from(int dirfd, const struct proc_stat *st);

/* proc_open() of that thread. */
must_check int proc_open_look(pid_t pid, struct ferry_error *err);

/* A pidfd for pidfd_getfd(2) of a process that is looked at through this thread; -errno: EINVAL before Linux 6.9. */
must_check int proc_look_pidfd(pid_t pid, pid_t look);

/* A file below dirfd; flags as open(2). */
must_check int proc_open_file(int dirfd, const char *name, int flags, struct ferry_error *err);

/* A whole file of at most max_bytes; NUL-terminated beyond its length. The caller frees *ret_bytes. */
must_check int proc_read_file(int dirfd, const char *name, size_t max_bytes, char **ret_bytes, size_t *ret_n,
			      struct ferry_error *err);

/* Whether the task still exists; a zombie does. */
bool proc_exists(int dirfd);

must_check int proc_read_status(int dirfd, struct proc_status *ret_status, struct ferry_error *err);

/* Of a thread of the process behind dirfd. */
must_check int proc_read_thread_status(int dirfd, pid_t tid, struct proc_status *ret_status,
				       struct ferry_error *err);
must_check int proc_read_stat(int dirfd, struct proc_stat *ret_stat, struct ferry_error *err);

/* Clock ticks since boot at which the task started: with the PID its identity. */
must_check int proc_start_time(int dirfd, uint64_t *ret_ticks, struct ferry_error *err);

/*
 * The mappings. proc_read_maps() uses PROCMAP_QUERY where caps has it. proc_read_smaps() also fills vm_flags,
 * common_bytes, page_shift and pkey; the kernel walks every page table for it, so call it once, for a frozen task.
 */
must_check int proc_read_maps(int dirfd, const struct kern_caps *caps, struct proc_maps *ret_maps,
			      struct ferry_error *err);
must_check int proc_read_smaps(int dirfd, struct proc_maps *ret_maps, struct ferry_error *err);

/* The mappings of the calling process. */
must_check int proc_read_own_maps(struct proc_maps *ret_maps, struct ferry_error *err);

/* At least those of them that end behind an address. */
must_check int proc_read_own_maps_from(uint64_t from, struct proc_maps *ret_maps, struct ferry_error *err);

/* The one mapping that holds addr, without vm_flags; -ENOENT if none does. Its name goes into names. */
must_check int proc_read_vma(int dirfd, const struct kern_caps *caps, uint64_t addr, struct proc_maps *maps,
			     struct proc_vma *ret_vma, struct ferry_error *err);

/* Open what a mapping maps (/proc/PID/map_files); -ENOENT if it has no file. */
must_check int proc_open_vma_file(int dirfd, const struct proc_vma *vma, int flags, struct ferry_error *err);

must_check int proc_read_fdinfo(int dirfd, int fd, struct proc_fdinfo *ret_info, struct ferry_error *err);
must_check int proc_read_mounts(int dirfd, struct proc_mounts *ret_mounts, struct ferry_error *err);
must_check int proc_read_locks(struct proc_locks *ret_locks, struct ferry_error *err);

must_check int proc_read_auxv(int dirfd, struct proc_auxv *ret_auxv, struct ferry_error *err);
must_check int proc_read_limits(int dirfd, struct proc_limits *ret_limits, struct ferry_error *err);
must_check int proc_read_cgroups(int dirfd, struct proc_cgroups *ret_cgroups, struct ferry_error *err);

/*
 * Whether a thread waits in vfork(2): *ret_child is the child, which has its memory until it executes a program or ends. Kernel: the
 * wait is not interrupted, so it shows as state D; kcmp(2).
 */
bool proc_is_in_vfork(int dirfd, pid_t tid, pid_t *ret_child);

/* Children of every thread of the process behind dirfd (of /proc/PID), ascending. */
must_check int proc_read_children(int dirfd, struct proc_pid_list *ret_children, struct ferry_error *err);

/* The same where its threads are known. */
must_check int proc_read_children_of(int dirfd, const pid_t *tids, size_t n,
				     struct proc_pid_list *ret_children, struct ferry_error *err);
must_check int proc_read_timers(int dirfd, struct proc_timers *ret_timers, struct ferry_error *err);

/* -ENOENT without time namespaces. */
must_check int proc_read_timens_offsets(int dirfd, struct proc_timens_offsets *ret_offsets,
					struct ferry_error *err);
must_check int proc_read_uid_map(int dirfd, struct proc_id_map *ret_map, struct ferry_error *err);
must_check int proc_read_gid_map(int dirfd, struct proc_id_map *ret_map, struct ferry_error *err);
must_check int proc_read_setgroups(int dirfd, bool *ret_allowed, struct ferry_error *err);
/* *ret_ino is 0 where there is no such namespace. */
must_check int proc_read_namespace(int dirfd, enum proc_ns ns, uint64_t *ret_ino, struct ferry_error *err);
must_check int proc_read_namespaces(int dirfd, struct proc_namespaces *ret_namespaces,
				    struct ferry_error *err);

/* Open /proc/PID/ns/...; -ENOENT when the kernel or the task has none. */
must_check int proc_open_namespace(int dirfd, enum proc_ns ns, struct ferry_error *err);

/* comm without its newline. cmdline is as /proc gives it: strings with NULs, possibly overwritten. */
must_check int proc_read_comm(int dirfd, char ret_comm[PROC_NAME_BYTES], struct ferry_error *err);
must_check int proc_read_cmdline(int dirfd, char **ret_bytes, size_t *ret_n, struct ferry_error *err);

must_check int proc_read_timerslack_ns(int dirfd, uint64_t *ret_ns, struct ferry_error *err);
must_check int proc_read_oom_score_adj(int dirfd, int *ret_adj, struct ferry_error *err);

/* UINT32_MAX = unset, and without CONFIG_AUDIT. */
must_check int proc_read_loginuid(int dirfd, uint32_t *ret_uid, struct ferry_error *err);
must_check int proc_read_personality(int dirfd, uint32_t *ret_personality, struct ferry_error *err);
must_check int proc_read_coredump_filter(int dirfd, uint32_t *ret_filter, struct ferry_error *err);
must_check int proc_read_settings(int dirfd, struct proc_settings *ret_settings, struct ferry_error *err);
