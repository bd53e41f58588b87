/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns fanotify groups: class and flags, marks on inodes, mounts and file systems with their masks and what they ignore. Marks are set
 * again when everything else stands, so that the restore itself causes no events.
 *
 * Kernel interface: /proc/PID/fdinfo fanotify lines (3.8), fanotify_init(2), fanotify_mark(2).
 * Does not handle: events that wait to be read, which no interface puts back: refused (dropped under the name criu); marks for
 * permission events, refused: ferry's own look at a file would wait for the frozen group; marks on mount namespaces (6.14),
 * refused; whether the group was made by a user without rights (FANOTIFY_UNPRIV), which the kernel does not show.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/fsnotify.pb-c.h"
#include "kernel/syscalls.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/watched.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

#ifndef FAN_MARK_EVICTABLE
#define FAN_MARK_EVICTABLE 0x200
#endif
#ifndef FAN_MARK_IGNORE
#define FAN_MARK_IGNORE 0x400
#endif
#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif

enum {
	FANOTIFY_PERMISSIONS = FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM | FAN_PRE_ACCESS,
	FANOTIFY_IGNORES = FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_IGNORE,
	/* Bits of a mask that say where events count and are no events. */
	FANOTIFY_WHERE = FAN_ONDIR | FAN_EVENT_ON_CHILD,
};

/* A mark on a file system, which the common format has no type for. */
struct fanotify_fs {
	struct fanotify_fs *next;
	FerryMarkEntry *entry;
};

/* A mark that is to be set: through a descriptor, whatever its type. */
struct fanotify_target {
	int fd;
	unsigned type; /* FAN_MARK_INODE, FAN_MARK_MOUNT, FAN_MARK_FILESYSTEM */
	unsigned mflags;
	uint64_t mask, ignored;
};

struct fanotify_plan {
	size_t n;
	struct fanotify_target *targets;
};

static bool fanotify_owns(const struct fd_view *view)
{
	return !strcmp(view->link, "anon_inode:[fanotify]");
}

static struct watched fanotify_watched(const struct fd_view *view, const struct proc_fanotify_mark *mark,
				       const struct kind_options *options, const char *who)
{
	return (struct watched){.who = who,
				.pid = view->look,
				.ino = mark->ino,
				.dev = mark->dev,
				.handle = &mark->handle,
				.peers = view->peers,
				.home = options->home_root};
}

/* A path on the mount with this id, or on a mount of this file system (id -1); in the arena, NULL when nothing leads there. */
static char *fanotify_mount(int64_t id, uint64_t dev, struct arena *a, uint64_t *ret_dev)
{
	struct proc_mounts mounts = {0};
	char *found = NULL;
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	if (self < 0 || proc_read_mounts(self, &mounts, NULL) < 0)
		return NULL;
	for (size_t i = 0; i < mounts.v.n && !found; i++) {
		const struct proc_mount *m = &mounts.v.v[i];
		struct kern_statx st;
		if (id >= 0 ? m->id != id : m->dev != dev)
			continue;
		if (sys_statx(AT_FDCWD, m->point, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &st) < 0 ||
		    (int32_t)st.mnt_id != m->id)
			continue; /* another mount hides it */
		found = arena_string(a, m->point);
		*ret_dev = m->dev;
	}
	proc_mounts_release(&mounts);
	return found;
}

static int fanotify_check_mark(const struct fd_view *view, const struct proc_fanotify_mark *mark,
			       const struct kind_options *options, struct ferry_error *err)
{
	char who[64], *path;
	uint64_t dev;
	fd_view_name(view, who, sizeof(who));
	struct watched w = fanotify_watched(view, mark, options, who);
	if ((mark->mask | mark->ignored_mask) & FANOTIFY_PERMISSIONS) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: a fanotify group that is asked for permission", who);
		error_hint(err, "everybody who opens such a file waits for the group, ferry too");
		return -ENOTSUP;
	}
	if (mark->target == PROC_FANOTIFY_MNTNS)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "%s: a fanotify group that watches a mount namespace", who);
	if (mark->target == PROC_FANOTIFY_INODE) {
		int r = watched_find(&w, view->arena, &path, err);
		return r ? MIN(r, 0)
			 : error_set(err, FERRY_ERROR_DELETED_FILE, ENOENT, "%s: it watches a deleted file",
				     who);
	}
	int64_t id = mark->target == PROC_FANOTIFY_MOUNT ? (int64_t)mark->mnt_id : -1;
	if (fanotify_mount(id, mark->dev, view->arena, &dev))
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOENT, "%s: it watches a mount that other mounts hide",
		  who);
	error_hint(err, "unmount what hides it, or dump from the mount namespace of the program");
	return -ENOENT;
}

static int fanotify_check(const struct fd_view *view, const struct kind_options *options,
			  struct ferry_error *err)
{
	int r = watched_check_queue(view, options, false, err);
	vec_foreach(mark, &view->info->fanotify_marks) {
		if (r >= 0)
			r = fanotify_check_mark(view, mark, options, err);
	}
	return r;
}

/* ------------------------------------------------------------------------- collect */

static int fanotify_collect_fs(struct collect *c, uint32_t id, const struct proc_fanotify_mark *mark)
{
	uint64_t dev;
	struct arena *a = &c->snap->arena;
	struct fanotify_fs *fs = arena_new(a, struct fanotify_fs);
	FerryMarkEntry *e = record_new(a, FerryMarkEntry, ferry_mark_entry);
	if (!fs || !e)
		return -ENOMEM;
	e->id = id;
	e->mflags = mark->mflags;
	e->mask = mark->mask;
	e->ignored_mask = mark->ignored_mask;
	e->path = fanotify_mount(-1, mark->dev, a, &dev);
	*fs = (struct fanotify_fs){.next = c->kind_data[KIND_fanotify], .entry = e};
	c->kind_data[KIND_fanotify] = fs;
	return e->path ? 0 : -ENOMEM;
}

static int fanotify_inode_mark(struct collect *c, const struct fd_view *view,
			       const struct proc_fanotify_mark *mark, FanotifyMarkEntry *e,
			       struct ferry_error *err)
{
	char who[64], *path = NULL;
	fd_view_name(view, who, sizeof(who));
	struct watched w = fanotify_watched(view, mark, c->options, who);
	int r = watched_find(&w, &c->snap->arena, &path, err);
	if (r < 0)
		return r;
	e->type = MARK_TYPE__INODE;
	e->s_dev = kern_dev(mark->dev);
	e->ie = record_new(&c->snap->arena, FanotifyInodeMarkEntry, fanotify_inode_mark_entry);
	if (!e->ie)
		return error_memory(err);
	e->ie->i_ino = mark->ino;
	e->ie->f_handle = watched_record(&c->snap->arena, &mark->handle, path);
	return e->ie->f_handle ? 0 : error_memory(err);
}

static int fanotify_collect_mark(struct collect *c, const struct fd_view *view,
				 const struct proc_fanotify_mark *mark, FanotifyFileEntry *ffy,
				 struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	int r = fanotify_check_mark(view, mark, c->options, err);
	if (r < 0)
		return r;
	if (mark->target == PROC_FANOTIFY_SB)
		return fanotify_collect_fs(c, ffy->id, mark) < 0 ? error_memory(err) : 0;
	FanotifyMarkEntry *e = record_new(a, FanotifyMarkEntry, fanotify_mark_entry);
	if (!e)
		return error_memory(err);
	e->mflags = mark->mflags;
	e->mask = (uint32_t)mark->mask;
	e->ignored_mask = (uint32_t)mark->ignored_mask;
	ffy->mark[ffy->n_mark++] = e;
	if (mark->target == PROC_FANOTIFY_INODE)
		return fanotify_inode_mark(c, view, mark, e, err);
	uint64_t dev = 0;
	e->type = MARK_TYPE__MOUNT;
	e->me = record_new(a, FanotifyMountMarkEntry, fanotify_mount_mark_entry);
	if (!e->me)
		return error_memory(err);
	e->me->mnt_id = (uint32_t)mark->mnt_id;
	e->me->path = fanotify_mount((int64_t)mark->mnt_id, 0, a, &dev);
	e->s_dev = kern_dev(dev);
	return e->me->path ? 0 : error_memory(err);
}

static int fanotify_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			    struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	FanotifyFileEntry *ffy = record_new(a, FanotifyFileEntry, fanotify_file_entry);
	if (!ffy)
		return error_memory(err);
	int r = watched_check_queue(view, c->options, true, err);
	if (r < 0)
		return r;
	ffy->id = file->entry->id;
	ffy->flags = fdcommon_flags(view);
	ffy->faflags = view->info->fanotify.flags;
	ffy->evflags = view->info->fanotify.event_flags;
	ffy->mark = arena_array(a, FanotifyMarkEntry *, view->info->fanotify_marks.n + 1);
	if (!ffy->mark)
		return error_memory(err);
	vec_foreach(mark, &view->info->fanotify_marks) {
		if (r >= 0)
			r = fanotify_collect_mark(c, view, mark, ffy, err);
	}
	if (r >= 0)
		r = fdcommon_owner(c, view, &ffy->fown, err);
	file->entry->ffy = ffy;
	return r;
}

static int fanotify_dump_end(struct dump *d, struct ferry_error *err)
{
	struct image_writer *w;
	int r = 0;
	for (const struct fanotify_fs *fs = d->kind_data[KIND_fanotify]; fs && r >= 0; fs = fs->next) {
		r = fdcommon_writer(d, IMAGE_FERRY_MARK, &w, err);
		if (r >= 0)
			r = image_put(w, &fs->entry->base, err);
	}
	return r;
}

/* ------------------------------------------------------------------------- restore */

static int fanotify_take(struct reader *r, struct image_reader *in unused, void *record, void *context unused,
			 struct ferry_error *err)
{
	struct fanotify_fs *fs = arena_new(&r->plan->arena, struct fanotify_fs);
	if (!fs)
		return error_memory(err);
	*fs = (struct fanotify_fs){.next = r->plan->kind_data[KIND_fanotify], .entry = record};
	r->plan->kind_data[KIND_fanotify] = fs;
	return 0;
}

static int fanotify_read(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_FERRY_MARK, 0, &ferry_mark_entry__descriptor, fanotify_take, NULL, err);
}

static int fanotify_open_path(struct opener *o, const char *path, struct ferry_error *err)
{
	int fd = plan_keep_source(o->plan, path ? fd_open(AT_FDCWD, path, O_PATH, 0) : -ENOENT);
	return fd >= 0 ? fd
		       : error_errno(err, FERRY_ERROR_FILES_CHANGED, -fd, "'%s', which is watched",
				     path ? path : "a mount");
}

static int fanotify_target(struct opener *o, const FanotifyMarkEntry *e, struct fanotify_target *t,
			   struct ferry_error *err)
{
	t->mflags = e->mflags;
	t->mask = e->mask;
	t->ignored = e->ignored_mask;
	t->type = e->type == MARK_TYPE__MOUNT ? FAN_MARK_MOUNT : FAN_MARK_INODE;
	t->fd = -1;
	if (e->type == MARK_TYPE__MOUNT)
		t->fd = fanotify_open_path(o, e->me ? e->me->path : NULL, err);
	else if (e->ie)
		t->fd = watched_open(o, e->ie->f_handle, e->ie->i_ino, e->s_dev, err);
	else
		t->fd = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "a mark that says not of what");
	return MIN(t->fd, 0);
}

static int fanotify_open_targets(struct opener *o, const FanotifyFileEntry *ffy, struct fanotify_plan *p,
				 struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < ffy->n_mark && r >= 0; i++)
		r = fanotify_target(o, ffy->mark[i], &p->targets[p->n++], err);
	for (const struct fanotify_fs *fs = o->plan->kind_data[KIND_fanotify]; fs && r >= 0; fs = fs->next) {
		struct fanotify_target *t = &p->targets[p->n];
		if (fs->entry->id != ffy->id)
			continue;
		*t = (struct fanotify_target){.fd = fanotify_open_path(o, fs->entry->path, err),
					      .type = FAN_MARK_FILESYSTEM,
					      .mflags = fs->entry->mflags,
					      .mask = fs->entry->mask,
					      .ignored = fs->entry->ignored_mask};
		r = MIN(t->fd, 0);
		p->n++;
	}
	return r;
}

static int fanotify_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const FanotifyFileEntry *ffy = file->entry->ffy;
	if (!ffy)
		return fdcommon_no_record(file, err);
	size_t n = ffy->n_mark;
	for (const struct fanotify_fs *fs = o->plan->kind_data[KIND_fanotify]; fs; fs = fs->next)
		n += fs->entry->id == ffy->id;
	struct fanotify_plan *p = arena_new(&o->plan->arena, struct fanotify_plan);
	if (p)
		p->targets = arena_array(&o->plan->arena, struct fanotify_target, n + 1);
	if (!p || !p->targets)
		return error_memory(err);
	int r = fanotify_open_targets(o, ffy, p, err);
	if (r < 0)
		return r;
	/* It shows whether it was made with FAN_CLOEXEC. */
	_cleanup_close_ int fd = fanotify_init(ffy->faflags, ffy->evflags);
	if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno,
				   "creating a fanotify group (flags 0x%x, 0x%x)", ffy->faflags,
				   ffy->evflags);
	file->data = p;
	r = fdcommon_set_flags(fd, ffy->flags, err);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

static int fanotify_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const FanotifyFileEntry *ffy = file->entry->ffy;
	return fdcommon_settle_once(s, file) ? fdcommon_settle(ffy->fown, ffy->flags, fd, err) : 0;
}

static int fanotify_add(int group, const struct fanotify_target *t, struct ferry_error *err)
{
	char path[64];
	unsigned add = FAN_MARK_ADD | t->type, ignore = t->mflags & FANOTIFY_IGNORES;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->fd);
	int r = !t->mask ? 0
			 : fanotify_mark(group, add | (t->mflags & FAN_MARK_EVICTABLE), t->mask, AT_FDCWD,
					 path);
	uint64_t ignored = t->mflags & FAN_MARK_IGNORE ? t->ignored : t->ignored & ~(uint64_t)FANOTIFY_WHERE;
	if (!(ignore & FAN_MARK_IGNORE))
		ignore |= FAN_MARK_IGNORED_MASK;
	if (r >= 0 && ignored)
		r = fanotify_mark(group, add | ignore | (t->mflags & FAN_MARK_EVICTABLE), ignored, AT_FDCWD,
				  path);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "setting a mark of a fanotify group")
		     : 0;
}

static int fanotify_ready(struct opener *o, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < o->plan->n_files && r >= 0; i++) {
		const struct plan_file *file = &o->plan->files[i];
		const struct fanotify_plan *p = file->kind == &kind_fanotify ? file->data : NULL;
		/* The kernel shows the latest first. */
		for (size_t n = p ? p->n : 0; n-- > 0 && r >= 0;)
			r = fanotify_add(file->fd, &p->targets[n], err);
	}
	return r;
}

const struct kind_ops kind_fanotify = {
	.name = "fanotify",
	.what = "fanotify groups with their marks",
	.fd_type = FD_TYPES__FANOTIFY,
	.image_file = -1,
	.owns = fanotify_owns,
	.check = fanotify_check,
	.collect = fanotify_collect,
	.dump_end = fanotify_dump_end,
	.read = fanotify_read,
	.restore = fanotify_restore,
	.settle = fanotify_settle,
	.ready = fanotify_ready,
};
