/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns an application's userfaultfds: features that were agreed on, the ranges they watch and how, which pages are
 * write-protected. One is made in the task whose memory it watches. That it watches a range is asked of the kernel by
 * registering it once more, which changes nothing where it does and fails where another one does.
 *
 * A thread that waits for a page is interrupted by the freeze and runs into the same fault when it goes on, so a fault that
 * was pending is reported again. A handler that had read it already sees it twice, as after any signal.
 *
 * Kernel interface: /proc/PID/fdinfo API (4.3), VmFlags um and uw of smaps, bit 57 of /proc/PID/pagemap (5.13),
 * UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WRITEPROTECT (5.7).
 * Does not handle: UFFD_USER_MODE_ONLY, which nothing tells (fs/userfaultfd.c, looked at in 6.18): faults inside
 * system calls are reported as well; ranges registered for minor faults; one that watches the memory of a task that
 * does not hold it; a thread that waits for a page inside a system call, which cannot be stopped.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/latecomer.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "mem/mem.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/maps.h"
#include "proc/read.h"

#define UFFD_LINK "anon_inode:[userfaultfd]"
#define UFFD_INITIALIZED (1ull << 31) /* of the features in fdinfo: UFFDIO_API was called */
#define UFFD_WATCHED (PROC_VM(UFFD_MISSING) | PROC_VM(UFFD_WP) | PROC_VM(UFFD_MINOR))

static bool uffd_owns(const struct fd_view *view)
{
	return !strcmp(view->link, UFFD_LINK);
}

/* Events that a task waits for are not shown; faults are, and come again. */
static int uffd_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	FerryUffdEntry *entry = record_new(a, FerryUffdEntry, ferry_uffd_entry);
	ExtFileEntry *ext = record_new(a, ExtFileEntry, ext_file_entry);
	if (!entry || !ext)
		return error_memory(err);
	entry->id = ext->id = file->entry->id;
	entry->flags = fdcommon_flags(view);
	entry->features = view->info->uffd.features & ~UFFD_INITIALIZED;
	entry->agreed = view->info->uffd.features & UFFD_INITIALIZED;
	ext->fown = fdcommon_no_owner(a);
	int r = ext->fown ? fd_view_copy(view, err) : error_memory(err);
	if (r < 0)
		return r;
	file->entry->type = FD_TYPES__EXT;
	file->entry->ext = ext;
	file->data = entry;
	file->copy = take_fd(view->copy);
	return 0;
}

/* -------------------------------------------------------------------------- what it watches */

static uint64_t uffd_modes(uint64_t vm_flags)
{
	return (vm_flags & PROC_VM(UFFD_MISSING) ? UFFDIO_REGISTER_MODE_MISSING : 0) |
	       (vm_flags & PROC_VM(UFFD_WP) ? UFFDIO_REGISTER_MODE_WP : 0);
}

static bool uffd_watches(const struct snap_file *file, const VmaEntry *vma, uint64_t modes)
{
	struct uffdio_register reg = {.range = {vma->start, vma->end - vma->start}, .mode = modes};
	return ioctl(file->copy, UFFDIO_REGISTER, &reg) == 0;
}

static bool uffd_is_held_by(const struct snap_task *t, uint32_t index)
{
	vec_foreach(fd, &t->fds) {
		if (fd->file == index)
			return true;
	}
	return false;
}

static int uffd_refuse(const struct snap_task *t, const VmaEntry *vma, const char *why,
		       struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP, "pid %d: memory at %llx is watched by %s",
		  t->pid, (unsigned long long)vma->start, why);
	error_hint(
		err,
		"the kernel does not tell by which (Linux 6.18); is it ferry-pager, after a restore with --lazy, "
		"then wait until that has ended");
	return -ENOTSUP;
}

/* Whether faults are settled by the kernel, so that nobody has to answer them. */
static bool uffd_is_async(const struct snap_task *t, const VmaEntry *vma)
{
	struct page_region region;
	struct pm_scan_arg arg = {
		.flags = PM_SCAN_CHECK_WPASYNC,
		.start = vma->start,
		.end = vma->end,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	_cleanup_close_ int pagemap = fd_openf(O_RDONLY, "/proc/%d/pagemap", t->look);
	return pagemap >= 0 && sys_pagemap_scan(pagemap, &arg) >= 0;
}

/* Pages that are not there yet look like pages that never were. */
static int uffd_check_task(pid_t pid, int proc_dir unused, const struct proc_status *status,
			   const struct kind_options *options unused, struct ferry_error *err)
{
	if (!latecomer_find(pid))
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, EBUSY,
		  "pid %d (%s) was restored with --lazy, and its memory is not all there yet", pid,
		  status->name);
	error_hint(err, "wait until ferry-pager has ended, which fills it");
	return -EBUSY;
}

/* Only what the task itself holds is asked: of others the kernel would look at the same addresses elsewhere. */
static int uffd_find(struct collect *c, const struct snap_task *t, const VmaEntry *vma, uint64_t vm_flags,
		     FerryUffdEntry **ret, struct ferry_error *err)
{
	uint64_t modes = uffd_modes(vm_flags);
	if (vm_flags & PROC_VM(UFFD_MINOR))
		return uffd_refuse(t, vma, "a userfaultfd for minor faults", err);
	for (uint32_t i = 0; i < c->snap->files.n; i++) {
		const struct snap_file *file = &c->snap->files.v[i];
		FerryUffdEntry *entry = file->kind == &kind_uffd ? file->data : NULL;
		if (!entry || !uffd_is_held_by(t, i) ||
		    (entry->has_pid && entry->pid != (uint32_t)t->inner_pid) ||
		    !uffd_watches(file, vma, modes))
			continue;
		record_set(entry, pid, (uint32_t)t->inner_pid);
		*ret = entry;
		return 0;
	}
	/* Somebody outside tracks what is written; the memory works like any other. */
	if (modes == UFFDIO_REGISTER_MODE_WP && uffd_is_async(t, vma)) {
		*ret = NULL;
		return 0;
	}
	return uffd_refuse(t, vma, "a userfaultfd that it does not hold", err);
}

static int uffd_add(struct arena *a, FerryUffdRange ***list, size_t *n, uint64_t start, uint64_t end,
		    uint32_t modes)
{
	FerryUffdRange *range = record_new(a, FerryUffdRange, ferry_uffd_range);
	FerryUffdRange **all = arena_array(a, FerryUffdRange *, *n + 1);
	if (!range || !all)
		return -ENOMEM;
	range->start = start;
	range->bytes = end - start;
	range->modes = modes;
	if (*n)
		memcpy(all, *list, *n * sizeof(*all));
	all[(*n)++] = range;
	*list = all;
	return 0;
}

struct uffd_protected {
	struct arena *arena;
	FerryUffdEntry *entry;
	bool there; /* with a page */
};

static int uffd_add_protected(void *context, const struct mem_range *range)
{
	struct uffd_protected *p = context;
	return uffd_add(p->arena, &p->entry->guarded, &p->entry->n_guarded, range->start, range->end,
			p->there);
}

static int uffd_collect_vma(struct collect *c, const struct snap_task *t, const struct snap_vma *vma,
			    int pagemap, struct ferry_error *err)
{
	const VmaEntry *v = vma->entry;
	FerryUffdEntry *entry = NULL;
	int r = uffd_find(c, t, v, vma->watched, &entry, err);
	if (r < 0 || !entry)
		return r;
	struct uffd_protected p = {&c->snap->arena, entry, false};
	r = uffd_add(p.arena, &entry->ranges, &entry->n_ranges, v->start, v->end,
		     (uint32_t)uffd_modes(vma->watched));
	for (int there = 0; there < 2 && r >= 0 && vma->watched & PROC_VM(UFFD_WP); there++) {
		p.there = there;
		r = mem_find_guarded(pagemap, v->start, v->end, there, uffd_add_protected, &p);
	}
	if (r == -ENOMEM)
		return error_memory(err);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "finding write-protected pages of pid %d",
				   t->pid)
		     : 0;
}

static int uffd_collect_end(struct collect *c, struct ferry_error *err)
{
	int r = 0;
	vec_foreach(t, &c->snap->tasks) {
		_cleanup_close_ int pagemap = -1;
		for (size_t i = 0; i < t->vmas.n && r >= 0; i++) {
			if (!(t->vmas.v[i].watched & UFFD_WATCHED))
				continue;
			if (pagemap < 0)
				pagemap = fd_openf(O_RDONLY, "/proc/%d/pagemap", t->look);
			r = uffd_collect_vma(c, t, &t->vmas.v[i], pagemap, err);
		}
	}
	return r;
}

static int uffd_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	FerryUffdEntry *entry = file->data;
	struct image_writer *w;
	if (!entry->has_pid)
		record_set(entry, pid, (uint32_t)snapshot_inner_pid(d->snap, file->pid));
	int r = fdcommon_writer(d, IMAGE_FERRY_UFFD, &w, err);
	return r < 0 ? r : image_put(w, &entry->base, err);
}

/* -------------------------------------------------------------------------- restore */

static int uffd_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
		     struct ferry_error *err)
{
	FerryUffdEntry *entry = record;
	struct plan_file *file = plan_file(r->plan, entry->id);
	struct plan_task *t = entry->has_pid ? plan_task(r->plan, (pid_t)entry->pid) : NULL;
	bool held = false;
	for (size_t i = 0; t && i < t->fds.n; i++)
		held |= t->fds.v[i].file == file;
	if (!file || !file->entry->ext || file->data || !held)
		return image_bad(in, err, "file id %u: the userfaultfd makes no sense", entry->id);
	file->data = entry;
	file->kind = &kind_uffd;
	file->owner = t; /* whose memory it watches */
	return 0;
}

static int uffd_read(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_FERRY_UFFD, 0, &ferry_uffd_entry__descriptor, uffd_take, NULL, err);
}

/* The task whose memory it watches makes it. */
static int uffd_restore(struct opener *o unused, struct plan_file *file unused, int *ret_fd,
			struct ferry_error *err)
{
	int fd = fd_open(AT_FDCWD, "/dev/null", O_RDWR, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening /dev/null");
	*ret_fd = fd;
	return 0;
}

static int uffd_make(const struct plan_file *file, int fd, struct ferry_error *err)
{
	const FerryUffdEntry *e = file->data;
	struct uffdio_api api = {.api = UFFD_API, .features = e->features};
	_cleanup_close_ int made = sys_userfaultfd(O_CLOEXEC | (int)(e->flags & O_NONBLOCK));
	if (made < 0) {
		error_errno(err, FERRY_ERROR_KERNEL_FEATURE, -made, "fd %d: making a userfaultfd", fd);
		error_hint(err, "this takes CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd (sysctl)");
		return -ENOTSUP;
	}
	if (e->agreed && ioctl(made, UFFDIO_API, &api) < 0)
		return error_errno(err, FERRY_ERROR_KERNEL_FEATURE, errno,
				   "fd %d: agreeing on the features %#llx of a userfaultfd", fd,
				   (unsigned long long)e->features);
	return dup3(made, fd, O_CLOEXEC) < 0
		       ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "giving a userfaultfd number %d", fd)
		       : 0;
}

static int uffd_settle_fd(struct settle *s unused, struct plan_file *file, int fd, struct ferry_error *err)
{
	return uffd_make(file, fd, err);
}

static int uffd_settle_task(struct settle *s, struct ferry_error *err)
{
	return fdcommon_settle_made(s, &kind_uffd, UFFD_LINK, uffd_settle_fd, err);
}

static void uffd_watch_calls(const FerryUffdEntry *e, int fd, struct script *s)
{
	/* Pages of zeroes are in no image; what is protected has to be there. */
	for (size_t i = 0; i < e->n_guarded; i++)
		if (e->guarded[i]->modes)
			script_call(s, "populating watched memory", SYS_madvise, e->guarded[i]->start,
				    e->guarded[i]->bytes, MADV_POPULATE_WRITE)
				->check = BLOB_CHECK_NONE;
	for (size_t i = 0; i < e->n_ranges; i++) {
		struct uffdio_register reg = {.range = {e->ranges[i]->start, e->ranges[i]->bytes},
					      .mode = e->ranges[i]->modes};
		script_call(s, "watching memory", SYS_ioctl, (uint64_t)fd, UFFDIO_REGISTER,
			    script_put(s, &reg, sizeof(reg)))
			->data_mask = 1 << 2;
		script_detail(s, e->ranges[i]->start);
	}
	for (size_t i = 0; i < e->n_guarded; i++) {
		struct uffdio_writeprotect wp = {.range = {e->guarded[i]->start, e->guarded[i]->bytes},
						 .mode = UFFDIO_WRITEPROTECT_MODE_WP};
		script_call(s, "protecting watched memory", SYS_ioctl, (uint64_t)fd, UFFDIO_WRITEPROTECT,
			    script_put(s, &wp, sizeof(wp)))
			->data_mask = 1 << 2;
		script_detail(s, e->guarded[i]->start);
	}
}

/* Memory has its contents now, and the other threads of the task sleep. */
static int uffd_restore_task(struct reader *r unused, struct plan_task *t, struct script *s,
			     struct ferry_error *err unused)
{
	vec_foreach(fd, &t->fds) {
		const struct plan_file *file = fd->file;
		if (file->kind == &kind_uffd && file->owner == t && file->data &&
		    fdcommon_number(t, file->entry->id) == fd->fd)
			uffd_watch_calls(file->data, fd->fd, s);
	}
	return 0;
}

const struct kind_ops kind_uffd = {
	.name = "uffd",
	.what = "userfaultfds with the memory they watch",
	.fd_type = -1,
	.image_file = IMAGE_FERRY_UFFD,
	.owns = uffd_owns,
	.check_task = uffd_check_task,
	.collect = uffd_collect,
	.collect_end = uffd_collect_end,
	.dump = uffd_dump,
	.read = uffd_read,
	.restore = uffd_restore,
	.settle_task = uffd_settle_task,
	.restore_task = uffd_restore_task,
};
