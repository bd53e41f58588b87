/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/PID/fdinfo/N. The kind comes from which lines are there, so a plain file, pipe or socket is PLAIN; the
 * link text tells the rest. Entries of epoll, inotify and fanotify and the locks are vectors, all else is inline.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"
#include "proc/locks.h"
#include "proc/status.h"

enum proc_fdinfo_kind {
	PROC_FDINFO_PLAIN = 0,
	PROC_FDINFO_EVENTFD,
	PROC_FDINFO_EPOLL, /* only with at least one entry; an empty one is PLAIN */
	PROC_FDINFO_SIGNALFD,
	PROC_FDINFO_TIMERFD,
	PROC_FDINFO_INOTIFY, /* only with at least one watch */
	PROC_FDINFO_FANOTIFY,
	PROC_FDINFO_PIDFD,
	PROC_FDINFO_TUN,
	PROC_FDINFO_IO_URING,
	PROC_FDINFO_UFFD,
	PROC_FDINFO_BPF_MAP,
	PROC_FDINFO_BPF_PROG,
	PROC_FDINFO_BPF_LINK,
	PROC_FDINFO_DRM,
	PROC_FDINFO_DMABUF,
};

enum { PROC_HANDLE_BYTES = 128 }; /* MAX_HANDLE_SZ */

/* What open_by_handle_at(2) takes. */
struct proc_handle {
	uint32_t n; /* bytes; 0 = none was shown */
	int32_t type;
	uint8_t bytes[PROC_HANDLE_BYTES];
};

struct proc_epoll_entry {
	int32_t fd;      /* the number it was added with; it may be closed or name another file by now */
	uint32_t events; /* EPOLL*, with EPOLLET and the like */
	uint64_t data;
	int64_t pos;
	uint64_t ino; /* of the file that is really watched; 0 before 4.19 */
	uint64_t dev;
	bool has_file; /* ino and dev are there */
};

struct proc_inotify_watch {
	int32_t wd;
	uint32_t mask; /* IN_* */
	uint64_t ino;
	uint64_t dev; /* of the superblock */
	struct proc_handle handle;
};

enum proc_fanotify_target { PROC_FANOTIFY_INODE, PROC_FANOTIFY_MOUNT, PROC_FANOTIFY_SB, PROC_FANOTIFY_MNTNS };

struct proc_fanotify_mark {
	uint8_t target; /* enum proc_fanotify_target */
	uint32_t mflags;
	uint64_t mask;
	uint64_t ignored_mask;
	uint64_t ino;    /* INODE */
	uint64_t dev;    /* INODE, SB */
	uint64_t mnt_id; /* MOUNT; MNTNS: number of the namespace */
	struct proc_handle handle;
};

struct proc_fdinfo {
	uint64_t pos;
	uint32_t flags;  /* O_* and access mode; O_CLOEXEC is of the descriptor */
	bool has_mnt_id; /* 3.15 */
	bool has_ino;    /* 5.14 */
	int32_t mnt_id;
	uint64_t ino;
	uint8_t kind; /* enum proc_fdinfo_kind */
	union {
		struct {
			uint64_t count;
			int32_t id;       /* -1 = not shown (before 5.2) */
			int8_t semaphore; /* -1 = not shown (before 6.5) */
		} eventfd;
		struct {
			uint64_t mask; /* 1 << (signal - 1) */
		} signalfd;
		struct {
			int32_t clockid;
			uint64_t ticks;
			uint32_t settime_flags;  /* TFD_TIMER_* */
			struct itimerspec value; /* it_value: what is left, 0 = disarmed */
		} timerfd;
		struct {
			uint32_t flags; /* FAN_* of fanotify_init */
			uint32_t event_flags;
		} fanotify;
		struct {
			pid_t pid; /* -1 = reaped, 0 = outside the reader's PID namespace */
			struct proc_pids ns_pid;
		} pidfd;
		struct {
			char name[16]; /* of the interface; "" = not attached */
		} tun;
		struct {
			uint32_t sq_mask, sq_head, sq_tail, cached_sq_head;
			uint32_t cq_mask, cq_head, cq_tail, cached_cq_tail;
			uint32_t user_files;
			uint32_t user_bufs;
			int32_t sq_thread; /* -1 = none */
			bool has_polls;    /* armed polls or requests */
			bool has_overflow;
		} io_uring;
		struct {
			uint64_t pending;
			uint64_t total;
			uint64_t api;
			uint64_t features;
		} uffd;
		struct {
			uint32_t type; /* map_type, prog_type */
			uint32_t id;
		} bpf;
	};
	VEC(struct proc_epoll_entry) epoll;
	VEC(struct proc_inotify_watch) inotify;
	VEC(struct proc_fanotify_mark) fanotify_marks;
	VEC(struct proc_lock) locks;
};

void proc_fdinfo_release(struct proc_fdinfo *info);
#define _cleanup_proc_fdinfo_ __attribute__((cleanup(proc_fdinfo_release)))

/* -EBADMSG unless pos and flags are there and every known line is sound. Release *ret_info also after an error. */
must_check int proc_fdinfo_parse(const char *text, size_t n, struct proc_fdinfo *ret_info,
				 struct ferry_error *err);
