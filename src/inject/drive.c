/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns driving a thread through its landing pad: away, and from one system-call stop to the next. Kernel
 * interface: ptrace(2), PTRACE_GET_SYSCALL_INFO (Linux 5.3), PTRACE_O_SUSPEND_SECCOMP (4.3).
 *
 * At every instant the thread's natural way, if the tracer were dead now, leads to its own state. Away: the
 * slot is written first, then one PTRACE_SETREGS makes the slot the thread's place, then signals are
 * blocked. A step changes either where the thread stands or what the slot says, never so that one needs the
 * other.
 */
#include <ferry/inject.h>

#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/fd.h"
#include "base/log.h"
#include "inject/internal.h"
#include "inject/remote.h"

#define PAGE 4096u
#define EFLAGS_TF 0x100u
#define HOLD_PAUSE_NS 20000

/*
 * A fault inside a blob must not make the kernel reset the application's handler, as it does for a blocked
 * signal.
 */
#define FAULT_SIGNALS                                                                         \
	(SIGNAL_BIT(SIGSEGV) | SIGNAL_BIT(SIGBUS) | SIGNAL_BIT(SIGILL) | SIGNAL_BIT(SIGFPE) | \
	 SIGNAL_BIT(SIGTRAP) | SIGNAL_BIT(SIGSYS))

/* What the pad may call under the thread's seccomp filters, if it has to find its way alone. */
bool pad_may(const struct ferry_inject *inject, struct ferry_thread *t, long nr, const uint64_t args[6])
{
	struct call call = {.nr = nr};

	memcpy(call.args, args, sizeof(call.args));
	return seccomp_classify(seccomp_verdict(&t->seccomp, &call, inject->place.address)) == SECCOMP_RUNS;
}

int catch_choose(const struct ferry_inject *inject, const struct ferry_thread *t)
{
	static const int candidates[] = {SIGURG, SIGWINCH, SIGCHLD};

	if (!t->can_unblock)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(candidates); i++)
		if (!((inject->caught | t->own_mask) & SIGNAL_BIT(candidates[i])))
			return candidates[i];
	return 0;
}

static void slot_choose_calls(struct ferry_inject *inject, struct inject_slot *slot, struct ferry_thread *t)
{
	uint64_t data = slot_label(inject, t->slot, ferry__pad_data),
		 mask = data + offsetof(struct pad_data, mask);
	uint64_t zero = data + offsetof(struct pad_data, zero);

	t->no_mask = !PAD_MAY(inject, t, SYS_rt_sigprocmask, SIG_SETMASK, mask, 0, 8);
	slot->data.mask_nr = t->no_mask ? 0 : SYS_rt_sigprocmask;
	slot->data.probe_nr = PAD_MAY(inject, t, SYS_ppoll, 0, 0, zero, mask, 8) ? SYS_ppoll : 0;
	slot->can_close = PAD_MAY(inject, t, SYS_close, 0);
	slot->can_unmap = PAD_MAY(inject, t, SYS_munmap, inject->place.address, PAGE);
	t->can_unblock =
		PAD_MAY(inject, t, SYS_rt_sigprocmask, SIG_UNBLOCK, slot_catch_mask(inject, t->slot), 0, 8);
	slot->data.catch_nr = t->can_unblock ? SYS_rt_sigprocmask : SYS_read;
	slot->data.catch_arg = t->can_unblock ? SIG_UNBLOCK : ~0ull;
	slot->data.catch_mask = catch_mask(catch_choose(inject, t));
}

/*
 * Where and with what the thread goes on: what the kernel is to see when it comes back alive, and what the
 * pad loads.
 */
static int slot_choose_regs(struct inject_slot *slot, uint64_t pad, struct ferry_thread *t,
			    const struct user_regs_struct *regs, uint64_t *ret_rseq, struct ferry_error *err)
{
	struct user_regs_struct own = *regs, folded = *regs, eintr = *regs;
	enum restart restart = regs_restart(regs);
	uint64_t rseq = 0;

	if (restart != RESTART_NONE) {
		regs_fold(&folded, FERRY_RESUME_IN_PLACE, regs_compat_call(t, regs) > 0);
		eintr.rax = (uint64_t)-EINTR;
		if (restart == RESTART_AGAIN)
			eintr = folded;
	} else if (t->mended) {
		regs_set_eintr(&eintr);
	} else {
		int r = regs_leave_rseq(t, &own, &rseq, err);
		if (r < 0)
			return r;
		folded = eintr = own;
	}
	t->must_trap = restart != RESTART_NONE;
	t->own_regs = own;
	pad_data_set_regs(&slot->data, pad, &folded, &eintr);
	*ret_rseq = rseq;
	return 0;
}

uint64_t slot_zero_word(const struct ferry_inject *inject, int slot)
{
	return slot_label(inject, slot, ferry__pad_data) + offsetof(struct pad_data, zero);
}

uint64_t slot_catch_mask(const struct ferry_inject *inject, int slot)
{
	return slot_label(inject, slot, ferry__pad_data) + offsetof(struct pad_data, catch_mask);
}

#ifndef PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211
#endif

/*
 * Syscall user dispatch (Linux 5.11; readable since 6.4) turns system calls from outside a range into
 * SIGSYS while a byte of the task says so. It cannot be lifted and put back in one step.
 */
static int check_dispatch(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	struct {
		uint64_t mode, selector, start, bytes;
	} config;
	unsigned char block = 0;

	long r =
		thread_ptrace(t, PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, sizeof(config), (uintptr_t)&config);
	if (r < 0 || !config.mode)
		return r == -ESRCH ? thread_failed(t, r, "reading syscall user dispatch", err) : 0;
	if (inject->place.address - config.start < config.bytes)
		return 0;
	if (config.selector && !fd_pread_all(inject->mem_fd, &block, 1, config.selector) && !block)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, EOPNOTSUPP,
		  "task %d has its system calls dispatched to itself", t->tid);
	error_hint(err,
		   "an emulator does that while foreign code runs; try again when it is in code of its own");
	return -EOPNOTSUPP;
}

/* Signals of faults stay open while it is away, unless the thread has one blocked and it waits: that is none of ours. */
static int away_mask(struct ferry_thread *t, uint64_t *ret, struct ferry_error *err)
{
	uint64_t blocked = t->own_mask & FAULT_SIGNALS, own = 0, shared = 0;
	int r = 0;

	if (blocked)
		r = thread_status_number(t->tid, "SigPnd:", 16, &own);
	if (blocked && r >= 0)
		r = thread_status_number(t->tid, "ShdPnd:", 16, &shared);
	*ret = ~FAULT_SIGNALS | (blocked & (own | shared));
	return r < 0 ? thread_failed(t, -ESRCH, "reading pending signals", err) : 0;
}

/* Fill a free slot for the thread; the target does not change yet. */
static int slot_prepare(struct ferry_inject *inject, struct ferry_thread *t, uint64_t *ret_rseq,
			struct ferry_error *err)
{
	struct user_regs_struct regs;
	struct inject_slot fresh = {
		.head = {.magic = inject->low ? PAD_NARROW_MAGIC : PAD_MAGIC, .tid = (uint32_t)t->tid}};

	int slot = slot_find_free(inject, err);
	if (slot < 0)
		return slot;
	int r = regs_get(t, &regs, err);
	if (r >= 0 && inject->low && !regs_are_32(&regs))
		r = error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, EOPNOTSUPP,
			      "task %d of a 32-bit program runs 64-bit code", t->tid);
	if (r >= 0)
		r = mask_get(t, &t->own_mask, err);
	if (r >= 0)
		r = away_mask(t, &t->away_mask, err);
	if (r >= 0)
		r = check_dispatch(inject, t, err);
	if (r >= 0)
		r = seccomp_read(t, &t->seccomp, err);
	if (r < 0)
		return r;
	t->slot = slot;
	slot_choose_calls(inject, &fresh, t);
	r = slot_choose_regs(&fresh, inject->low ? 0 : slot_address(inject, slot), t, &regs, ret_rseq, err);
	if (r < 0) {
		seccomp_release(&t->seccomp);
		return r;
	}
	fresh.data.mask = t->own_mask;
	fresh.data.wait = slot_zero_word(inject, slot);
	fresh.thread = t;
	inject->slots[slot] = fresh;
	t->home = inject;
	return 0;
}

void inject_forget(struct ferry_inject *inject, struct ferry_thread *t)
{
	inject->slots[t->slot] = (struct inject_slot){0};
	seccomp_release(&t->seccomp);
	t->home = NULL;
	t->slot = -1;
	t->mask_open = false;
}

int suspend_seccomp(struct ferry_thread *t, bool suspend, struct ferry_error *err)
{
	if (t->suspended == suspend)
		return 0;
	inject_effect(&t->opts, suspend ? "suspend-seccomp" : "resume-seccomp");
	long r = thread_ptrace(t, PTRACE_SETOPTIONS, 0,
			       INJECT_PTRACE_OPTIONS | (suspend ? PTRACE_O_SUSPEND_SECCOMP : 0));
	if (r == -ESRCH)
		return thread_failed(t, r, "suspending seccomp", err);
	if (r < 0) {
		error_errno(err, FERRY_ERROR_SECCOMP, (int)-r, "suspending the seccomp filters of task %d",
			    t->tid);
		error_hint(err, "this needs CAP_SYS_ADMIN and a caller without seccomp filters of its own");
		return (int)r;
	}
	t->suspended = suspend;
	return 0;
}

/* Refuse or prepare a call that the thread's filters do not let pass. */
static int call_permit(struct ferry_inject *inject, struct ferry_thread *t, const struct aim *aim,
		       struct ferry_error *err)
{
	t->deadly = false;
	if (aim->label != ferry__pad_call && aim->label != ferry__pad_call_undo)
		return 0;
	const struct call *call = &aim->call;
	uint32_t verdict = seccomp_verdict(&t->seccomp, call, inject->place.address);
	enum seccomp_class class = seccomp_classify(verdict);

	if (class == SECCOMP_RUNS)
		return 0;
	if (class == SECCOMP_KILLS && !(inject->opts.flags & FERRY_INJECT_DEADLY_CALLS)) {
		error_set(err, FERRY_ERROR_SECCOMP, EPERM, "seccomp would kill task %d for system call %ld",
			  t->tid, call->nr);
		error_hint(err, "allow such calls if the target may die when the tracer is killed in one");
		return -EPERM;
	}
	t->deadly = class == SECCOMP_KILLS;
	return suspend_seccomp(t, true, err);
}

struct user_regs_struct slot_regs(const struct ferry_thread *t)
{
	struct user_regs_struct regs = t->own_regs;

	regs.orig_rax = ~0ull;
	regs.eflags &= ~(unsigned long long)EFLAGS_TF;
	return regs;
}

int stand_at(struct ferry_inject *inject, struct ferry_thread *t, const unsigned char *label,
	     const struct call *call, const char *effect, struct ferry_error *err)
{
	struct user_regs_struct regs = slot_regs(t);

	regs_set_call(&regs, slot_label(inject, t->slot, label), call);
	/* It is going to run again, and no other signal may be let in. */
	int r = t->mask_open ? mask_set(t, t->away_mask, "block-signals", err) : 0;
	t->mask_open = false;
	if (r >= 0)
		r = regs_set(t, &regs, effect, err);
	if (r >= 0)
		inject->slots[t->slot].at_undo = label == ferry__pad_call_undo;
	return r;
}

/* The slot is prepared: make it the thread's place. */
static int go_away(struct ferry_inject *inject, struct ferry_thread *t, uint64_t rseq, const struct aim *aim,
		   struct ferry_error *err)
{
	const uint64_t none = 0;

	int r = slots_write(inject, "write-pad", err);
	if (r >= 0)
		r = stand_at(inject, t, aim->label, &aim->call, "redirect", err);
	if (r < 0) {
		inject_forget(inject, t);
		return r;
	}
	if (!t->no_mask)
		r = mask_set(t, t->away_mask, "block-signals", err);
	if (r >= 0 && rseq)
		r = ferry_inject_write(inject, rseq + 8, &none, sizeof(none), err);
	return r;
}

/* What the slot does with a result if nobody is there to take it. */
static void slot_set_undo(struct inject_slot *slot, const struct aim *aim)
{
	bool can = aim->undo_nr == SYS_munmap ? slot->can_unmap : slot->can_close;

	slot->data.result_nr = can ? (uint64_t)aim->undo_nr : 0;
	slot->data.result_arg = aim->undo_arg;
}

static int aim_first(struct ferry_inject *inject, struct ferry_thread *t, const struct aim *aim,
		     struct ferry_error *err)
{
	const struct aim tail = {.label = ferry__pad_tail};
	uint64_t rseq;

	int r = slot_prepare(inject, t, &rseq, err);
	if (r < 0)
		return r;
	r = call_permit(inject, t, aim, err);
	if (r < 0) {
		inject_forget(inject, t);
		return r;
	}
	if (aim->label == ferry__pad_call_undo)
		slot_set_undo(&inject->slots[t->slot], aim);
	if (!inject_owns_memory(inject))
		return go_away(inject, t, rseq, aim, err);
	/*
	 * It may use memory of another thread, which has to wait for it from now on: stand in the slot,
	 * then tell both.
	 */
	r = go_away(inject, t, rseq, &tail, err);
	if (r >= 0)
		r = inject_pair(inject, NULL, err);
	if (r < 0 || aim->label == ferry__pad_tail)
		return r;
	return stand_at(inject, t, aim->label, &aim->call, "set-call", err);
}

int inject_aim(struct ferry_inject *inject, struct ferry_thread *t, const struct aim *aim,
	       struct ferry_error *err)
{
	static const struct call nothing;
	int r = inject_settle(inject, t, err);

	if (r < 0)
		return r;
	if (!t->home)
		return aim_first(inject, t, aim, err);
	if (t->home != inject)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY,
				 "task %d is injected into by another handle", t->tid);
	r = call_permit(inject, t, aim, err);
	if (r < 0)
		return r;
	struct inject_slot *slot = &inject->slots[t->slot];
	if (aim->label == ferry__pad_call_undo) {
		/* While it stands behind such a call, the old result must not be taken for a new one. */
		if (slot->at_undo)
			r = stand_at(inject, t, ferry__pad_tail, &nothing, "leave-call", err);
		if (r < 0)
			return r;
		slot_set_undo(slot, aim);
		r = slots_write(inject, "arm-undo", err);
		if (r < 0)
			return r;
	}
	return stand_at(inject, t, aim->label, &aim->call, "set-call", err);
}

static bool in_slot(const struct ferry_thread *t, uint64_t rip)
{
	uint64_t start = slot_address(t->home, t->slot);

	return rip >= start && rip < start + slot_bytes(t->home);
}

/* A signal reaches a thread that is away: what to resume it with, or -errno. */
static int step_signal(struct ferry_thread *t, int signal, struct ferry_error *err)
{
	siginfo_t info = {.si_code = 0};
	long r = thread_ptrace(t, PTRACE_GETSIGINFO, 0, (uintptr_t)&info);

	if (r < 0)
		return thread_failed(t, r, "reading a signal", err);
	if (SIGNAL_BIT(signal) & FAULT_SIGNALS) {
		if (info.si_code > 0)
			return error_set(err, FERRY_ERROR_INJECT, EFAULT,
					 "injected code of task %d fails with signal %d at address %p",
					 t->tid, signal, info.si_addr);
		/* Sent by someone: blocked, it goes back to the queue. */
		if (!t->no_mask)
			r = mask_set(t, ~0ull, "block-signals", err);
	}
	/* Without a mask the handler runs now, and under its filters. */
	if (r >= 0 && t->no_mask)
		r = suspend_seccomp(t, false, err);
	return r < 0 ? (int)r : signal;
}

static int syscall_info(struct ferry_thread *t, struct syscall_stop *ret, struct ferry_error *err)
{
	struct __ptrace_syscall_info info = {0};
	long r = thread_ptrace(t, PTRACE_GET_SYSCALL_INFO, sizeof(info), (uintptr_t)&info);

	if (r < 0)
		return thread_failed(t, r, "reading a system call stop", err);
	*ret = (struct syscall_stop){.entry = info.op == PTRACE_SYSCALL_INFO_ENTRY,
				     .rip = info.instruction_pointer};
	if (ret->entry) {
		ret->nr = info.entry.nr;
		for (int i = 0; i < 6; i++)
			ret->args[i] = info.entry.args[i];
	} else {
		ret->result = info.exit.rval;
	}
	return 0;
}

/* It does not come back: try to get it out of a call that can be interrupted. */
static void step_timed_out(struct ferry_thread *t)
{
	struct syscall_stop stop = {.entry = false};
	int code = 0;

	t->at_entry = false;
	t->stop = FERRY_STOP_NONE;
	inject_effect(&t->opts, "interrupt");
	if (thread_ptrace(t, PTRACE_INTERRUPT, 0, 0) < 0 || thread_await(t, 1000, &code, NULL) < 0)
		return;
	t->stop = FERRY_STOP_SYSCALL;
	t->stepped = true;
	t->at_entry = code == (SIGTRAP | 0x80) && !syscall_info(t, &stop, NULL) && stop.entry;
}

static int step_executed(struct ferry_thread *t, int code, struct ferry_error *err)
{
	thread_take_exec(t, code);
	t->stop = FERRY_STOP_EXEC;
	inject_forget(t->home, t);
	return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESTALE, "task %d has executed another program",
			 t->tid);
}

/* A stop on the way: what to resume with, or -errno. */
static int pass_stop(struct ferry_thread *t, int code, struct ferry_error *err)
{
	if (code >> 8 == PTRACE_EVENT_EXEC)
		return step_executed(t, code, err);
	return code >> 8 ? 0 : step_signal(t, code & 0x7f, err);
}

/* Where a function waits for what its host wants next. */
static bool at_mark(const struct ferry_thread *t, const struct syscall_stop *stop)
{
	return t->mark && stop->entry && stop->nr == REMOTE_MARK_CALL && stop->args[0] == t->mark;
}

int inject_step(struct ferry_thread *t, struct syscall_stop *ret, struct ferry_error *err)
{
	bool suspended = t->suspended;
	int signal = 0, code = 0;

	for (;;) {
		inject_effect(&t->opts, "step");
		long r = thread_ptrace(t, PTRACE_SYSCALL, 0, (uintptr_t)signal);
		if (r < 0)
			return thread_failed(t, r, "stepping", err);
		signal = 0;
		r = thread_await(t, inject_timeout(&t->opts), &code, err);
		if (r == -ETIMEDOUT)
			step_timed_out(t);
		if (r < 0)
			return (int)r;
		if (code == (SIGTRAP | 0x80)) {
			r = syscall_info(t, ret, err);
			if (r < 0)
				return (int)r;
			t->stepped = true;
			t->at_entry = ret->entry;
			/*
			 * Others are calls of a blob, or of a handler that runs since signals could not be
			 * blocked.
			 */
			if (in_slot(t, ret->rip) || at_mark(t, ret))
				return suspend_seccomp(t, suspended, err);
			continue;
		}
		signal = pass_stop(t, code, err);
		if (signal < 0)
			return signal;
	}
}

/* Whether it is behind its call, where the slot holds it. */
static bool is_held(const struct ferry_thread *t, uint64_t rip)
{
	return rip >= slot_label(t->home, t->slot, ferry__pad_wait) &&
	       rip < slot_label(t->home, t->slot, ferry__pad_waited);
}

/* Let it run, and look again and again whether it has arrived where it is held. */
static int run_to_hold(struct ferry_thread *t, struct user_regs_struct *regs, struct ferry_error *err)
{
	uint64_t until = time_now_ns() + (uint64_t)inject_timeout(&t->opts) * 1000000;
	struct timespec pause = {.tv_nsec = HOLD_PAUSE_NS};
	int signal = 0, code = 0;

	for (;;) {
		inject_effect(&t->opts, "run-held");
		long r = thread_ptrace(t, PTRACE_CONT, 0, (uintptr_t)signal);
		if (r < 0)
			return thread_failed(t, r, "running", err);
		nanosleep(&pause, NULL);
		r = thread_ptrace(t, PTRACE_INTERRUPT, 0, 0);
		if (r < 0)
			return thread_failed(t, r, "interrupting", err);
		r = thread_await(t, inject_timeout(&t->opts), &code, err);
		if (r < 0)
			return (int)r;
		t->stepped = true;
		t->at_entry = false;
		r = regs_get(t, regs, err);
		if (r < 0 || (code >> 8 && is_held(t, regs->rip)))
			return (int)r;
		signal = pass_stop(t, code, err);
		if (signal < 0)
			return signal;
		if (time_now_ns() > until)
			return error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT,
					 "a system call of task %d does not end", t->tid);
	}
}

/*
 * A call that would kill the thread if it were stopped at the entry and the tracer died: it makes the call in one go and then
 * goes round in a circle. Before and behind the call it can be freed from outside (defuse.h).
 */
static int step_held(struct ferry_inject *inject, struct ferry_thread *t, const struct aim *aim,
		     struct syscall_stop *ret, struct ferry_error *err)
{
	struct inject_slot *slot = &inject->slots[t->slot];
	struct user_regs_struct regs;

	slot->head.hold = 1;
	slot->data.result_nr = 0;
	int r = slots_write(inject, "hold", err);
	if (r >= 0)
		r = run_to_hold(t, &regs, err);
	slot->head.hold = 0;
	if (r < 0)
		return r;
	*ret = (struct syscall_stop){.rip = slot_label(inject, t->slot, aim->label) + PAD_SYSCALL_BYTES,
				     .result = (int64_t)regs.rax};
	return slots_write(inject, "free", err);
}

int inject_run_to_signal(struct ferry_thread *t, int signal, uint64_t rip, struct user_regs_struct *ret_regs,
			 struct ferry_error *err)
{
	int pass = 0, code = 0;

	while (pass >= 0) {
		inject_effect(&t->opts, "run");
		long r = thread_ptrace(t, PTRACE_CONT, 0, (uintptr_t)pass);
		if (r < 0)
			return thread_failed(t, r, "running", err);
		r = thread_await(t, inject_timeout(&t->opts), &code, err);
		if (r == -ETIMEDOUT)
			step_timed_out(t);
		if (r < 0)
			return (int)r;
		t->stepped = true;
		t->at_entry = false;
		if (code == signal) {
			r = regs_get(t, ret_regs, err);
			if (r < 0)
				return (int)r;
			/* Resumed with anything but the signal, it is gone. */
			if (ret_regs->rip == rip) {
				t->mask_open = true;
				return 0;
			}
		}
		pass = pass_stop(t, code, err);
	}
	return pass;
}

/* ERESTARTSYS and its kin: the kernel will make the call again. */
static bool to_be_restarted(int64_t result)
{
	return result <= -512 && result >= -516;
}

int inject_run(struct ferry_inject *inject, struct ferry_thread *t, const struct aim *aim,
	       int64_t *ret_result, struct ferry_error *err)
{
	struct syscall_stop stop = {.entry = true};
	int r = inject_aim(inject, t, aim, err);

	while (r >= 0) {
		r = t->deadly ? step_held(inject, t, aim, &stop, err) : inject_step(t, &stop, err);
		t->deadly = false;
		/*
		 * A handler that returns into the slot, where signals cannot be blocked, stops there as
		 * well.
		 */
		bool after =
			r >= 0 && stop.rip == slot_label(inject, t->slot, aim->label) + PAD_SYSCALL_BYTES;
		if (after && !stop.entry && !to_be_restarted(stop.result)) {
			*ret_result = stop.result;
			return 0;
		}
	}
	return r;
}
