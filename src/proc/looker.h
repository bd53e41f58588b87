/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel keeps of the threads of a process, all of them read in one go. The words are compared, not understood: two threads
 * whose words are the same would answer alike if they were asked.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"
#include "proc/dirs.h"

struct proc_looker;

/* What threads have in common as a rule. */
struct proc_words {
	uint64_t nsproxy, fs, files, cred, real_cred; /* addresses */
	uint64_t seccomp_filter, mempolicy, cgroups;  /* the same; 0 = none */
	uint64_t atomic_flags, info_flags, timer_slack;
	uint64_t stack_address, stack_bytes; /* the alternate one */
	uint32_t stack_flags, flags, personality, death_signal, seccomp_mode;
	uint32_t zero;
};

struct proc_thread_look {
	uint32_t tid, level;     /* of the PID namespace that it lives in */
	uint64_t task, children; /* where it is, and 0 if it has no children */
	uint64_t clear_tid;      /* PR_GET_TID_ADDRESS */
	char comm[16];           /* PR_GET_NAME */
	struct proc_words words;
};

/* Costs nothing yet. NULL: memory is short. */
struct proc_looker *proc_looker_new(void);
void proc_looker_free(struct proc_looker *l);

/* See proc_mapper_new(); root has to stay open. "/" without it. */
void proc_looker_look_below(struct proc_looker *l, int root);

/*
 * Look at all threads of a process that has so many. Gets ready when it is asked for the first time, which takes some milliseconds.
 * -errno, without a message: it is not possible or not worth it, and nothing is found.
 */
must_check int proc_looker_read(struct proc_looker *l, pid_t pid, size_t n_threads);

/* A thread of the process if that was looked at last; NULL: not known. */
const struct proc_thread_look *proc_looker_find(const struct proc_looker *l, pid_t pid, pid_t tid);

/* Leave only those of its threads in the list that have children, and those that are not known. */
void proc_looker_keep_parents(const struct proc_looker *l, pid_t pid, struct proc_pid_list *tids);
