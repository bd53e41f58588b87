/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns bringing stopped threads to code of their own: out of the landing pad of a ferry that died, past a signal that is
 * about to be delivered, and out of the vdso as far as that takes no time: under another kernel a call could not go on.
 *
 * A thread in an old pad walks out of it by itself as soon as it runs. It may wait there for another thread
 * that uses memory which it is about to unmap, so all run together, for longer and longer moments.
 */
#include <ferry/inject.h>

#include <errno.h>
#include <time.h>

#include "base/log.h"
#include "inject/internal.h"

/*
 * Rounds of settling, of 20 us and then twice as long each, in which handlers may return to a dead ferry's
 * pad: 80 ms.
 */
#define HANDLER_ROUNDS 12

/* Rounds in which a call of the vdso may end, of 20 us. Who does nothing else is met in it again and again. */
#define VDSO_ROUNDS 32

/* What one look at a thread found. */
enum settled {
	SETTLED_RUNS = 0, /* out of a pad, until it is stopped again */
	SETTLED = 1,      /* it stands in code of its own */
	SETTLED_CALLS,    /* it runs out of the vdso */
};

/* Deliver the signal and stop again before anything else happens. */
static int continue_to_stop(struct ferry_thread *t, int signal, struct ferry_error *err)
{
	if (!t->trap_pending) {
		inject_effect(&t->opts, "interrupt");
		long r = thread_ptrace(t, PTRACE_INTERRUPT, 0, 0);
		if (r < 0)
			return thread_failed(t, r, "interrupting", err);
		t->trap_pending = true;
	}
	inject_effect(&t->opts, "continue");
	long r = thread_ptrace(t, PTRACE_CONT, 0, (uintptr_t)signal);
	if (r < 0)
		return thread_failed(t, r, "continuing", err);
	t->stop = FERRY_STOP_NONE;
	r = ferry_thread_wait(t, inject_timeout(&t->opts), err);
	if (r < 0)
		return (int)r;
	return thread_check_stopped(t, "injection", err);
}

static int run_on(struct ferry_thread *t, struct ferry_error *err)
{
	inject_effect(&t->opts, "continue");
	long r = thread_ptrace(t, PTRACE_CONT, 0, 0);
	if (r < 0)
		return thread_failed(t, r, "continuing", err);
	t->stop = FERRY_STOP_NONE;
	return 0;
}

/*
 * A dead ferry's pad ends by itself, unless the call in it blocks. Then the stop has interrupted the call;
 * as it does not count for the application, it is not made again. A thread in a group stop is pushed
 * through: the stop stays in force.
 */
static int leave_old_pad(struct ferry_inject *inject, struct ferry_thread *t, struct user_regs_struct *regs,
			 int round, struct ferry_error *err)
{
	if (round > 8 && regs_restart(regs) != RESTART_NONE && slot_behind_call(inject, regs->rip)) {
		regs->orig_rax = ~0ull;
		int r = regs_set(t, regs, "leave-old-call", err);
		if (r < 0)
			return r;
	}
	return run_on(t, err);
}

/*
 * A handler that ran on the way out of a pad returns there. Let it, for a while, but not in a stopped
 * process: its own code must not run. What nobody comes back to is cleared away.
 */
static int settle_frames(struct ferry_inject *inject, struct ferry_thread *t, struct user_regs_struct *regs,
			 int round, struct ferry_error *err)
{
	int r = 1;

	for (int i = 0; i < slots_of(inject); i++) {
		struct inject_slot *slot = &inject->slots[i];
		if (!slot->dirty || slot->thread || (slot->dirty_tid && slot->dirty_tid != t->tid))
			continue;
		if (!slot_awaits(inject, i, regs->rsp, regs->rip)) {
			if (!slot->dirty_tid)
				continue;
			r = slot_erase(inject, i, err);
			if (r < 0)
				return r;
			slot->dirty = false;
			r = 1;
		} else if (round < HANDLER_ROUNDS && t->stop != FERRY_STOP_GROUP) {
			return leave_old_pad(inject, t, regs, round, err);
		}
	}
	return r;
}

static bool in_vdso(const struct ferry_inject *inject, uint64_t rip)
{
	return rip >= inject->place.vdso && rip < inject->place.vdso_end;
}

/* One attempt. calls: whether the vdso is left, too. */
static int settle_once(struct ferry_inject *inject, struct ferry_thread *t, int round, bool calls,
		       struct ferry_error *err)
{
	struct user_regs_struct regs;
	int r = thread_check_stopped(t, "settling", err);

	if (r < 0)
		return r;
	if (t->home)
		return 1;
	if (t->stop == FERRY_STOP_EXEC)
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESTALE,
				 "task %d has executed another program", t->tid);
	if (t->stop == FERRY_STOP_SIGNAL) {
		r = continue_to_stop(t, t->signal, err);
		return MIN(r, 0);
	}
	r = regs_get(t, &regs, err);
	if (r < 0)
		return r;
	if (in_place(inject, regs.rip))
		return leave_old_pad(inject, t, &regs, round, err);
	if (calls && in_vdso(inject, regs.rip) && t->stop != FERRY_STOP_GROUP) {
		r = run_on(t, err);
		return r < 0 ? r : SETTLED_CALLS;
	}
	return settle_frames(inject, t, &regs, round, err);
}

static int stop_again(struct ferry_thread *const *threads, size_t n, struct ferry_error *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r >= 0; i++)
		if (threads[i]->stop == FERRY_STOP_NONE)
			r = ferry_thread_interrupt(threads[i], err);
	for (size_t i = 0; i < n && r >= 0; i++)
		if (threads[i]->stop == FERRY_STOP_NONE)
			r = ferry_thread_wait(threads[i], inject_timeout(&threads[i]->opts), err);
	return MIN(r, 0);
}

/*
 * Together: a thread in an old pad may wait for another one to leave memory that it is about to unmap. calls: rounds in which calls of
 * the vdso may end.
 */
static int settle(struct ferry_inject *inject, struct ferry_thread *const *threads, size_t n, int calls,
		  struct ferry_error *err)
{
	uint64_t end = time_now_ns() + (uint64_t)MAX(inject_timeout(&inject->opts), 0) * 1000000;
	struct timespec moment = {.tv_nsec = 20000};
	int round = 0;

	for (;;) {
		bool all = true, pads = false;
		for (size_t i = 0; i < n; i++) {
			int r = settle_once(inject, threads[i], round, calls > 0, err);
			if (r < 0)
				return r;
			all = all && r == SETTLED;
			pads = pads || r == SETTLED_RUNS;
		}
		if (all)
			return 0;
		nanosleep(&moment, NULL);
		if (pads) {
			moment.tv_nsec = MIN(moment.tv_nsec * 2, 20000000);
			round++;
		} else {
			calls--;
		}
		int r = stop_again(threads, n, err);
		if (r < 0)
			return r;
		if (inject_timeout(&inject->opts) >= 0 && time_now_ns() > end)
			break;
	}
	error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT,
		  "task %d does not come out of the landing pad of a ferry that died", inject->tid);
	error_hint(err, "settle all threads of the process together");
	return -ETIMEDOUT;
}

int ferry_inject_settle_all(struct ferry_inject *inject, struct ferry_thread *const *threads, size_t n,
			    struct ferry_error *err)
{
	return settle(inject, threads, n, VDSO_ROUNDS, err);
}

int ferry_inject_settle(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	return ferry_inject_settle_all(inject, &t, 1, err);
}

int inject_settle(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	return settle(inject, &t, 1, 0, err);
}
