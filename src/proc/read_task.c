/* SPDX-License-Identifier: Apache-2.0 */
/* Owns reading the small files of /proc/PID. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "proc/read.h"
#include "proc/read_error.h"

enum {
	SMALL_FILE_MAX = 1 << 20,
	ARGUMENTS_MAX = 64 << 20, /* more than execve(2) takes */
};

int proc_read_auxv(int dirfd, struct proc_auxv *ret_auxv, struct ferry_error *err)
{
	_cleanup_free_ char *bytes = NULL;
	size_t n = 0;
	int r = proc_read_piece(dirfd, "auxv", &bytes, &n, err);
	if (r < 0)
		return r;
	return proc_auxv_parse(bytes, n, 0, ret_auxv, err);
}

int proc_read_limits(int dirfd, struct proc_limits *ret_limits, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = proc_read_piece(dirfd, "limits", &text, &n, err);
	return r < 0 ? r : proc_limits_parse(text, n, ret_limits, err);
}

int proc_read_cgroups(int dirfd, struct proc_cgroups *ret_cgroups, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	struct proc_cgroups cgroups = {0};
	size_t n = 0;
	int r = proc_read_piece(dirfd, "cgroup", &text, &n, err);
	if (r < 0)
		return r;
	r = proc_cgroups_parse(text, n, &cgroups, err);
	if (r < 0)
		proc_cgroups_release(&cgroups);
	else
		*ret_cgroups = cgroups;
	return r;
}

/* The children of one thread, appended. A thread that ended has given its children to another. */
static int add_children(int dirfd, pid_t tid, struct proc_pid_list *list, struct ferry_error *err)
{
	char name[48];
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	snprintf(name, sizeof(name), "task/%d/children", tid);
	int r = fd_read_path(dirfd, name, SMALL_FILE_MAX, &text, &n);
	if (r == -ESRCH)
		return 0;
	if (r == -ENOENT) {
		snprintf(name, sizeof(name), "task/%d", tid);
		return faccessat(dirfd, name, F_OK, 0) < 0 ? 0
							   : proc_read_error(dirfd, "children", ENOENT, err);
	}
	if (r < 0)
		return proc_read_error(dirfd, name, -r, err);
	return proc_children_parse(text, n, list, err);
}

static int compare_pids(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
	return (x > y) - (x < y);
}

int proc_read_children(int dirfd, struct proc_pid_list *ret_children, struct ferry_error *err)
{
	struct proc_pid_list tids;
	int r = proc_read_tasks(dirfd, &tids, err);
	if (r < 0)
		return r;
	r = proc_read_children_of(dirfd, tids.v.v, tids.v.n, ret_children, err);
	proc_pid_list_release(&tids);
	return r;
}

int proc_read_children_of(int dirfd, const pid_t *tids, size_t n, struct proc_pid_list *ret_children,
			  struct ferry_error *err)
{
	struct proc_pid_list children = {0};
	int r = 0;
	for (size_t i = 0; i < n && !r; i++)
		r = add_children(dirfd, tids[i], &children, err);
	if (r < 0) {
		proc_pid_list_release(&children);
		return r;
	}
	if (children.v.n > 1)
		qsort(children.v.v, children.v.n, sizeof(*children.v.v), compare_pids);
	*ret_children = children;
	return 0;
}

int proc_read_timers(int dirfd, struct proc_timers *ret_timers, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	struct proc_timers timers = {0};
	size_t n = 0;
	int r = proc_read_file(dirfd, "timers", SMALL_FILE_MAX, &text, &n, err);
	if (r < 0)
		return r;
	r = proc_timers_parse(text, n, &timers, err);
	if (r < 0)
		proc_timers_release(&timers);
	else
		*ret_timers = timers;
	return r;
}

int proc_read_timens_offsets(int dirfd, struct proc_timens_offsets *ret_offsets, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = proc_read_piece(dirfd, "timens_offsets", &text, &n, err);
	return r < 0 ? r : proc_timens_offsets_parse(text, n, ret_offsets, err);
}

static int read_id_map(int dirfd, const char *name, struct proc_id_map *ret_map, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	struct proc_id_map map = {0};
	size_t n = 0;
	int r = proc_read_file(dirfd, name, SMALL_FILE_MAX, &text, &n, err);
	if (r < 0)
		return r;
	r = proc_id_map_parse(text, n, &map, err);
	if (r < 0)
		proc_id_map_release(&map);
	else
		*ret_map = map;
	return r;
}

int proc_read_uid_map(int dirfd, struct proc_id_map *ret_map, struct ferry_error *err)
{
	return read_id_map(dirfd, "uid_map", ret_map, err);
}

int proc_read_gid_map(int dirfd, struct proc_id_map *ret_map, struct ferry_error *err)
{
	return read_id_map(dirfd, "gid_map", ret_map, err);
}

int proc_read_setgroups(int dirfd, bool *ret_allowed, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = proc_read_piece(dirfd, "setgroups", &text, &n, err);
	return r < 0 ? r : proc_setgroups_parse(text, n, ret_allowed, err);
}

int proc_read_namespace(int dirfd, enum proc_ns ns, uint64_t *ret_ino, struct ferry_error *err)
{
	const struct proc_ns_info *info = proc_ns_info(ns);
	char name[32], link[64];
	snprintf(name, sizeof(name), "ns/%s", info->file);
	ssize_t n = readlinkat(dirfd, name, link, sizeof(link) - 1);
	if (n < 0 && errno == ENOENT && !proc_gone(dirfd)) {
		*ret_ino = 0;
		return 0;
	}
	if (n < 0)
		return proc_read_error(dirfd, name, errno, err);
	link[n] = '\0';
	return proc_link_number(link, info->word, ret_ino) < 0
		       ? error_set(err, FERRY_ERROR_SYSTEM, EBADMSG, "%s: ferry cannot read '%s'", name, link)
		       : 0;
}

int proc_read_namespaces(int dirfd, struct proc_namespaces *ret_namespaces, struct ferry_error *err)
{
	struct proc_namespaces found = {0};
	for (int i = 0; i < PROC_NS_COUNT; i++) {
		int r = proc_read_namespace(dirfd, (enum proc_ns)i, &found.ino[i], err);
		if (r < 0)
			return r;
	}
	*ret_namespaces = found;
	return 0;
}

int proc_open_namespace(int dirfd, enum proc_ns ns, struct ferry_error *err)
{
	char name[32];
	snprintf(name, sizeof(name), "ns/%s", proc_ns_info(ns)->file);
	return proc_open_file(dirfd, name, O_RDONLY, err);
}

int proc_read_comm(int dirfd, char ret_comm[PROC_NAME_BYTES], struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = proc_read_piece(dirfd, "comm", &text, &n, err);
	if (r < 0)
		return r;
	if (!n)
		return proc_read_error(dirfd, "comm", ESRCH, err);
	n -= text[n - 1] == '\n';
	if (n >= PROC_NAME_BYTES)
		return error_set(err, FERRY_ERROR_SYSTEM, EBADMSG, "comm: the name is too long");
	memcpy(ret_comm, text, n);
	ret_comm[n] = '\0';
	return 0;
}

int proc_read_cmdline(int dirfd, char **ret_bytes, size_t *ret_n, struct ferry_error *err)
{
	return proc_read_file(dirfd, "cmdline", ARGUMENTS_MAX, ret_bytes, ret_n, err);
}

static int read_number(int dirfd, const char *name, unsigned base, uint64_t *ret_value,
		       struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = proc_read_piece(dirfd, name, &text, &n, err);
	if (r < 0)
		return r;
	return proc_u64_parse(text, n, base, name, ret_value, err);
}

static int read_number32(int dirfd, const char *name, unsigned base, uint32_t *ret_value,
			 struct ferry_error *err)
{
	uint64_t value = 0;
	int r = read_number(dirfd, name, base, &value, err);
	if (r < 0)
		return r;
	if (value > UINT32_MAX)
		return error_set(err, FERRY_ERROR_SYSTEM, EBADMSG, "%s: the number is too large", name);
	*ret_value = (uint32_t)value;
	return 0;
}

int proc_read_timerslack_ns(int dirfd, uint64_t *ret_ns, struct ferry_error *err)
{
	return read_number(dirfd, "timerslack_ns", 10, ret_ns, err);
}

int proc_read_oom_score_adj(int dirfd, int *ret_adj, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	int64_t value = 0;
	size_t n = 0;
	int r = proc_read_piece(dirfd, "oom_score_adj", &text, &n, err);
	if (!r)
		r = proc_i64_parse(text, n, "oom_score_adj", &value, err);
	if (r < 0)
		return r;
	if (value < -1000 || value > 1000)
		return error_set(err, FERRY_ERROR_SYSTEM, EBADMSG,
				 "oom_score_adj: the number is out of range");
	*ret_adj = (int)value;
	return 0;
}

int proc_read_loginuid(int dirfd, uint32_t *ret_uid, struct ferry_error *err)
{
	if (faccessat(dirfd, "loginuid", F_OK, 0) < 0 && errno == ENOENT && !proc_gone(dirfd)) {
		*ret_uid = UINT32_MAX;
		return 0;
	}
	return read_number32(dirfd, "loginuid", 10, ret_uid, err);
}

int proc_read_personality(int dirfd, uint32_t *ret_personality, struct ferry_error *err)
{
	return read_number32(dirfd, "personality", 16, ret_personality, err);
}

int proc_read_coredump_filter(int dirfd, uint32_t *ret_filter, struct ferry_error *err)
{
	return read_number32(dirfd, "coredump_filter", 16, ret_filter, err);
}

int proc_read_settings(int dirfd, struct proc_settings *ret_settings, struct ferry_error *err)
{
	struct proc_settings *s = ret_settings;
	int r = proc_read_limits(dirfd, &s->limits, err);
	if (r >= 0)
		r = proc_read_oom_score_adj(dirfd, &s->oom_score_adj, err);
	if (r >= 0)
		r = proc_read_personality(dirfd, &s->personality, err);
	if (r < 0)
		return r;
	s->has_coredump_filter = proc_read_coredump_filter(dirfd, &s->coredump_filter, NULL) >= 0;
	s->has_loginuid = proc_read_loginuid(dirfd, &s->loginuid, NULL) >= 0;
	return 0;
}

/* Threads that the kernel runs in a process never return to user mode. */
static bool look_is_own(int dirfd, pid_t tid)
{
	struct proc_stat st;
	_cleanup_close_ int dir = proc_open_task(dirfd, tid, NULL);
	return dir >= 0 && proc_read_stat(dir, &st, NULL) >= 0 && !proc_stat_ended(&st) &&
	       !(st.flags & (KERN_PF_IO_WORKER | KERN_PF_USER_WORKER));
}

pid_t proc_look_from(int dirfd, const struct proc_stat *st)
{
	struct proc_pid_list tids = {0};
	pid_t found = 0;
	if (!proc_stat_ended(st) || st->num_threads <= 1 || proc_read_tasks(dirfd, &tids, NULL) < 0)
		return st->pid;
	for (size_t i = 0; i < tids.v.n && !found; i++)
		found = look_is_own(dirfd, tids.v.v[i]) ? tids.v.v[i] : 0;
	proc_pid_list_release(&tids);
	return found ? found : st->pid;
}

pid_t proc_look(pid_t pid)
{
	struct proc_stat st;
	_cleanup_close_ int dir = proc_open(pid, NULL);
	return dir < 0 || proc_read_stat(dir, &st, NULL) < 0 ? pid : proc_look_from(dir, &st);
}

int proc_open_look(pid_t pid, struct ferry_error *err)
{
	return proc_open(proc_look(pid), err);
}

int proc_look_pidfd(pid_t pid, pid_t look)
{
	return sys_pidfd_open(look, look == pid ? 0 : PIDFD_THREAD);
}

bool proc_is_in_vfork(int dirfd, pid_t tid, pid_t *ret_child)
{
	_cleanup_close_ int dir = proc_open_task(dirfd, tid, NULL);
	struct proc_stat st;
	struct proc_pid_list children = {0};
	if (dir < 0 || proc_read_stat(dir, &st, NULL) < 0 || st.state != 'D' ||
	    proc_read_children(dirfd, &children, NULL) < 0)
		return false;
	pid_t found = 0;
	vec_foreach(child, &children.v) {
		if (sys_kcmp(*child, tid, KERN_KCMP_VM, 0, 0) == 0)
			found = *child;
	}
	proc_pid_list_release(&children);
	if (found)
		*ret_child = found;
	return found;
}
