/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns how the processes of a tree hang together: who is a zombie and what is known of it, and whether the relations of
 * all of them can be made again.
 *
 * Kernel interface: /proc/PID/stat (exit_code needs ptrace access), status.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/error.h"
#include "collect/collect.h"
#include "kernel/caps.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "model/record.h"
#include "proc/read.h"

enum { FAMILY_STATE_DEAD = 2 /* task_core_entry.task_state */ };

int collect_tree_entry(struct snapshot *snap, const struct proc_stat *st, FerryTreeEntry **ret_entry,
		       struct ferry_error *err)
{
	FerryTreeEntry *entry = record_new(&snap->arena, FerryTreeEntry, ferry_tree_entry);
	if (!entry)
		return error_memory(err);
	entry->pid = (uint32_t)snapshot_inner_pid(snap, st->pid);
	if (st->exit_signal != SIGCHLD)
		record_set(entry, exit_signal, (uint32_t)MAX(st->exit_signal, 0));
	*ret_entry = entry;
	return 0;
}

static int family_zombie(struct collect *c, const struct frozen_zombie *fz, struct snap_zombie *z,
			 struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	_cleanup_proc_status_ struct proc_status status = {0};
	struct proc_stat st;
	int r = proc_read_stat(fz->proc_dir, &st, err);
	if (r >= 0)
		r = proc_read_status(fz->proc_dir, &status, err);
	if (r >= 0)
		r = collect_tree_entry(c->snap, &st, &z->tree, err);
	if (r < 0)
		return r;
	if (status.ns_pid.n > c->snap->pid_level + 1)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
				 "pid %d, a zombie, lives in a pid namespace below that of the tree's root",
				 fz->pid);
	z->pid = fz->pid;
	z->ppid = fz->ppid;
	z->pgid = st.pgrp;
	z->sid = st.session;
	z->order = fz->order;
	record_set(z->tree, uid, status.uid.real);
	record_set(z->tree, gid, status.gid.real);
	z->core = record_new(a, CoreEntry, core_entry);
	TaskCoreEntry *tc = z->core ? record_new(a, TaskCoreEntry, task_core_entry) : NULL;
	char *comm = tc ? arena_string(a, st.comm) : NULL;
	if (!comm)
		return error_memory(err);
	z->core->mtype = CORE_ENTRY__MARCH__X86_64;
	z->core->tc = tc;
	tc->task_state = FAMILY_STATE_DEAD;
	tc->exit_code = (uint32_t)st.exit_code;
	tc->comm = comm;
	return 0;
}

/* How it ended is told to who may look into it, and 0 to others. */
int collect_check_zombie(pid_t pid, struct ferry_error *err)
{
	if (sys_kcmp(pid, pid, KERN_KCMP_VM, 0, 0) != -EPERM)
		return 0;
	error_set(err, FERRY_ERROR_PERMISSION, EPERM, "how pid %d, a zombie, has ended is told to root only",
		  pid);
	error_hint(err, "try again when its parent has waited for it");
	return -EPERM;
}

int collect_zombies(struct collect *c, const struct frozen *f, struct ferry_error *err)
{
	vec_foreach(fz, &f->zombies) {
		struct snap_zombie *z = vec_push(&c->snap->zombies);
		int r = z ? collect_check_zombie(fz->pid, err) : error_memory(err);
		if (r >= 0)
			r = family_zombie(c, fz, z, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A number that belongs to the tree lives on outside of it, so it cannot be made anew. */
static int family_check_outside(const struct family *f, const struct family_member *m, bool shell_job,
				struct ferry_error *err)
{
	const struct family_member *root = f->members.v;
	bool joined = shell_job && m->sid == root->sid;
	if (m->sid > 0 && !joined && family_find(f, m->sid) == FAMILY_NONE && kill(m->sid, 0) == 0)
		return error_set(err, FERRY_ERROR_OUTSIDE_SESSION, ENOTSUP,
				 "pid %d belongs to session %d, whose leader is outside the tree", m->pid,
				 m->sid);
	joined = shell_job && m->pgid == root->pgid;
	if (m->pgid > 0 && !joined && family_find(f, m->pgid) == FAMILY_NONE && kill(m->pgid, 0) == 0)
		return error_set(err, FERRY_ERROR_OUTSIDE_SESSION, ENOTSUP,
				 "pid %d belongs to process group %d, whose leader is outside the tree",
				 m->pid, m->pgid);
	return 0;
}

int collect_check_family(struct family *f, const struct kern_caps *caps, bool shell_job,
			 struct ferry_error *err)
{
	vec_foreach(m, &f->members) {
		int r = family_check_outside(f, m, shell_job, err);
		if (r < 0)
			return r;
	}
	f->spare = (pid_t)kern_limit(caps, KERN_LIMIT_PID_MAX);
	return family_plan(f, err);
}

static int family_compare(const void *a, const void *b)
{
	const struct snap_relation *x = a, *y = b;
	return x->order < y->order ? -1 : x->order > y->order;
}

int collect_relations(struct snapshot *snap, struct ferry_error *err)
{
	size_t n = snap->tasks.n + snap->zombies.n;
	snap->relations = arena_array(&snap->arena, struct snap_relation, n);
	if (!snap->relations)
		return error_memory(err);
	vec_foreach(t, &snap->tasks)
		snap->relations[snap->n_relations++] = (struct snap_relation){
			t->order, t->pid, t->is_root ? 0 : t->ppid, t->pgid, t->sid, t, t->tree};
	vec_foreach(untold, &snap->untold) {
		struct snap_task *t = snapshot_task(snap, untold->pid);
		if (t)
			record_set(t->tree, untold, untold->continued ? 2 : 1);
	}
	vec_foreach(z, &snap->zombies)
		snap->relations[snap->n_relations++] =
			(struct snap_relation){z->order, z->pid, z->ppid, z->pgid, z->sid, NULL, z->tree};
	qsort(snap->relations, n, sizeof(*snap->relations), family_compare);
	return 0;
}

int collect_check_relations(struct collect *c, struct ferry_error *err)
{
	struct family f = {0};
	int r = 0;
	for (size_t i = 0; i < c->snap->n_relations && r >= 0; i++) {
		const struct snap_relation *rel = &c->snap->relations[i];
		struct family_member m = {
			.pid = rel->pid,
			.ppid = rel->ppid,
			.pgid = rel->pgid,
			.sid = rel->sid,
			.exit_signal = rel->tree->has_exit_signal ? (int)rel->tree->exit_signal : SIGCHLD,
			.ends = !rel->task,
		};
		if (rel->task)
			memcpy(m.shares, rel->task->shares, sizeof(m.shares));
		r = family_add(&f, &m, err);
	}
	if (r >= 0)
		r = collect_check_family(&f, c->caps, c->options->shell_job, err);
	family_release(&f);
	return r;
}
