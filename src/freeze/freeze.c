/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns stopping a tree. Threads and children appear while others are still running, so lists are read again until a
 * whole round finds nothing new; with everybody stopped nothing can appear any more.
 *
 * Kernel interface: ptrace(2) PTRACE_SEIZE and PTRACE_INTERRUPT through libferry-inject; /proc/PID/task,
 * /proc/PID/task/TID/children.
 */
#include "freeze/freeze.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/hurry.h"
#include "host/pause.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "proc/looker.h"
#include "proc/read.h"

enum {
	FREEZE_END_SOON_MS = 2,
	FREEZE_ROUNDS = 100,
	FREEZE_TRIES = 20,
	FREEZE_PAUSE_NS = 1000 * 1000,
	FREEZE_VFORK_MS = 20,
	FREEZE_REAP_NS = 20 * 1000,
	FREEZE_LOOK_THREADS = 64,
	FREEZE_SLACK_NS = 1,
};

static void freeze_effect(void *context, const char *what)
{
	const struct freeze_options *o = context;
	fault_effect(o->fault, "freeze", what);
}

static int freeze_fault(void *context, const char *point)
{
	const struct freeze_options *o = context;
	for (int id = 0; id < FAULT_COUNT; id++)
		if (!strcmp(fault_info((enum fault_id)id)->word, point))
			return fault_hit(o->fault, (enum fault_id)id);
	return 0;
}

static struct frozen_task *frozen_find(struct frozen *f, pid_t pid)
{
	uint32_t index;
	return intmap_get(&f->numbers, (uint32_t)pid, &index) && index != FROZEN_ZOMBIE ? &f->tasks.v[index]
											: NULL;
}

static bool frozen_knows(const struct frozen *f, pid_t pid)
{
	uint32_t index;
	return intmap_get(&f->numbers, (uint32_t)pid, &index);
}

/* The numbers of its threads, in their order. */
static int frozen_tids(const struct frozen_task *t, struct proc_pid_list *ret)
{
	vec_foreach(th, &t->threads) {
		pid_t *tid = *th ? vec_push(&ret->v) : NULL;
		if (tid)
			*tid = ferry_thread_tid(*th);
		else if (*th)
			return -ENOMEM;
	}
	return 0;
}

static int compare_tids(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
	return (x > y) - (x < y);
}

/* The same, ascending. */
static int frozen_sorted_tids(const struct frozen_task *t, struct proc_pid_list *ret)
{
	int r = frozen_tids(t, ret);
	if (r >= 0 && ret->v.n > 1)
		qsort(ret->v.v, ret->v.n, sizeof(*ret->v.v), compare_tids);
	return r;
}

static bool has_tid(const struct proc_pid_list *sorted, pid_t tid)
{
	return sorted->v.n && bsearch(&tid, sorted->v.v, sorted->v.n, sizeof(tid), compare_tids);
}

/*
 * A thread that the kernel made in the task for io_uring or vhost. It never returns to user mode, so it does not stop; it
 * works on what the task's own threads have asked for.
 */
static bool freeze_is_worker(const struct frozen_task *t, pid_t tid)
{
	struct proc_stat st;
	_cleanup_close_ int dir = proc_open_task(t->proc_dir, tid, NULL);
	return dir >= 0 && proc_read_stat(dir, &st, NULL) >= 0 &&
	       st.flags & (KERN_PF_IO_WORKER | KERN_PF_USER_WORKER);
}

/* Whether there may be such threads. Looking at each takes as long as stopping it: of many, only where something makes them. */
static bool freeze_may_work(const struct frozen_task *t, size_t n_threads)
{
	static const char *const makers[] = {"anon_inode:[io_uring]", "/dev/vhost"};
	bool found = n_threads > 1 && n_threads <= FREEZE_LOOK_THREADS;
	struct proc_fds fds = {0};
	if (n_threads <= FREEZE_LOOK_THREADS || proc_read_fds(t->proc_dir, &fds, NULL) < 0)
		return found;
	vec_foreach(fd, &fds.v) {
		for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
			found |= !strncmp(proc_fd_link(&fds, fd), makers[i], strlen(makers[i]));
	}
	proc_fds_release(&fds);
	return found;
}

/* Returns 1 when the thread was seized, 0 when there is none to seize. */
static int freeze_seize(struct frozen *f, struct frozen_task *t, pid_t tid, struct ferry_error *err)
{
	struct ferry_thread *th = NULL;
	int r = ferry_thread_seize(tid, &f->options, &th, err);
	if (r == -ESRCH && tid != t->look) {
		error_clear(err); /* it ended meanwhile */
		return 0;
	}
	if (r == -ESRCH && t->ppid) {
		error_clear(err);
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESRCH,
				 "pid %d ended while its parent, pid %d, was being stopped", t->pid, t->ppid);
	}
	/* Another thread of the tree may trace it. */
	if (r == -EBUSY) {
		error_clear(err);
		r = traced_add(f, t, tid, &th, err);
	}
	if (r < 0)
		return r;
	struct ferry_thread **slot = vec_push(&t->threads);
	if (!slot) {
		ferry_thread_release(th, NULL);
		return error_memory(err);
	}
	*slot = th;
	r = ferry_thread_interrupt(th, err);
	return r == -ESRCH || r >= 0 ? 1 : r;
}

/* Threads of t that are not seized yet. Returns how many were found. */
static int freeze_new_threads(struct frozen *f, struct frozen_task *t, struct ferry_error *err)
{
	struct proc_pid_list tids = {0}, known = {0};
	int r = frozen_sorted_tids(t, &known) < 0 ? error_memory(err)
						  : proc_read_tasks(t->proc_dir, &tids, err);
	if (r < 0) {
		proc_pid_list_release(&known);
		return r;
	}
	int found = 0;
	/* The leader is the lowest id as a rule, but not after the ids wrapped: it is first in our list in any case. */
	if (!t->threads.n) {
		r = freeze_seize(f, t, t->look, err);
		found += r > 0;
	}
	bool may_work = freeze_may_work(t, tids.v.n);
	vec_foreach(tid, &tids.v) {
		if (r < 0 || has_tid(&known, *tid) || *tid == t->look || *tid == t->pid ||
		    (may_work && freeze_is_worker(t, *tid)))
			continue;
		r = freeze_seize(f, t, *tid, err);
		found += r > 0;
	}
	proc_pid_list_release(&tids);
	proc_pid_list_release(&known);
	return r < 0 ? r : found;
}

static int freeze_add_zombie(struct frozen *f, const struct frozen_zombie *zombie, struct ferry_error *err)
{
	bool known = intmap_put(&f->numbers, (uint32_t)zombie->pid, FROZEN_ZOMBIE) >= 0;
	struct frozen_zombie *z = known ? vec_push(&f->zombies) : NULL;
	if (!z) {
		close(zombie->proc_dir);
		return error_memory(err);
	}
	*z = *zombie;
	return 0;
}

static int freeze_add_task(struct frozen *f, pid_t pid, pid_t ppid, struct ferry_error *err)
{
	struct proc_stat st;
	_cleanup_close_ int dir = proc_open(pid, err);
	int r = dir < 0 ? dir : proc_read_stat(dir, &st, err);
	uint32_t order = (uint32_t)(f->tasks.n + f->zombies.n);
	if (r < 0)
		return r;
	/* All of it; a leader alone can, too. */
	bool ended = proc_stat_ended(&st) && st.num_threads <= 1;
	struct frozen_task *parent = frozen_find(f, ppid);
	if (ended && parent && !parent->threads.n)
		return 0; /* who does not stand yet may still wait for it: looked at again in the next round */
	if (ended && ppid)
		return freeze_add_zombie(
			f,
			&(struct frozen_zombie){
				.pid = pid, .ppid = ppid, .order = order, .proc_dir = take_fd(dir)},
			err);
	pid_t look = proc_look_from(dir, &st);
	_cleanup_close_ int living = look == pid ? take_fd(dir) : proc_open(look, err);
	if (living < 0)
		return living;
	bool known = intmap_put(&f->numbers, (uint32_t)pid, (uint32_t)f->tasks.n) >= 0;
	struct frozen_task *t = known ? vec_push(&f->tasks) : NULL;
	if (!t)
		return error_memory(err);
	t->pid = pid;
	t->ppid = ppid;
	t->order = order;
	t->look = look;
	t->proc_dir = take_fd(living);
	return 0;
}

/* Its threads stand, and only they have children: not one that has ended, nor what the kernel made for itself. */
static int freeze_read_children(const struct frozen *f, const struct frozen_task *t,
				struct proc_pid_list *ret, struct ferry_error *err)
{
	const struct freeze_options *o = f->options.context;
	struct proc_pid_list tids = {0};
	int r = frozen_tids(t, &tids) < 0 ? error_memory(err) : 0;
	if (r >= 0 && proc_looker_read(o->looker, t->pid, tids.v.n) >= 0)
		proc_looker_keep_parents(o->looker, t->pid, &tids);
	if (r >= 0)
		r = proc_read_children_of(t->proc_dir, tids.v.v, tids.v.n, ret, err);
	proc_pid_list_release(&tids);
	return r;
}

static int freeze_new_children(struct frozen *f, size_t index, struct ferry_error *err)
{
	struct proc_pid_list children = {0};
	int r = freeze_read_children(f, &f->tasks.v[index], &children, err);
	if (r < 0)
		return r;
	int found = 0;
	vec_foreach(pid, &children.v) {
		if (r < 0 || frozen_knows(f, *pid))
			continue;
		r = freeze_add_task(f, *pid, f->tasks.v[index].pid, err);
		if (r == -ESRCH) {
			error_clear(err);
			r = 0;
			continue;
		}
		found++;
	}
	proc_pid_list_release(&children);
	return r < 0 ? r : found;
}

static int freeze_in_vfork(struct frozen *f, const struct frozen_task *t, struct ferry_thread *th,
			   struct ferry_error *err)
{
	pid_t child;
	if (!proc_is_in_vfork(t->proc_dir, ferry_thread_tid(th), &child))
		return 0;
	f->in_vfork = true;
	error_clear(err);
	error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY,
		  "pid %d waits in vfork for its child, pid %d, which neither executes a program nor ends",
		  t->pid, child);
	error_hint(err, "try again when pid %d has, or end it", child);
	return -EBUSY;
}

/*
 * Wait until a thread stands. 1: it does; 0: it is gone. One that waits in vfork cannot stop before its child goes on, and that
 * stands, too.
 */
static int freeze_wait(struct frozen *f, const struct freeze_options *o, const struct frozen_task *t,
		       struct ferry_thread *th, struct ferry_error *err)
{
	int first = MIN(o->timeout_ms, FREEZE_VFORK_MS);
	int stop = ferry_thread_wait(th, first, err);
	if (stop == -ETIMEDOUT && freeze_in_vfork(f, t, th, err) < 0)
		return -EBUSY;
	if (stop == -ETIMEDOUT && proc_look(t->pid) != t->look) {
		error_clear(err);
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESRCH,
				 "the first thread of pid %d ended while it was being stopped", t->pid);
	}
	if (stop == -ETIMEDOUT && first < o->timeout_ms) {
		error_clear(err);
		stop = ferry_thread_wait(th, o->timeout_ms - first, err);
	}
	if (stop < 0)
		return stop;
	switch (stop) {
	case FERRY_STOP_EXITED: return 0;
	case FERRY_STOP_EXEC:
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, EAGAIN,
				 "pid %d executed another program while it was stopped", t->pid);
	default: return 1;
	}
}

static int freeze_wait_task(struct frozen *f, const struct freeze_options *o, struct frozen_task *t,
			    struct ferry_error *err)
{
	size_t kept = 0;
	for (size_t i = 0; i < t->threads.n; i++) {
		struct ferry_thread *th = t->threads.v[i];
		int r = freeze_wait(f, o, t, th, err);
		if (r < 0)
			return r;
		if (!r && i == 0)
			return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESRCH,
					 "pid %d ended while it was being stopped", t->pid);
		if (!r)
			ferry_thread_release(th, NULL);
		else
			t->threads.v[kept++] = th;
		if (!r)
			t->threads.v[i] = NULL;
	}
	t->threads.n = kept;
	return 0;
}

/* One pass over everything that is known: seize what is new, wait until it stands. Returns how much was new. */
static int freeze_round(struct frozen *f, const struct freeze_options *o, struct ferry_error *err)
{
	int found = 0;
	for (size_t i = 0; i < f->tasks.n; i++) {
		int r = freeze_new_threads(f, &f->tasks.v[i], err);
		if (r < 0)
			return r;
		found += r;
	}
	for (size_t i = 0; i < f->tasks.n; i++) {
		int r = freeze_wait_task(f, o, &f->tasks.v[i], err);
		if (r < 0)
			return r;
		r = freeze_new_children(f, i, err);
		if (r < 0)
			return r;
		found += r;
	}
	return found;
}

/*
 * Everybody is frozen, so nothing appears: all are found and told to stop before they are thawed, and do so before they execute
 * anything.
 */
static int freeze_paused(struct frozen *f, const struct freeze_options *o, struct ferry_error *err)
{
	if (!pause_is_on(o->pause))
		return 0;
	for (size_t i = 0; i < f->tasks.n; i++) {
		int r = freeze_new_threads(f, &f->tasks.v[i], err);
		if (r >= 0)
			r = freeze_new_children(f, i, err);
		if (r < 0)
			return r;
	}
	return pause_lift(o->pause, o->warden, err);
}

static int freeze_try(pid_t root, const struct freeze_options *options, struct frozen *ret,
		      bool *ret_in_vfork, struct ferry_error *err)
{
	struct frozen f = {
		.since_ns = time_now_ns(),
		.hurries = options->hurry && hurry_begin(),
		.options =
			{
				.size = sizeof(struct ferry_inject_options),
				.timeout_ms = options->timeout_ms,
				/* Whoever injects sees to it that the tracer outlives each call: collect/inside.c. */
				.flags = FERRY_INJECT_ALL_STOPPED | FERRY_INJECT_DEADLY_CALLS,
				.context = (void *)options,
				.on_effect = freeze_effect,
				.fault = freeze_fault,
			},
	};
	int r = freeze_add_task(&f, root, 0, err);
	if (r >= 0)
		r = freeze_paused(&f, options, err);
	for (int round = 0; r >= 0; round++) {
		r = freeze_round(&f, options, err);
		if (r == 0)
			r = traced_hold(&f, err);
		if (r == 0) {
			f.all_ns = time_now_ns();
			*ret = f;
			return 0;
		}
		if (r > 0 && round == FREEZE_ROUNDS)
			r = error_set(err, FERRY_ERROR_TARGET_CHANGED, EAGAIN,
				      "the tree of pid %d creates tasks faster than they can be stopped",
				      root);
	}
	*ret_in_vfork = f.in_vfork;
	freeze_release(&f);
	return r;
}

/*
 * A task of the tree ended or executed a program while it was being stopped. Released, its parent takes its status, and the
 * tree can be another one.
 */
static bool freeze_may_retry(pid_t root, const struct ferry_error *err)
{
	return (err->id == FERRY_ERROR_TARGET_CHANGED || err->id == FERRY_ERROR_NO_SUCH_TASK) &&
	       kill(root, 0) == 0;
}

int freeze_tree(pid_t root, const struct freeze_options *options, struct frozen *ret, struct ferry_error *err)
{
	struct ferry_error local = FERRY_ERROR_INIT;
	if (!err)
		err = &local;
	uint64_t end = time_now_ns() + (uint64_t)options->timeout_ms * 1000000;
	bool in_vfork = false;
	/* From here on stops are waited for, some microseconds each; without this each wait takes 50 more. */
	prctl(PR_SET_TIMERSLACK, FREEZE_SLACK_NS);
	int r = freeze_try(root, options, ret, &in_vfork, err);
	for (int i = 1; r < 0; i += !in_vfork) {
		/* A vfork is over as soon as its child executes a program, so that is waited for. */
		if (in_vfork ? time_now_ns() > end : i >= FREEZE_TRIES || !freeze_may_retry(root, err))
			break;
		const struct timespec pause = {.tv_nsec = i * FREEZE_PAUSE_NS};
		log_write(options->log, LOG_DEBUG, "seize", NULL, root, "once more: %s", err->message);
		error_clear(err);
		nanosleep(&pause, NULL);
		in_vfork = false;
		r = freeze_try(root, options, ret, &in_vfork, err);
	}
	if (r >= 0 || !freeze_may_retry(root, err))
		return r;
	error_clear(err);
	error_set(err, FERRY_ERROR_TARGET_CHANGED, EAGAIN,
		  "tasks of the tree of pid %d end or execute programs faster than they can be stopped",
		  root);
	error_hint(err, "try again at a quieter moment");
	return -EAGAIN;
}

static void frozen_lists_release(struct frozen *f)
{
	vec_foreach(z, &f->zombies)
		close(z->proc_dir);
	vec_release(&f->zombies);
	vec_release(&f->tasks);
	intmap_release(&f->numbers);
}

static void frozen_task_release(struct frozen_task *t)
{
	/* Leader last: a leader that was killed does not end before its other threads were waited for. */
	for (size_t i = t->threads.n; i-- > 0;)
		if (t->threads.v[i])
			ferry_thread_release(t->threads.v[i], NULL);
	ferry_inject_close(t->inject);
	vec_release(&t->threads);
	if (t->proc_dir >= 0)
		close(t->proc_dir);
}

void freeze_release(struct frozen *f)
{
	const struct freeze_options *o = f->options.context;
	traced_release(f, false);
	pause_put_back(o->pause, o->warden);
	/* Children first: a parent that runs must not find a child that does not. */
	for (size_t i = f->tasks.n; i-- > 0;)
		frozen_task_release(&f->tasks.v[i]);
	hurry_end(f->hurries);
	frozen_lists_release(f);
}

/* Whether a thread that was killed has ended, and its end was taken. */
static bool freeze_has_ended(pid_t tid)
{
	int status, r = waitpid(tid, &status, __WALL | WNOHANG);
	return r > 0 || (r < 0 && errno != EINTR);
}

/* Take the end of every thread, in whatever order they come. */
static void freeze_reap(struct frozen *f)
{
	const struct timespec tick = {.tv_nsec = FREEZE_REAP_NS};
	const struct freeze_options *o = f->options.context;
	uint64_t until = time_now_ns() + (uint64_t)o->timeout_ms * 1000000u;
	struct proc_pid_list left = {0};
	vec_foreach(t, &f->tasks) {
		if (frozen_tids(t, &left) < 0)
			break;
	}
	while (left.v.n && time_now_ns() < until) {
		size_t kept = 0;
		for (size_t i = 0; i < left.v.n; i++)
			if (!freeze_has_ended(left.v.v[i]))
				left.v.v[kept++] = left.v.v[i];
		left.v.n = kept;
		if (kept)
			nanosleep(&tick, NULL);
	}
	proc_pid_list_release(&left);
}

void freeze_stop(struct frozen *f)
{
	const struct freeze_options *o = f->options.context;
	/* The first of its threads that is let go takes the signal and stops the others, which stand still until then. */
	for (size_t i = f->tasks.n; i-- > 0;) {
		fault_effect(o->fault, "leave-stopped", "task");
		kill(f->tasks.v[i].pid, SIGSTOP);
	}
}

int freeze_kill(struct frozen *f, struct ferry_error *err)
{
	int ret = 0;
	const struct freeze_options *o = f->options.context;
	for (size_t i = f->tasks.n; i-- > 0;) {
		pid_t pid = f->tasks.v[i].pid;
		fault_effect(o->fault, "kill", "task");
		if (kill(pid, SIGKILL) < 0 && errno != ESRCH && !ret)
			ret = error_errno(err, FERRY_ERROR_SYSTEM, errno, "killing pid %d", pid);
	}
	return ret;
}

/*
 * Who takes long to end has much memory to give back. We do so as well, from its start, like itself: of each part whoever comes second
 * finds nothing left to do.
 */
static bool freeze_await_one(int pidfd, int timeout_ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	if (poll(&p, 1, FREEZE_END_SOON_MS) > 0)
		return true;
	sys_process_mrelease(pidfd);
	return poll(&p, 1, timeout_ms) > 0;
}

int freeze_await_end(struct frozen *f, struct ferry_error *err)
{
	int ret = 0;
	const struct freeze_options *o = f->options.context;
	/*
	 * All are let go before any is waited for: the first process of a PID namespace ends only when nobody else is left in
	 * it, parents of those included.
	 */
	VEC(int) pidfds = {0};
	for (size_t i = 0; i < f->tasks.n; i++) {
		int *slot = vec_push(&pidfds);
		if (slot)
			*slot = sys_pidfd_open(f->tasks.v[i].pid, 0);
	}
	freeze_reap(f);
	traced_release(f, true);
	for (size_t i = f->tasks.n; i-- > 0;)
		frozen_task_release(&f->tasks.v[i]);
	for (size_t i = pidfds.n; i-- > 0;) {
		int pidfd = pidfds.v[i];
		if (pidfd >= 0 && !freeze_await_one(pidfd, o->timeout_ms) && !ret)
			ret = error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT,
					"pid %d does not end after SIGKILL", f->tasks.v[i].pid);
		if (pidfd >= 0)
			close(pidfd);
	}
	vec_release(&pidfds);
	pause_put_back(o->pause, o->warden);
	frozen_lists_release(f);
	return ret;
}

int freeze_inject(struct frozen *f, struct frozen_task *t, struct ferry_inject **ret, struct ferry_error *err)
{
	if (!t->inject) {
		struct ferry_inject_options options = f->options;
		options.flags |= t->threads.n == 1 ? FERRY_INJECT_ALONE : 0;
		int r = ferry_inject_open(t->threads.v[0], &options, &t->inject, err);
		if (r < 0)
			return r;
	}
	*ret = t->inject;
	return 0;
}
