/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns epoll instances: what they watch, for which events, with which 64 bits of the task's own. The kernel
 * knows an entry by the description and the number that it was added with; a task may close or reuse the
 * number while the entry lives on. Such an entry is recorded with the number under which its task has the
 * description now, and ferry-epoll.img keeps the number that it was added with and the description, which may
 * be one that only another task holds.
 *
 * Entries are added in the task itself: an entry for a signalfd belongs to the signals of the task that adds
 * it. An edge-triggered entry reports an edge that was reported before once more, as after any EPOLL_CTL_MOD.
 *
 * Kernel interface: /proc/PID/fdinfo tfd lines (3.8, with inode and device 4.13); kcmp(2) KCMP_EPOLL_TFD
 * (4.13); epoll_ctl(2).
 * Does not handle: a spent one-shot entry on a description that is ready for nothing, which comes back spent
 * for all but EPOLLERR and EPOLLHUP; the busy poll parameters of EPIOCSPARAMS (6.9).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/records.h"

#define EPOLL_PRIVATE ((uint32_t)(EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE))
#define EPOLL_ANY                                                                                           \
	((uint32_t)(EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDNORM | EPOLLRDBAND | EPOLLWRNORM | EPOLLWRBAND | \
		    EPOLLMSG | EPOLLRDHUP))

/* The number of an entry whose description its task does not have: nothing can be open under it. */
#define EPOLL_NO_NUMBER ((uint32_t)INT_MAX)

enum { EPOLL_KERNEL_MINOR_BITS = 20 };

/* Of the image: the entry is added with number fd, for which number from stands in. */
struct epoll_watch {
	uint32_t index;
	int fd;
	uint32_t file_id;
	int from;
};

struct epoll_plan {
	struct epoll_watch *watches; /* ascending by index */
	size_t n;
};

static bool epoll_owns(const struct fd_view *view)
{
	return !strcmp(view->link, "anon_inode:[eventpoll]");
}

/* -------------------------------------------------------------------------- collect */

static uint32_t epoll_kernel_dev(uint64_t dev)
{
	return major(dev) << EPOLL_KERNEL_MINOR_BITS | minor(dev);
}

static EventpollTfdEntry *epoll_collect_entry(struct arena *a, const struct proc_epoll_entry *e)
{
	EventpollTfdEntry *entry = record_new(a, EventpollTfdEntry, eventpoll_tfd_entry);
	if (!entry)
		return NULL;
	entry->tfd = (uint32_t)e->fd;
	entry->events = e->events;
	entry->data = e->data;
	if (e->has_file) {
		record_set(entry, dev, epoll_kernel_dev(e->dev));
		record_set(entry, inode, e->ino);
		record_set(entry, pos, (uint64_t)e->pos);
	}
	return entry;
}

static int epoll_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			 struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	EventpollFileEntry *epfd = record_new(a, EventpollFileEntry, eventpoll_file_entry);
	size_t n = view->info->epoll.n;
	if (epfd)
		epfd->tfd = arena_array(a, EventpollTfdEntry *, n + 1);
	if (!epfd || !epfd->tfd)
		return error_memory(err);
	epfd->id = file->entry->id;
	epfd->flags = fdcommon_flags(view);
	for (size_t i = 0; i < n; i++) {
		epfd->tfd[i] = epoll_collect_entry(a, &view->info->epoll.v[i]);
		if (!epfd->tfd[i])
			return error_memory(err);
	}
	epfd->n_tfd = n;
	file->entry->epfd = epfd;
	return fdcommon_owner(c, view, &epfd->fown, err);
}

/* ----------------------------------------------------------------------------- dump */

/* An entry that is looked at. Numbers in the record stay the kernel's until all entries were. */
struct epoll_look {
	const struct dump *dump;
	const struct snap_file *epoll;
	const struct snap_task *task; /* that has it */
	size_t index;
	const EventpollTfdEntry *entry;
};

static struct kern_kcmp_epoll_slot epoll_slot(const struct epoll_look *look)
{
	const EventpollFileEntry *epfd = look->epoll->entry->epfd;
	struct kern_kcmp_epoll_slot slot = {.efd = (uint32_t)look->epoll->fd, .tfd = look->entry->tfd};
	for (size_t i = 0; i < look->index; i++)
		slot.toff += epfd->tfd[i]->tfd == slot.tfd;
	return slot;
}

/*
 * Whether an entry watches what number fd of a task refers to, which is file. A socket has one description,
 * so its inode is enough; else the kernel is asked, which takes longer the more entries there are. 1, 0, or
 * -errno.
 */
static int epoll_watches(const struct epoll_look *look, const struct snap_file *file, pid_t pid, int fd,
			 struct ferry_error *err)
{
	const EventpollTfdEntry *entry = look->entry;
	if (entry->has_inode && (entry->inode != file->ino || entry->dev != epoll_kernel_dev(file->dev)))
		return 0;
	if (entry->has_inode && S_ISSOCK(file->mode))
		return 1;
	struct kern_kcmp_epoll_slot slot = epoll_slot(look);
	int r = sys_kcmp(pid, look->epoll->look, KERN_KCMP_EPOLL_TFD, (unsigned long)fd,
			 (unsigned long)(uintptr_t)&slot);
	if (r < 0) {
		error_errno(err, FERRY_ERROR_KERNEL_FEATURE, -r,
			    "fd %d of pid %d: finding out what it watches (kcmp)", look->epoll->fd,
			    look->epoll->pid);
		error_hint(err, "the kernel needs CONFIG_KCMP and has to be 4.13 or later");
	}
	return r < 0 ? r : r == 0;
}

static int epoll_compare_fds(const void *a, const void *b)
{
	const struct snap_fd *x = a, *y = b;
	return x->fd < y->fd ? -1 : x->fd > y->fd;
}

static int epoll_number_is_good(const struct epoll_look *look, struct ferry_error *err)
{
	const struct snap_task *t = look->task;
	struct snap_fd key = {.fd = (int)look->entry->tfd};
	const struct snap_fd *fd = bsearch(&key, t->fds.v, t->fds.n, sizeof(key), epoll_compare_fds);
	return fd ? epoll_watches(look, &look->dump->snap->files.v[fd->file], t->look, fd->fd, err) : 0;
}

/* The number under which the task has the description now; EPOLL_NO_NUMBER when it has none. */
static int epoll_find_number(const struct epoll_look *look, uint32_t *ret_fd, struct ferry_error *err)
{
	const struct snap_task *t = look->task;
	*ret_fd = EPOLL_NO_NUMBER;
	vec_foreach(fd, &t->fds) {
		int r = epoll_watches(look, &look->dump->snap->files.v[fd->file], t->look, fd->fd, err);
		if (r < 0)
			return r;
		if (!r)
			continue;
		*ret_fd = (uint32_t)fd->fd;
		break;
	}
	return 0;
}

/* The description of the tree that an entry watches. */
static int epoll_find_file(const struct epoll_look *look, uint32_t *ret_id, struct ferry_error *err)
{
	vec_foreach(file, &look->dump->snap->files) {
		int r = file->fd < 0 ? 0 : epoll_watches(look, file, file->look, file->fd, err);
		if (r < 0)
			return r;
		if (!r)
			continue;
		*ret_id = file->entry->id;
		return 0;
	}
	error_set(
		err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
		"fd %d of pid %d: the epoll instance watches what was added as fd %u and no task of the tree has open",
		look->epoll->fd, look->epoll->pid, look->entry->tfd);
	error_hint(err, "a process outside of the tree holds it, or a socket in which it waits");
	return -ENOTSUP;
}

/* An entry whose number says nothing enters extra; *ret_now is the number for the common record. */
static int epoll_look_at(const struct epoll_look *look, FerryEpollEntry *extra, uint32_t *ret_now,
			 struct ferry_error *err)
{
	*ret_now = look->entry->tfd;
	int r = epoll_number_is_good(look, err);
	if (r)
		return r < 0 ? r : 0;
	FerryEpollWatch *watch = record_new(&look->dump->snap->arena, FerryEpollWatch, ferry_epoll_watch);
	if (!watch)
		return error_memory(err);
	watch->index = (uint32_t)look->index;
	watch->fd = look->entry->tfd;
	r = epoll_find_number(look, ret_now, err);
	if (r >= 0)
		r = epoll_find_file(look, &watch->file_id, err);
	extra->watches[extra->n_watches++] = watch;
	return r;
}

static int epoll_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	EventpollFileEntry *epfd = file->entry->epfd;
	FerryEpollEntry extra = FERRY_EPOLL_ENTRY__INIT;
	struct image_writer *w;
	extra.id = epfd->id;
	extra.watches = arena_array(&d->snap->arena, FerryEpollWatch *, epfd->n_tfd + 1);
	uint32_t *now = arena_array(&d->snap->arena, uint32_t, epfd->n_tfd + 1);
	if (!extra.watches || !now)
		return error_memory(err);
	struct epoll_look look = {.dump = d, .epoll = file, .task = snapshot_task(d->snap, file->pid)};
	int r = 0;
	for (size_t i = 0; i < epfd->n_tfd && r >= 0; i++) {
		look.index = i;
		look.entry = epfd->tfd[i];
		r = epoll_look_at(&look, &extra, &now[i], err);
	}
	for (size_t i = 0; i < epfd->n_tfd && r >= 0; i++)
		epfd->tfd[i]->tfd = now[i];
	if (r < 0 || !extra.n_watches)
		return r;
	r = fdcommon_writer(d, IMAGE_FERRY_EPOLL, &w, err);
	return r < 0 ? r : image_put(w, &extra.base, err);
}

/* -------------------------------------------------------------------------- restore */

static int epoll_watch_order(const void *a, const void *b)
{
	const struct epoll_watch *x = a, *y = b;
	return x->index < y->index ? -1 : x->index > y->index;
}

static int epoll_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
		      struct ferry_error *err)
{
	const FerryEpollEntry *extra = record;
	struct plan_file *file = plan_file(r->plan, extra->id);
	const EventpollFileEntry *epfd = file && file->kind == &kind_epoll ? file->entry->epfd : NULL;
	if (!epfd || file->data)
		return image_bad(in, err, "file id %u is no epoll instance, or appears twice", extra->id);
	struct epoll_plan *plan = arena_new(&r->plan->arena, struct epoll_plan);
	if (plan)
		plan->watches = arena_array(&r->plan->arena, struct epoll_watch, extra->n_watches + 1);
	if (!plan || !plan->watches)
		return error_memory(err);
	for (size_t i = 0; i < extra->n_watches; i++) {
		const FerryEpollWatch *w = extra->watches[i];
		if (w->index >= epfd->n_tfd || w->fd > INT_MAX || !plan_file(r->plan, w->file_id))
			return image_bad(in, err, "file id %u: entry %u of the epoll instance makes no sense",
					 extra->id, w->index);
		plan->watches[plan->n++] = (struct epoll_watch){
			.index = w->index, .fd = (int)w->fd, .file_id = w->file_id, .from = -1};
	}
	qsort(plan->watches, plan->n, sizeof(*plan->watches), epoll_watch_order);
	file->data = plan;
	return 0;
}

static const struct epoll_watch *epoll_watch(const struct plan_file *file, size_t index)
{
	const struct epoll_plan *plan = file->data;
	struct epoll_watch key = {.index = (uint32_t)index};
	return plan && plan->n ? bsearch(&key, plan->watches, plan->n, sizeof(key), epoll_watch_order) : NULL;
}

static int epoll_compare_plan_fds(const void *a, const void *b)
{
	const struct plan_fd *x = a, *y = b;
	return x->fd < y->fd ? -1 : x->fd > y->fd;
}

/* The task that will add the entries has what they watch. */
static int epoll_verify(const struct plan_file *file, struct ferry_error *err)
{
	const EventpollFileEntry *epfd = file->entry->epfd;
	const struct plan_task *owner = file->owner;
	if (!epfd)
		return fdcommon_no_record(file, err);
	for (size_t i = 0; owner && i < epfd->n_tfd; i++) {
		struct plan_fd key = {.fd = (int)epfd->tfd[i]->tfd};
		if (epoll_watch(file, i) ||
		    bsearch(&key, owner->fds.v, owner->fds.n, sizeof(key), epoll_compare_plan_fds))
			continue;
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "file id %u: the epoll instance watches fd %u, which pid %d does not have",
				 file->entry->id, epfd->tfd[i]->tfd, owner->pid);
	}
	return 0;
}

static int epoll_read(struct reader *r, struct ferry_error *err)
{
	int ret =
		records_each(r, IMAGE_FERRY_EPOLL, 0, &ferry_epoll_entry__descriptor, epoll_take, NULL, err);
	for (size_t i = 0; i < r->plan->n_files && ret >= 0; i++)
		if (r->plan->files[i].kind == &kind_epoll)
			ret = epoll_verify(&r->plan->files[i], err);
	return ret;
}

/* The descriptions of stale entries ride along to the task that will add them. */
static int epoll_plan_temps(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	struct epoll_plan *plan = file->data;
	struct plan_task *owner = file->owner ? plan_task(o->plan, file->owner->pid) : NULL;
	for (size_t i = 0; plan && owner && i < plan->n; i++) {
		struct epoll_watch *w = &plan->watches[i];
		w->from = plan_temp_file(owner, plan_file(o->plan, w->file_id), -1);
		if (w->from < 0)
			return error_memory(err);
	}
	return 0;
}

static int epoll_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	if (!file->entry->epfd)
		return fdcommon_no_record(file, err);
	int r = epoll_plan_temps(o, file, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating an epoll instance");
	r = fdcommon_set_flags(fd, file->entry->epfd->flags, err);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

/* -------------------------------------------------------------------------- in the task */

/* Spent: it was one-shot and reported. Adding it would arm it for errors at least, so it has to report once more. */
static int epoll_add_spent(int epoll, int fd, const EventpollTfdEntry *entry)
{
	struct epoll_event event = {.events = entry->events | EPOLL_ANY, .data.u64 = entry->data}, got;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	/* Entries added so far are spent and report nothing, so an event can only be of this one. */
	if (epoll_wait(epoll, &got, 1, 0) > 0)
		return 0;
	event.events = entry->events;
	return epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) < 0 ? -errno : 0;
}

static bool epoll_is_spent(const EventpollTfdEntry *entry)
{
	return entry->events & EPOLLONESHOT && !(entry->events & ~EPOLL_PRIVATE);
}

static int epoll_add(int epoll, int fd, const EventpollTfdEntry *entry)
{
	if (epoll_is_spent(entry))
		return epoll_add_spent(epoll, fd, entry);
	struct epoll_event event = {.events = entry->events, .data.u64 = entry->data};
	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Let number w->fd be the description for a moment; what else is open under it comes back. */
static int epoll_add_stale(int epoll, const struct epoll_watch *w, const EventpollTfdEntry *entry)
{
	int flags = fcntl(w->fd, F_GETFD);
	_cleanup_close_ int saved = flags < 0 ? -1 : fcntl(w->fd, F_DUPFD_CLOEXEC, 0);
	if (flags >= 0 && saved < 0)
		return -errno;
	if (dup3(w->from, w->fd, O_CLOEXEC) < 0)
		return -errno;
	int r = epoll_add(epoll, w->fd, entry);
	if (saved < 0)
		close(w->fd);
	else if (dup3(saved, w->fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0 && r >= 0)
		r = -errno;
	return r;
}

static int epoll_settle_entry(const struct plan_file *file, size_t index, int fd, struct ferry_error *err)
{
	const EventpollTfdEntry *entry = file->entry->epfd->tfd[index];
	const struct epoll_watch *stale = epoll_watch(file, index);
	int r = stale ? epoll_add_stale(fd, stale, entry) : epoll_add(fd, (int)entry->tfd, entry);
	if (r == -EBADF)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "fd %d: the epoll instance watches fd %u, which is not open", fd,
				 entry->tfd);
	if (r == -ENOSPC) {
		error_errno(err, FERRY_ERROR_LIMIT, -r, "fd %d: watching fd %u", fd, entry->tfd);
		error_hint(err, "raise fs.epoll.max_user_watches (sysctl)");
		return r;
	}
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "fd %d: watching fd %u", fd, entry->tfd)
		     : 0;
}

static int epoll_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const EventpollFileEntry *epfd = file->entry->epfd;
	if (!fdcommon_settle_once(s, file))
		return 0;
	int r = 0;
	for (int spent = 1; spent >= 0; spent--)
		for (size_t i = 0; i < epfd->n_tfd && r >= 0; i++)
			if (epoll_is_spent(epfd->tfd[i]) == spent)
				r = epoll_settle_entry(file, i, fd, err);
	return r < 0 ? r : fdcommon_settle(epfd->fown, epfd->flags, fd, err);
}

const struct kind_ops kind_epoll = {
	.name = "epoll",
	.what = "epoll instances",
	.fd_type = FD_TYPES__EVENTPOLL,
	.image_file = IMAGE_FERRY_EPOLL,
	.owns = epoll_owns,
	.collect = epoll_collect,
	.dump = epoll_dump,
	.read = epoll_read,
	.restore = epoll_restore,
	.settle = epoll_settle,
};
