/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/PID/status and /proc/PID/stat. A line that this kernel does not print leaves its fields zero and its bit
 * of .have unset; a line that ferry does not know is skipped.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

enum {
	PROC_PID_DEPTH = 33,  /* MAX_PID_NS_LEVEL + 1 */
	PROC_CPU_WORDS = 128, /* 8192 processors */
	PROC_NAME_BYTES = 72, /* a thread's name has 15 bytes, a kernel worker's up to 63 */
};

struct proc_ids {
	uint32_t real;
	uint32_t effective;
	uint32_t saved;
	uint32_t fs;
};

/* One id in each PID namespace, from that of the reader (v[0]) to the innermost (v[n - 1]). */
struct proc_pids {
	uint32_t n;
	pid_t v[PROC_PID_DEPTH];
};

/* Bits of proc_status.have for lines that not every kernel prints, or not for every task. */
enum proc_status_have {
	PROC_HAVE_UMASK = 1 << 0,           /* 4.7 */
	PROC_HAVE_NS_PIDS = 1 << 1,         /* 4.1 */
	PROC_HAVE_CAP_AMBIENT = 1 << 2,     /* 4.3 */
	PROC_HAVE_NO_NEW_PRIVS = 1 << 3,    /* 4.10 */
	PROC_HAVE_SECCOMP = 1 << 4,         /* 3.8, CONFIG_SECCOMP */
	PROC_HAVE_SECCOMP_FILTERS = 1 << 5, /* 5.9 */
	PROC_HAVE_THP = 1 << 6,             /* 5.0 */
	PROC_HAVE_CORE_DUMPING = 1 << 7,    /* 4.15 */
	PROC_HAVE_KTHREAD = 1 << 8,         /* 6.11 */
	PROC_HAVE_VM = 1 << 9,              /* not of zombies and kernel threads */
	PROC_HAVE_CPUS = 1 << 10,
	PROC_HAVE_SHSTK = 1 << 11, /* x86_Thread_features; 6.6 with shadow stacks */
};

struct proc_status {
	uint32_t have; /* enum proc_status_have */
	char name[PROC_NAME_BYTES];
	char state; /* R S D T t X Z P I */
	uint32_t umask;
	pid_t tgid;
	pid_t pid;
	pid_t ppid;
	pid_t tracer_pid;
	struct proc_ids uid;
	struct proc_ids gid;
	uint32_t fd_size; /* slots of the descriptor table: an upper bound */
	uint32_t n_groups;
	uint32_t *groups; /* owned; supplementary groups */
	struct proc_pids ns_tgid;
	struct proc_pids ns_pid;
	struct proc_pids ns_pgid;
	struct proc_pids ns_sid;
	bool kthread;
	bool core_dumping;
	bool thp_enabled;
	bool no_new_privs;
	bool shadow_stack;
	uint8_t seccomp; /* 0 off, 1 strict, 2 filter */
	uint32_t seccomp_filters;
	uint32_t threads;
	uint64_t vm_size_bytes;
	uint64_t vm_locked_bytes;
	uint64_t vm_pinned_bytes;
	uint64_t vm_rss_bytes;
	uint64_t rss_anon_bytes;  /* of that */
	uint64_t rss_shmem_bytes; /* of that */
	uint64_t vm_swap_bytes;
	uint64_t hugetlb_bytes;
	uint64_t sig_queued; /* of the user, not of the task */
	uint64_t sig_queued_max;
	uint64_t sig_pending; /* 1 << (signal - 1) */
	uint64_t sig_shared_pending;
	uint64_t sig_blocked;
	uint64_t sig_ignored;
	uint64_t sig_caught;
	uint64_t cap_inheritable; /* 1 << CAP_* */
	uint64_t cap_permitted;
	uint64_t cap_effective;
	uint64_t cap_bounding;
	uint64_t cap_ambient;
	uint32_t n_cpu_words;
	uint64_t cpus_allowed[PROC_CPU_WORDS]; /* bit n % 64 of word n / 64 */
};

void proc_status_release(struct proc_status *status);
#define _cleanup_proc_status_ __attribute__((cleanup(proc_status_release)))

/* -EBADMSG unless Name, State, Tgid, Pid, PPid, Uid, Gid and SigBlk are there and every known line is sound. */
must_check int proc_status_parse(const char *text, size_t n, struct proc_status *ret_status,
				 struct ferry_error *err);

/* The 52 fields of /proc/PID/stat (proc(5)), in order. Addresses are 0 for a reader without ptrace access. */
struct proc_stat {
	pid_t pid;
	char comm[PROC_NAME_BYTES];
	char state;
	pid_t ppid;
	pid_t pgrp;
	pid_t session;
	int32_t tty_nr;
	pid_t tpgid;
	uint32_t flags; /* PF_* of the kernel */
	uint64_t minflt;
	uint64_t cminflt;
	uint64_t majflt;
	uint64_t cmajflt;
	uint64_t utime_ticks;
	uint64_t stime_ticks;
	int64_t cutime_ticks;
	int64_t cstime_ticks;
	int64_t priority;
	int64_t nice;
	int64_t num_threads;
	int64_t itrealvalue;
	uint64_t starttime_ticks; /* since boot, in the reader's time namespace */
	uint64_t vsize_bytes;
	int64_t rss_pages;
	uint64_t rsslim_bytes;
	uint64_t startcode;
	uint64_t endcode;
	uint64_t startstack;
	uint64_t kstkesp;
	uint64_t kstkeip;
	uint64_t signal;
	uint64_t blocked;
	uint64_t sigignore;
	uint64_t sigcatch;
	uint64_t wchan;
	uint64_t nswap;
	uint64_t cnswap;
	int32_t exit_signal;
	int32_t processor;
	uint32_t rt_priority;
	uint32_t policy;
	uint64_t blkio_delay_ticks;
	uint64_t guest_time_ticks;
	int64_t cguest_time_ticks;
	uint64_t start_data; /* from here on since 3.3 */
	uint64_t end_data;
	uint64_t start_brk;
	uint64_t arg_start; /* from here on since 3.5 */
	uint64_t arg_end;
	uint64_t env_start;
	uint64_t env_end;
	int32_t exit_code; /* as waitpid gives it; of zombies */
	uint32_t n_fields; /* how many were there; >= 44 */
};

/* The name may hold anything, parentheses and newlines too. */
/* A zombie. Its process may live on in other threads: num_threads. */
static inline bool proc_stat_ended(const struct proc_stat *st)
{
	return st->state == 'Z' || st->state == 'X';
}

must_check int proc_stat_parse(const char *text, size_t n, struct proc_stat *ret_stat,
			       struct ferry_error *err);
