/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns interval timers and POSIX timers.
 *
 * Kernel interface: getitimer(2); /proc/PID/timers (3.10), timer_gettime(2), timer_getoverrun(2); prctl(2)
 * PR_TIMER_CREATE_RESTORE_IDS (6.15) to create a timer with its id. Older kernels hand ids out in ascending
 * order, so ids that are not wanted are created and deleted.
 * Does not handle: expirations that were delivered but not yet counted into the overrun.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "base/error.h"
#include "kernel/caps.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/read.h"

enum { TIMER_SKIP_MAX = 100000 };

static const int timer_itimers[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};

/* Calls that are asked for each POSIX timer. */
enum { TIMER_ASK_GETTIME, TIMER_ASK_OVERRUN, TIMER_ASKS };

static void timer_ask_task(const struct snap_task *t unused, int proc_dir, struct script *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(timer_itimers); i++)
		script_call(s, "reading an interval timer", SYS_getitimer, (uint64_t)timer_itimers[i],
			    script_put(s, NULL, sizeof(struct itimerval)))
			->data_mask = 1 << 1;
	struct proc_timers timers = {0};
	if (proc_read_timers(proc_dir, &timers, NULL) < 0)
		return; /* collect reads it again and reports */
	vec_foreach(timer, &timers.v) {
		script_call(s, "reading a timer", SYS_timer_gettime, (uint64_t)timer->id,
			    script_put(s, NULL, sizeof(struct itimerspec)))
			->data_mask = 1 << 1;
		script_call(s, "reading a timer's overrun", SYS_timer_getoverrun, (uint64_t)timer->id);
	}
	proc_timers_release(&timers);
}

/*
 * Timers go on while the tree is frozen, and they are read a moment after its clocks. What is left when the clocks were read
 * is what belongs to them. 0 is a timer that is not armed, or has expired.
 */
static void timer_set_back(struct timespec *left, uint64_t after_ns)
{
	if (!left->tv_sec && !left->tv_nsec)
		return;
	uint64_t ns = (uint64_t)left->tv_nsec + after_ns;
	left->tv_sec += (time_t)(ns / 1000000000u);
	left->tv_nsec = (long)(ns % 1000000000u);
}

/* Clocks of processor time stand still with the tree. */
static bool timer_clock_runs(int32_t clock)
{
	return clock >= 0 && clock != CLOCK_PROCESS_CPUTIME_ID && clock != CLOCK_THREAD_CPUTIME_ID;
}

static ItimerEntry *timer_itimer_record(struct arena *a, const char *data, uint64_t after_ns)
{
	struct itimerval value;
	memcpy(&value, data, sizeof(value));
	struct timespec left = {value.it_value.tv_sec, value.it_value.tv_usec * 1000};
	timer_set_back(&left, after_ns);
	ItimerEntry *entry = record_new(a, ItimerEntry, itimer_entry);
	if (entry) {
		entry->isec = (uint64_t)value.it_interval.tv_sec;
		entry->iusec = (uint64_t)value.it_interval.tv_usec;
		entry->vsec = (uint64_t)left.tv_sec;
		entry->vusec = (uint64_t)left.tv_nsec / 1000;
	}
	return entry;
}

static int timer_collect_posix(struct collect *c, const struct snap_task *t, const struct proc_timer *timer,
			       const struct blob_call *calls, const char *data, PosixTimerEntry **ret,
			       struct ferry_error *err)
{
	if (calls[TIMER_ASK_GETTIME].ret < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-calls[TIMER_ASK_GETTIME].ret,
				   "reading timer %d", timer->id);
	PosixTimerEntry *entry = record_new(&c->snap->arena, PosixTimerEntry, posix_timer_entry);
	if (!entry)
		return error_memory(err);
	struct itimerspec value;
	memcpy(&value, data, sizeof(value));
	if (timer_clock_runs(timer->clockid))
		timer_set_back(&value.it_value, t->asked_after_ns);
	entry->it_id = (uint32_t)timer->id;
	entry->clock_id = (uint32_t)timer->clockid;
	entry->si_signo = (uint32_t)timer->signo;
	entry->it_sigev_notify = timer->notify | (timer->thread_id ? SIGEV_THREAD_ID : 0u);
	entry->sival_ptr = timer->sigval;
	entry->overrun = (uint32_t)MAX(calls[TIMER_ASK_OVERRUN].ret, 0);
	entry->isec = (uint64_t)value.it_interval.tv_sec;
	entry->insec = (uint64_t)value.it_interval.tv_nsec;
	entry->vsec = (uint64_t)value.it_value.tv_sec;
	entry->vnsec = (uint64_t)value.it_value.tv_nsec;
	if (timer->thread_id)
		record_set(entry, notify_thread_id, snapshot_inner_pid(c->snap, timer->pid));
	*ret = entry;
	return 0;
}

static int timer_collect_task(struct collect *c, struct snap_task *t, int proc_dir, const struct answers *a,
			      struct ferry_error *err)
{
	struct arena *arena = &c->snap->arena;
	TaskTimersEntry *all = record_new(arena, TaskTimersEntry, task_timers_entry);
	if (!all)
		return error_memory(err);
	all->real = timer_itimer_record(arena, a->data, t->asked_after_ns);
	all->virt = timer_itimer_record(arena, a->data + 64, 0);
	all->prof = timer_itimer_record(arena, a->data + 128, 0);
	struct proc_timers timers = {0};
	int r = proc_read_timers(proc_dir, &timers, err);
	if (r < 0)
		return r;
	size_t first = ARRAY_SIZE(timer_itimers);
	all->posix = arena_array(arena, PosixTimerEntry *, timers.v.n + 1);
	if (!all->real || !all->virt || !all->prof || !all->posix)
		r = error_memory(err);
	for (size_t i = 0; i < timers.v.n && r >= 0; i++) {
		r = timer_collect_posix(c, t, &timers.v.v[i], a->calls + first + i * TIMER_ASKS,
					a->data + (first + i) * 64, &all->posix[i], err);
		all->n_posix++;
	}
	proc_timers_release(&timers);
	t->threads.v[0].core->tc->timers = all;
	return r;
}

static void timer_restore_itimer(struct script *s, int which, const ItimerEntry *entry)
{
	struct itimerval value = {
		.it_interval = {(time_t)entry->isec, (suseconds_t)entry->iusec},
		.it_value = {(time_t)entry->vsec, (suseconds_t)entry->vusec},
	};
	/*
	 * A periodic timer whose signal was not yet taken shows nothing left: the kernel starts it again when the signal is
	 * dequeued. The signal is pending in the image, too, so the expiry that is asked for here merges with it.
	 */
	if (!entry->vsec && !entry->vusec && (entry->isec || entry->iusec))
		value.it_value.tv_usec = 1;
	if (!value.it_value.tv_sec && !value.it_value.tv_usec)
		return;
	script_call(s, "arming an interval timer", SYS_setitimer, (uint64_t)which,
		    script_put(s, &value, sizeof(value)), 0)
		->data_mask = 1 << 1;
}

static void timer_create_calls(struct script *s, const PosixTimerEntry *entry, uint32_t id)
{
	/* struct sigevent as the kernel has it: value, signal, notify, thread. */
	struct {
		uint64_t value;
		int32_t signo, notify, tid;
		char rest[44];
	} event = {entry->sival_ptr,
		   (int32_t)entry->si_signo,
		   (int32_t)entry->it_sigev_notify,
		   entry->notify_thread_id,
		   {0}};
	_Static_assert(sizeof(event) == 64, "struct sigevent");
	uint64_t event_at = script_put(s, &event, sizeof(event));
	uint64_t id_at = script_put(s, &id, sizeof(id));
	script_call(s, "creating a timer", SYS_timer_create, (uint64_t)(int64_t)(int32_t)entry->clock_id,
		    event_at, id_at)
		->data_mask = 1 << 1 | 1 << 2;
	script_detail(s, id);
}

static void timer_arm(struct script *s, const PosixTimerEntry *entry)
{
	struct itimerspec value = {
		.it_interval = {(time_t)entry->isec, (long)entry->insec},
		.it_value = {(time_t)entry->vsec, (long)entry->vnsec},
	};
	if (value.it_value.tv_sec || value.it_value.tv_nsec)
		script_call(s, "arming a timer", SYS_timer_settime, entry->it_id, 0,
			    script_put(s, &value, sizeof(value)), 0)
			->data_mask = 1 << 2;
}

static int timer_by_id(const void *a, const void *b)
{
	const PosixTimerEntry *const *x = a, *const *y = b;
	return (*x)->it_id < (*y)->it_id ? -1 : (*x)->it_id > (*y)->it_id;
}

static int timer_restore_task(struct reader *r, struct plan_task *t, struct script *s,
			      struct ferry_error *err)
{
	const TaskTimersEntry *all = t->threads.v[0].core->tc->timers;
	if (!all)
		return 0;
	bool with_ids = kern_has(r->caps, KERN_CAP_TIMER_RESTORE_IDS);
	if (all->n_posix) {
		qsort(all->posix, all->n_posix, sizeof(*all->posix), timer_by_id);
		if (with_ids)
			script_call(s, "asking for timer ids", SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS,
				    PR_TIMER_CREATE_RESTORE_IDS_ON, 0, 0, 0);
	}
	uint32_t next = 0;
	for (size_t i = 0; i < all->n_posix; i++) {
		const PosixTimerEntry *entry = all->posix[i];
		if (!with_ids && entry->it_id - next > TIMER_SKIP_MAX) {
			error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP,
				  "timer %u of pid %d: this kernel cannot create a timer with a given id",
				  entry->it_id, t->pid);
			error_hint(err, "Linux 6.15 can (PR_TIMER_CREATE_RESTORE_IDS)");
			return -ENOTSUP;
		}
		for (; !with_ids && next < entry->it_id; next++) {
			timer_create_calls(s, entry, next);
			script_call(s, "skipping a timer id", SYS_timer_delete, next);
		}
		timer_create_calls(s, entry, entry->it_id);
		next = entry->it_id + 1;
		timer_arm(s, entry);
	}
	if (all->n_posix && with_ids)
		script_call(s, "asking for timer ids no more", SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS,
			    PR_TIMER_CREATE_RESTORE_IDS_OFF, 0, 0, 0);
	timer_restore_itimer(s, ITIMER_REAL, all->real);
	timer_restore_itimer(s, ITIMER_VIRTUAL, all->virt);
	timer_restore_itimer(s, ITIMER_PROF, all->prof);
	return 0;
}

const struct kind_ops kind_timer = {
	.name = "timer",
	.what = "interval timers, POSIX timers with their ids",
	.fd_type = -1,
	.image_file = -1,
	.ask_task = timer_ask_task,
	.collect_task = timer_collect_task,
	.restore_task = timer_restore_task,
};
