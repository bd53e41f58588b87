/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns timerfds: clock, what is left, interval, expirations that nobody has read, the flags it was set with.
 * The image has what was left when the tree froze. Where the tree's clocks go on after the restore, a timer
 * expires at the very time of its clock at which it would have; an absolute timer on CLOCK_REALTIME rings at
 * its time of day, or at once.
 *
 * Kernel interface: /proc/PID/fdinfo clockid, ticks, settime flags, it_value, it_interval (3.17);
 * timerfd_create(2), timerfd_settime(2); ioctl TFD_IOC_SET_TICKS (3.17, CONFIG_CHECKPOINT_RESTORE).
 * Does not handle: a cancellation (TFD_TIMER_CANCEL_ON_SET) that happened and was not read yet; it counts as
 * an expiration then.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "kernel/uapi.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/read.h"

#ifndef TFD_TIMER_CANCEL_ON_SET /* 3.0; glibc 2.36 has it */
#define TFD_TIMER_CANCEL_ON_SET (1 << 1)
#endif

enum { NS = 1000000000 };

static int64_t timerfd_ns(const struct timespec *t)
{
	return (int64_t)t->tv_sec * NS + t->tv_nsec;
}

static struct timespec timerfd_timespec(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / NS, .tv_nsec = ns % NS};
}

static int64_t timerfd_now(clockid_t clock)
{
	struct timespec now = {0};
	clock_gettime(clock, &now);
	return timerfd_ns(&now);
}

static bool timerfd_owns(const struct fd_view *view)
{
	return !strcmp(view->link, "anon_inode:[timerfd]");
}

/*
 * A periodic timer that expired stands still until it is read and shows nothing left. Asking for what is left
 * makes it count the periods that it missed and go on, as its next read would.
 */
static int timerfd_look(struct fd_view *view, struct itimerspec *ret_value, uint64_t *ret_ticks,
			struct ferry_error *err)
{
	*ret_value = view->info->timerfd.value;
	*ret_ticks = view->info->timerfd.ticks;
	if (timerfd_ns(&ret_value->it_value) || !timerfd_ns(&ret_value->it_interval) || !*ret_ticks)
		return 0;
	struct itimerspec left;
	int r = fd_view_copy(view, err);
	if (r < 0)
		return r;
	if (timerfd_gettime(view->copy, &left) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "fd %d of pid %d: reading the timer",
				   view->fd, view->pid);
	_cleanup_proc_fdinfo_ struct proc_fdinfo now = {0};
	_cleanup_close_ int self = proc_open(getpid(), err);
	r = self < 0 ? self : proc_read_fdinfo(self, view->copy, &now, err);
	if (r < 0)
		return r;
	/* A short period may be over again. */
	ret_value->it_value =
		timerfd_ns(&now.timerfd.value.it_value) ? now.timerfd.value.it_value : left.it_value;
	*ret_ticks = now.timerfd.ticks;
	return 0;
}

/* The clocks of the image were read a little before this timer was: as much more was left then. */
static int64_t timerfd_left_at_freeze(const struct snapshot *s, const struct timespec *left)
{
	int64_t ns = timerfd_ns(left);
	if (!ns || !s->uptime_us)
		return ns;
	return MAX(ns + timerfd_now(CLOCK_BOOTTIME) - (int64_t)s->uptime_us * 1000, 1);
}

static int timerfd_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			   struct ferry_error *err)
{
	TimerfdEntry *tfd = record_new(&c->snap->arena, TimerfdEntry, timerfd_entry);
	if (!tfd)
		return error_memory(err);
	if (view->info->kind != PROC_FDINFO_TIMERFD) {
		char who[64];
		fd_view_name(view, who, sizeof(who));
		return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP,
				 "%s: the kernel does not show the timer's state", who);
	}
	struct itimerspec value;
	int r = timerfd_look(view, &value, &tfd->ticks, err);
	if (r < 0)
		return r;
	struct timespec left = timerfd_timespec(timerfd_left_at_freeze(c->snap, &value.it_value));
	tfd->id = file->entry->id;
	tfd->flags = fdcommon_flags(view);
	tfd->clockid = (uint32_t)view->info->timerfd.clockid;
	tfd->settime_flags = view->info->timerfd.settime_flags;
	tfd->vsec = (uint64_t)left.tv_sec;
	tfd->vnsec = (uint64_t)left.tv_nsec;
	tfd->isec = (uint64_t)value.it_interval.tv_sec;
	tfd->insec = (uint64_t)value.it_interval.tv_nsec;
	r = fdcommon_owner(c, view, &tfd->fown, err);
	if (r >= 0)
		file->entry->tfd = tfd;
	return r;
}

static int timerfd_verify(const struct plan_file *file, struct ferry_error *err)
{
	const TimerfdEntry *tfd = file->entry->tfd;
	if (!tfd)
		return fdcommon_no_record(file, err);
	if (tfd->vsec > INT64_MAX / NS - 1 || tfd->isec > INT64_MAX / NS - 1 || tfd->vnsec >= NS ||
	    tfd->insec >= NS || tfd->settime_flags & ~(uint32_t)(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "file id %u: the timer's times or flags make no sense", file->entry->id);
	return 0;
}

static int timerfd_restore(struct opener *o unused, struct plan_file *file, int *ret_fd,
			   struct ferry_error *err)
{
	int r = timerfd_verify(file, err);
	if (r < 0)
		return r;
	const TimerfdEntry *tfd = file->entry->tfd;
	int fd =
		timerfd_create((int)tfd->clockid, TFD_CLOEXEC | (tfd->flags & O_NONBLOCK ? TFD_NONBLOCK : 0));
	if (fd < 0) {
		r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a timerfd on clock %u",
				tfd->clockid);
		if (r == -EPERM)
			error_hint(err, "a timer that wakes the machine needs CAP_WAKE_ALARM");
		return r;
	}
	*ret_fd = fd;
	return 0;
}

/* When a timer expires next, and how often it has by now, on a clock that was then_ns at the freeze and is now_ns. */
struct timerfd_next {
	int64_t then_ns, now_ns;
	int64_t at_ns; /* 0 = never */
	uint64_t ticks;
};

/* Images may claim any time: no sum wraps. */
static int64_t timerfd_sum(int64_t a, int64_t b)
{
	int64_t sum;
	if (__builtin_add_overflow(a, b, &sum))
		return a < 0 ? INT64_MIN : INT64_MAX;
	return sum;
}

static int64_t timerfd_time(uint64_t ns)
{
	return ns > INT64_MAX ? INT64_MAX : (int64_t)ns;
}

/* The clock that a timer follows. One that does not go on after a restore was at the freeze what it is now. */
static struct timerfd_next timerfd_clock(const struct plan *p, const TimerfdEntry *tfd)
{
	bool asleep_too = tfd->clockid == CLOCK_BOOTTIME || tfd->clockid == CLOCK_BOOTTIME_ALARM;
	bool of_day = tfd->clockid == CLOCK_REALTIME || tfd->clockid == CLOCK_REALTIME_ALARM;
	/* A relative timer does not follow changes of the time of day. */
	of_day = of_day && tfd->settime_flags & TFD_TIMER_ABSTIME;
	int64_t now = timerfd_now(of_day ? CLOCK_REALTIME : asleep_too ? CLOCK_BOOTTIME : CLOCK_MONOTONIC);
	struct timerfd_next next = {.then_ns = now, .now_ns = now, .ticks = tfd->ticks};
	/* An image of CRIU knows no time of day. */
	if (of_day && p->clocks && p->clocks->realtime_ns)
		next.then_ns = timerfd_time(p->clocks->realtime_ns);
	else if (!of_day && p->clocks && p->clocks_continue)
		next.then_ns = timerfd_time(asleep_too ? p->clocks->boottime_ns : p->clocks->monotonic_ns);
	return next;
}

static struct timerfd_next timerfd_next(const struct plan *p, const TimerfdEntry *tfd)
{
	int64_t left = (int64_t)(tfd->vsec * NS + tfd->vnsec),
		interval = (int64_t)(tfd->isec * NS + tfd->insec);
	struct timerfd_next next = timerfd_clock(p, tfd);
	/* An image may show a periodic timer that stood still because its expirations were not read. */
	if (!left && tfd->ticks)
		left = interval;
	if (!left)
		return next;
	next.at_ns = MAX(timerfd_sum(next.then_ns, left), 1);
	if (!interval || next.at_ns > next.now_ns)
		return next;
	/* Periods that ended since. The kernel would count them as well, but setting ticks makes it forget its own. */
	uint64_t missed = 1 + (uint64_t)(next.now_ns - next.at_ns) / (uint64_t)interval;
	next.at_ns = timerfd_sum(next.at_ns, (int64_t)missed * interval);
	next.ticks += missed;
	return next;
}

static int timerfd_arm(const struct plan *p, const TimerfdEntry *tfd, int fd, struct ferry_error *err)
{
	struct timerfd_next next = timerfd_next(p, tfd);
	bool absolute = tfd->settime_flags & TFD_TIMER_ABSTIME;
	int64_t value = absolute || !next.at_ns ? next.at_ns : MAX(next.at_ns - next.now_ns, 1);
	struct itimerspec spec = {
		.it_value = timerfd_timespec(value),
		.it_interval = {(time_t)tfd->isec, (long)tfd->insec},
	};
	if (timerfd_settime(fd, (int)tfd->settime_flags, &spec, NULL) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "arming the timer of fd %d", fd);
	/* Arming forgets expirations, so they come after it. */
	if (next.ticks && ioctl(fd, TFD_IOC_SET_TICKS, &next.ticks) < 0) {
		int r = error_errno(err, FERRY_ERROR_KERNEL_FEATURE, errno,
				    "giving the timer of fd %d its %llu expirations", fd,
				    (unsigned long long)next.ticks);
		error_hint(err, "the kernel needs CONFIG_CHECKPOINT_RESTORE");
		return r;
	}
	return 0;
}

/* Times of a task are those of its time namespace, so its own timer is armed from inside. */
static int timerfd_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const TimerfdEntry *tfd = file->entry->tfd;
	if (!fdcommon_settle_once(s, file))
		return 0;
	int r = timerfd_arm(s->plan, tfd, fd, err);
	return r < 0 ? r : fdcommon_settle(tfd->fown, tfd->flags, fd, err);
}

const struct kind_ops kind_timerfd = {
	.name = "timerfd",
	.what = "timerfds on every clock",
	.fd_type = FD_TYPES__TIMERFD,
	.image_file = -1,
	.owns = timerfd_owns,
	.collect = timerfd_collect,
	.restore = timerfd_restore,
	.settle = timerfd_settle,
};
