/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns signalfds: a mask of signals, flags and owner. The signals themselves wait in the tasks and are
 * theirs.
 *
 * Kernel interface: /proc/PID/fdinfo sigmask (3.8), signalfd4(2) with the kernel's 64-bit set, which keeps
 * the signals that libc hides for itself.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/syscalls.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "model/record.h"

static bool signalfd_owns(const struct fd_view *view)
{
	return !strcmp(view->link, "anon_inode:[signalfd]");
}

static int signalfd_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			    struct ferry_error *err)
{
	SignalfdEntry *sgfd = record_new(&c->snap->arena, SignalfdEntry, signalfd_entry);
	if (!sgfd)
		return error_memory(err);
	if (view->info->kind != PROC_FDINFO_SIGNALFD) {
		char who[64];
		fd_view_name(view, who, sizeof(who));
		return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP,
				 "%s: the kernel does not show the signalfd's mask", who);
	}
	sgfd->id = file->entry->id;
	sgfd->flags = fdcommon_flags(view);
	sgfd->sigmask = view->info->signalfd.mask;
	int r = fdcommon_owner(c, view, &sgfd->fown, err);
	if (r >= 0)
		file->entry->sgfd = sgfd;
	return r;
}

static int signalfd_restore(struct opener *o unused, struct plan_file *file, int *ret_fd,
			    struct ferry_error *err)
{
	const SignalfdEntry *sgfd = file->entry->sgfd;
	if (!sgfd)
		return fdcommon_no_record(file, err);
	uint64_t mask = sgfd->sigmask;
	int flags = SFD_CLOEXEC | (sgfd->flags & O_NONBLOCK ? SFD_NONBLOCK : 0);
	long fd = sys_call(SYS_signalfd4, -1, &mask, sizeof(mask), flags);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, (int)-fd, "creating a signalfd");
	*ret_fd = (int)fd;
	return 0;
}

static int signalfd_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const SignalfdEntry *sgfd = file->entry->sgfd;
	return fdcommon_settle_once(s, file) ? fdcommon_settle(sgfd->fown, sgfd->flags, fd, err) : 0;
}

const struct kind_ops kind_signalfd = {
	.name = "signalfd",
	.what = "signalfds",
	.fd_type = FD_TYPES__SIGNALFD,
	.image_file = -1,
	.owns = signalfd_owns,
	.collect = signalfd_collect,
	.restore = signalfd_restore,
	.settle = signalfd_settle,
};
