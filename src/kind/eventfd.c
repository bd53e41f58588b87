/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns eventfds: a 64-bit count, whether reading takes one from it (EFD_SEMAPHORE) or all of it, flags and
 * owner. The common record has no field for EFD_SEMAPHORE, so ferry-eventfd.img names those that have it.
 *
 * Kernel interface: /proc/PID/fdinfo eventfd-count (3.8), eventfd-semaphore (6.5; before it every eventfd is
 * taken for a plain one), eventfd2(2).
 * Does not handle: what io_uring, AIO, KVM or VFIO signal through it; they are refused where they appear.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/records.h"

static bool eventfd_owns(const struct fd_view *view)
{
	return !strcmp(view->link, "anon_inode:[eventfd]");
}

static int eventfd_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			   struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	EventfdFileEntry *efd = record_new(a, EventfdFileEntry, eventfd_file_entry);
	if (!efd)
		return error_memory(err);
	if (view->info->kind != PROC_FDINFO_EVENTFD) {
		char who[64];
		fd_view_name(view, who, sizeof(who));
		return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP,
				 "%s: the kernel does not show the eventfd's count", who);
	}
	efd->id = file->entry->id;
	efd->flags = fdcommon_flags(view);
	efd->counter = view->info->eventfd.count;
	int r = fdcommon_owner(c, view, &efd->fown, err);
	if (r < 0)
		return r;
	file->entry->efd = efd;
	if (view->info->eventfd.semaphore < 0)
		log_write(
			c->log, LOG_DEBUG, "collect", "eventfd", view->pid,
			"fd %d: this kernel does not tell semaphores from plain eventfds, taking it for a plain one",
			view->fd);
	if (view->info->eventfd.semaphore <= 0)
		return 0;
	FerryEventfdEntry *extra = record_new(a, FerryEventfdEntry, ferry_eventfd_entry);
	if (!extra)
		return error_memory(err);
	extra->id = efd->id;
	extra->semaphore = 1;
	file->data = extra;
	return 0;
}

static int eventfd_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	FerryEventfdEntry *extra = file->data;
	struct image_writer *w;
	int r = extra ? fdcommon_writer(d, IMAGE_FERRY_EVENTFD, &w, err) : 0;
	return extra && r >= 0 ? image_put(w, &extra->base, err) : r;
}

static int eventfd_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
			struct ferry_error *err)
{
	const FerryEventfdEntry *extra = record;
	struct plan_file *file = plan_file(r->plan, extra->id);
	if (!file || file->kind != &kind_eventfd)
		return image_bad(in, err, "file id %u is no eventfd", extra->id);
	/* Only that it is there says something. */
	file->data = extra->semaphore ? file : NULL;
	return 0;
}

static int eventfd_load(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_FERRY_EVENTFD, 0, &ferry_eventfd_entry__descriptor, eventfd_take, NULL,
			    err);
}

static int eventfd_restore(struct opener *o unused, struct plan_file *file, int *ret_fd,
			   struct ferry_error *err)
{
	const EventfdFileEntry *efd = file->entry->efd;
	if (!efd)
		return fdcommon_no_record(file, err);
	int flags =
		EFD_CLOEXEC | (file->data ? EFD_SEMAPHORE : 0) | (efd->flags & O_NONBLOCK ? EFD_NONBLOCK : 0);
	_cleanup_close_ int fd = eventfd(0, flags);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating an eventfd");
	/* One more is an overflow that only the kernel itself can cause; write(2) ends here. */
	uint64_t count = MIN(efd->counter, UINT64_MAX - 1);
	int r = count ? fd_write_all(fd, &count, sizeof(count)) : 0;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "setting an eventfd to %llu",
				   (unsigned long long)count);
	*ret_fd = take_fd(fd);
	return 0;
}

static int eventfd_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const EventfdFileEntry *efd = file->entry->efd;
	return fdcommon_settle_once(s, file) ? fdcommon_settle(efd->fown, efd->flags, fd, err) : 0;
}

const struct kind_ops kind_eventfd = {
	.name = "eventfd",
	.what = "eventfds, plain and semaphore",
	.fd_type = FD_TYPES__EVENTFD,
	.image_file = IMAGE_FERRY_EVENTFD,
	.owns = eventfd_owns,
	.collect = eventfd_collect,
	.dump = eventfd_dump,
	.read = eventfd_load,
	.restore = eventfd_restore,
	.is_alone = true,
	.settle = eventfd_settle,
};
