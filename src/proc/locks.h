/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/locks, and the "lock:" lines of fdinfo, which have the same form. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"

enum proc_lock_type {
	PROC_LOCK_POSIX = 1,
	PROC_LOCK_OFD,
	PROC_LOCK_FLOCK,
	PROC_LOCK_LEASE,
	PROC_LOCK_DELEGATION,
	PROC_LOCK_LAYOUT,
	PROC_LOCK_ACCESS, /* of an NFS client */
	PROC_LOCK_OTHER,
};

enum proc_lease_state {
	PROC_LEASE_NONE = 0,
	PROC_LEASE_ACTIVE,
	PROC_LEASE_BREAKING,
	PROC_LEASE_BREAKER,
};

struct proc_lock {
	uint64_t id;     /* the number in front; a waiter has that of the lock it waits for */
	uint8_t type;    /* enum proc_lock_type */
	uint8_t lease;   /* enum proc_lease_state */
	uint8_t fl_type; /* F_RDLCK, F_WRLCK, F_UNLCK */
	bool waiting;    /* a blocked request ("->") */
	bool mandatory;
	pid_t pid; /* in the reader's PID namespace; 0 owner outside it, -1 OFD lock */
	uint64_t dev;
	uint64_t ino;
	uint64_t start;
	uint64_t end; /* inclusive; UINT64_MAX = to the end of the file */
};

struct proc_locks {
	VEC(struct proc_lock) v;
};

void proc_locks_release(struct proc_locks *locks);

/* One line without its newline, from the number on. */
must_check int proc_lock_parse_line(const char *line, size_t n, struct proc_lock *ret_lock);

/* All of /proc/locks; release *ret_locks also after an error. */
must_check int proc_locks_parse(const char *text, size_t n, struct proc_locks *ret_locks,
				struct ferry_error *err);
