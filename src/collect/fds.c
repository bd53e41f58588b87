/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns descriptor tables: which file descriptions they refer to, each found once however many descriptors and tasks
 * share it, and which kind each is of.
 *
 * Kernel interface: /proc/PID/fd, /proc/PID/fdinfo, kcmp(2) KCMP_FILE (3.5), whose answers order descriptions of one inode,
 * so one that is known already is found by bisection.
 */
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
#include "collect/collect.h"
#include "kernel/syscalls.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/unknown.h"
#include "model/record.h"
#include "proc/read.h"

enum { KCMP_EQUAL, KCMP_LESS, KCMP_GREATER };

/*
 * Indices of snapshot files that are in descriptor tables, ordered by device, inode and type, which cost nothing, and where
 * those agree in kcmp's order.
 */
struct fd_order {
	VEC(uint32_t) v;
};

int collect_check_fd(const struct fd_view *view, const struct kind_options *options,
		     const struct kind_ops **ret_kind, struct ferry_error *err)
{
	const struct kind_ops *kind = kind_of_fd(view);
	if (!kind)
		return unknown_refuse(view, err);
	int r = kind->check ? kind->check(view, options, err) : 0;
	const struct kind_ops *said = kind;
	for (size_t i = 0; i < KIND_COUNT && r >= 0; i++) {
		if (!kind_table[i]->check_fd)
			continue;
		said = kind_table[i];
		r = said->check_fd(view, options, err);
	}
	if (r < 0) {
		error_context(err, NULL, said->name, view->pid);
		return r;
	}
	*ret_kind = kind;
	return 0;
}

static int fd_compare_numbers(uint64_t a, uint64_t b)
{
	return a < b ? KCMP_LESS : a > b ? KCMP_GREATER : KCMP_EQUAL;
}

/* As kcmp answers. One description never has two inodes, so most need not be compared by the kernel. */
static int fd_compare(const struct fd_view *view, const struct snap_file *file)
{
	int r = fd_compare_numbers(view->stat.st_dev, file->dev);
	if (r == KCMP_EQUAL)
		r = fd_compare_numbers(view->stat.st_ino, file->ino);
	if (r == KCMP_EQUAL)
		r = fd_compare_numbers(view->stat.st_mode & S_IFMT, file->mode & S_IFMT);
	return r != KCMP_EQUAL ? r
			       : sys_kcmp(view->look, file->look, KERN_KCMP_FILE, (unsigned long)view->fd,
					  (unsigned long)file->fd);
}

/* Where the description behind a descriptor is in the order; *ret_found says whether it is there already. */
static int fd_order_find(const struct snapshot *s, const struct fd_order *order, const struct fd_view *view,
			 size_t *ret_at, bool *ret_found, struct ferry_error *err)
{
	size_t low = 0, high = order->v.n;
	*ret_found = false;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct snap_file *file = &s->files.v[order->v.v[middle]];
		int r = fd_compare(view, file);
		if (r == KCMP_EQUAL) {
			*ret_at = middle;
			*ret_found = true;
			return 0;
		}
		if (r != KCMP_LESS && r != KCMP_GREATER)
			return error_errno(err, FERRY_ERROR_SYSTEM, r < 0 ? -r : EIO,
					   "comparing fd %d of pid %d (kcmp)", view->fd, view->pid);
		if (r == KCMP_LESS)
			high = middle;
		else
			low = middle + 1;
	}
	*ret_at = low;
	return 0;
}

static int fd_order_insert(struct fd_order *order, size_t at, uint32_t index)
{
	if (!vec_push(&order->v))
		return -ENOMEM;
	memmove(order->v.v + at + 1, order->v.v + at, (order->v.n - 1 - at) * sizeof(uint32_t));
	order->v.v[at] = index;
	return 0;
}

/* A description not seen before: let its kind make the record. */
static int fd_collect_new(struct collect *c, struct fd_view *view, uint32_t *ret_index,
			  struct ferry_error *err)
{
	const struct kind_ops *kind;
	int r = collect_check_fd(view, c->options, &kind, err);
	if (r < 0)
		return r;
	FileEntry *entry = record_new(&c->snap->arena, FileEntry, file_entry);
	if (!entry || !vec_push(&c->snap->files))
		return error_memory(err);
	uint32_t index = (uint32_t)(c->snap->files.n - 1);
	entry->type = (FdTypes)kind->fd_type;
	entry->id = ++c->snap->next_file_id;
	/* The kind may add files itself, which moves the array: it works on a copy. */
	struct snap_file file = {
		.entry = entry,
		.kind = kind,
		.copy = -1,
		.pid = view->pid,
		.look = view->look,
		.fd = view->fd,
		.ino = view->stat.st_ino,
		.dev = view->stat.st_dev,
		.mode = view->stat.st_mode,
	};
	c->snap->files.v[index] = file;
	r = kind->collect(c, view, &file, err);
	c->snap->files.v[index] = file;
	error_context(err, "collect", kind->name, view->pid);
	if (view->copy >= 0)
		close(view->copy);
	view->copy = -1;
	*ret_index = index;
	return r;
}

static int fd_collect(struct collect *c, struct fd_order *order, struct snap_task *t, struct fd_view *view,
		      bool cloexec, struct ferry_error *err)
{
	size_t at = 0;
	bool found = false;
	int r = fd_order_find(c->snap, order, view, &at, &found, err);
	if (r < 0)
		return r;
	uint32_t index = found ? order->v.v[at] : 0;
	if (!found) {
		r = fd_collect_new(c, view, &index, err);
		if (r >= 0)
			r = fd_order_insert(order, at, index) < 0 ? error_memory(err) : 0;
		if (r < 0)
			return r;
	}
	struct snap_fd *fd = vec_push(&t->fds);
	if (!fd)
		return error_memory(err);
	*fd = (struct snap_fd){.fd = view->fd, .cloexec = cloexec, .file = index};
	for (size_t i = 0; i < KIND_COUNT && r >= 0; i++)
		if (kind_table[i]->collect_fd)
			r = kind_table[i]->collect_fd(c, t, view, &c->snap->files.v[index], err);
	return r;
}

static int fd_collect_one(struct collect *c, struct fd_order *order, struct snap_task *t, int proc_dir,
			  int pidfd, const struct proc_fds *fds, const struct proc_fd *fd,
			  struct ferry_error *err)
{
	_cleanup_proc_fdinfo_ struct proc_fdinfo info = {0};
	int r = proc_read_fdinfo(proc_dir, fd->fd, &info, err);
	if (r < 0)
		return r;
	struct fd_view view = {
		.pid = t->pid,
		.look = t->look,
		.fd = fd->fd,
		.comm = t->threads.v[0].core->tc->comm,
		.link = proc_fd_link(fds, fd),
		.info = &info,
		.frozen = true,
		.copy = -1,
		.pidfd = pidfd,
		.peers = c->peers,
		.arena = &c->snap->arena,
		.kind_data = c->kind_data,
	};
	r = proc_fd_stat(proc_dir, fd, &view.stat);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "looking at fd %d of pid %d", fd->fd, t->pid);
	return fd_collect(c, order, t, &view, info.flags & O_CLOEXEC, err);
}

int collect_fds(struct collect *c, struct snap_task *t, int proc_dir, const struct proc_fds *fds,
		struct ferry_error *err)
{
	struct fd_order *order = c->fd_order;
	if (!order) {
		c->fd_order = order = arena_new(&c->snap->arena, struct fd_order);
		if (!order)
			return error_memory(err);
	}
	if (fault_hit(c->fault, FAULT_COLLECT_FD))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "collecting descriptors: fault injected");
	_cleanup_close_ int pidfd = proc_look_pidfd(t->pid, t->look);
	if (pidfd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -pidfd, "opening pid %d", t->pid);
	int r = 0;
	for (size_t i = 0; i < fds->v.n && r >= 0; i++)
		r = fd_collect_one(c, order, t, proc_dir, pidfd, fds, &fds->v.v[i], err);
	return r;
}

/* A descriptor of ours, which a kind took out of something that the tree holds. */
static int fd_describe_view(struct collect *c, struct fd_view *view, uint32_t *ret_index,
			    struct ferry_error *err)
{
	size_t at = 0;
	bool found = false;
	struct fd_order *order = c->fd_order;
	int r = fd_order_find(c->snap, order, view, &at, &found, err);
	if (r < 0)
		return r;
	uint32_t index = found ? order->v.v[at] : 0;
	if (found) {
		close(view->fd);
	} else {
		r = fd_collect_new(c, view, &index, err);
		struct snap_file *file = c->snap->files.n > index ? &c->snap->files.v[index] : NULL;
		/* It is found again by this number, so one copy stays open. */
		if (r >= 0 && file->copy < 0)
			file->copy = view->fd;
		else
			close(view->fd);
		if (r >= 0)
			file->fd = file->copy;
		if (r >= 0)
			r = fd_order_insert(order, at, index) < 0 ? error_memory(err) : 0;
	}
	if (r >= 0)
		*ret_index = index;
	return r;
}

static int fd_describe(struct collect *c, int fd, uint32_t *ret_index, struct ferry_error *err)
{
	_cleanup_proc_fdinfo_ struct proc_fdinfo info = {0};
	char path[64], link[PATH_MAX] = "";
	pid_t self = getpid();
	_cleanup_close_ int dir = proc_open(self, err), pidfd = sys_pidfd_open(self, 0);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", self, fd);
	ssize_t n = dir < 0 ? dir : readlink(path, link, sizeof(link) - 1);
	struct fd_view view = {
		.pid = self,
		.look = self,
		.fd = fd,
		.comm = "ferry",
		.link = link,
		.info = &info,
		.copy = -1,
		.pidfd = pidfd,
		.peers = c->peers,
		.arena = &c->snap->arena,
		.kind_data = c->kind_data,
	};
	int r = dir < 0 ? dir : proc_read_fdinfo(dir, fd, &info, err);
	if (r >= 0 && (n < 0 || pidfd < 0 || fstat(fd, &view.stat) < 0))
		r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at a descriptor in a queue");
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd_describe_view(c, &view, ret_index, err);
}

int collect_fds_discover(struct collect *c, struct ferry_error *err)
{
	int r = 0;
	c->describe = fd_describe;
	for (size_t i = 0; i < KIND_COUNT && r >= 0; i++) {
		r = kind_table[i]->discover ? kind_table[i]->discover(c, err) : 0;
		error_context(err, "collect", kind_table[i]->name, 0);
	}
	return r;
}

int collect_fds_end(struct collect *c, struct ferry_error *err)
{
	for (size_t i = 0; i < KIND_COUNT; i++) {
		size_t at = 0;
		int r = kind_table[i]->check_end ? kind_table[i]->check_end(c->kind_data, &at, err) : 0;
		if (r >= 0 && kind_table[i]->collect_end)
			r = kind_table[i]->collect_end(c, err);
		if (r < 0) {
			error_context(err, "collect", kind_table[i]->name, 0);
			return r;
		}
	}
	return 0;
}

void collect_fds_release(struct collect *c)
{
	struct fd_order *order = c->fd_order;
	if (order)
		vec_release(&order->v);
}
