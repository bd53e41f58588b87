/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns comparing a plan with the machine before anything is created: PIDs are free, files are there and unchanged.
 * Kernel interface: kill(2) with signal 0, stat(2).
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "kernel/caps.h"
#include "kind/regfile.h"
#include "proc/read.h"
#include "restore/read.h"
#include "restore/restore.h"

enum {
	CHECK_LIST_MAX = 8,
	CHECK_SPARE_VMAS = 64,
	CHECK_SPARE_FDS = 128,
	CHECK_FDS_OF_TASK = 2,
	CHECK_LEAVE_NS = 2000000000,
	CHECK_PAUSE_NS = 1000000,
};

/*
 * The original may have ended this instant, and init is about to take notice. *ret_parent: who has not after a while; 0 = it has not
 * ended.
 */
static bool check_leaves(pid_t pid, pid_t *ret_parent)
{
	const struct timespec pause = {.tv_nsec = CHECK_PAUSE_NS};
	uint64_t until = time_now_ns() + CHECK_LEAVE_NS;
	struct proc_stat st;
	*ret_parent = 0;
	for (;;) {
		_cleanup_close_ int dir = proc_open(pid, NULL);
		if (dir < 0 || proc_read_stat(dir, &st, NULL) < 0)
			return true;
		if (st.state != 'Z' && st.state != 'X')
			return false;
		if (time_now_ns() >= until)
			break;
		nanosleep(&pause, NULL);
	}
	*ret_parent = st.ppid;
	return false;
}

static int check_number(pid_t pid, bool new_pidns, const struct kern_caps *caps, struct ferry_error *err)
{
	char path[32];
	pid_t parent;
	uint32_t pid_max = kern_limit(caps, KERN_LIMIT_PID_MAX);
	if ((uint32_t)pid >= pid_max) {
		error_set(err, FERRY_ERROR_LIMIT, ERANGE, "pid %d is above kernel.pid_max, which is %u", pid,
			  pid_max);
		error_hint(err, "raise it: sysctl kernel.pid_max=%d", pid + 1);
		return -ERANGE;
	}
	if (new_pidns)
		return 0;
	/* /proc has directories for threads too, though it lists processes only. */
	snprintf(path, sizeof(path), "/proc/%d", pid);
	if (access(path, F_OK) < 0 || check_leaves(pid, &parent))
		return 0;
	if (parent) {
		error_set(
			err, FERRY_ERROR_PID_TAKEN, EEXIST,
			"pid %d, which the image needs, has ended, but its parent, pid %d, has not waited for it",
			pid, parent);
		error_hint(err, "let pid %d wait for it, or end it; else restore with --new-pidns", parent);
		return -EEXIST;
	}
	error_set(err, FERRY_ERROR_PID_TAKEN, EEXIST, "pid %d, which the image needs, is in use", pid);
	error_hint(err, "if it is the original, it must end first; else restore with --new-pidns");
	return -EEXIST;
}

static int check_pids(const struct plan *p, bool new_pidns, const struct kern_caps *caps,
		      struct ferry_error *err)
{
	int r = 0;
	vec_foreach(m, &p->family.members) {
		if (r >= 0)
			r = check_number(m->pid, new_pidns, caps, err);
	}
	for (size_t i = 0; i < p->n_tasks; i++)
		vec_foreach(th, &p->tasks[i].threads) {
			if (r >= 0 && th->tid != p->tasks[i].pid)
				r = check_number(th->tid, new_pidns, caps, err);
		}
	return r;
}

/* A PID may also be held as the id of a session or process group whose leader is gone. */
static int check_groups(const struct plan *p, struct ferry_error *err)
{
	vec_foreach(m, &p->family.members) {
		if (kill(-m->pid, 0) < 0 && errno == ESRCH)
			continue;
		return error_set(err, FERRY_ERROR_PID_TAKEN, EEXIST,
				 "process group %d, whose number the image needs, still has members", m->pid);
	}
	return 0;
}

static bool check_guard(const FerryFileGuardEntry *guard, struct strbuf *list)
{
	struct stat st;
	if (stat(guard->path, &st) < 0) {
		strbuf_addf(list, "%s'%s' is gone", list->n ? ", " : "", guard->path);
		return false;
	}
	int64_t mtime = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	if ((uint64_t)st.st_size != guard->size)
		strbuf_addf(list, "%s'%s' had %llu bytes, has %llu", list->n ? ", " : "", guard->path,
			    (unsigned long long)guard->size, (unsigned long long)st.st_size);
	else if (mtime != guard->mtime_ns)
		strbuf_addf(list, "%s'%s' was written to", list->n ? ", " : "", guard->path);
	else
		return true;
	return false;
}

/* Memory of one moment with files of another corrupts a database: name every file that changed. */
static int check_guards(const struct plan *p, struct ferry_error *err)
{
	_cleanup_strbuf_ struct strbuf list = {0};
	size_t changed = 0;
	vec_foreach(guard, &p->guards) {
		if (changed < CHECK_LIST_MAX)
			changed += !check_guard(*guard, &list);
		else
			break;
	}
	if (!changed)
		return 0;
	error_set(err, FERRY_ERROR_FILES_CHANGED, ESTALE, "files changed after the dump: %s",
		  strbuf_str(&list));
	error_hint(err, "put them back as they were, or accept them with --files=as-found");
	return -ESTALE;
}

/* Files that were written to may be taken as they are, but no other program in the place of one that was in the middle of something. */
static int check_files(const struct plan *p, const struct kind_options *options, bool as_found,
		       struct ferry_error *err)
{
	const char *asked = options->file_validation;
	const struct regfile_checks checks = {
		.sizes = !as_found || asked,
		.but_append = asked,
		.programs = !as_found || (options->criu_compat && (!asked || strcmp(asked, "filesize") != 0)),
		.rights = options->criu_compat && !options->any_rights,
	};
	for (size_t i = 0; i < p->n_files; i++) {
		const RegFileEntry *reg = p->files[i].entry->reg;
		if (!reg || p->files[i].entry->type != FD_TYPES__REG)
			continue;
		int r = regfile_verify(p, &p->files[i], &checks, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* What our own table holds at a time. */
static int check_own_descriptors(const struct plan *p, const struct rlimit *nofile, struct ferry_error *err)
{
	rlim_t needed = CHECK_SPARE_FDS + CHECK_FDS_OF_TASK * p->n_tasks;
	for (size_t i = 0; i < p->n_files; i++)
		needed += !files_is_alone(&p->files[i]);
	if (needed <= nofile->rlim_cur)
		return 0;
	error_set(err, FERRY_ERROR_LIMIT, EMFILE,
		  "the image has files and sockets for %llu descriptors, and RLIMIT_NOFILE of ferry is %llu",
		  (unsigned long long)needed, (unsigned long long)nofile->rlim_cur);
	error_hint(err, "raise it: ulimit -n %llu", (unsigned long long)needed);
	return -EMFILE;
}

static int check_limits(const struct plan *p, const struct kern_caps *caps, struct ferry_error *err)
{
	struct rlimit nofile;
	if (getrlimit(RLIMIT_NOFILE, &nofile) < 0)
		nofile.rlim_cur = nofile.rlim_max = RLIM_INFINITY;
	int r = check_own_descriptors(p, &nofile, err);
	if (r < 0)
		return r;
	uint32_t max_map_count = kern_limit(caps, KERN_LIMIT_MAX_MAP_COUNT);
	for (size_t i = 0; i < p->n_tasks; i++) {
		const struct plan_task *t = &p->tasks[i];
		if (t->mm->n_vmas + CHECK_SPARE_VMAS > max_map_count) {
			error_set(err, FERRY_ERROR_LIMIT, ENOMEM,
				  "pid %d has %zu mappings, vm.max_map_count is %u", t->pid, t->mm->n_vmas,
				  max_map_count);
			error_hint(err, "raise it: sysctl vm.max_map_count=%zu", t->mm->n_vmas + 1024);
			return -ENOMEM;
		}
		int highest = t->fds.n ? t->fds.v[t->fds.n - 1].fd : 0;
		if ((rlim_t)highest + 1 + t->mm->n_vmas > nofile.rlim_cur &&
		    (rlim_t)highest + 64 > nofile.rlim_cur) {
			error_set(err, FERRY_ERROR_LIMIT, EMFILE,
				  "pid %d has descriptor %d, RLIMIT_NOFILE is %llu", t->pid, highest,
				  (unsigned long long)nofile.rlim_cur);
			error_hint(err, "raise it: ulimit -n %d", highest + 1024);
			return -EMFILE;
		}
	}
	return 0;
}

int plan_check(struct reader *r, bool as_found, bool new_pidns, struct ferry_error *err)
{
	int ret = check_limits(r->plan, r->caps, err);
	if (ret >= 0)
		ret = check_pids(r->plan, new_pidns, r->caps, err);
	if (ret >= 0 && !new_pidns)
		ret = check_groups(r->plan, err);
	if (ret >= 0 && !as_found)
		ret = check_guards(r->plan, err);
	if (ret >= 0)
		ret = check_files(r->plan, r->options, as_found, err);
	error_context(err, "check", NULL, 0);
	return ret;
}
