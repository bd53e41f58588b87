/* SPDX-License-Identifier: Apache-2.0 */
/* The small files of /proc/PID: auxv, limits, cgroup, children, timers, maps of ids, clock offsets, ns links. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"

/* auxv: pairs of words, AT_NULL left out */

enum { PROC_AUXV_MAX = 64 };

struct proc_auxv {
	uint32_t n;
	uint8_t word_bytes; /* 4 for a 32-bit task */
	struct {
		uint64_t type; /* AT_* */
		uint64_t value;
	} v[PROC_AUXV_MAX];
};

/*
 * word_bytes: 8, or 4 for a 32-bit task, or 0 to find out. A type has never more than 32 bits, whereas two 32-bit
 * words read as one do.
 */
must_check int proc_auxv_parse(const void *bytes, size_t n, unsigned word_bytes, struct proc_auxv *ret_auxv,
			       struct ferry_error *err);

/* Value of the first entry of this type; false if there is none. */
bool proc_auxv_get(const struct proc_auxv *auxv, uint64_t type, uint64_t *ret_value);

/* limits, in order of RLIMIT_*; RLIM64_INFINITY for "unlimited" */

struct proc_limits {
	struct {
		uint64_t soft;
		uint64_t hard;
	} v[RLIM_NLIMITS];
};

must_check int proc_limits_parse(const char *text, size_t n, struct proc_limits *ret_limits,
				 struct ferry_error *err);

/* What a process is set to, of what has a file of its own. */
struct proc_settings {
	struct proc_limits limits;
	int oom_score_adj;
	uint32_t personality;
	bool has_coredump_filter, has_loginuid; /* the file can be read */
	uint32_t coredump_filter, loginuid;
};

/* cgroup: one entry a hierarchy; strings lie in one copy of the text */

struct proc_cgroup {
	uint32_t hierarchy;      /* 0 = v2 */
	const char *controllers; /* "cpu,cpuacct", "name=systemd", "" for v2 */
	const char *path;        /* relative to the reader's cgroup namespace; may begin with "/.." */
	bool deleted;            /* the path ended in " (deleted)", which is cut off */
};

struct proc_cgroups {
	VEC(struct proc_cgroup) v;
	char *text;
};

void proc_cgroups_release(struct proc_cgroups *cgroups);
#define _cleanup_proc_cgroups_ __attribute__((cleanup(proc_cgroups_release)))
must_check int proc_cgroups_parse(const char *text, size_t n, struct proc_cgroups *ret_cgroups,
				  struct ferry_error *err);

/* children: PIDs */

struct proc_pid_list {
	VEC(pid_t) v;
};

void proc_pid_list_release(struct proc_pid_list *list);
must_check int proc_children_parse(const char *text, size_t n, struct proc_pid_list *ret_list,
				   struct ferry_error *err);

/* timers: POSIX timers by the kernel's id */

struct proc_timer {
	int32_t id;
	int32_t signo;
	uint64_t sigval;
	uint8_t notify; /* SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD */
	bool thread_id; /* SIGEV_THREAD_ID: pid is a thread's */
	pid_t pid;      /* in the reader's PID namespace */
	int32_t clockid;
};

struct proc_timers {
	VEC(struct proc_timer) v;
};

void proc_timers_release(struct proc_timers *timers);
must_check int proc_timers_parse(const char *text, size_t n, struct proc_timers *ret_timers,
				 struct ferry_error *err);

/* timens_offsets, of the namespace that the task's children will be in */

struct proc_timens_offsets {
	struct {
		int64_t sec;
		int64_t nsec;
	} monotonic, boottime;
};

must_check int proc_timens_offsets_parse(const char *text, size_t n, struct proc_timens_offsets *ret_offsets,
					 struct ferry_error *err);

/* uid_map and gid_map */

struct proc_id_range {
	uint32_t inside;
	uint32_t outside;
	uint32_t count;
};

struct proc_id_map {
	VEC(struct proc_id_range) v;
};

void proc_id_map_release(struct proc_id_map *map);
must_check int proc_id_map_parse(const char *text, size_t n, struct proc_id_map *ret_map,
				 struct ferry_error *err);

/* setgroups: "allow" or "deny" */
must_check int proc_setgroups_parse(const char *text, size_t n, bool *ret_allowed, struct ferry_error *err);

/* Files of one number and a newline. base: 10, 16; what: for the message. */
must_check int proc_u64_parse(const char *text, size_t n, unsigned base, const char *what,
			      uint64_t *ret_value, struct ferry_error *err);
must_check int proc_i64_parse(const char *text, size_t n, const char *what, int64_t *ret_value,
			      struct ferry_error *err);

/* Link texts "net:[4026531840]", "pipe:[123]", "socket:[123]": the number, if the part in front is word. */
must_check int proc_link_number(const char *link, const char *word, uint64_t *ret_number);

/* Namespaces */

enum proc_ns {
	PROC_NS_CGROUP,
	PROC_NS_IPC,
	PROC_NS_MNT,
	PROC_NS_NET,
	PROC_NS_PID,
	PROC_NS_PID_FOR_CHILDREN,
	PROC_NS_TIME,
	PROC_NS_TIME_FOR_CHILDREN,
	PROC_NS_USER,
	PROC_NS_UTS,
	PROC_NS_COUNT,
};

struct proc_ns_info {
	const char *file; /* below /proc/PID/ns */
	const char *word; /* in the link text */
	uint64_t clone_flag;
};

/* Table entry; NULL beyond PROC_NS_COUNT. */
const struct proc_ns_info *proc_ns_info(enum proc_ns ns);

struct proc_namespaces {
	uint64_t ino[PROC_NS_COUNT]; /* 0 = this kernel or this task (a zombie) has none */
};
