/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns inotify instances: their watches with numbers and masks, flags, owner. A watch is added again through a descriptor of the
 * inode (its path, or for one without a name the description that keeps it), when everything else stands, so that the restore
 * itself causes no events.
 *
 * Kernel interface: /proc/PID/fdinfo inotify lines (3.8), inotify_add_watch(2), INOTIFY_IOC_SETNEXTWD (4.17).
 * Does not handle: events that wait to be read, which no interface puts back: refused (dropped under the name criu); the number that
 * the next watch gets, if the watch with the highest one was removed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/dir.h"
#include "image/proto/fsnotify.pb-c.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/watched.h"
#include "model/record.h"
#include "model/records.h"

/* What of a mask inotify_add_watch(2) takes and fdinfo shows. */
enum { INOTIFY_MASK = IN_ALL_EVENTS | IN_EXCL_UNLINK };

/* A watch of an inode without a name. */
struct inotify_nameless {
	struct inotify_nameless *next;
	FerryWatchEntry *entry;
	uint64_t dev, ino;
};

/* What a watch of the image is added through. */
struct inotify_target {
	int fd;
	int wd;
	uint32_t mask;
};

struct inotify_plan {
	size_t n;
	struct inotify_target *targets; /* ascending by wd */
};

static bool inotify_owns(const struct fd_view *view)
{
	return !strcmp(view->link, "anon_inode:inotify");
}

static struct watched inotify_watched(const struct fd_view *view, const struct proc_inotify_watch *watch,
				      const struct kind_options *options, const char *who)
{
	return (struct watched){.who = who,
				.pid = view->look,
				.ino = watch->ino,
				.dev = watch->dev,
				.handle = &watch->handle,
				.peers = view->peers,
				.home = options->home_root};
}

static int inotify_check(const struct fd_view *view, const struct kind_options *options,
			 struct ferry_error *err)
{
	char who[64], *path;
	fd_view_name(view, who, sizeof(who));
	int r = watched_check_queue(view, options, false, err);
	vec_foreach(watch, &view->info->inotify) {
		struct watched w = inotify_watched(view, watch, options, who);
		if (r >= 0)
			r = watched_find(&w, view->arena, &path, err);
	}
	return MIN(r, 0);
}

static int inotify_add_nameless(struct collect *c, uint32_t id, const struct proc_inotify_watch *watch)
{
	struct inotify_nameless *n = arena_new(&c->snap->arena, struct inotify_nameless);
	FerryWatchEntry *e = record_new(&c->snap->arena, FerryWatchEntry, ferry_watch_entry);
	if (!n || !e)
		return -ENOMEM;
	e->id = id;
	e->wd = (uint32_t)watch->wd;
	*n = (struct inotify_nameless){c->kind_data[KIND_inotify], e, watch->dev, watch->ino};
	c->kind_data[KIND_inotify] = n;
	return 0;
}

static int inotify_collect_watch(struct collect *c, const struct fd_view *view,
				 const struct proc_inotify_watch *watch, InotifyFileEntry *ify,
				 struct ferry_error *err)
{
	char who[64], *path = NULL;
	fd_view_name(view, who, sizeof(who));
	struct watched w = inotify_watched(view, watch, c->options, who);
	int r = watched_find(&w, &c->snap->arena, &path, err);
	if (r < 0)
		return r;
	if (!r && inotify_add_nameless(c, ify->id, watch) < 0)
		return error_memory(err);
	InotifyWdEntry *wd = record_new(&c->snap->arena, InotifyWdEntry, inotify_wd_entry);
	if (!wd)
		return error_memory(err);
	wd->i_ino = watch->ino;
	wd->mask = watch->mask;
	wd->s_dev = kern_dev(watch->dev);
	wd->wd = (uint32_t)watch->wd;
	wd->f_handle = watched_record(&c->snap->arena, &watch->handle, path);
	ify->wd[ify->n_wd++] = wd;
	return wd->f_handle ? 0 : error_memory(err);
}

static int inotify_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			   struct ferry_error *err)
{
	InotifyFileEntry *ify = record_new(&c->snap->arena, InotifyFileEntry, inotify_file_entry);
	if (!ify)
		return error_memory(err);
	int r = watched_check_queue(view, c->options, true, err);
	if (r < 0)
		return r;
	ify->id = file->entry->id;
	ify->flags = fdcommon_flags(view);
	ify->wd = arena_array(&c->snap->arena, InotifyWdEntry *, view->info->inotify.n + 1);
	if (!ify->wd)
		return error_memory(err);
	vec_foreach(watch, &view->info->inotify) {
		if (r >= 0)
			r = inotify_collect_watch(c, view, watch, ify, err);
	}
	if (r >= 0)
		r = fdcommon_owner(c, view, &ify->fown, err);
	file->entry->ify = ify;
	return r;
}

/* Which description keeps an inode that has no name. */
static int inotify_collect_end(struct collect *c, struct ferry_error *err)
{
	for (struct inotify_nameless *n = c->kind_data[KIND_inotify]; n; n = n->next) {
		vec_foreach(file, &c->snap->files) {
			if (file->kind == &kind_regfile && file->ino == n->ino && file->dev == n->dev)
				n->entry->file_id = file->entry->id;
		}
		if (!n->entry->file_id)
			return error_set(err, FERRY_ERROR_DELETED_FILE, ENOENT,
					 "a watch on inode %llu, which has no name and no descriptor",
					 (unsigned long long)n->ino);
	}
	return 0;
}

static int inotify_dump_end(struct dump *d, struct ferry_error *err)
{
	struct image_writer *w;
	int r = 0;
	for (const struct inotify_nameless *n = d->kind_data[KIND_inotify]; n && r >= 0; n = n->next) {
		r = fdcommon_writer(d, IMAGE_FERRY_WATCH, &w, err);
		if (r >= 0)
			r = image_put(w, &n->entry->base, err);
	}
	return r;
}

/* ------------------------------------------------------------------------- restore */

static int inotify_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
			struct ferry_error *err)
{
	FerryWatchEntry *e = record;
	struct inotify_nameless *n = arena_new(&r->plan->arena, struct inotify_nameless);
	if (!n)
		return error_memory(err);
	if (!plan_file(r->plan, e->file_id))
		return image_bad(in, err, "a watch names file id %u, which is not in files.img", e->file_id);
	*n = (struct inotify_nameless){.next = r->plan->kind_data[KIND_inotify], .entry = e};
	r->plan->kind_data[KIND_inotify] = n;
	return 0;
}

static int inotify_read(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_FERRY_WATCH, 0, &ferry_watch_entry__descriptor, inotify_take, NULL, err);
}

static struct plan_file *inotify_nameless_file(struct opener *o, uint32_t id, uint32_t wd)
{
	for (const struct inotify_nameless *n = o->plan->kind_data[KIND_inotify]; n; n = n->next)
		if (n->entry->id == id && n->entry->wd == wd)
			return plan_file(o->plan, n->entry->file_id);
	return NULL;
}

static int inotify_compare(const void *a, const void *b)
{
	const struct inotify_target *x = a, *y = b;
	return x->wd < y->wd ? -1 : x->wd > y->wd;
}

/* Everything that is watched is opened here, so that what is missing shows before tasks exist. */
static int inotify_open_targets(struct opener *o, struct plan_file *file, struct inotify_plan *p,
				struct ferry_error *err)
{
	const InotifyFileEntry *ify = file->entry->ify;
	for (size_t i = 0; i < ify->n_wd; i++) {
		const InotifyWdEntry *wd = ify->wd[i];
		struct inotify_target *t = &p->targets[i];
		bool nameless = inotify_nameless_file(o, ify->id, wd->wd);
		if (wd->wd > INT_MAX - 1)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "inotify %u has a watch of number %u", ify->id, wd->wd);
		t->wd = (int)wd->wd;
		t->mask = wd->mask & (INOTIFY_MASK | (uint32_t)IN_ONESHOT);
		t->fd = nameless ? -1 : watched_open(o, wd->f_handle, wd->i_ino, wd->s_dev, err);
		if (t->fd < 0 && !nameless)
			return t->fd;
	}
	p->n = ify->n_wd;
	qsort(p->targets, p->n, sizeof(*p->targets), inotify_compare);
	return 0;
}

static int inotify_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const InotifyFileEntry *ify = file->entry->ify;
	if (!ify)
		return fdcommon_no_record(file, err);
	struct inotify_plan *p = arena_new(&o->plan->arena, struct inotify_plan);
	if (p)
		p->targets = arena_array(&o->plan->arena, struct inotify_target, ify->n_wd + 1);
	if (!p || !p->targets)
		return error_memory(err);
	int r = inotify_open_targets(o, file, p, err);
	if (r < 0)
		return r;
	int fd = inotify_init1(IN_CLOEXEC | (ify->flags & O_NONBLOCK ? IN_NONBLOCK : 0));
	if (fd < 0)
		return error_errno(err, errno == EMFILE ? FERRY_ERROR_LIMIT : FERRY_ERROR_SYSTEM, errno,
				   "creating an inotify instance");
	file->data = p;
	*ret_fd = fd;
	return 0;
}

static int inotify_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const InotifyFileEntry *ify = file->entry->ify;
	return fdcommon_settle_once(s, file) ? fdcommon_settle(ify->fown, ify->flags, fd, err) : 0;
}

static int inotify_add(struct opener *o, const struct plan_file *file, const struct inotify_target *t,
		       struct ferry_error *err)
{
	char path[64];
	const struct plan_file *nameless =
		t->fd < 0 ? inotify_nameless_file(o, file->entry->ify->id, (uint32_t)t->wd) : NULL;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", nameless ? nameless->fd : t->fd);
	int wd = ioctl(file->fd, INOTIFY_IOC_SETNEXTWD, t->wd) < 0
			 ? -1
			 : inotify_add_watch(file->fd, path, t->mask);
	if (wd == t->wd)
		return 0;
	return error_errno(err, errno == ENOSPC ? FERRY_ERROR_LIMIT : FERRY_ERROR_RESTORE_STEP,
			   wd < 0 ? errno : EEXIST, "adding watch %d of inotify %u", t->wd, file->entry->id);
}

/* The files that the tasks have are open; nothing touches them any more. */
static int inotify_ready(struct opener *o, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < o->plan->n_files && r >= 0; i++) {
		const struct plan_file *file = &o->plan->files[i];
		const struct inotify_plan *p = file->kind == &kind_inotify ? file->data : NULL;
		for (size_t n = 0; p && n < p->n && r >= 0; n++)
			r = inotify_add(o, file, &p->targets[n], err);
		if (p && p->n && r >= 0 &&
		    ioctl(file->fd, INOTIFY_IOC_SETNEXTWD, p->targets[p->n - 1].wd + 1) < 0)
			r = error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
					"setting the next watch of inotify %u", file->entry->id);
	}
	return r;
}

const struct kind_ops kind_inotify = {
	.name = "inotify",
	.what = "inotify instances with their watches",
	.fd_type = FD_TYPES__INOTIFY,
	.image_file = -1,
	.owns = inotify_owns,
	.check = inotify_check,
	.collect = inotify_collect,
	.collect_end = inotify_collect_end,
	.dump_end = inotify_dump_end,
	.read = inotify_read,
	.restore = inotify_restore,
	.settle = inotify_settle,
	.ready = inotify_ready,
};
