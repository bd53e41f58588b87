/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the release of a snapshot and look-ups in it. */
#include "model/snapshot.h"

#include <unistd.h>

#include "model/record.h"

#define SNAPSHOT_SHMID 0x80000000u

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
		vec_release(&task->children);
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
	vec_release(&s->shmids);
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

struct snap_ns *snapshot_ns(const struct snapshot *s, enum proc_ns type, uint64_t ino)
{
	vec_foreach(ns, &s->namespaces) {
		if (ns->type == type && ns->ino == ino)
			return ns;
	}
	return NULL;
}

struct snap_ns *snapshot_add_ns(struct snapshot *s, enum proc_ns type, uint64_t ino, pid_t pid)
{
	enum { FIRST = 9 }; /* below are the ids of ferry's own */
	struct snap_ns *ns = snapshot_ns(s, type, ino);
	uint32_t id = FIRST + (uint32_t)s->namespaces.n;
	if (ns)
		return ns;
	ns = vec_push(&s->namespaces);
	if (ns)
		*ns = (struct snap_ns){.type = type, .ino = ino, .id = id, .pid = pid};
	return ns;
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

/* Inodes of different file systems may have the same number, or numbers that differ only in what is cut off. */
uint32_t snapshot_shmid(struct snapshot *s, uint64_t inode)
{
	uint32_t id = SNAPSHOT_SHMID | (uint32_t)inode;
	for (size_t i = 0; i < s->shmids.n;) {
		bool taken = s->shmids.v[i++] == id;
		id = taken ? SNAPSHOT_SHMID | (id + 1) : id;
		i = taken ? 0 : i;
	}
	uint32_t *slot = vec_push(&s->shmids);
	if (!slot)
		return 0;
	return *slot = id;
}
