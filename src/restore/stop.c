/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns stopping the tasks that were stopped (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU). Such a task takes no part in the
 * barrier: as soon as its threads wait there they are brought to where they have to be in the end, as the exit gadget would
 * do it, and stopped there. SIGCONT then finds nothing of ferry in it. Its parent waits meanwhile, so that what the stop tells
 * it is there before its own signals are.
 *
 * Kernel interface: ptrace(2) through libferry-inject; a group stop lasts over PTRACE_DETACH (3.4).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <ferry/inject.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "proc/read.h"
#include "restore/mates.h"
#include "restore/restore.h"

enum { STOP_TIMEOUT_MS = 10000, STOP_PAUSE_NS = 50000, STOP_TRIES = 2000 };

/* All threads of one task, seized. */
struct stop_task {
	struct restore *r;
	const struct plan_task *t;
	struct ferry_inject_options options;
	struct ferry_thread **threads; /* from first on */
	size_t first, n;
};

static void stop_pause(void)
{
	const struct timespec pause = {.tv_nsec = STOP_PAUSE_NS};
	nanosleep(&pause, NULL);
}

static bool stop_in_gadget(const struct plan_task *t, uint64_t rip)
{
	return rip >= t->gadget && rip < t->gadget + ferry_gadget_bytes;
}

/* Everything behind READY takes a few instructions more: registers are to be exchanged in the gadget alone. */
static int stop_halt(struct stop_task *s, struct ferry_thread *th, struct ferry_error *err)
{
	for (int i = 0; i < STOP_TRIES; i++) {
		_cleanup_(ferry_regs_release) struct ferry_regs regs = FERRY_REGS_INIT;
		int r = ferry_thread_interrupt(th, err);
		if (r >= 0)
			r = ferry_thread_wait(th, STOP_TIMEOUT_MS, err);
		if (r >= 0)
			r = ferry_thread_get_regs(th, &regs, err);
		if (r < 0 || stop_in_gadget(s->t, regs.user.rip))
			return r;
		r = ferry_thread_resume(th, err);
		if (r < 0)
			return r;
		stop_pause();
	}
	return error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT, "thread %d does not arrive at the barrier",
			 ferry_thread_tid(th));
}

static int stop_seize(struct stop_task *s, struct ferry_error *err)
{
	int r = 0;
	s->threads = calloc(s->t->threads.n, sizeof(*s->threads));
	if (!s->threads)
		return error_memory(err);
	for (s->n = s->first; s->n < s->t->threads.n && r >= 0; s->n++) {
		r = ferry_thread_seize(tasks_tid(s->r, s->t, s->n), &s->options, &s->threads[s->n], err);
		if (r < 0)
			return r;
	}
	for (size_t i = s->first; i < s->n && r >= 0; i++)
		r = stop_halt(s, s->threads[i], err);
	return r;
}

static void stop_release(struct stop_task *s)
{
	for (size_t i = s->n; i-- > s->first;)
		ferry_thread_release(s->threads[i], NULL);
	free(s->threads);
}

static int stop_unmap(struct stop_task *s, struct ferry_error *err)
{
	const uint64_t *frame = region_thread(s->r, s->t, s->first)->frame;
	const uint64_t args[6] = {frame[BLOB_FRAME_UNMAP_ADDRESS], frame[BLOB_FRAME_UNMAP_BYTES]};
	struct ferry_thread *thread = s->threads[s->first];
	struct ferry_inject *inject;
	int64_t result = 0;
	int r = ferry_inject_open(thread, &s->options, &inject, err);
	if (r < 0)
		return r;
	r = ferry_inject_call(inject, thread, SYS_munmap, args, &result, err);
	int cured = ferry_inject_cure(inject, thread, r < 0 ? NULL : err);
	ferry_inject_close(inject);
	if (r >= 0 && result < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, (int)-result,
				   "unmapping the blob of pid %d", s->t->pid);
	return r < 0 ? r : cured;
}

/* The registers that the gadget would load. */
static int stop_set_regs(struct stop_task *s, size_t index, struct ferry_error *err)
{
	const uint64_t *f = region_thread(s->r, s->t, index)->frame;
	_cleanup_(ferry_regs_release) struct ferry_regs regs = FERRY_REGS_INIT;
	int r = ferry_thread_get_regs(s->threads[index], &regs, err);
	if (r < 0)
		return r;
	struct user_regs_struct *u = &regs.user;
	u->r15 = f[BLOB_FRAME_R15];
	u->r14 = f[BLOB_FRAME_R14];
	u->r13 = f[BLOB_FRAME_R13];
	u->r12 = f[BLOB_FRAME_R12];
	u->rbp = f[BLOB_FRAME_RBP];
	u->rbx = f[BLOB_FRAME_RBX];
	u->r11 = f[BLOB_FRAME_R11];
	u->r10 = f[BLOB_FRAME_R10];
	u->r9 = f[BLOB_FRAME_R9];
	u->r8 = f[BLOB_FRAME_R8];
	u->rax = f[BLOB_FRAME_RAX];
	u->rcx = f[BLOB_FRAME_RCX];
	u->rdx = f[BLOB_FRAME_RDX];
	u->rsi = f[BLOB_FRAME_RSI];
	u->rdi = f[BLOB_FRAME_RDI];
	u->rip = f[BLOB_FRAME_RIP];
	u->cs = f[BLOB_FRAME_CS];
	u->eflags = f[BLOB_FRAME_RFLAGS];
	u->rsp = f[BLOB_FRAME_RSP];
	u->ss = f[BLOB_FRAME_SS];
	u->orig_rax = ~0ull;
	free(regs.xstate);
	regs.xstate = NULL;
	return ferry_thread_set_regs(s->threads[index], &regs, err);
}

/*
 * Whether the terminal's stop signals would be ignored: nobody of the session outside the group is the parent of one in it.
 * A stop by a handler's own doing was a SIGSTOP in any case.
 */
static bool stop_is_orphaned(const struct restore *r, const struct plan_task *t)
{
	const struct family *f = &r->plan->family;
	vec_foreach(m, &f->members) {
		const struct family_member *p = m->parent == FAMILY_NONE ? NULL : &f->members.v[m->parent];
		if (m->pgid == t->pgid && !m->ends && p && p->pgid != m->pgid && p->sid == m->sid)
			return false;
	}
	return true;
}

static int stop_signal(const struct restore *r, const struct plan_task *t)
{
	const TaskCoreEntry *tc = t->threads.v[0].core->tc;
	size_t action = (size_t)t->stop_signal - (t->stop_signal > SIGSTOP ? 3 : 1);
	bool plain = action < tc->n_sigactions && !tc->sigactions[action]->sigaction;
	return t->stop_signal == SIGSTOP || (plain && !stop_is_orphaned(r, t)) ? t->stop_signal : SIGSTOP;
}

/* One thread takes the signal, with all others blocked; the rest joins when it is let go. */
static int stop_deliver(struct stop_task *s, struct ferry_error *err)
{
	struct ferry_thread *first = s->threads[s->first];
	int number = stop_signal(s->r, s->t);
	int r = ferry_thread_set_sigmask(first, ~(1ull << (number - 1)), err);
	if (r >= 0 &&
	    syscall(SYS_tgkill, tasks_tid(s->r, s->t, 0), tasks_tid(s->r, s->t, s->first), number) < 0)
		r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "stopping pid %d", s->t->pid);
	/* It may report the interruption once more before the signal. */
	for (int i = 0; i < 8 && r >= 0; i++) {
		r = ferry_thread_resume(first, err);
		if (r >= 0)
			r = ferry_thread_wait(first, STOP_TIMEOUT_MS, err);
		if (r == FERRY_STOP_GROUP)
			return 0;
	}
	return r < 0 ? r
		     : error_set(err, FERRY_ERROR_RESTORE_STEP, EIO, "pid %d does not stop (%d)", s->t->pid,
				 r);
}

static int stop_set_masks(struct stop_task *s, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = s->first; i < s->n && r >= 0; i++)
		r = ferry_thread_set_sigmask(s->threads[i],
					     region_thread(s->r, s->t, i)->frame[BLOB_FRAME_SIGMASK], err);
	return r;
}

static bool stop_stands(const struct restore *r, const struct plan_task *t, size_t index)
{
	char path[64];
	struct proc_stat st;
	snprintf(path, sizeof(path), "%d/task/%d", tasks_tid(r, t, 0), tasks_tid(r, t, index));
	_cleanup_close_ int dir = openat(r->proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 || proc_read_stat(dir, &st, NULL) < 0 || st.state == 'T';
}

static int stop_one(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	struct stop_task s = {
		.r = r,
		.t = t,
		.first = plan_first(t),
		.options = {.size = sizeof(struct ferry_inject_options), .timeout_ms = STOP_TIMEOUT_MS},
	};
	int ret = stop_seize(&s, err);
	/* The gadget lies where libferry-inject would look for its own code: nobody may stand there. */
	for (size_t i = s.first; i < s.n && ret >= 0; i++)
		ret = stop_set_regs(&s, i, err);
	if (ret >= 0)
		ret = stop_unmap(&s, err);
	if (ret >= 0)
		ret = stop_deliver(&s, err);
	if (ret >= 0)
		ret = stop_set_masks(&s, err);
	stop_release(&s);
	if (ret < 0)
		return ret;
	for (size_t i = plan_first(t); i < t->threads.n; i++)
		for (int n = 0; !stop_stands(r, t, i) && n < STOP_TRIES; n++)
			stop_pause();
	return 0;
}

void stop_all(struct plan *p)
{
	for (size_t i = 0; i < p->n_tasks; i++) {
		struct plan_task *t = &p->tasks[i];
		if (t->stop_signal)
			continue;
		t->stop_signal = SIGSTOP;
		t->untold = PLAN_UNTOLD_NOTHING;
	}
}

int stop_tasks(struct restore *r, struct ferry_error *err)
{
	/* Children first: parents wait for them. */
	for (size_t i = r->plan->n_tasks; i-- > 0;) {
		const struct plan_task *t = &r->plan->tasks[i];
		if (!t->stop_signal)
			continue;
		int ret = tasks_wait_task(r, t, err);
		if (ret >= 0) {
			fault_effect(r->fault, "restore", "stop-task");
			ret = stop_one(r, t, err);
		}
		error_context(err, "restore", NULL, t->pid);
		if (ret < 0)
			return ret;
		uint32_t *stopped = &r->shared->members[t->member].stopped;
		__atomic_store_n(stopped, 1, __ATOMIC_SEQ_CST);
		futex_wake(stopped);
	}
	return 0;
}

/* ------------------------------------------------------------- in their parents */

static void stop_await(struct restore *r, const struct plan_task *child)
{
	uint32_t *stopped = &r->shared->members[child->member].stopped;
	while (!__atomic_load_n(stopped, __ATOMIC_SEQ_CST))
		mates_futex_wait(r, stopped, 0);
}

/* What the parent has waited for before the dump it is not told a second time. */
static void stop_take_status(const struct plan_task *child, int which)
{
	siginfo_t info;
	while (waitid(P_PID, (id_t)child->pid, &info, which | WNOHANG | __WALL) < 0 && errno == EINTR)
		continue;
}

/* The child has stopped itself; see stop_child(). */
static void stop_continue(struct restore *r, const struct plan_task *child)
{
	if (mates_waitid(r, child->pid, WSTOPPED | WNOWAIT | __WALL) < 0)
		return; /* it is gone, as somebody else will tell */
	kill(child->pid, SIGCONT);
	stop_await(r, child);
}

void stop_parent(struct restore *r, const struct plan_task *t)
{
	const struct family *f = &r->plan->family;
	for (size_t i = 0; i < r->plan->n_tasks && r->some_stop; i++) {
		const struct plan_task *child = &r->plan->tasks[i];
		if (f->members.v[child->member].parent != t->member)
			continue;
		if (child->untold == PLAN_UNTOLD_CONTINUED)
			stop_continue(r, child);
		if (!child->stop_signal)
			continue;
		stop_await(r, child);
		if (child->untold != PLAN_UNTOLD_STOPPED)
			stop_take_status(child, WSTOPPED);
	}
}

void stop_child(struct restore *r, const struct plan_task *t)
{
	uint32_t *stopped = &r->shared->members[t->member].stopped;
	if (t->untold != PLAN_UNTOLD_CONTINUED)
		return;
	mates_stop(r, getpid());
	__atomic_store_n(stopped, 1, __ATOMIC_SEQ_CST);
	futex_wake(stopped);
}
