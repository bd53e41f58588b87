/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns collecting a frozen tree: tasks and threads, then mappings and descriptors of each, then what only the tasks
 * themselves can tell.
 *
 * Kernel interface: /proc/PID/stat, status; clock_gettime(2) and /proc/PID/timens_offsets for the tree's clocks.
 */
#include "collect/collect.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "collect/ahead.h"
#include "collect/namespaces.h"
#include "kernel/uapi.h"
#include "kind/netplace.h"
#include "kind/ns_time.h"
#include "model/record.h"
#include "proc/read.h"

enum {
	COLLECT_STATE_ALIVE = 1, /* task_core_entry.task_state */
	COLLECT_STATE_STOPPED = 3,
	COLLECT_IDS_FIRST = 2, /* 1 is what an image calls the dumper's own */
	COLLECT_CG_SET = 1,
};

static int collect_core(struct snapshot *snap, struct snap_thread *th, bool leader, pid_t pid)
{
	struct arena *a = &snap->arena;
	CoreEntry *core = record_new(a, CoreEntry, core_entry);
	FerryTaskEntry *extra = record_new(a, FerryTaskEntry, ferry_task_entry);
	if (!core || !extra)
		return -ENOMEM;
	core->mtype = CORE_ENTRY__MARCH__X86_64;
	core->thread_info = record_new(a, ThreadInfoX86, thread_info_x86);
	core->thread_core = record_new(a, ThreadCoreEntry, thread_core_entry);
	core->tc = leader ? record_new(a, TaskCoreEntry, task_core_entry) : NULL;
	if (!core->thread_info || !core->thread_core || (leader && !core->tc))
		return -ENOMEM;
	record_set(core->thread_core, cg_set, COLLECT_CG_SET);
	extra->pid = (uint32_t)snapshot_inner_pid(snap, pid);
	extra->tid = (uint32_t)th->inner_tid;
	th->core = core;
	th->extra = extra;
	return 0;
}

typedef VEC(struct ferry_thread *) collect_controls;

/* A process's threads that are asked what they are by a blob of their own; others answer through a tracer of the tree, or are one. */
static int collect_controls_of(struct frozen *f, const struct frozen_task *ft, collect_controls *ret)
{
	vec_foreach(control, &ft->threads) {
		pid_t tid = ferry_thread_tid(*control);
		if (traced_find(f, tid) || traced_server(f, tid))
			continue;
		struct ferry_thread **slot = vec_push(ret);
		if (!slot)
			return -ENOMEM;
		*slot = *control;
	}
	return 0;
}

/* From here on nobody runs: what threads still had to do is done before the clocks are read and anything is looked at. */
static int collect_settle(struct frozen *f, struct ferry_error *err)
{
	collect_controls controls = {0};
	int r = 0;
	for (size_t i = 0; i < f->tasks.n && r >= 0; i++) {
		struct ferry_inject *inject;
		controls.n = 0;
		if (collect_controls_of(f, &f->tasks.v[i], &controls) < 0)
			r = error_memory(err);
		if (r >= 0 && controls.n)
			r = freeze_inject(f, &f->tasks.v[i], &inject, err);
		if (r >= 0 && controls.n)
			r = ferry_inject_settle_all(inject, controls.v, controls.n, err);
	}
	vec_release(&controls);
	return r;
}

static void collect_ours(struct snap_task *t, const struct traced_server *server)
{
	uint64_t bytes;
	traced_place(server, &t->ours_start, &bytes);
	t->ours_end = t->ours_start + bytes;
}

static int collect_add_thread(struct collect *c, struct snap_task *t, pid_t tid, struct snap_thread **ret,
			      struct ferry_error *err)
{
	struct snap_thread *th = vec_push(&t->threads);
	if (!th)
		return error_memory(err);
	th->tid = tid;
	th->inner_tid = snapshot_inner_pid(c->snap, tid);
	if (collect_core(c->snap, th, tid == t->pid, t->pid) < 0)
		return error_memory(err);
	*ret = th;
	return 0;
}

/* How it has ended is what a parent is told in the end, before Linux 5.17, when the other threads end one by one. */
static int collect_ended(struct collect *c, struct frozen_task *ft, struct snap_task *t,
			 struct ferry_error *err)
{
	struct snap_thread *th;
	struct proc_stat st;
	_cleanup_close_ int dir = proc_open_task(ft->proc_dir, t->pid, err);
	int r = dir < 0 ? dir : proc_read_stat(dir, &st, err);
	if (r >= 0)
		r = collect_add_thread(c, t, t->pid, &th, err);
	if (r < 0)
		return r;
	th->ended = true;
	record_set(th->extra, ended, (uint32_t)st.exit_code);
	return 0;
}

static int collect_threads(struct collect *c, struct frozen *f, struct frozen_task *ft, struct snap_task *t,
			   struct ferry_error *err)
{
	int r = t->look == t->pid ? 0 : collect_ended(c, ft, t, err);
	for (size_t i = 0; i < ft->threads.n && r >= 0; i++) {
		struct ferry_thread *control = ft->threads.v[i];
		const struct frozen_tracee *traced = traced_find(f, ferry_thread_tid(control));
		struct traced_server *server = traced_server(f, ferry_thread_tid(control));
		struct snap_thread *th;
		if (server)
			collect_ours(t, server);
		r = collect_add_thread(c, t, ferry_thread_tid(control), &th, err);
		if (r < 0)
			return r;
		th->control = control;
		th->tracer = traced ? traced->tracer : 0;
		th->traced = traced ? &traced->state : NULL;
	}
	return r;
}

/* The signal that stopped it, 0 when it runs. */
static int collect_stop_signal(const struct snap_task *t)
{
	vec_foreach(th, &t->threads) {
		if (!th->ended && ferry_thread_stop(th->control) == FERRY_STOP_GROUP)
			return ferry_thread_stop_signal(th->control, NULL);
	}
	return 0;
}

/* Of what a task has and no earlier one. */
static uint32_t collect_id(const struct snapshot *snap, const struct snap_task *t)
{
	return COLLECT_IDS_FIRST + (uint32_t)(t - snap->tasks.v);
}

static int collect_shared(struct collect *c, struct snap_task *t, pid_t ppid, struct ferry_error *err)
{
	pid_t owners[SHARING_TYPES];
	const struct sharing_process process = {t->pid, t->look};
	const struct sharing_process parent = {ppid, t->parent ? t->parent->look
						     : ppid    ? proc_look(ppid)
							       : 0};
	int r = collect_sharing(c->sharing, process, parent, t->is_root, owners, err);
	if (r < 0)
		return r;
	uint32_t *const ids[SHARING_TYPES] = {
		[SHARING_VM] = &t->ids->vm_id,
		[SHARING_SIGHAND] = &t->ids->sighand_id,
		[SHARING_FILES] = &t->ids->files_id,
		[SHARING_FS] = &t->ids->fs_id,
	};
	t->memory = t;
	for (int type = 0; type < SHARING_TYPES; type++) {
		if (owners[type] == t->pid)
			continue;
		struct snap_task *owner = snapshot_task(c->snap, owners[type]);
		t->shares[type] = owners[type];
		*ids[type] = collect_id(c->snap, owner);
		if (type == SHARING_VM)
			t->memory = owner;
	}
	return 0;
}

/* Of the leader, also when it has ended: it alone has the name and the exit signal of the process. */
static int collect_leader_stat(struct frozen_task *ft, const struct check_task *checked,
			       struct proc_stat *ret_stat, struct ferry_error *err)
{
	if (checked->look == checked->pid) {
		*ret_stat = checked->stat;
		return 0;
	}
	_cleanup_close_ int leader = proc_open_task(ft->proc_dir, checked->pid, err);
	return leader < 0 ? leader : proc_read_stat(leader, ret_stat, err);
}

static int collect_task_head(struct collect *c, struct frozen_task *ft, struct snap_task *t,
			     const struct check_task *checked, struct ferry_error *err)
{
	struct proc_stat st;
	int r = collect_leader_stat(ft, checked, &st, err);
	if (r < 0)
		return r;
	TaskCoreEntry *tc = t->threads.v[0].core->tc;
	t->ppid = ft->ppid;
	t->pgid = st.pgrp;
	t->sid = st.session;
	t->inner_pid = snapshot_inner_pid(c->snap, t->pid);
	t->inner_ppid = snapshot_inner_pid(c->snap, t->ppid);
	t->inner_pgid = snapshot_inner_pid(c->snap, t->pgid);
	t->inner_sid = snapshot_inner_pid(c->snap, t->sid);
	int stop_signal = collect_stop_signal(t);
	tc->task_state = stop_signal ? COLLECT_STATE_STOPPED : COLLECT_STATE_ALIVE;
	if (stop_signal)
		record_set(tc, stop_signo, (uint32_t)stop_signal);
	tc->exit_code = 0;
	tc->flags = st.flags & ~(uint32_t)(t->look == t->pid ? 0 : KERN_PF_EXITING);
	tc->comm = arena_string(&c->snap->arena, st.comm);
	t->ids = record_new(&c->snap->arena, TaskKobjIdsEntry, task_kobj_ids_entry);
	if (!t->ids || !tc->comm)
		return error_memory(err);
	r = collect_tree_entry(c->snap, &st, &t->tree, err);
	if (r < 0)
		return r;
	t->ids->vm_id = t->ids->files_id = t->ids->fs_id = t->ids->sighand_id = collect_id(c->snap, t);
	return collect_shared(c, t, st.ppid, err);
}

static uint64_t collect_clock_ns(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The tree's clocks: ours, shifted by the difference of the two time namespaces. */
static int collect_clocks(struct collect *c, const struct frozen_task *root, const uint64_t *ns_ino,
			  struct ferry_error *err)
{
	struct timens_offsets tree = {0}, ours = {0};
	_cleanup_close_ int self = proc_open(getpid(), err);
	int r = self < 0 ? self : ns_time_offsets(root->proc_dir, ns_ino, &tree, err);
	if (r >= 0)
		r = timens_read(self, &ours, err);
	if (r < 0)
		return r;
	uint64_t now = collect_clock_ns(CLOCK_BOOTTIME);
	c->snap->clocks_read_ns = collect_clock_ns(CLOCK_MONOTONIC);
	c->snap->monotonic_ns = c->snap->clocks_read_ns + (uint64_t)(tree.monotonic_ns - ours.monotonic_ns);
	c->snap->boottime_ns = now + (uint64_t)(tree.boottime_ns - ours.boottime_ns);
	c->snap->realtime_ns = collect_clock_ns(CLOCK_REALTIME);
	c->snap->uptime_us = now / 1000;
	return 0;
}

static int collect_outside(struct collect *c, struct frozen *f, struct frozen_task *ft, struct snap_task *t,
			   struct collect_reading *reading, struct ferry_error *err)
{
	struct check_task *checked = &reading->checked;
	int r = collect_threads(c, f, ft, t, err);
	if (r < 0)
		return r;
	/* They belong to the snapshot from here on. */
	snapshot_look(t)->status = checked->status;
	checked->status = (struct proc_status){0};
	t->stat = checked->stat;
	t->settings = reading->settings;
	r = collect_task_head(c, ft, t, checked, err);
	if (r >= 0)
		r = collect_namespaces(c, t, &checked->namespaces, err);
	if (r >= 0)
		r = collect_vmas(c, t, ft->proc_dir, &reading->auxv, &reading->maps, err);
	if (r >= 0 && !t->shares[SHARING_FILES])
		r = collect_fds(c, t, ft->proc_dir, &reading->fds, err);
	return r;
}

static int collect_task(struct collect *c, struct frozen *f, size_t index, struct collect_reading *reading,
			struct ferry_error *err)
{
	struct frozen_task *ft = &f->tasks.v[index];
	struct snap_task *t = &c->snap->tasks.v[index];
	int r = collect_outside(c, f, ft, t, reading, err);
	return r < 0 ? r : collect_inside(c, f, ft, t, err);
}

static int collect_tasks(struct collect *c, struct frozen *f, const struct proc_namespaces *of_root,
			 struct ferry_error *err)
{
	const struct collect_from from = {.c = c, .f = f, .of_root = of_root};
	struct collect_ahead *ahead = collect_ahead_start(&from);
	int r = 0;
	for (size_t i = 0; i < f->tasks.n && r >= 0; i++) {
		struct collect_reading reading = {0};
		r = collect_ahead_take(ahead, &from, i, &reading, err);
		if (r >= 0)
			r = collect_task(c, f, i, &reading, err);
		if (r < 0)
			error_context(err, "collect", NULL, f->tasks.v[i].pid);
		collect_reading_release(&reading);
	}
	collect_ahead_end(ahead);
	return r;
}

static int collect_all(struct collect *c, struct frozen *f, struct ferry_error *err)
{
	/* The array must not move: tasks point to their parents. */
	for (size_t i = 0; i < f->tasks.n; i++)
		if (!vec_push(&c->snap->tasks))
			return error_memory(err);
	struct snap_task *parent = NULL;
	for (size_t i = 0; i < f->tasks.n; i++) {
		struct snap_task *t = &c->snap->tasks.v[i];
		/* Siblings follow each other as a rule. */
		if (i && (!parent || parent->pid != f->tasks.v[i].ppid))
			parent = snapshot_task(c->snap, f->tasks.v[i].ppid);
		t->pid = f->tasks.v[i].pid;
		t->look = f->tasks.v[i].look;
		t->order = f->tasks.v[i].order;
		t->is_root = i == 0;
		t->parent = parent;
		pid_t *child = parent ? vec_push(&parent->children) : NULL;
		if (child)
			*child = t->pid;
		else if (parent)
			return error_memory(err);
	}
	struct sharing sharing = {0};
	struct proc_namespaces root = {0};
	c->sharing = &sharing;
	int r = collect_settle(f, err);
	if (r >= 0)
		r = proc_read_namespaces(f->tasks.v[0].proc_dir, &root, err);
	if (r >= 0)
		r = collect_clocks(c, &f->tasks.v[0], root.ino, err);
	if (r >= 0 && root.ino[PROC_NS_PID] != c->options->own_namespaces.ino[PROC_NS_PID])
		r = collect_numbers(c, f, err);
	if (r >= 0)
		r = collect_tasks(c, f, &root, err);
	sharing_release(&sharing);
	c->sharing = NULL;
	if (r >= 0)
		r = collect_fds_discover(c, err);
	collect_fds_release(c);
	if (r >= 0)
		r = collect_fds_end(c, err);
	if (r >= 0)
		r = collect_namespaces_end(c, err);
	if (r >= 0)
		r = collect_zombies(c, f, err);
	if (r >= 0)
		r = collect_relations(c->snap, err);
	if (r >= 0)
		r = collect_check_shared(c->snap, err);
	return r < 0 ? r : collect_check_relations(c, err);
}

int collect_tree(struct collect *c, struct frozen *f, struct ferry_error *err)
{
	int r = collect_all(c, f, err);
	net_go_home(c->options);
	return r;
}
