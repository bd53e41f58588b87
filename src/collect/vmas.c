/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the mappings of a task and their records: memory of its own, and what all mappings have in common. What a mapping
 * maps beyond that is the business of a kind (owns_vma); what no kind owns is refused by name.
 *
 * Kernel interface: /proc/PID/auxv, /proc/PID/pagemap.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "collect/collect.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "kind/memfd.h"
#include "kind/regfile.h"
#include "mem/mem.h"
#include "model/record.h"
#include "model/vma-status.h"
#include "proc/read.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* VmFlags that madvise(2) sets, and the advice that sets them again. */
static const struct vma_advice {
	uint64_t flag;
	int advice;
} vma_advices[] = {
	{PROC_VM(SEQ_READ), MADV_SEQUENTIAL},   {PROC_VM(RAND_READ), MADV_RANDOM},
	{PROC_VM(DONTCOPY), MADV_DONTFORK},     {PROC_VM(DONTDUMP), MADV_DONTDUMP},
	{PROC_VM(MERGEABLE), MADV_MERGEABLE},   {PROC_VM(HUGEPAGE), MADV_HUGEPAGE},
	{PROC_VM(NOHUGEPAGE), MADV_NOHUGEPAGE}, {PROC_VM(WIPEONFORK), MADV_WIPEONFORK},
};

/* VmFlags of mappings that need more than memory to bring back. */
static const struct vma_refusal {
	uint64_t flag;
	const char *what;
} vma_refusals[] = {
	{PROC_VM(IO), "device memory"},
	{PROC_VM(PFNMAP), "device memory"},
	{PROC_VM(MIXEDMAP), "device memory"},
	{PROC_VM(SHADOW_STACK), "a shadow stack"},
};

static bool vma_is_kernel(const struct proc_vma *vma)
{
	return vma->kind == PROC_VMA_VDSO || vma->kind == PROC_VMA_VVAR || vma->kind == PROC_VMA_VVAR_VCLOCK;
}

/* Memory that is the task's own, or the kernel's; all else belongs to a kind. */
static bool vma_is_own(const struct proc_vma *vma)
{
	switch ((enum proc_vma_kind)vma->kind) {
	case PROC_VMA_ANON:
	case PROC_VMA_ANON_NAMED:
	case PROC_VMA_HEAP:
	case PROC_VMA_STACK: return true;
	default: return vma_is_kernel(vma);
	}
}

/* *ret_kind: NULL for memory of the task's own. */
static int vma_check(const struct vma_view *view, const struct kind_ops **ret_kind, struct ferry_error *err)
{
	const struct proc_vma *vma = view->vma;
	const char *what = NULL;
	*ret_kind = vma_is_own(vma) ? NULL : kind_of_vma(view);
	if (!*ret_kind && !vma_is_own(vma))
		what = proc_vma_kind_word(vma->kind);
	for (size_t i = 0; i < ARRAY_SIZE(vma_refusals) && !what && !vma_is_kernel(vma); i++)
		if (vma->has_flags && vma->vm_flags & vma_refusals[i].flag &&
		    !(*ret_kind && (*ret_kind)->map_anywhere) && vma->kind != PROC_VMA_SOCKET)
			what = vma_refusals[i].what;
	if (what)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP, "pid %d maps %s at %llx%s%s",
				 view->pid, what, (unsigned long long)vma->start, *view->name ? ": " : "",
				 view->name);
	return *ret_kind && (*ret_kind)->check_vma ? (*ret_kind)->check_vma(view, err) : 0;
}

int collect_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	const struct kind_ops *kind;
	return vma_check(view, &kind, err);
}

static uint64_t vma_madv(const struct proc_vma *vma)
{
	uint64_t mask = 0;
	for (size_t i = 0; i < ARRAY_SIZE(vma_advices); i++)
		if (vma->vm_flags & vma_advices[i].flag)
			mask |= 1ull << vma_advices[i].advice;
	return mask;
}

static void vma_anonymous(const struct proc_vma *vma, VmaEntry *entry)
{
	entry->status |= VMA_STATUS_ANON_PRIVATE;
	/* Droppable memory is a type beside private and shared. */
	entry->flags |= MAP_ANONYMOUS | (entry->flags & MAP_DROPPABLE ? 0 : MAP_PRIVATE);
	entry->pgoff = 0;
	if (vma->kind == PROC_VMA_VDSO)
		entry->status |= VMA_STATUS_VDSO;
	if (vma->kind == PROC_VMA_VVAR || vma->kind == PROC_VMA_VVAR_VCLOCK)
		entry->status |= VMA_STATUS_VVAR;
}

static void vma_advised(const struct proc_vma *vma, VmaEntry *entry)
{
	uint64_t madv = vma_madv(vma);
	if (vma->vm_flags & PROC_VM(GROWSDOWN))
		entry->flags |= MAP_GROWSDOWN;
	if (vma->vm_flags & PROC_VM(NORESERVE))
		entry->flags |= MAP_NORESERVE;
	if (vma->vm_flags & PROC_VM(LOCKED))
		entry->flags |= MAP_LOCKED;
	if (vma->vm_flags & PROC_VM(DROPPABLE))
		entry->flags |= MAP_DROPPABLE;
	if (madv)
		record_set(entry, madv, madv);
}

/* What the record has no field for. */
static int vma_beyond(struct collect *c, const struct proc_vma *vma, struct snap_vma *snap)
{
	if (!(vma->vm_flags & (PROC_VM(SEALED) | PROC_VM(LOCKONFAULT))))
		return 0;
	FerryVmaEntry *extra = snapshot_vma_extra(c->snap, snap);
	if (!extra)
		return -ENOMEM;
	if (vma->vm_flags & PROC_VM(SEALED))
		record_set(extra, sealed, 1);
	if (vma->vm_flags & PROC_VM(LOCKONFAULT))
		record_set(extra, lock_on_fault, 1);
	return 0;
}

static struct snap_vma *vma_record(struct collect *c, struct snap_task *t, const struct proc_vma *vma)
{
	VmaEntry *entry = record_new(&c->snap->arena, VmaEntry, vma_entry);
	struct snap_vma *snap = entry ? vec_push(&t->vmas) : NULL;
	if (!snap)
		return NULL;
	*snap = (struct snap_vma){.entry = entry,
				  .file = SNAP_NO_FILE,
				  .inode = vma->ino,
				  .dev = vma->dev,
				  .private_ = !vma->shared,
				  .common = vma->common_bytes && vma->common_bytes != PROC_COMMON_UNKNOWN,
				  .ask_common = vma->common_bytes == PROC_COMMON_UNKNOWN,
				  .watched = vma->vm_flags &
					     (PROC_VM(UFFD_MISSING) | PROC_VM(UFFD_WP) | PROC_VM(UFFD_MINOR)),
				  .guards = vma->vm_flags & PROC_VM(GUARD)};
	entry->start = vma->start;
	entry->end = vma->end;
	entry->pgoff = vma->offset;
	entry->prot = vma->prot;
	entry->status = VMA_STATUS_REGULAR;
	entry->fd = -1;
	vma_advised(vma, entry);
	/* What a fork must not see, a restore must not bring back either: two copies would draw the same secrets. */
	/* Droppable memory is so, too (PROC_VM(WIPEONFORK)). */
	snap->dump_pages = snap->private_ && vma->kind != PROC_VMA_VVAR &&
			   vma->kind != PROC_VMA_VVAR_VCLOCK && !(vma->vm_flags & PROC_VM(WIPEONFORK));
	return vma_beyond(c, vma, snap) < 0 ? NULL : snap;
}

static int vma_collect(struct collect *c, struct snap_task *t, const struct vma_view *view,
		       struct ferry_error *err)
{
	const struct proc_vma *vma = view->vma;
	const struct kind_ops *kind;
	int r = vma_check(view, &kind, err);
	if (r < 0)
		return r;
	struct snap_vma *last = t->vmas.n ? &t->vmas.v[t->vmas.n - 1] : NULL;
	if (vma->kind == PROC_VMA_VVAR_VCLOCK && last && last->entry->status & VMA_STATUS_VVAR &&
	    last->entry->end == vma->start) {
		last->entry->end = vma->end; /* one block, as kernels before 6.13 show it */
		return 0;
	}
	struct snap_vma *snap = vma_record(c, t, vma);
	if (!snap)
		return error_memory(err);
	if (kind) {
		r = kind->collect_vma(c, t, view, snap, err);
		error_context(err, "collect", kind->name, t->pid);
		return r;
	}
	vma_anonymous(vma, snap->entry);
	if (vma->kind == PROC_VMA_VDSO) {
		t->vdso_start = vma->start;
		t->vdso_bytes = vma->end - vma->start;
	}
	return 0;
}

static int vma_collect_exe(struct collect *c, struct snap_task *t, int proc_dir, uint32_t *ret_id,
			   struct ferry_error *err)
{
	_cleanup_free_ char *path = NULL;
	int r = proc_read_link(proc_dir, "exe", &path, err);
	if (r < 0)
		return r;
	return memfd_is_link(path) ? memfd_collect_exe(c, t, path, ret_id, err)
				   : regfile_collect_link(c, t, proc_dir, "exe", ret_id, err);
}

static int vma_collect_mm(struct collect *c, struct snap_task *t, int proc_dir, const struct proc_auxv *auxv,
			  struct ferry_error *err)
{
	const struct proc_stat *st = &t->stat;
	MmEntry *mm = record_new(&c->snap->arena, MmEntry, mm_entry);
	if (!mm)
		return error_memory(err);
	int r = vma_collect_exe(c, t, proc_dir, &mm->exe_file_id, err);
	if (r < 0)
		return r;
	mm->mm_start_code = st->startcode;
	mm->mm_end_code = st->endcode;
	mm->mm_start_data = st->start_data;
	mm->mm_end_data = st->end_data;
	mm->mm_start_stack = st->startstack;
	mm->mm_start_brk = st->start_brk;
	mm->mm_arg_start = st->arg_start;
	mm->mm_arg_end = st->arg_end;
	mm->mm_env_start = st->env_start;
	mm->mm_env_end = st->env_end;
	mm->mm_saved_auxv = arena_array(&c->snap->arena, uint64_t, auxv->n * 2 + 1);
	if (!mm->mm_saved_auxv)
		return error_memory(err);
	t->is_32 = auxv->word_bytes == sizeof(uint32_t);
	for (uint32_t i = 0; i < auxv->n; i++) {
		uint64_t type = auxv->v[i].type, value = auxv->v[i].value;
		/* The bytes as the kernel has them: two words of a 32-bit program make one. */
		mm->mm_saved_auxv[mm->n_mm_saved_auxv++] = t->is_32 ? type | value << 32 : type;
		if (!t->is_32)
			mm->mm_saved_auxv[mm->n_mm_saved_auxv++] = value;
	}
	t->mm = mm;
	t->mm_extra = record_new(&c->snap->arena, FerryMmEntry, ferry_mm_entry);
	if (!t->mm_extra)
		return error_memory(err);
	return 0;
}

struct vma_guards {
	struct collect *c;
	MmEntry *mm;
	size_t room;
};

static int vma_add_guards(void *context, const struct mem_range *range)
{
	struct vma_guards *g = context;
	VmaEntry *entry = record_new(&g->c->snap->arena, VmaEntry, vma_entry);
	if (g->mm->n_vmas == g->room) {
		VmaEntry **more = arena_array(&g->c->snap->arena, VmaEntry *, g->room * 2);
		if (!more)
			return -ENOMEM;
		memcpy(more, g->mm->vmas, g->room * sizeof(*more));
		g->mm->vmas = more;
		g->room *= 2;
	}
	if (!entry)
		return -ENOMEM;
	entry->start = range->start;
	entry->end = range->end;
	entry->status = VMA_STATUS_GUARD;
	entry->fd = -1;
	g->mm->vmas[g->mm->n_vmas++] = entry;
	return 0;
}

/* Records of all mappings, and behind them those of guard pages. */
static int vma_list(struct collect *c, struct snap_task *t, int proc_dir, struct ferry_error *err)
{
	struct vma_guards guards = {.c = c, .mm = t->mm, .room = t->vmas.n + 1};
	_cleanup_close_ int pagemap = -1;
	t->mm->vmas = arena_array(&c->snap->arena, VmaEntry *, guards.room);
	if (!t->mm->vmas)
		return error_memory(err);
	vec_foreach(vma, &t->vmas)
		t->mm->vmas[t->mm->n_vmas++] = vma->entry;
	vec_foreach(vma, &t->vmas) {
		if (!vma->guards)
			continue;
		int r = pagemap < 0 ? proc_open_file(proc_dir, "pagemap", O_RDONLY, err) : pagemap;
		if (r < 0)
			return r;
		pagemap = r;
		r = mem_find_guards(pagemap, c->caps, vma->entry->start, vma->entry->end, vma_add_guards,
				    &guards);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r,
					   "finding the guard pages of pid %d at %llx", t->pid,
					   (unsigned long long)vma->entry->start);
	}
	return 0;
}

/* What ferry has mapped in a task may have become one with a neighbour. False: nothing else is there. */
static bool vma_without_ours(const struct snap_task *t, struct proc_vma *vma)
{
	if (vma->end <= t->ours_start || vma->start >= t->ours_end)
		return true;
	if (vma->start < t->ours_start)
		vma->end = t->ours_start;
	else
		vma->start = MIN(t->ours_end, vma->end);
	return vma->start < vma->end;
}

/* The values of the memory that a task shares; its mappings are with their owner. */
static int vma_collect_shared(struct collect *c, struct snap_task *t, struct ferry_error *err)
{
	const struct snap_task *owner = t->memory;
	t->mm = arena_copy(&c->snap->arena, owner->mm, sizeof(*owner->mm));
	t->mm_extra = record_new(&c->snap->arena, FerryMmEntry, ferry_mm_entry);
	if (!t->mm || !t->mm_extra)
		return error_memory(err);
	t->mm->n_vmas = t->mm->n_aios = 0;
	t->is_32 = owner->is_32;
	return 0;
}

int collect_vmas(struct collect *c, struct snap_task *t, int proc_dir, const struct proc_auxv *auxv,
		 struct proc_maps *maps, struct ferry_error *err)
{
	if (t->memory != t)
		return vma_collect_shared(c, t, err);
	if (fault_hit(c->fault, FAULT_COLLECT_VMA))
		return error_set(err, FERRY_ERROR_FAULT, EIO,
				 "reading the mappings of pid %d: fault injected", t->pid);
	int r = vma_collect_mm(c, t, proc_dir, auxv, err);
	for (size_t i = 0; i < maps->vmas.n && r >= 0; i++) {
		if (!vma_without_ours(t, &maps->vmas.v[i]))
			continue;
		const struct vma_view view = {
			.pid = t->pid,
			.look = t->look,
			.proc_dir = proc_dir,
			.vma = &maps->vmas.v[i],
			.name = proc_vma_name(maps, &maps->vmas.v[i]),
			.options = c->options,
			.peers = c->peers,
			.arena = &c->snap->arena,
			.kind_data = c->kind_data,
		};
		r = vma_collect(c, t, &view, err);
	}
	return r < 0 ? r : vma_list(c, t, proc_dir, err);
}
