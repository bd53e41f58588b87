/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the release of a plan, look-ups in it, and the numbering of temporary descriptors. */
#include "model/plan.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { PLAN_RED_ZONE = 128, PLAN_FRAME_ALIGN = 16 };

void plan_close(struct plan *p)
{
	for (size_t i = 0; i < p->n_files; i++) {
		if (p->files[i].fd >= 0)
			close(p->files[i].fd);
		p->files[i].fd = -1;
	}
	vec_foreach(ns, &p->namespaces) {
		if (ns->fd >= 0)
			close(ns->fd);
	}
	vec_release(&p->namespaces);
	vec_foreach(source, &p->sources)
		close(*source);
	vec_release(&p->sources);
	vec_foreach(terminal, &p->terminals) {
		if (terminal->fd >= 0)
			close(terminal->fd);
	}
	vec_release(&p->terminals);
}

void plan_release(struct plan *p)
{
	plan_close(p);
	for (size_t i = 0; i < p->n_tasks; i++) {
		struct plan_task *t = &p->tasks[i];
		vec_foreach(thread, &t->threads) {
			script_release(&thread->script);
			vec_release(&thread->nested);
		}
		script_release(&t->memory);
		free(t->runs);
		vec_release(&t->pour.runs);
		vec_release(&t->pour.ranges);
		vec_release(&t->threads);
		vec_release(&t->fds);
		vec_release(&t->temps);
	}
	vec_foreach(message, &p->messages)
		protobuf_c_message_free_unpacked(*message, NULL);
	vec_release(&p->messages);
	vec_release(&p->guards);
	family_release(&p->family);
	arena_release(&p->arena);
}

struct plan_file *plan_file(const struct plan *p, uint32_t id)
{
	size_t low = 0, high = p->n_files;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (p->files[middle].entry->id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < p->n_files && p->files[low].entry->id == id ? &p->files[low] : NULL;
}

struct plan_task *plan_task(const struct plan *p, pid_t pid)
{
	for (size_t i = 0; i < p->n_tasks; i++)
		if (p->tasks[i].pid == pid)
			return &p->tasks[i];
	return NULL;
}

pid_t plan_number(const struct plan *p, const struct plan_task *t, pid_t pid)
{
	size_t depth = t->threads.v[0].nested.n;
	const struct plan_task *other = depth ? plan_task(p, pid) : NULL;
	if (!depth)
		return pid;
	if (!other || other->threads.v[0].nested.n < depth)
		return 0;
	return other->threads.v[0].nested.v[depth - 1];
}

struct plan_ns *plan_ns(const struct plan *p, enum proc_ns type, uint32_t id)
{
	vec_foreach(ns, &p->namespaces) {
		if (ns->type == type && ns->id == id)
			return ns;
	}
	return NULL;
}

bool plan_has_ns(const struct plan *p, enum proc_ns type)
{
	bool has = false;
	vec_foreach(ns, &p->namespaces)
		has |= ns->type == type;
	return has;
}

bool plan_own_ns(const struct plan *p, enum proc_ns type)
{
	return p->n_tasks && p->tasks[0].ns_id[type];
}

int plan_keep_source(struct plan *p, int fd)
{
	if (fd < 0)
		return fd;
	int *kept = vec_push(&p->sources);
	if (!kept) {
		close(fd);
		return -ENOMEM;
	}
	*kept = fd;
	return fd;
}

int plan_keep_terminal(struct plan *p, uint64_t dev, uint32_t index, int fd)
{
	struct plan_terminal *kept = vec_push(&p->terminals);
	if (!kept) {
		close(fd);
		return -ENOMEM;
	}
	*kept = (struct plan_terminal){dev, index, fd};
	return 0;
}

int plan_take_terminal(struct plan *p, uint64_t dev, uint32_t index)
{
	vec_foreach(kept, &p->terminals) {
		int fd = kept->fd;
		if (fd < 0 || kept->dev != dev || kept->index != index)
			continue;
		kept->fd = -1;
		return fd;
	}
	return -1;
}

uint32_t plan_last_temp(const struct plan_task *t)
{
	return t->temps_room ? (uint32_t)(t->first_temp + t->temps_room - 1) : UINT32_MAX;
}

uint64_t plan_leader_scratch(const struct plan_task *t, size_t bytes)
{
	size_t first = plan_first(t);
	uint64_t place = plan_frame_place(&t->threads.v[first]);
	return first ? (place - bytes) & ~(uint64_t)(PLAN_FRAME_ALIGN - 1) : place;
}

uint64_t plan_frame_place(const struct plan_thread *th)
{
	const UserX86RegsEntry *regs = th->core->thread_info->gpregs;
	const ThreadSasEntry *sas = th->core->thread_core ? th->core->thread_core->sas : NULL;
	uint64_t bytes = align_up(BLOB_FRAME_WORDS * sizeof(uint64_t), PLAN_FRAME_ALIGN);
	if (sas && !(sas->ss_flags & SS_DISABLE) && sas->ss_size >= 2 * bytes &&
	    (regs->sp < sas->ss_sp || regs->sp > sas->ss_sp + sas->ss_size))
		return align_down(sas->ss_sp + sas->ss_size - bytes, PLAN_FRAME_ALIGN);
	return align_down(regs->sp - PLAN_RED_ZONE - bytes, PLAN_FRAME_ALIGN);
}

static int plan_temp_add(struct plan_task *t, struct plan_temp wanted)
{
	/* The channel has the first number, see restore. */
	int number = t->first_temp + 1 + (int)t->temps.n;
	struct plan_temp *temp =
		t->temps_room && (int)t->temps.n + 1 >= t->temps_room ? NULL : vec_push(&t->temps);
	if (!temp)
		return -ENOMEM;
	*temp = wanted;
	temp->number = number;
	return number;
}

int plan_temp_file(struct plan_task *t, struct plan_file *file, int flags)
{
	vec_foreach(temp, &t->temps) {
		if (temp->file == file && temp->flags == flags)
			return temp->number;
	}
	return plan_temp_add(t, (struct plan_temp){.file = file, .source = -1, .flags = flags});
}

int plan_temp_source(struct plan_task *t, int source)
{
	vec_foreach(temp, &t->temps) {
		if (!temp->file && temp->source == source)
			return temp->number;
	}
	return plan_temp_add(t, (struct plan_temp){.source = source, .flags = -1});
}

const FerryVmaEntry *plan_vma_extra(const struct plan_task *t, const VmaEntry *vma)
{
	const FerryMmEntry *mm = t->mm_extra;
	size_t low = 0, high = mm ? mm->n_vmas : 0;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (mm->vmas[middle]->start < vma->start)
			low = middle + 1;
		else
			high = middle;
	}
	return mm && low < mm->n_vmas && mm->vmas[low]->start == vma->start && mm->vmas[low]->end == vma->end
		       ? mm->vmas[low]
		       : NULL;
}
