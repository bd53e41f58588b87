/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns System V shared memory: segments that tasks of the tree have attached, whole or in part, and those that a task of
 * the tree made and nobody has attached. A segment comes back with its id, key, owner, mode and contents; one that
 * was removed (IPC_RMID) while attached goes with its last mapping again. Where a segment of that id and key is still
 * there and nobody has it attached (it outlives the tree on the same machine), it is used and gets its contents from the
 * image. A part of a segment is attached whole in a spare place of the task and moved.
 *
 * Kernel interface: shmctl(2), shmat(2), setns(2), kernel.shm_next_id (3.8), mremap(2) of a segment.
 * Does not handle: segments that a process outside of the tree has attached, of another IPC namespace than the root's, or of a creator
 * that the machine's rights do not let us be for huge pages (its owner is then the creator); times of the last attach and
 * detach and who did it, which no call sets; the segments that a tree leaves on the machine it migrated from. The first two
 * are refused by name.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/warden.h"
#include "image/dir.h"
#include "image/proto/ipc-shm.pb-c.h"
#include "kernel/syscalls.h"
#include "kind/fdcommon.h"
#include "kind/hugetlb.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "kind/window.h"
#include "mem/mem.h"
#include "model/record.h"
#include "model/records.h"
#include "model/vma-status.h"
#include "proc/read.h"

#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15 /* 4.17 */
#endif

enum { SYSVSHM_MODE_BITS = 0777, SYSVSHM_PAGE = 4096, SYSVSHM_HUGE_PAGE = 2 << 20 };

/* A segment of the frozen tree. */
struct sysvshm_found {
	struct sysvshm_found *next;
	IpcShmEntry *entry;
	FerrySysvshmEntry *extra; /* NULL = nothing */
	uint64_t attached;        /* mappings of the tree */
	void *ours;               /* where we have it attached to read it; NULL = not */
};

/* A segment of the image. */
struct sysvshm_plan {
	struct sysvshm_plan *next;
	IpcShmEntry *entry;
	FerrySysvshmEntry *extra; /* NULL = the image has none */
	bool there;               /* the machine has it: only its contents are ours to bring back */
	int made;                 /* entry of the undo log; -1 = not made */
	void *at;                 /* where we have it attached; NULL = not */
};

static bool sysvshm_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_SYSV;
}

static uint64_t sysvshm_bytes(const IpcShmEntry *entry)
{
	return align_up(entry->size, entry->hugetlb_flag ? SYSVSHM_HUGE_PAGE : SYSVSHM_PAGE);
}

/* ------------------------------------------------------------------ check and collect */

/* Key that a segment was made with: "/SYSV0000162e". */
static uint32_t sysvshm_key(const char *name)
{
	return (uint32_t)strtoul(name + strlen("/SYSV"), NULL, 16);
}

/* Go to the IPC namespace of a task. *ret_home: what leads back; -1 = we are there already. */
static int sysvshm_enter(pid_t pid, int *ret_home)
{
	char path[32];
	struct stat ours, theirs;
	*ret_home = -1;
	snprintf(path, sizeof(path), "/proc/%d/ns/ipc", pid);
	_cleanup_close_ int home = fd_open(AT_FDCWD, "/proc/self/ns/ipc", O_RDONLY, 0);
	_cleanup_close_ int there = fd_open(AT_FDCWD, path, O_RDONLY, 0);
	if (home < 0 || there < 0)
		return home < 0 ? home : there;
	if (fstat(home, &ours) < 0 || fstat(there, &theirs) < 0)
		return -errno;
	if (ours.st_ino == theirs.st_ino)
		return 0;
	if (setns(there, CLONE_NEWIPC) < 0)
		return -errno;
	*ret_home = take_fd(home);
	return 0;
}

static int sysvshm_leave(int home, struct ferry_error *err)
{
	_cleanup_close_ int fd = home;
	if (fd < 0 || !setns(fd, CLONE_NEWIPC))
		return 0;
	return error_errno(err, FERRY_ERROR_SYSTEM, errno, "going back to ferry's own ipc namespace");
}

/* The mapping's inode number is the segment's id, in the IPC namespace where it was made. */
static int sysvshm_stat(const struct vma_view *view, struct shmid_ds *ret, struct ferry_error *err)
{
	int home, r = sysvshm_enter(view->look, &home);
	bool there =
		r >= 0 && shmctl((int)view->vma->ino, IPC_STAT, ret) == 0 &&
		(ret->shm_perm.mode & SHM_DEST || (uint32_t)ret->shm_perm.__key == sysvshm_key(view->name));
	if (r >= 0)
		r = sysvshm_leave(home, err);
	if (there)
		return r;
	error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP,
		  "pid %d maps System V shared memory %llu at %llx, which is not of its IPC namespace",
		  view->pid, (unsigned long long)view->vma->ino, (unsigned long long)view->vma->start);
	error_hint(err, "let the program detach it, or attach it again where it lives");
	return -ENOTSUP;
}

/* Ids mean something in one namespace; all tasks that have segments attached live in the root's. */
static int sysvshm_check_place(const struct vma_view *view, pid_t root, struct ferry_error *err)
{
	char path[32];
	struct stat its, of_root;
	snprintf(path, sizeof(path), "/proc/%d/ns/ipc", view->look);
	if (stat(path, &its) < 0)
		return 0; /* it ended meanwhile */
	snprintf(path, sizeof(path), "/proc/%d/ns/ipc", root);
	if (stat(path, &of_root) < 0 || its.st_ino == of_root.st_ino)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP,
		  "pid %d maps System V shared memory %llu, and lives in another IPC namespace than pid %d",
		  view->pid, (unsigned long long)view->vma->ino, root);
	error_hint(err, "dump the processes of each namespace by themselves");
	return -ENOTSUP;
}

/* A segment's id is chosen by a setting of the IPC namespace, which an ordinary user may change in one of the user's own only. */
static int sysvshm_check_rights(const struct vma_view *view, struct ferry_error *err)
{
	int home, r = sysvshm_enter(view->look, &home);
	/* access(2) would ask without the capabilities that decide. */
	_cleanup_close_ int knob = r < 0 ? r : fd_open(AT_FDCWD, "/proc/sys/kernel/shm_next_id", O_WRONLY, 0);
	bool may = knob >= 0;
	if (r >= 0)
		r = sysvshm_leave(home, err);
	if (may || r < 0)
		return r == -ENOENT ? 0 : r;
	error_set(err, FERRY_ERROR_PERMISSION, EPERM,
		  "pid %d maps System V shared memory %llu, whose id takes root to be given back", view->pid,
		  (unsigned long long)view->vma->ino);
	error_hint(err,
		   "start it with ferry run, which gives an ordinary user's job an IPC namespace of its own");
	return -EPERM;
}

static int sysvshm_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	struct shmid_ds ds;
	pid_t root = peers_root(view->peers);
	int r = sysvshm_stat(view, &ds, err);
	if (r >= 0 && root)
		r = sysvshm_check_place(view, root, err);
	if (r >= 0)
		r = sysvshm_check_rights(view, err);
	return r < 0 ? r : peers_refuse_mapping(view, err);
}

static IpcDescEntry *sysvshm_desc(struct arena *a, const struct shmid_ds *ds, int id)
{
	IpcDescEntry *desc = record_new(a, IpcDescEntry, ipc_desc_entry);
	if (!desc)
		return NULL;
	desc->key = (uint32_t)ds->shm_perm.__key;
	desc->uid = ds->shm_perm.uid;
	desc->gid = ds->shm_perm.gid;
	desc->cuid = ds->shm_perm.cuid;
	desc->cgid = ds->shm_perm.cgid;
	desc->mode = ds->shm_perm.mode & SYSVSHM_MODE_BITS;
	desc->id = (uint32_t)id;
	return desc;
}

static FerrySysvshmEntry *sysvshm_extra(struct arena *a, const struct shmid_ds *ds, uint32_t id, uint32_t key)
{
	FerrySysvshmEntry *extra = record_new(a, FerrySysvshmEntry, ferry_sysvshm_entry);
	if (!extra)
		return NULL;
	extra->id = id;
	if (ds->shm_perm.mode & SHM_DEST) {
		record_set(extra, removed, 1);
		record_set(extra, key, key);
	}
	if (ds->shm_perm.mode & SHM_LOCKED)
		record_set(extra, locked, 1);
	return extra;
}

/* Attach a segment to read it, in the IPC namespace of a task. */
static int sysvshm_attach_here(pid_t pid, int id, void **ret_at, struct ferry_error *err)
{
	int home, r = sysvshm_enter(pid, &home);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "entering the ipc namespace of pid %d", pid);
	void *at = shmat(id, NULL, SHM_RDONLY);
	int code = at == (void *)-1 ? errno : 0;
	r = sysvshm_leave(home, err);
	if (code)
		return error_errno(err, FERRY_ERROR_PERMISSION, code, "attaching System V shared memory %d",
				   id);
	*ret_at = at;
	return r;
}

/* A new segment of the snapshot. path: where its contents can be read; NULL: where we have it attached. */
static int sysvshm_add(struct collect *c, int id, const struct shmid_ds *ds, uint32_t key,
		       unsigned page_shift, const char *path, const void *at, struct sysvshm_found **ret,
		       struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	struct sysvshm_found *found = arena_new(a, struct sysvshm_found);
	struct snap_shmem *shmem = vec_push(&c->snap->shmems);
	IpcShmEntry *entry = record_new(a, IpcShmEntry, ipc_shm_entry);
	if (!found || !shmem || !entry)
		return error_memory(err);
	*shmem = (struct snap_shmem){
		.shmid = (uint32_t)id, .bytes = ds->shm_segsz, .path = path ? arena_string(a, path) : NULL};
	if (!path && window_add_own(c, shmem, at) < 0)
		return error_memory(err);
	entry->desc = sysvshm_desc(a, ds, id);
	entry->size = ds->shm_segsz;
	record_set(entry, in_pagemaps, 1);
	if (page_shift > __builtin_ctz(SYSVSHM_PAGE))
		record_set(entry, hugetlb_flag, SHM_HUGETLB | hugetlb_size_flags(page_shift));
	if (ds->shm_perm.mode & (SHM_DEST | SHM_LOCKED)) {
		found->extra = sysvshm_extra(a, ds, (uint32_t)id, key);
		if (!found->extra)
			return error_memory(err);
	}
	if ((path && !shmem->path) || !entry->desc)
		return error_memory(err);
	found->entry = entry;
	found->next = c->kind_data[KIND_sysvshm];
	c->kind_data[KIND_sysvshm] = *ret = found;
	return 0;
}

static struct sysvshm_found *sysvshm_find(const struct collect *c, uint64_t id)
{
	struct sysvshm_found *found = c->kind_data[KIND_sysvshm];
	while (found && found->entry->desc->id != id)
		found = found->next;
	return found;
}

static int sysvshm_collect_vma(struct collect *c, struct snap_task *t, const struct vma_view *view,
			       struct snap_vma *vma, struct ferry_error *err)
{
	const struct proc_vma *from = view->vma;
	struct sysvshm_found *found = sysvshm_find(c, from->ino);
	struct shmid_ds ds;
	char path[96];
	int r = sysvshm_check_place(view, c->snap->tasks.v[0].look, err);
	if (r >= 0)
		r = sysvshm_stat(view, &ds, err);
	snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", t->look, (unsigned long long)from->start,
		 (unsigned long long)from->end);
	void *ours = NULL;
	if (r >= 0 && !found && window_wanted(view))
		r = sysvshm_attach_here(view->look, (int)from->ino, &ours, err);
	if (r >= 0 && !found)
		r = sysvshm_add(c, (int)from->ino, &ds, sysvshm_key(view->name), from->page_shift,
				ours ? NULL : path, ours, &found, err);
	if (r < 0) {
		if (ours)
			shmdt(ours);
		return r;
	}
	if (ours)
		found->ours = ours;
	found->attached++;
	vma->entry->shmid = found->entry->desc->id;
	vma->entry->status |= VMA_STATUS_ANON_SHARED | VMA_STATUS_SYSVIPC;
	vma->entry->flags |= MAP_SHARED | MAP_ANONYMOUS;
	if (found->entry->hugetlb_flag)
		vma->entry->flags |= MAP_HUGETLB;
	record_set(vma->entry, fdflags, fdcommon_mapped_flags(view));
	return 0;
}

/* Every mapping counts; more than the tree has means that somebody has it whom we do not see. */
static int sysvshm_check_attached(const struct sysvshm_found *found, struct ferry_error *err)
{
	struct shmid_ds ds;
	uint32_t id = found->entry->desc->id;
	if (shmctl((int)id, IPC_STAT, &ds) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at System V shared memory %u",
				   id);
	if (ds.shm_nattch <= found->attached + (found->ours != NULL))
		return 0;
	error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
		  "System V shared memory %u is attached %llu times, only %llu of them in the tree", id,
		  (unsigned long long)ds.shm_nattch, (unsigned long long)found->attached);
	error_hint(err, "dump from a common ancestor on: apart, each would have a memory of its own");
	return -ENOTSUP;
}

/* One that nobody has attached: we attach it for as long as the dump takes. */
static int sysvshm_add_detached(struct collect *c, int id, const struct shmid_ds *ds, struct ferry_error *err)
{
	struct sysvshm_found *found;
	char path[96] = "";
	void *at = shmat(id, NULL, SHM_RDONLY);
	if (at == (void *)-1)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "attaching System V shared memory %d", id);
	struct proc_maps maps = {0};
	int r = proc_read_own_maps(&maps, err);
	const struct proc_vma *vma = r < 0 ? NULL : proc_maps_find(&maps, (uint64_t)(uintptr_t)at);
	bool huge = vma && vma->end - vma->start > align_up(ds->shm_segsz, SYSVSHM_PAGE);
	if (vma)
		snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", getpid(),
			 (unsigned long long)vma->start, (unsigned long long)vma->end);
	proc_maps_release(&maps);
	struct stat st;
	bool openable = stat(path, &st) == 0 || errno != EPERM;
	if (r >= 0)
		r = sysvshm_add(c, id, ds, (uint32_t)ds->shm_perm.__key,
				huge ? __builtin_ctz(SYSVSHM_HUGE_PAGE) : 0, openable ? path : NULL, at,
				&found, err);
	if (r >= 0)
		found->ours = at;
	else
		shmdt(at);
	return r;
}

/* In a namespace of the tree's own every segment is. */
static bool sysvshm_is_ours(struct collect *c, const struct shmid_ds *ds, bool own_ns)
{
	return !ds->shm_nattch && (own_ns || snapshot_task(c->snap, ds->shm_cpid));
}

static int sysvshm_collect_rest(struct collect *c, bool own_ns, struct ferry_error *err)
{
	struct shm_info info;
	int r = 0, last;
	for (struct sysvshm_found *f = c->kind_data[KIND_sysvshm]; f && r >= 0; f = f->next)
		r = sysvshm_check_attached(f, err);
	last = shmctl(0, SHM_INFO, (struct shmid_ds *)&info);
	for (int i = 0; i <= last && info.used_ids && r >= 0; i++) {
		struct shmid_ds ds;
		int id = shmctl(i, SHM_STAT_ANY, &ds);
		if (id >= 0 && !sysvshm_find(c, (uint64_t)id) && sysvshm_is_ours(c, &ds, own_ns))
			r = sysvshm_add_detached(c, id, &ds, err);
	}
	return r;
}

/* Ferry may stand in there already. */
static bool sysvshm_is_own_ns(const struct collect *c)
{
	const struct snap_task *root = &c->snap->tasks.v[0];
	return root->ns_ino[PROC_NS_IPC] &&
	       root->ns_ino[PROC_NS_IPC] != c->options->own_namespaces.ino[PROC_NS_IPC];
}

static int sysvshm_collect_end(struct collect *c, struct ferry_error *err)
{
	int home, r = sysvshm_enter(c->snap->tasks.v[0].look, &home);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "entering the ipc namespace of pid %d",
				   c->snap->tasks.v[0].pid);
	r = sysvshm_collect_rest(c, sysvshm_is_own_ns(c), err);
	int back = sysvshm_leave(home, err);
	return r < 0 ? r : back;
}

static int sysvshm_dump_end(struct dump *d, struct ferry_error *err)
{
	struct image_writer *segments, *extras;
	struct sysvshm_found *found = d->kind_data[KIND_sysvshm];
	if (!found)
		return 0;
	uint32_t ns = d->snap->tasks.v[0].ids->ipc_ns_id;
	int r = image_create(d->dir, IMAGE_IPCNS_SHM, ns, &segments, err);
	for (; found && r >= 0; found = found->next) {
		r = image_put(segments, &found->entry->base, err);
		if (r >= 0 && found->extra)
			r = fdcommon_writer(d, IMAGE_FERRY_SYSVSHM, &extras, err);
		if (r >= 0 && found->extra)
			r = image_put(extras, &found->extra->base, err);
	}
	return r < 0 ? r : image_close(segments, err);
}

static int sysvshm_after(struct collect *c, struct image_dir *dir unused, bool kill unused,
			 struct ferry_error *err unused)
{
	for (struct sysvshm_found *f = c->kind_data[KIND_sysvshm]; f; f = f->next) {
		if (f->ours)
			shmdt(f->ours);
		f->ours = NULL;
	}
	return 0;
}

/* -------------------------------------------------------------------------- restore */

static bool sysvshm_owns_record(const VmaEntry *entry)
{
	return entry->status & VMA_STATUS_SYSVIPC;
}

static struct sysvshm_plan *sysvshm_plan(const struct plan *p, uint64_t id)
{
	struct sysvshm_plan *m = p->kind_data[KIND_sysvshm];
	while (m && m->entry->desc->id != id)
		m = m->next;
	return m;
}

static int sysvshm_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
			struct ferry_error *err)
{
	IpcShmEntry *entry = record;
	struct sysvshm_plan *m = arena_new(&r->plan->arena, struct sysvshm_plan);
	if (!m)
		return error_memory(err);
	if (!entry->in_pagemaps)
		return error_set(
			err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			"System V shared memory %u has its contents where this ferry does not read them",
			entry->desc->id);
	if (sysvshm_plan(r->plan, entry->desc->id) || entry->desc->id > INT32_MAX || !entry->size ||
	    entry->size > INT64_MAX / 2)
		return image_bad(in, err,
				 "System V shared memory %u is there twice, or has no good size or id",
				 entry->desc->id);
	*m = (struct sysvshm_plan){.next = r->plan->kind_data[KIND_sysvshm], .entry = entry, .made = -1};
	r->plan->kind_data[KIND_sysvshm] = m;
	return 0;
}

static int sysvshm_take_extra(struct reader *r, struct image_reader *in, void *record, void *context unused,
			      struct ferry_error *err)
{
	FerrySysvshmEntry *extra = record;
	struct sysvshm_plan *m = sysvshm_plan(r->plan, extra->id);
	if (!m)
		return image_bad(in, err, "there is no System V shared memory %u", extra->id);
	m->extra = extra;
	return 0;
}

static bool sysvshm_is_removed(const struct sysvshm_plan *m)
{
	return m->extra && m->extra->removed;
}

static uint32_t sysvshm_made_key(const struct sysvshm_plan *m)
{
	return m->extra && m->extra->has_key ? m->extra->key : m->entry->desc->key;
}

static int sysvshm_taken(const struct sysvshm_plan *m, const char *what, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_LIMIT, EEXIST, "System V shared memory %u (key %#x) cannot be made: %s",
		  m->entry->desc->id, m->entry->desc->key, what);
	error_hint(err, "remove what is in the way (ipcs -m, ipcrm -m), or restore in a new IPC namespace");
	return -EEXIST;
}

static int sysvshm_check_pages(const struct sysvshm_plan *m, struct ferry_error *err)
{
	return m->entry->hugetlb_flag
		       ? hugetlb_check(m->entry->hugetlb_flag, m->entry->size, "a segment", err)
		       : 0;
}

/* Whether the id is free, or has the segment itself. */
static int sysvshm_compare(struct sysvshm_plan *m, struct ferry_error *err)
{
	const IpcDescEntry *desc = m->entry->desc;
	struct shmid_ds ds;
	int by_key = desc->key ? shmget((key_t)desc->key, 0, 0) : -1;
	if (by_key >= 0 && (uint32_t)by_key != desc->id)
		return sysvshm_taken(m, "another has its key", err);
	int r = sysvshm_check_pages(m, err);
	if (r < 0)
		return r;
	if (shmctl((int)desc->id, IPC_STAT, &ds) < 0)
		return 0;
	if ((uint32_t)ds.shm_perm.__key != desc->key || ds.shm_segsz != m->entry->size ||
	    sysvshm_is_removed(m))
		return sysvshm_taken(m, "another has its id", err);
	if (ds.shm_nattch)
		return sysvshm_taken(m, "it is attached", err);
	m->there = true;
	return 0;
}

/* What is attached in part needs a place to be attached whole. */
static bool sysvshm_is_whole(const struct sysvshm_plan *m, const VmaEntry *vma)
{
	return !vma->pgoff && vma->end - vma->start == sysvshm_bytes(m->entry);
}

static int sysvshm_measure(struct plan *p, struct plan_task *t, const VmaEntry *vma, struct ferry_error *err)
{
	const struct sysvshm_plan *m = sysvshm_plan(p, vma->shmid);
	if (!m || vma->pgoff > sysvshm_bytes(m->entry) ||
	    vma->end - vma->start > sysvshm_bytes(m->entry) - vma->pgoff)
		return error_set(
			err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
			"pid %d maps System V shared memory %llu, which the image lacks or has smaller",
			t->pid, (unsigned long long)vma->shmid);
	if (!sysvshm_is_whole(m, vma))
		t->spare_bytes = MAX(t->spare_bytes, sysvshm_bytes(m->entry));
	return 0;
}

static int sysvshm_read(struct reader *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	uint32_t ns = p->tasks[0].ids && p->tasks[0].ids->has_ipc_ns_id ? p->tasks[0].ids->ipc_ns_id : 0;
	int ret = records_each(r, IMAGE_IPCNS_SHM, ns, &ipc_shm_entry__descriptor, sysvshm_take, NULL, err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_SYSVSHM, 0, &ferry_sysvshm_entry__descriptor,
				   sysvshm_take_extra, NULL, err);
	/* A new namespace has none yet. */
	bool own = plan_own_ns(p, PROC_NS_IPC);
	for (struct sysvshm_plan *m = p->kind_data[KIND_sysvshm]; m && ret >= 0; m = m->next)
		ret = own ? sysvshm_check_pages(m, err) : sysvshm_compare(m, err);
	for (size_t i = 0; i < p->n_tasks; i++) {
		const MmEntry *mm = p->tasks[i].mm;
		for (size_t n = 0; mm && n < mm->n_vmas && ret >= 0; n++)
			if (sysvshm_owns_record(mm->vmas[n]))
				ret = sysvshm_measure(p, &p->tasks[i], mm->vmas[n], err);
	}
	return ret;
}

/* shmget(2) as the one who did it then: that stays in the segment. */
static int sysvshm_get(const struct sysvshm_plan *m)
{
	const IpcDescEntry *desc = m->entry->desc;
	uint32_t huge = m->entry->hugetlb_flag ? SHM_HUGETLB | hugetlb_size_of(m->entry->hugetlb_flag) : 0;
	uid_t uid = geteuid();
	gid_t gid = getegid();
	bool other = !huge && (desc->cuid != uid || desc->cgid != gid);
	if (other && (syscall(SYS_setresgid, -1, desc->cgid, -1) < 0 ||
		      syscall(SYS_setresuid, -1, desc->cuid, -1) < 0))
		return -errno;
	int flags = IPC_CREAT | IPC_EXCL | (int)huge | (int)(desc->mode & SYSVSHM_MODE_BITS);
	int id = shmget((key_t)sysvshm_made_key(m), m->entry->size, flags), code = errno;
	if (other && (syscall(SYS_setresuid, -1, uid, -1) < 0 || syscall(SYS_setresgid, -1, gid, -1) < 0))
		return -errno;
	return id < 0 ? -code : id;
}

static int sysvshm_next_id(uint32_t id)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%u", id);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, "/proc/sys/kernel/shm_next_id", O_WRONLY, 0);
	return fd < 0 ? fd : fd_write_all(fd, text, (size_t)n);
}

static int sysvshm_make(struct opener *o, struct sysvshm_plan *m, struct ferry_error *err)
{
	uint32_t id = m->entry->desc->id;
	/* What is in a new namespace goes with it; the warden lives in another. */
	bool own = plan_own_ns(o->plan, PROC_NS_IPC);
	int made = own ? -1 : warden_arm(o->warden, WARDEN_SHM_REMOVE, id, 0, NULL, 0);
	int r = made < 0 && !own ? made : sysvshm_next_id(id);
	if (r >= 0)
		r = sysvshm_get(m);
	if (r >= 0 && (uint32_t)r != id) {
		shmctl(r, IPC_RMID, NULL);
		r = -EEXIST;
	}
	if (r < 0 && made >= 0)
		warden_disarm(o->warden, made);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "making System V shared memory %u", id);
	m->made = made;
	return 0;
}

static int sysvshm_set(const struct sysvshm_plan *m)
{
	const IpcDescEntry *desc = m->entry->desc;
	struct shmid_ds ds = {.shm_perm = {.uid = desc->uid,
					   .gid = desc->gid,
					   .mode = (unsigned short)(desc->mode & SYSVSHM_MODE_BITS)}};
	if (shmctl((int)desc->id, IPC_SET, &ds) < 0)
		return -errno;
	if (m->extra && m->extra->locked && shmctl((int)desc->id, SHM_LOCK, NULL) < 0)
		return -errno;
	/* It lives on by our own attachment until the tasks have theirs. */
	return sysvshm_is_removed(m) && shmctl((int)desc->id, IPC_RMID, NULL) < 0 ? -errno : 0;
}

/* The tasks exist and wait; what they will attach is made now. */
static int sysvshm_opened(struct opener *o, struct ferry_error *err)
{
	for (struct sysvshm_plan *m = o->plan->kind_data[KIND_sysvshm]; m; m = m->next) {
		uint32_t id = m->entry->desc->id;
		int r = m->there ? 0 : sysvshm_make(o, m, err);
		if (r < 0)
			return r;
		m->at = shmat((int)id, NULL, 0);
		if (m->at == (void *)-1) {
			m->at = NULL;
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
					   "attaching System V shared memory %u", id);
		}
		if (m->there && madvise(m->at, sysvshm_bytes(m->entry), MADV_REMOVE) < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
					   "emptying System V shared memory %u", id);
		r = mem_fill_shmem(o->dir, id, m->entry->size, m->at, err);
		if (r < 0)
			return r;
		r = sysvshm_set(m);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
					   "setting owner and mode of System V shared memory %u", id);
	}
	return 0;
}

static void sysvshm_let_go(struct opener *o)
{
	for (struct sysvshm_plan *m = o->plan->kind_data[KIND_sysvshm]; m; m = m->next) {
		if (m->at)
			shmdt(m->at);
		m->at = NULL;
	}
}

static int sysvshm_ready(struct opener *o, struct ferry_error *err unused)
{
	sysvshm_let_go(o);
	return 0;
}

static void sysvshm_abandon(struct opener *o)
{
	sysvshm_let_go(o);
	for (struct sysvshm_plan *m = o->plan->kind_data[KIND_sysvshm]; m; m = m->next) {
		if (m->made < 0)
			continue;
		shmctl((int)m->entry->desc->id, IPC_RMID, NULL);
		warden_disarm(o->warden, m->made);
	}
}

static void sysvshm_attach(struct script *s, const VmaEntry *vma, uint32_t id, uint64_t at)
{
	bool writes = vma->fdflags & O_RDWR || vma->prot & PROT_WRITE;
	struct blob_call *call =
		script_call(s, "attaching System V shared memory", SYS_shmat, id, at,
			    (uint64_t)((writes ? 0 : SHM_RDONLY) | (vma->prot & PROT_EXEC ? SHM_EXEC : 0)));
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)at;
	script_detail(s, id);
}

static int sysvshm_map(struct reader *r, struct plan_task *t, const VmaEntry *vma, struct vma_map *map,
		       struct ferry_error *err)
{
	const struct sysvshm_plan *m = sysvshm_plan(r->plan, vma->shmid);
	struct script *s = &t->memory;
	if (!m)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
				 "System V shared memory was not measured");
	uint64_t bytes = vma->end - vma->start, all = sysvshm_bytes(m->entry);
	bool whole = sysvshm_is_whole(m, vma);
	sysvshm_attach(s, vma, m->entry->desc->id, whole ? vma->start : t->spare);
	if (!whole) {
		struct blob_call *call = script_call(s, "moving a part of System V shared memory", SYS_mremap,
						     t->spare + vma->pgoff, bytes, bytes,
						     MREMAP_MAYMOVE | MREMAP_FIXED, vma->start);
		call->check = BLOB_CHECK_EQUAL;
		call->expect = (int64_t)vma->start;
		script_detail(s, vma->start);
		script_call(s, "unmapping the rest of System V shared memory", SYS_munmap, t->spare, all);
	}
	script_call(s, "protecting System V shared memory", SYS_mprotect, vma->start, bytes, vma->prot);
	script_detail(s, vma->start);
	map->made = true;
	return 0;
}

const struct kind_ops kind_sysvshm = {
	.name = "sysvshm",
	.what = "System V shared memory, attached or not",
	.fd_type = -1,
	.image_file = -1,
	.owns_vma = sysvshm_owns_vma,
	.check_vma = sysvshm_check_vma,
	.collect_vma = sysvshm_collect_vma,
	.collect_end = sysvshm_collect_end,
	.dump_end = sysvshm_dump_end,
	.after = sysvshm_after,
	.read = sysvshm_read,
	.owns_record = sysvshm_owns_record,
	.map = sysvshm_map,
	.opened = sysvshm_opened,
	.ready = sysvshm_ready,
	.abandon = sysvshm_abandon,
};
