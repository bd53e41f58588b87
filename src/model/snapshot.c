/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the release of a snapshot and look-ups in it. */
#include "model/snapshot.h"

#include <unistd.h>

#include "model/record.h"

void snapshot_release(struct snapshot *s)
{
	vec_foreach(task, &s->tasks) {
		vec_foreach(thread, &task->threads) {
			script_release(&thread->script);
			proc_status_release(&thread->status);
		}
		script_release(&task->script);
		vec_release(&task->threads);
		vec_release(&task->fds);
		vec_release(&task->vmas);
	}
	vec_foreach(file, &s->files) {
		if (file->copy >= 0)
			close(file->copy);
	}
	vec_release(&s->tasks);
	vec_release(&s->zombies);
	vec_release(&s->untold);
	vec_release(&s->files);
	vec_release(&s->namespaces);
	vec_release(&s->pids);
	vec_release(&s->shmems);
	vec_release(&s->guards);
	vec_release(&s->seccomp_filters);
	arena_release(&s->arena);
}

struct snap_task *snapshot_task(struct snapshot *s, pid_t pid)
{
	vec_foreach(task, &s->tasks) {
		if (task->pid == pid)
			return task;
	}
	return NULL;
}

pid_t snapshot_inner_pid(const struct snapshot *s, pid_t pid)
{
	if (!s->pid_level)
		return pid;
	vec_foreach(known, &s->pids) {
		if (known->pid == pid)
			return known->inner;
	}
	return 0;
}

uint32_t snapshot_next_ns_id(const struct snapshot *s)
{
	enum { FIRST = 9 }; /* below are the ids of ferry's own */
	return FIRST + (uint32_t)s->namespaces.n;
}

struct snap_ns *snapshot_ns(const struct snapshot *s, enum proc_ns type, uint64_t ino)
{
	vec_foreach(ns, &s->namespaces) {
		if (ns->type == type && ns->ino == ino)
			return ns;
	}
	return NULL;
}

FerryVmaEntry *snapshot_vma_extra(struct snapshot *s, struct snap_vma *vma)
{
	if (vma->extra)
		return vma->extra;
	vma->extra = record_new(&s->arena, FerryVmaEntry, ferry_vma_entry);
	if (vma->extra) {
		vma->extra->start = vma->entry->start;
		vma->extra->end = vma->entry->end;
	}
	return vma->extra;
}
