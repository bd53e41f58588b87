/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns driving a thread through its landing pad: away, calls, memory, and back. Kernel interface:
 * ptrace(2), PTRACE_GET_SYSCALL_INFO (Linux 5.3).
 *
 * At every instant the thread's natural way, if the tracer were dead now, leads to its own state. Away: the
 * slot is written first, then one PTRACE_SETREGSET makes the slot the thread's place, then signals are
 * blocked. A step changes either where the thread stands or what the slot says, never so that one needs the
 * other. Back: the thread's memory is unmapped by its own way through the pad's tail, then mask, then
 * registers.
 *
 * On the way back alive the thread gets the registers it had when it was stopped, and a pending trap makes
 * it pass the kernel's signal code, so that the kernel itself restarts the interrupted call, or does not
 * when a handler is due. The pad has to fold that into the registers; see restart.c.
 *
 * Not handled: a call that does not return. It times out, and the thread can then be cured if the call can
 * be interrupted.
 */
#include <ferry/inject.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "inject/internal.h"

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC)
#define PAGE 4096u
#define EFLAGS_TF 0x100u

/*
 * Rounds of settling, of 20 us and then twice as long each, in which handlers may return to a dead ferry's
 * pad: 80 ms.
 */
#define HANDLER_ROUNDS 12

#define SIGNAL_BIT(signal) (1ull << ((signal)-1))

/*
 * A fault inside a blob must not make the kernel reset the application's handler, as it does for a blocked
 * signal.
 */
#define FAULT_SIGNALS                                                                         \
	(SIGNAL_BIT(SIGSEGV) | SIGNAL_BIT(SIGBUS) | SIGNAL_BIT(SIGILL) | SIGNAL_BIT(SIGFPE) | \
	 SIGNAL_BIT(SIGTRAP) | SIGNAL_BIT(SIGSYS))

/* Calls after which the thread would not come back, or come back twice. */
static const uint16_t refused_calls[] = {
	SYS_clone,    SYS_clone3, SYS_fork,       SYS_vfork,        SYS_execve,
	SYS_execveat, SYS_exit,   SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall,
};

/* ------------------------------------------------------------ open and close */

static void cleanup_inject(struct ferry_inject **inject)
{
	ferry_inject_close(*inject);
}

int ferry_inject_open(struct ferry_thread *t, const struct ferry_inject_options *opts,
		      struct ferry_inject **ret_inject, struct ferry_error *err)
{
	struct user_regs_struct regs;
	int r = thread_check_stopped(t, "preparing injection", err);

	if (r >= 0)
		r = regs_get(t, &regs, err);
	if (r < 0)
		return r;
	_cleanup_(cleanup_inject) struct ferry_inject *inject = calloc(1, sizeof(*inject));
	if (!inject)
		return error_memory(err);
	inject->mem_fd = -EBADF;
	inject->tid = t->tid;
	r = inject_options_copy(&inject->opts, opts, err);
	if (r < 0)
		return r;
	inject->mem_fd = fd_openf(O_RDWR, "/proc/%d/mem", t->tid);
	if (inject->mem_fd < 0)
		return error_errno(err, FERRY_ERROR_INJECT, -inject->mem_fd, "opening the memory of task %d",
				   t->tid);
	r = place_find(inject, err);
	if (r >= 0)
		r = slot_inspect(inject, err);
	if (r < 0)
		return r;
	*ret_inject = take_ptr(inject);
	return 0;
}

void ferry_inject_close(struct ferry_inject *inject)
{
	if (!inject)
		return;
	for (int i = 0; i < INJECT_SLOTS; i++)
		if (inject->slots[i].thread)
			inject->slots[i].thread->home = NULL;
	if (inject->mem_fd >= 0)
		close(inject->mem_fd);
	free(inject);
}

int ferry_inject_read(struct ferry_inject *inject, uint64_t address, void *bytes, size_t n,
		      struct ferry_error *err)
{
	int r = fd_pread_all(inject->mem_fd, bytes, n, address);

	if (r < 0)
		return error_errno(err, FERRY_ERROR_INJECT, EFAULT, "reading %zu bytes at %#llx of task %d",
				   n, (unsigned long long)address, inject->tid);
	return 0;
}

int ferry_inject_write(struct ferry_inject *inject, uint64_t address, const void *bytes, size_t n,
		       struct ferry_error *err)
{
	inject_effect(&inject->opts, "write-memory");
	int r = fd_pwrite_all(inject->mem_fd, bytes, n, address);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_INJECT, EFAULT, "writing %zu bytes at %#llx of task %d",
				   n, (unsigned long long)address, inject->tid);
	return 0;
}

int ferry_inject_is_away(const struct ferry_thread *t)
{
	return t->home != NULL;
}

/* ------------------------------------------------------------------- settle */

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
	inject_effect(&t->opts, "continue");
	long r = thread_ptrace(t, PTRACE_CONT, 0, 0);
	if (r < 0)
		return thread_failed(t, r, "continuing", err);
	t->stop = FERRY_STOP_NONE;
	return 0;
}

/*
 * A handler that ran on the way out of a pad returns there. Let it, for a while, but not in a stopped
 * process: its own code must not run. What nobody comes back to is cleared away.
 */
static int settle_frames(struct ferry_inject *inject, struct ferry_thread *t, struct user_regs_struct *regs,
			 int round, struct ferry_error *err)
{
	int r = 1;

	for (int i = 0; i < INJECT_SLOTS; i++) {
		struct inject_slot *slot = &inject->slots[i];
		if (!slot->dirty || slot->dirty_tid != t->tid || slot->thread)
			continue;
		if (!slot_awaits(inject, i, regs->rsp, regs->rip)) {
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

/* One attempt: 1 = it stands in code of its own, 0 = not yet; it may run now. */
static int settle_once(struct ferry_inject *inject, struct ferry_thread *t, int round,
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

int ferry_inject_settle_all(struct ferry_inject *inject, struct ferry_thread *const *threads, size_t n,
			    struct ferry_error *err)
{
	uint64_t end = time_now_ns() + (uint64_t)MAX(inject_timeout(&inject->opts), 0) * 1000000;
	struct timespec moment = {.tv_nsec = 20000};

	/*
	 * Together: a thread in an old pad may wait for another one to leave memory that it is about to
	 * unmap.
	 */
	for (int round = 0;; round++) {
		bool all = true;
		for (size_t i = 0; i < n; i++) {
			int r = settle_once(inject, threads[i], round, err);
			if (r < 0)
				return r;
			all = all && r;
		}
		if (all)
			return 0;
		nanosleep(&moment, NULL);
		moment.tv_nsec = MIN(moment.tv_nsec * 2, 20000000);
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

int ferry_inject_settle(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	return ferry_inject_settle_all(inject, &t, 1, err);
}

/* ---------------------------------------------------------------- away, step */

/* What the pad may call under the thread's seccomp filters, if it has to find its way alone. */
static bool pad_may(const struct ferry_inject *inject, struct ferry_thread *t, long nr,
		    const uint64_t args[6])
{
	struct call call = {.nr = nr};

	memcpy(call.args, args, sizeof(call.args));
	return seccomp_classify(seccomp_verdict(&t->seccomp, &call, inject->place.address)) == SECCOMP_RUNS;
}

#define PAD_MAY(inject, t, nr, ...) pad_may(inject, t, nr, (const uint64_t[6]){__VA_ARGS__})

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
	slot->data.catch_nr = SYS_rt_sigprocmask;
	slot->data.catch_arg = SIG_BLOCK;
	if (!PAD_MAY(inject, t, SYS_rt_sigprocmask, SIG_BLOCK, 0, 0, 8)) {
		slot->data.catch_nr = SYS_read;
		slot->data.catch_arg = ~0ull;
	}
}

/*
 * Where and with what the thread goes on: what the kernel is to see when it comes back alive, and what the
 * pad loads.
 */
static int slot_choose_regs(struct inject_slot *slot, struct ferry_thread *t,
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
	pad_data_set_regs(&slot->data, &folded, &eintr);
	*ret_rseq = rseq;
	return 0;
}

static uint64_t slot_zero_word(const struct ferry_inject *inject, int slot)
{
	return slot_label(inject, slot, ferry__pad_data) + offsetof(struct pad_data, zero);
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

/* Fill a free slot for the thread; the target does not change yet. */
static int slot_prepare(struct ferry_inject *inject, struct ferry_thread *t, uint64_t *ret_rseq,
			struct ferry_error *err)
{
	struct user_regs_struct regs;
	struct inject_slot fresh = {.head = {.magic = PAD_MAGIC, .tid = (uint32_t)t->tid}};

	int slot = slot_find_free(inject, err);
	if (slot < 0)
		return slot;
	int r = regs_get(t, &regs, err);
	if (r >= 0)
		r = mask_get(t, &t->own_mask, err);
	if (r >= 0)
		r = check_dispatch(inject, t, err);
	if (r >= 0)
		r = seccomp_read(t, &t->seccomp, err);
	if (r < 0)
		return r;
	t->slot = slot;
	slot_choose_calls(inject, &fresh, t);
	r = slot_choose_regs(&fresh, t, &regs, ret_rseq, err);
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
}

int suspend_seccomp(struct ferry_thread *t, bool suspend, struct ferry_error *err)
{
	if (t->suspended == suspend)
		return 0;
	inject_effect(&t->opts, suspend ? "suspend-seccomp" : "resume-seccomp");
	long r = thread_ptrace(t, PTRACE_SETOPTIONS, 0, OPTIONS | (suspend ? PTRACE_O_SUSPEND_SECCOMP : 0));
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
static int call_permit(struct ferry_inject *inject, struct ferry_thread *t, const struct call *call,
		       struct ferry_error *err)
{
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
	return suspend_seccomp(t, true, err);
}

static struct user_regs_struct slot_regs(const struct ferry_thread *t)
{
	struct user_regs_struct regs = t->own_regs;

	regs.orig_rax = ~0ull;
	regs.eflags &= ~(unsigned long long)EFLAGS_TF;
	return regs;
}

static int stand_at(struct ferry_inject *inject, struct ferry_thread *t, const unsigned char *label,
		    const struct call *call, const char *effect, struct ferry_error *err)
{
	struct user_regs_struct regs = slot_regs(t);

	regs_set_call(&regs, slot_label(inject, t->slot, label), call);
	int r = regs_set(t, &regs, effect, err);
	if (r >= 0)
		inject->slots[t->slot].at_undo = label == ferry__pad_call_undo;
	return r;
}

static int inject_pair(struct ferry_inject *inject, const struct ferry_thread *leaving,
		       struct ferry_error *err);

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
		r = mask_set(t, ~FAULT_SIGNALS, "block-signals", err);
	if (r >= 0 && rseq)
		r = ferry_inject_write(inject, rseq + 8, &none, sizeof(none), err);
	return r;
}

static bool slot_owns(const struct inject_slot *slot)
{
	for (int i = 0; i < PAD_UNMAPS; i++)
		if (slot->maps[i].bytes)
			return true;
	return false;
}

static bool someone_owns(const struct ferry_inject *inject)
{
	for (int i = 0; i < INJECT_SLOTS; i++)
		if (inject->slots[i].thread && slot_owns(&inject->slots[i]))
			return true;
	return false;
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
	r = call_permit(inject, t, &aim->call, err);
	if (r < 0) {
		inject_forget(inject, t);
		return r;
	}
	if (aim->label == ferry__pad_call_undo)
		slot_set_undo(&inject->slots[t->slot], aim);
	if (!someone_owns(inject))
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
	int r = ferry_inject_settle(inject, t, err);

	if (r < 0)
		return r;
	if (!t->home)
		return aim_first(inject, t, aim, err);
	if (t->home != inject)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY,
				 "task %d is injected into by another handle", t->tid);
	r = call_permit(inject, t, &aim->call, err);
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

	return rip >= start && rip < start + PAD_BYTES;
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
	struct __ptrace_syscall_info info;
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
	int code = 0;

	t->stop = FERRY_STOP_NONE;
	inject_effect(&t->opts, "interrupt");
	if (thread_ptrace(t, PTRACE_INTERRUPT, 0, 0) < 0 || thread_await(t, 1000, &code, NULL) < 0)
		return;
	t->stop = FERRY_STOP_SYSCALL;
	t->at_entry = false;
	t->in_syscall_stop = true;
}

int inject_step(struct ferry_thread *t, struct syscall_stop *ret, struct ferry_error *err)
{
	bool suspended = t->suspended;
	int signal = 0, code;

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
			t->in_syscall_stop = true;
			t->at_entry = ret->entry;
			/*
			 * Others are calls of a blob, or of a handler that runs since signals could not be
			 * blocked.
			 */
			if (in_slot(t, ret->rip))
				return suspend_seccomp(t, suspended, err);
			continue;
		}
		if (code >> 8 == PTRACE_EVENT_EXEC)
			return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESTALE,
					 "task %d has executed another program", t->tid);
		if (code >> 8)
			continue;
		signal = step_signal(t, code & 0x7f, err);
		if (signal < 0)
			return signal;
	}
}

/* ERESTARTSYS and its kin: the kernel will make the call again. */
static bool to_be_restarted(int64_t result)
{
	return result <= -512 && result >= -516;
}

int inject_run(struct ferry_inject *inject, struct ferry_thread *t, const struct aim *aim,
	       int64_t *ret_result, struct ferry_error *err)
{
	struct syscall_stop stop;
	int r = inject_aim(inject, t, aim, err);

	while (r >= 0) {
		r = inject_step(t, &stop, err);
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

/* -------------------------------------------------------------------- calls */

static int call_check(struct ferry_inject *inject, struct ferry_thread *t, long nr, struct ferry_error *err)
{
	int r = thread_check_stopped(t, "injecting", err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(refused_calls); i++)
		if (refused_calls[i] == nr)
			return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
					 "system call %ld cannot be injected", nr);
	return inject_fault(&inject->opts, "inject-call", err);
}

static int call_with(struct ferry_inject *inject, struct ferry_thread *t, struct aim *aim,
		     const uint64_t args[6], int64_t *ret_result, struct ferry_error *err)
{
	int64_t result = 0;
	int r = call_check(inject, t, aim->call.nr, err);

	if (r < 0)
		return r;
	if (args)
		memcpy(aim->call.args, args, sizeof(aim->call.args));
	r = inject_run(inject, t, aim, &result, err);
	if (r >= 0 && ret_result)
		*ret_result = result;
	return r;
}

int ferry_inject_call(struct ferry_inject *inject, struct ferry_thread *t, long number,
		      const uint64_t args[6], int64_t *ret_result, struct ferry_error *err)
{
	struct aim aim = {.label = ferry__pad_call, .call = {.nr = number}};

	return call_with(inject, t, &aim, args, ret_result, err);
}

int ferry_inject_call_fd(struct ferry_inject *inject, struct ferry_thread *t, long number,
			 const uint64_t args[6], int64_t *ret_fd, struct ferry_error *err)
{
	struct aim aim = {.label = ferry__pad_call_undo, .call = {.nr = number}, .undo_nr = SYS_close};

	return call_with(inject, t, &aim, args, ret_fd, err);
}

/* ------------------------------------------------------------------- memory */

static const struct inject_map *slot_first_map(const struct inject_slot *slot)
{
	for (int i = 0; i < PAD_UNMAPS; i++)
		if (slot->maps[i].bytes && slot->data.unmap[i].bytes)
			return &slot->maps[i];
	return NULL;
}

/*
 * Let threads that are away wait for each other's memory, as things stand now: the owner waits for a word
 * at the end of its memory, which the user clears. Both learn of it in one write. 'leaving' counts as back
 * already.
 */
static int inject_pair(struct ferry_inject *inject, const struct ferry_thread *leaving,
		       struct ferry_error *err)
{
	bool changed = false;

	static_assert(INJECT_SLOTS == 2, "a thread waits for one other");
	for (int i = 0; i < INJECT_SLOTS; i++) {
		struct inject_slot *owner = &inject->slots[i], *user = &inject->slots[!i];
		uint64_t wait = slot_zero_word(inject, i), release = 0;
		if (owner->thread && user->thread && owner->thread != leaving && user->thread != leaving) {
			const struct inject_map *map = slot_first_map(owner);
			if (map)
				wait = release = MAP_WORD(map);
		}
		changed = changed || (owner->thread && owner->data.wait != wait) ||
			  (user->thread && user->data.release != release);
		owner->data.wait = wait;
		user->data.release = release;
	}
	return changed ? slots_write(inject, "pair", err) : 0;
}

static int slot_free_map(const struct inject_slot *slot)
{
	for (int i = 0; i < PAD_UNMAPS; i++)
		if (!slot->maps[i].bytes)
			return i;
	return -ENOSPC;
}

/* An entry before others that is used no longer: munmap(1, 1) fails and harms nothing. */
static void slot_set_unmap(struct inject_slot *slot, int index, uint64_t address, uint64_t bytes)
{
	for (int i = 0; i < index; i++) {
		if (!slot->data.unmap[i].bytes) {
			slot->data.unmap[i].bytes = 1;
			slot->data.unmap[i].address = 1;
		}
	}
	slot->data.unmap[index].address = address;
	slot->data.unmap[index].bytes = bytes;
}

static int map_failed(struct ferry_thread *t, uint64_t bytes, int64_t result, struct ferry_error *err)
{
	return error_errno(err, result == -ENOMEM ? FERRY_ERROR_LIMIT : FERRY_ERROR_INJECT, (int)-result,
			   "mapping %llu bytes in task %d", (unsigned long long)bytes, t->tid);
}

int inject_map_memory(struct ferry_inject *inject, struct ferry_thread *t, uint64_t bytes, int prot,
		      int *ret_index, struct ferry_error *err)
{
	const uint32_t used = 1;
	int64_t address;
	struct aim aim = {
		.label = ferry__pad_call_undo,
		.call = {SYS_mmap, {0, bytes, (uint64_t)prot, MAP_PRIVATE | MAP_ANONYMOUS, ~0ull, 0}},
		.undo_nr = SYS_munmap,
		.undo_arg = bytes,
	};

	int index = t->home ? slot_free_map(&inject->slots[t->slot]) : 0;
	if (index < 0)
		return error_set(err, FERRY_ERROR_INJECT, ENOSPC, "task %d owns %d injected mappings already",
				 t->tid, PAD_UNMAPS);
	int r = inject_fault(&inject->opts, "inject-map", err);
	if (r >= 0)
		r = inject_run(inject, t, &aim, &address, err);
	if (r < 0)
		return r;
	if (address < 0)
		return map_failed(t, bytes, address, err);
	/* The result is the slot's from now on: one write ends the first duty and begins the second. */
	struct inject_slot *slot = &inject->slots[t->slot];
	slot->maps[index] = (struct inject_map){.address = (uint64_t)address, .bytes = bytes};
	slot->data.result_nr = 0;
	if (slot->can_unmap)
		slot_set_unmap(slot, index, (uint64_t)address, bytes);
	r = slots_write(inject, "own-memory", err);
	if (r >= 0)
		r = ferry_inject_write(inject, MAP_WORD(&slot->maps[index]), &used, sizeof(used), err);
	if (r < 0)
		return r;
	/*
	 * A child that another thread makes meanwhile has no use for it. Old kernels and filters may
	 * refuse.
	 */
	struct aim advise = {.label = ferry__pad_call,
			     .call = {SYS_madvise, {(uint64_t)address, bytes, MADV_DONTFORK}}};
	if (PAD_MAY(inject, t, SYS_madvise, (uint64_t)address, bytes, MADV_DONTFORK))
		r = inject_run(inject, t, &advise, &address, err);
	if (r >= 0)
		r = inject_pair(inject, NULL, err);
	*ret_index = index;
	return r;
}

/* Let the thread unmap on its own way through the tail: dead or alive, it happens once. */
static int unmap_by_tail(struct ferry_inject *inject, struct ferry_thread *t, int n, struct ferry_error *err)
{
	static const struct call nothing;
	struct syscall_stop stop;
	bool inside = false;

	int r = stand_at(inject, t, ferry__pad_tail, &nothing, "unmap", err);
	while (r >= 0 && n > 0) {
		r = inject_step(t, &stop, err);
		if (r < 0)
			return r;
		if (stop.entry && stop.nr != SYS_munmap)
			return error_set(err, FERRY_ERROR_INTERNAL, EPROTO,
					 "task %d left the way of its landing pad", t->tid);
		if (inside && !stop.entry)
			n--;
		inside = stop.entry;
	}
	return r;
}

static int unmap_by_call(struct ferry_inject *inject, struct ferry_thread *t, const struct inject_map *map,
			 struct ferry_error *err)
{
	struct aim aim = {.label = ferry__pad_call, .call = {SYS_munmap, {map->address, map->bytes}}};
	int64_t result;

	return inject_run(inject, t, &aim, &result, err);
}

int inject_unmap_memory(struct ferry_inject *inject, struct ferry_thread *t, int index,
			struct ferry_error *err)
{
	struct inject_slot *slot = &inject->slots[t->slot];
	struct inject_map map = slot->maps[index];
	int r;

	slot->maps[index].bytes = 0;
	if (!slot->can_unmap)
		return unmap_by_call(inject, t, &map, err);
	/* Nobody waits for memory that goes away; and the way through the tail must not wait. */
	r = inject_pair(inject, t, err);
	if (r < 0)
		return r;
	typeof(slot->data.unmap[0]) first = slot->data.unmap[0];
	slot->data.unmap[0] = slot->data.unmap[index];
	slot->data.unmap[index] = first;
	r = slots_write(inject, "order-memory", err);
	if (r >= 0)
		r = unmap_by_tail(inject, t, 1, err);
	if (r < 0)
		return r;
	/*
	 * It is past the first entry, which may hold anything now; the others stay where they are, dead or
	 * alive.
	 */
	slot->data.unmap[0].bytes = slot->data.unmap[0].address = 1;
	r = slots_write(inject, "disown-memory", err);
	if (r >= 0)
		r = stand_at(inject, t, ferry__pad_tail, &(const struct call){0}, "leave-call", err);
	if (r < 0)
		return r;
	if (index) {
		slot->data.unmap[0] = slot->data.unmap[index];
		slot->data.unmap[index].bytes = slot->data.unmap[index].address = 1;
		r = slots_write(inject, "order-memory", err);
	}
	return r < 0 ? r : inject_pair(inject, NULL, err);
}

int ferry_inject_map(struct ferry_inject *inject, struct ferry_thread *t, size_t bytes, uint64_t *ret_address,
		     struct ferry_error *err)
{
	int index, r = thread_check_stopped(t, "mapping", err);

	if (r < 0)
		return r;
	if (!bytes || bytes > UINT64_MAX / 2)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "mapping of %zu bytes", bytes);
	r = inject_map_memory(inject, t, align_up(bytes + 8, PAGE), PROT_READ | PROT_WRITE, &index, err);
	if (r >= 0)
		*ret_address = inject->slots[t->slot].maps[index].address;
	return r;
}

int ferry_inject_unmap(struct ferry_inject *inject, struct ferry_thread *t, uint64_t address,
		       struct ferry_error *err)
{
	int r = thread_check_stopped(t, "unmapping", err);

	if (r < 0)
		return r;
	for (int i = 0; t->home == inject && i < PAD_UNMAPS; i++) {
		const struct inject_map *map = &inject->slots[t->slot].maps[i];
		if (map->bytes && map->address == address)
			return inject_unmap_memory(inject, t, i, err);
	}
	return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "task %d owns no injected mapping at %#llx",
			 t->tid, (unsigned long long)address);
}

/* --------------------------------------------------------------------- cure */

static int cure_memory(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	struct inject_slot *slot = &inject->slots[t->slot];
	int n = 0, r = 0;

	for (int i = 0; !slot->can_unmap && i < PAD_UNMAPS; i++) {
		if (slot->maps[i].bytes)
			r = unmap_by_call(inject, t, &slot->maps[i], err);
		if (r < 0)
			return r;
	}
	/* Before the thread leaves, and before its memory goes: nobody waits for either. */
	r = inject_pair(inject, t, err);
	while (n < PAD_UNMAPS && slot->data.unmap[n].bytes)
		n++;
	if (r < 0 || !slot_owns(slot) || !slot->can_unmap)
		return r;
	r = unmap_by_tail(inject, t, n, err);
	memset(slot->maps, 0, sizeof(slot->maps));
	return r;
}

static int cure_state(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	struct syscall_stop stop;
	int r = 0;

	/* Registers set before a call would be those of the call. */
	if (t->at_entry)
		r = inject_step(t, &stop, err);
	if (r >= 0)
		r = cure_memory(inject, t, err);
	if (r < 0)
		return r;
	if (t->must_trap && !t->trap_pending) {
		inject_effect(&t->opts, "trap");
		long trap = thread_ptrace(t, PTRACE_INTERRUPT, 0, 0);
		if (trap < 0)
			return thread_failed(t, trap, "interrupting", err);
		t->trap_pending = true;
	}
	if (!t->no_mask)
		r = mask_set(t, t->own_mask, "restore-mask", err);
	if (r >= 0)
		r = regs_set(t, &t->own_regs, "restore-regs", err);
	return r < 0 ? r : suspend_seccomp(t, false, err);
}

int ferry_inject_cure(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	if (!t->home)
		return 0;
	int slot = t->slot, r = thread_check_stopped(t, "curing", err);
	if (r == -EBUSY)
		return r;
	if (r >= 0)
		r = cure_state(inject, t, err);
	if (r < 0 && t->stop != FERRY_STOP_EXITED)
		return r;
	/* Gone threads need no cure, but their slot is free. */
	bool gone = t->stop == FERRY_STOP_EXITED;
	inject_forget(inject, t);
	int erased = slot_erase(inject, slot, gone ? NULL : err);
	return gone ? r : erased;
}
