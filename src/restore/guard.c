/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns tasks under seccomp while they are restored. Filters come first in a thread's script, since later it lacks the
 * right to install them, and they forbid much of what is still to be done. So the coordinator traces every thread of such
 * a task, and the kernel suspends the filters as long as it does.
 *
 * At the barrier each thread is stopped and gets its own registers and mask, so that nothing is left to be done. What lets it
 * run is the end of the tracing: when the barrier opens, or when the coordinator dies. Before the commit the warden
 * kills the tasks first.
 *
 * Threads with syscall user dispatch go the same way: what they call behind the point where it is set would be dispatched.
 *
 * Kernel interface: ptrace(2) PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG (6.4), PTRACE_O_SUSPEND_SECCOMP (4.3, needs CAP_SYS_ADMIN and a tracer that is under no filter itself).
 */
#include <elf.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

#include "base/error.h"
#include "kernel/caps.h"
#include "kernel/uapi.h"
#include "restore/restore.h"

enum {
	GUARD_POLL_NS = 50000,
	GUARD_LOOK_POLLS = 400,
	GUARD_HALT_TRIES = 20000,
	GUARD_SYSCALL_AT = 5, /* in the exit gadget: its first system call instruction */
	GUARD_SIGMASK_BYTES = 8,
};

int guard_check(const struct plan *plan, const struct kern_caps *caps, struct ferry_error *err)
{
	for (size_t i = 0; i < plan->n_tasks; i++) {
		if (!plan->tasks[i].guarded)
			continue;
		if (plan->tasks[i].stop_signal)
			return error_set(
				err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				"pid %d was stopped, and has seccomp filters or syscall user dispatch",
				plan->tasks[i].pid);
		if (!plan->tasks[i].filtered || (kern_capable(caps, CAP_SYS_ADMIN) &&
						 prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_DISABLED))
			continue;
		error_set(err, FERRY_ERROR_PERMISSION, EPERM,
			  "pid %d has seccomp filters, and ferry may not suspend them", plan->tasks[i].pid);
		error_hint(err, "this needs CAP_SYS_ADMIN and a ferry without seccomp filters of its own");
		return -EPERM;
	}
	return 0;
}

static int guard_error(int code, pid_t tid, const char *what, struct ferry_error *err)
{
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, code, "thread %d, which is traced: %s", tid, what);
}

/* Become the tracer of a thread that waits for one. 1: it does not yet. */
static int guard_seize(struct restore *r, const struct plan_task *t, size_t index, struct ferry_error *err)
{
	struct blob_thread *thread = region_thread(r, t, index);
	pid_t tid = tasks_tid(r, t, index);
	if (__atomic_load_n(&thread->guard, __ATOMIC_SEQ_CST) != BLOB_GUARD_WAITS)
		return 1;
	fault_effect(r->fault, "restore", "suspend-seccomp");
	long suspend = t->filtered ? PTRACE_O_SUSPEND_SECCOMP : 0;
	if (ptrace(PTRACE_SEIZE, tid, NULL, suspend | PTRACE_O_TRACESYSGOOD) < 0)
		return guard_error(errno, tid, "suspending its filters", err);
	__atomic_store_n(&thread->guard, BLOB_GUARD_HELD, __ATOMIC_SEQ_CST);
	return 0;
}

/* One look at all threads; how many are not held yet. */
static int guard_round(struct restore *r, struct ferry_error *err)
{
	int waiting = 0;
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		for (size_t n = 0; t->guarded && n < t->threads.n; n++) {
			if (region_thread(r, t, n)->guard == BLOB_GUARD_HELD)
				continue;
			int ret = guard_seize(r, t, n, err);
			if (ret < 0)
				return ret;
			waiting += ret;
		}
	}
	return waiting;
}

int guard_tend(struct restore *r, struct ferry_error *err)
{
	return MIN(guard_round(r, err), 0);
}

int guard_hold(struct restore *r, struct ferry_error *err)
{
	for (int polls = 1;; polls++) {
		int ret = guard_round(r, err);
		if (ret <= 0)
			return ret;
		ret = tasks_watch(r, polls % GUARD_LOOK_POLLS == 0, err);
		if (ret < 0)
			return ret;
		const struct timespec pause = {.tv_nsec = GUARD_POLL_NS};
		nanosleep(&pause, NULL);
	}
}

static int guard_wait(pid_t tid, struct ferry_error *err)
{
	int status;
	pid_t who;
	while ((who = waitpid(tid, &status, __WALL)) < 0 && errno == EINTR)
		continue;
	if (who < 0)
		return guard_error(errno, tid, "waiting for it", err);
	if (!WIFSTOPPED(status))
		return guard_error(ECHILD, tid, "it ended", err);
	return WSTOPSIG(status);
}

static int guard_get_regs(pid_t tid, struct user_regs_struct *regs, struct ferry_error *err)
{
	struct iovec io = {regs, sizeof(*regs)};
	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &io) < 0)
		return guard_error(errno, tid, "reading its registers", err);
	return 0;
}

static int guard_set_regs(pid_t tid, struct user_regs_struct *regs, struct ferry_error *err)
{
	struct iovec io = {regs, sizeof(*regs)};
	/* It was stopped in a system call, which is not to be made again. */
	regs->orig_rax = ~0ull;
	if (ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &io) < 0)
		return guard_error(errno, tid, "setting its registers", err);
	return 0;
}

/* The first thread unmaps the blob by the exit gadget's own instruction; the other threads have left the blob. */
static int guard_unmap(const struct plan_task *t, pid_t pid, const uint64_t *frame,
		       struct user_regs_struct regs, struct ferry_error *err)
{
	regs.rip = t->gadget + GUARD_SYSCALL_AT;
	regs.rax = SYS_munmap;
	regs.rdi = frame[BLOB_FRAME_UNMAP_ADDRESS];
	regs.rsi = frame[BLOB_FRAME_UNMAP_BYTES];
	int r = guard_set_regs(pid, &regs, err);
	for (int stop = 0; stop < 2 && r >= 0; stop++) {
		if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL) < 0)
			return guard_error(errno, pid, "unmapping the blob", err);
		r = guard_wait(pid, err);
	}
	if (r >= 0)
		r = guard_get_regs(pid, &regs, err);
	if (r >= 0 && regs.rax)
		r = guard_error((int)-(int64_t)regs.rax, pid, "unmapping the blob", err);
	return r;
}

static void guard_own_regs(struct user_regs_struct *regs, const uint64_t *frame)
{
	regs->r15 = frame[BLOB_FRAME_R15];
	regs->r14 = frame[BLOB_FRAME_R14];
	regs->r13 = frame[BLOB_FRAME_R13];
	regs->r12 = frame[BLOB_FRAME_R12];
	regs->rbp = frame[BLOB_FRAME_RBP];
	regs->rbx = frame[BLOB_FRAME_RBX];
	regs->r11 = frame[BLOB_FRAME_R11];
	regs->r10 = frame[BLOB_FRAME_R10];
	regs->r9 = frame[BLOB_FRAME_R9];
	regs->r8 = frame[BLOB_FRAME_R8];
	regs->rax = frame[BLOB_FRAME_RAX];
	regs->rcx = frame[BLOB_FRAME_RCX];
	regs->rdx = frame[BLOB_FRAME_RDX];
	regs->rsi = frame[BLOB_FRAME_RSI];
	regs->rdi = frame[BLOB_FRAME_RDI];
	regs->rip = frame[BLOB_FRAME_RIP];
	regs->cs = frame[BLOB_FRAME_CS];
	regs->eflags = frame[BLOB_FRAME_RFLAGS];
	regs->rsp = frame[BLOB_FRAME_RSP];
	regs->ss = frame[BLOB_FRAME_SS];
}

/* From now on its system calls come back to it as signals, as its own byte says. */
static int guard_dispatch(const struct plan_thread *th, pid_t tid, struct ferry_error *err)
{
	const FerryDispatchEntry *entry = th->extra ? th->extra->dispatch : NULL;
	if (!entry)
		return 0;
	struct kern_sud_config config = {
		.mode = entry->has_mode ? entry->mode : PR_SYS_DISPATCH_ON,
		.selector = entry->selector,
		.offset = entry->start,
		.len = entry->length,
	};
	if (ptrace(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, tid, sizeof(config), &config) < 0)
		return guard_error(errno, tid, "setting syscall user dispatch", err);
	return 0;
}

/* A task is ready some instructions before it sleeps in the gadget, with its vector registers loaded: wait for that. */
static int guard_halt(const struct plan_task *t, pid_t tid, struct user_regs_struct *ret_regs,
		      struct ferry_error *err)
{
	const struct timespec pause = {.tv_nsec = GUARD_POLL_NS};
	for (int i = 0; i < GUARD_HALT_TRIES; i++) {
		if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
			return guard_error(errno, tid, "stopping it", err);
		int r = guard_wait(tid, err);
		if (r >= 0)
			r = guard_get_regs(tid, ret_regs, err);
		if (r < 0 || ret_regs->rip - t->gadget < ferry_gadget_bytes)
			return r;
		if (ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
			return guard_error(errno, tid, "letting it go on", err);
		nanosleep(&pause, NULL);
	}
	return guard_error(ETIMEDOUT, tid, "it does not arrive at the barrier", err);
}

static int guard_finish_thread(struct restore *r, const struct plan_task *t, size_t index,
			       struct ferry_error *err)
{
	uint64_t *frame = region_thread(r, t, index)->frame;
	struct user_regs_struct regs;
	pid_t tid = tasks_tid(r, t, index);
	fault_effect(r->fault, "restore", "stop-guarded");
	int ret = guard_halt(t, tid, &regs, err);
	if (ret >= 0 && index == plan_first(t))
		ret = guard_unmap(t, tid, frame, regs, err);
	if (ret < 0)
		return ret;
	guard_own_regs(&regs, frame);
	ret = guard_set_regs(tid, &regs, err);
	if (ret >= 0 &&
	    ptrace(PTRACE_SETSIGMASK, tid, (void *)(long)GUARD_SIGMASK_BYTES, &frame[BLOB_FRAME_SIGMASK]) < 0)
		ret = guard_error(errno, tid, "setting its signal mask", err);
	return ret < 0 ? ret : guard_dispatch(&t->threads.v[index], tid, err);
}

int guard_finish(struct restore *r, struct ferry_error *err)
{
	/* Who owns the memory of others comes before them in the plan: it unmaps last what they still wait in. */
	for (size_t i = r->plan->n_tasks; i-- > 0;) {
		const struct plan_task *t = &r->plan->tasks[i];
		/* The first last: the others may still be on their way to sleep in the gadget, where it lets them. */
		for (size_t n = t->guarded ? t->threads.n : 0; n-- > plan_first(t);) {
			int ret = guard_finish_thread(r, t, n, err);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}

void guard_release(struct restore *r)
{
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		for (size_t n = 0; t->guarded && n < t->threads.n; n++) {
			fault_effect(r->fault, "restore", "release-guarded");
			ptrace(PTRACE_DETACH, tasks_tid(r, t, n), NULL, NULL);
		}
	}
}

/* The end of a traced thread waits for its tracer, and the end of the task for that of its threads. */
void guard_reap(struct restore *r)
{
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		/* Those that were reaped count no more, so the last comes first. */
		for (size_t n = t->guarded ? t->threads.n - 1 : 0; n > 0; n--)
			while (region_thread(r, t, n)->guard == BLOB_GUARD_HELD) {
				int status;
				pid_t tid = tasks_tid(r, t, n), who = tid ? waitpid(tid, &status, __WALL) : 0;
				if (!tid || (who < 0 && errno != EINTR) || (who > 0 && !WIFSTOPPED(status)))
					break;
			}
	}
}
