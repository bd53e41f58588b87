/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what a stop does to a system call and to a restartable sequence, and how it is undone.
 *
 * A stop wakes a sleeping call. Most calls then leave a number between -512 and -516 in rax, and the kernel
 * makes the call again on its way back to user mode, or turns it to EINTR when a signal handler runs first.
 * Some return a plain EINTR, which an application must not see: nothing happened to it. They are in
 * eintr.def.
 *
 * Such a call is made again from its beginning: a relative time limit that is not kept by the kernel
 * (epoll_wait, sigtimedwait, semtimedop, io_getevents, SO_RCVTIMEO) counts anew.
 *
 * A call that the kernel has made again by restart_syscall has lost its number. For an image, where
 * restart_syscall means nothing, it is found in the code before the system call instruction, or told from
 * the arguments. The same goes for a thread that was stopped on its way to that call, before the instruction.
 *
 * rseq: a thread that is sent elsewhere inside a critical section is no longer seen in it by the kernel, so
 * it has to go on at the abort handler. Kernel interface: PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13),
 * rseq(2), kernel/rseq.c.
 */
#include <ferry/inject.h>

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <linux/rseq.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "inject/internal.h"

enum {
	ERESTARTSYS = 512,
	ERESTARTNOINTR = 513,
	ERESTARTNOHAND = 514,
	ERESTART_RESTARTBLOCK = 516,
};

#define SYSCALL_INSN_BYTES 2
#define INT80_INSN 0x80cd
#define SYSCALL_INSN 0x050f

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

struct rseq_configuration {
	uint64_t address;
	uint32_t bytes, signature, flags, pad;
};

/* Calls that return EINTR after a mere stop. */
enum limit { LIMIT_NONE, LIMIT_ALWAYS, LIMIT_MILLISECONDS, LIMIT_TIMESPEC };

static const struct eintr_call {
	uint16_t nr, reg; /* offset of a register in struct user_regs_struct */
	enum limit limit;
} eintr_calls[] =
	{
#define NONE 0, LIMIT_NONE
#define ALWAYS 0, LIMIT_ALWAYS
#define MILLISECONDS(reg) offsetof(struct user_regs_struct, reg), LIMIT_MILLISECONDS
#define TIMESPEC(reg) offsetof(struct user_regs_struct, reg), LIMIT_TIMESPEC
#define EINTR_CALL(name, limit, reason) {SYS_##name, limit},
#define EINTR_CALL_32(nr, limit, reason)
#include "inject/eintr.def"
#undef EINTR_CALL
#undef EINTR_CALL_32
},
  eintr_calls_32[] = {
#define EINTR_CALL(name, limit, reason)
#define EINTR_CALL_32(nr, limit, reason) {nr, limit},
#include "inject/eintr.def"
#undef EINTR_CALL
#undef EINTR_CALL_32
#undef NONE
#undef ALWAYS
#undef MILLISECONDS
#undef TIMESPEC
};

enum restart regs_restart(const struct user_regs_struct *regs)
{
	if ((long)regs->orig_rax < 0)
		return RESTART_NONE;
	switch (-(long)regs->rax) {
	case ERESTARTSYS:
	case ERESTARTNOINTR: return RESTART_AGAIN;
	case ERESTARTNOHAND: return RESTART_NO_HANDLER;
	case ERESTART_RESTARTBLOCK: return RESTART_BLOCK;
	default: return RESTART_NONE;
	}
}

static const struct eintr_call *eintr_find(const struct user_regs_struct *regs)
{
	const struct eintr_call *calls = regs_are_32(regs) ? eintr_calls_32 : eintr_calls;
	size_t n = regs_are_32(regs) ? ARRAY_SIZE(eintr_calls_32) : ARRAY_SIZE(eintr_calls);

	if ((long)regs->orig_rax < 0 || (long)regs->rax != -EINTR)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (calls[i].nr == regs->orig_rax)
			return &calls[i];
	return NULL;
}

bool regs_eintr_listed(const struct user_regs_struct *regs, bool with_limit)
{
	const struct eintr_call *call = eintr_find(regs);
	uint64_t value;

	if (!call)
		return false;
	memcpy(&value, (const char *)regs + call->reg, sizeof(value));
	switch (call->limit) {
	case LIMIT_NONE: return true;
	case LIMIT_ALWAYS: return with_limit;
	case LIMIT_MILLISECONDS: return with_limit || (int32_t)value < 0;
	case LIMIT_TIMESPEC: return with_limit || !value;
	}
	return false;
}

/* Signals in one of the two queues, as a mask. */
static int queue_mask(struct ferry_thread *t, int shared, uint64_t *ret, struct ferry_error *err)
{
	siginfo_t infos[16];
	uint64_t mask = 0;
	uint32_t first = 0;
	int n;

	do {
		n = ferry_thread_peek_signals(t, shared, first, infos, ARRAY_SIZE(infos), err);
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			if (infos[i].si_signo > 0 && infos[i].si_signo <= 64)
				mask |= 1ull << (infos[i].si_signo - 1);
		first += (uint32_t)n;
	} while (n == ARRAY_SIZE(infos));
	*ret = mask;
	return 0;
}

/* Whether a signal handler will run as soon as the thread goes on. */
static int handler_is_due(struct ferry_thread *t, struct ferry_error *err)
{
	uint64_t own, shared, blocked, caught;

	int r = queue_mask(t, 0, &own, err);
	if (r >= 0)
		r = queue_mask(t, 1, &shared, err);
	if (r >= 0)
		r = mask_get(t, &blocked, err);
	if (r < 0)
		return r;
	uint64_t due = (own | shared) & ~blocked;
	if (t->stop == FERRY_STOP_SIGNAL)
		due |= 1ull << (t->signal - 1);
	if (!due)
		return 0;
	/* A traced task also queues signals that it ignores. */
	r = thread_status_number(t->tid, "SigCgt:", 16, &caught);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading the status of task %d", t->tid);
	return (due & caught) != 0;
}

int regs_mend(struct ferry_thread *t, struct ferry_error *err)
{
	struct user_regs_struct regs;
	uint64_t mask;

	t->mended = false;
	int r = regs_get(t, &regs, err);
	if (r < 0 || !regs_eintr_listed(&regs, !(t->opts.flags & FERRY_INJECT_TIMED_EINTR)))
		return r;
	r = handler_is_due(t, err);
	if (r)
		return MIN(r, 0);
	/*
	 * A call with a signal mask of its own (epoll_pwait) has left it in force until the kernel's signal
	 * code has run. Setting the outer mask ends that: a signal that only the call may take waits for
	 * the call.
	 */
	r = mask_get(t, &mask, err);
	if (r >= 0)
		r = mask_set(t, mask, "mend-mask", err);
	if (r < 0)
		return r;
	regs_fold(&regs, FERRY_RESUME_IN_PLACE, false);
	r = regs_set(t, &regs, "mend", err);
	t->mended = r >= 0;
	return r;
}

void regs_set_eintr(struct user_regs_struct *regs)
{
	regs->rip += SYSCALL_INSN_BYTES;
	regs->rax = (uint64_t)-EINTR;
}

int regs_unmend(struct ferry_thread *t, struct ferry_error *err)
{
	struct user_regs_struct regs;

	if (!t->mended)
		return 0;
	t->mended = false;
	int r = handler_is_due(t, err);
	if (r <= 0)
		return r;
	r = regs_get(t, &regs, err);
	if (r < 0)
		return r;
	regs_set_eintr(&regs);
	return regs_set(t, &regs, "unmend", err);
}

void regs_fold(struct user_regs_struct *regs, enum ferry_resume_use use, bool compat_call)
{
	bool block = regs_restart(regs) == RESTART_BLOCK && use == FERRY_RESUME_IN_PLACE;

	regs->rip -= SYSCALL_INSN_BYTES;
	if (!block)
		regs->rax = regs->orig_rax;
	else
		regs->rax =
			compat_call ? 0 : SYS_restart_syscall; /* 0 is the 32-bit table's restart_syscall */
	regs->orig_rax = ~0ull;
}

int regs_compat_call(struct ferry_thread *t, const struct user_regs_struct *regs)
{
	if (regs_are_32(regs))
		return 1;
	uint64_t word;
	int r = thread_peek(t, regs->rip - SYSCALL_INSN_BYTES, &word, 1);
	return r < 0 ? r : (word & 0xffff) == INT80_INSN;
}

/* ------------------------------------------------- what restart_syscall stands for */

/* The calls that leave -516. Once made again by the kernel, their number is gone from the registers. */
static bool is_restartable(uint32_t nr)
{
	return nr == SYS_poll || nr == SYS_nanosleep || nr == SYS_futex || nr == SYS_clock_nanosleep;
}

#define CODE_WORDS 4
#define MOV_EAX_IMM32 0xb8

/* From the code before the system call instruction: mov $number, %eax. -ENOENT when there is none near. */
static long number_from_code(struct ferry_thread *t, const struct user_regs_struct *regs)
{
	uint64_t words[CODE_WORDS];
	unsigned char code[sizeof(words)];
	uint32_t nr;

	if (thread_peek(t, regs->rip - SYSCALL_INSN_BYTES - sizeof(words), words, CODE_WORDS) < 0)
		return -ENOENT;
	memcpy(code, words, sizeof(code));
	for (size_t i = sizeof(code) - 5; i > 0; i--) {
		memcpy(&nr, code + i + 1, sizeof(nr));
		if (code[i] == MOV_EAX_IMM32 && is_restartable(nr))
			return (long)nr;
	}
	return -ENOENT;
}

static bool is_pointer(uint64_t value)
{
	return value >= 4096;
}

static bool is_timespec(struct ferry_thread *t, uint64_t address)
{
	uint64_t words[2] = {0};

	return is_pointer(address) && !thread_peek(t, address, words, 2) && (int64_t)words[0] >= 0 &&
	       words[1] < 1000000000;
}

/* From the arguments, which a restart leaves alone. */
static long number_from_arguments(struct ferry_thread *t, const struct user_regs_struct *regs)
{
	uint64_t futex_op = regs->rsi & ~(uint64_t)(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);

	if (!is_pointer(regs->rdi))
		return regs->rsi <= TIMER_ABSTIME && is_timespec(t, regs->rdx) ? SYS_clock_nanosleep
									       : SYS_poll;
	if ((futex_op == FUTEX_WAIT || futex_op == FUTEX_WAIT_BITSET) && is_timespec(t, regs->r10))
		return SYS_futex;
	if ((!regs->rsi || is_pointer(regs->rsi)) && is_timespec(t, regs->rdi))
		return SYS_nanosleep;
	return SYS_poll;
}

/* ---------------------------------------------- the same for calls of the 32-bit table */

enum {
	NR32_RESTART_SYSCALL = 0,
	NR32_NANOSLEEP = 162,
	NR32_POLL = 168,
	NR32_FUTEX = 240,
	NR32_CLOCK_NANOSLEEP = 267,
	NR32_CLOCK_NANOSLEEP_TIME64 = 407,
	NR32_FUTEX_TIME64 = 422,
};

static bool is_restartable_32(uint32_t nr)
{
	return nr == NR32_NANOSLEEP || nr == NR32_POLL || nr == NR32_FUTEX || nr == NR32_CLOCK_NANOSLEEP ||
	       nr == NR32_CLOCK_NANOSLEEP_TIME64 || nr == NR32_FUTEX_TIME64;
}

/*
 * Before the instruction at address, which is a system call or the call of a function that makes one: mov $number, %eax.
 */
static long number_before_32(struct ferry_thread *t, uint64_t address)
{
	unsigned char code[CODE_WORDS * 8];
	uint32_t nr;

	if (thread_peek(t, address - sizeof(code), (uint64_t *)(void *)code, CODE_WORDS) < 0)
		return -ENOENT;
	for (size_t i = sizeof(code) - 5; i > 0; i--) {
		memcpy(&nr, code + i + 1, sizeof(nr));
		if (code[i] == MOV_EAX_IMM32 && is_restartable_32(nr))
			return (long)nr;
	}
	return -ENOENT;
}

/*
 * The vdso has the only system call instruction of most programs. It stores three registers, below the address that it will
 * return to.
 */
static long number_from_code_32(struct ferry_thread *t, const struct user_regs_struct *regs)
{
	uint64_t word = 0;
	long nr = number_before_32(t, regs->rip - SYSCALL_INSN_BYTES);

	if (nr >= 0 || thread_peek(t, regs->rsp + 8, &word, 1) < 0)
		return nr;
	return number_before_32(t, word >> 32);
}

/* Of either width: which one cannot be told here, and the number of the older calls means the narrow one. */
static bool is_timespec_32(struct ferry_thread *t, uint64_t address)
{
	uint64_t word = 0;

	return is_pointer(address) && !thread_peek(t, address, &word, 1) && (int32_t)word >= 0 &&
	       word >> 32 < 1000000000;
}

static long number_from_arguments_32(struct ferry_thread *t, const struct user_regs_struct *regs)
{
	uint64_t futex_op = regs->rcx & ~(uint64_t)(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);

	if (!is_pointer(regs->rbx))
		return regs->rcx <= TIMER_ABSTIME && is_timespec_32(t, regs->rdx) ? NR32_CLOCK_NANOSLEEP
										  : NR32_POLL;
	if ((futex_op == FUTEX_WAIT || futex_op == FUTEX_WAIT_BITSET) && is_timespec_32(t, regs->rsi))
		return NR32_FUTEX;
	if ((!regs->rcx || is_pointer(regs->rcx)) && is_timespec_32(t, regs->rbx))
		return NR32_NANOSLEEP;
	return NR32_POLL;
}

static void find_number_32(struct ferry_thread *t, struct user_regs_struct *regs)
{
	long nr = number_from_code_32(t, regs);

	regs->orig_rax = (uint64_t)(nr >= 0 ? nr : number_from_arguments_32(t, regs));
}

static void find_number(struct ferry_thread *t, struct user_regs_struct *regs)
{
	long nr = number_from_code(t, regs);

	regs->orig_rax = (uint64_t)(nr >= 0 ? nr : number_from_arguments(t, regs));
}

/* --------------------------------------------------------------------- rseq */

int regs_leave_rseq(struct ferry_thread *t, struct user_regs_struct *regs, uint64_t *ret_area,
		    struct ferry_error *err)
{
	struct rseq_configuration rseq;
	uint64_t section = 0, signature = 0;
	struct rseq_cs cs = {0};

	static_assert(sizeof(cs) == 32, "four words");
	long r = thread_ptrace(t, PTRACE_GET_RSEQ_CONFIGURATION, sizeof(rseq), (uintptr_t)&rseq);
	if (r == -ESRCH)
		return thread_failed(t, r, "reading the rseq configuration", err);
	if (r <= 0 || !rseq.address)
		return 0;
	/*
	 * What cannot be read, or has another signature, makes the kernel kill the task by itself; nothing
	 * is made up here.
	 */
	if (thread_peek(t, rseq.address + offsetof(struct rseq, rseq_cs), &section, 1) < 0 || !section ||
	    thread_peek(t, section, (uint64_t *)&cs, sizeof(cs) / 8) < 0)
		return 0;
	if (regs->rip - cs.start_ip >= cs.post_commit_offset || cs.version)
		return 0;
	if (thread_peek(t, cs.abort_ip - sizeof(uint32_t), &signature, 1) < 0 ||
	    (uint32_t)signature != rseq.signature)
		return 0;
	regs->rip = cs.abort_ip;
	*ret_area = rseq.address;
	return 1;
}

/*
 * Between two stops the kernel may have come as far as the instruction that makes the call again. No program makes that call
 * of its own. Then: as if it had not come so far.
 */
static void regs_back_to_stop(struct ferry_thread *t, struct user_regs_struct *regs)
{
	bool narrow = regs_are_32(regs);
	uint64_t word;

	if ((regs->rax != NR32_RESTART_SYSCALL && (narrow || regs->rax != SYS_restart_syscall)) ||
	    thread_peek(t, regs->rip, &word, 1) < 0)
		return;
	bool compat = (word & 0xffff) == INT80_INSN;
	if (regs->rax == NR32_RESTART_SYSCALL ? !compat : (word & 0xffff) != SYSCALL_INSN)
		return;
	if ((long)regs->orig_rax < 0)
		regs->orig_rax = regs->rax;
	regs->rip += SYSCALL_INSN_BYTES;
	regs->rax = (uint64_t)-ERESTART_RESTARTBLOCK;
}

/* ------------------------------------------------------------- public parts */

int ferry_thread_normalize(struct ferry_thread *t, enum ferry_resume_use use, struct ferry_regs *regs,
			   struct ferry_error *err)
{
	struct user_regs_struct user = regs->user;
	int done = 0, compat = 0, r = thread_check_stopped(t, "normalizing registers", err);
	uint64_t area;

	if (r < 0)
		return r;
	if (t->mended)
		done |= FERRY_RESUMED_EINTR;
	if (use == FERRY_RESUME_IMAGE)
		regs_back_to_stop(t, &user);
	if (regs_restart(&user) != RESTART_NONE) {
		done |= FERRY_RESUMED_CALL;
		compat = regs_compat_call(t, &user);
		if (use == FERRY_RESUME_IMAGE && user.orig_rax == SYS_restart_syscall && compat <= 0)
			find_number(t, &user);
		if (use == FERRY_RESUME_IMAGE && user.orig_rax == NR32_RESTART_SYSCALL && regs_are_32(&user))
			find_number_32(t, &user);
		regs_fold(&user, use, compat > 0);
	}
	/* A system call ends a sequence, so only a thread that was not in one can be inside. */
	r = done ? 0 : regs_leave_rseq(t, &user, &area, err);
	if (r < 0)
		return r;
	if (r)
		done |= FERRY_RESUMED_RSEQ;
	user.orig_rax = ~0ull;
	regs->user = user;
	return done;
}
