/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what a tracer of the tree does for ferry with the threads that it traces; see tracer.h. Freestanding like the rest of
 * the blob. Every wait has an end, since whoever waits for the server must not wait for ever.
 *
 * A tracee is put back into a signal stop by a signal that it sends to nobody else: all others are blocked, its siginfo is
 * exchanged for the one that was there (PTRACE_SETSIGINFO), and its wait status is taken if the tracer had taken it. The
 * SIGCHLD that each stop sends to the tracer is taken from its queue, unless one was there before.
 *
 * Nothing tells the options of a tracee (PTRACE_SETOPTIONS has no counterpart). A child of the tracee that is made
 * with CLONE_PTRACE has the same ones and the same tracer: it forks, runs into a seccomp filter, executes a program and dies, and
 * which stops that makes tells the options.
 *
 * Kernel interface: ptrace(2) PTRACE_PEEKSIGINFO (3.10), PTRACE_GETSIGMASK (3.11), PTRACE_GET_SYSCALL_INFO (5.3),
 * PTRACE_GET_RSEQ_CONFIGURATION (5.13), process_vm_writev(2); clone(2) CLONE_PTRACE, CLONE_UNTRACED.
 * Does not handle: PTRACE_O_EXITKILL, which shows only when the tracer ends; see kind/trace.c.
 */
#include "blob/tracer.h"

#include <asm/signal.h>
#include <linux/elf.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "blob/blob.h"
#include "blob/call.h"

#ifndef PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211
#endif

enum {
	TRACER_POLLS = 40000,
	TRACER_POLLS_BUSY = 500, /* before it begins to sleep */
	TRACER_PAUSE_NS = 50000,
	TRACER_EINTR = 4,
	TRACER_ESRCH = 3,
	TRACER_EBUSY = 16,
	TRACER_EFAULT = 14,
	TRACER_EPROTO = 71,
	TRACER_ENOSYS = 38,
	TRACER_ETIMEDOUT = 110,
	TRACER_SYSCALL_BYTES = 2,
	TRACER_SIGNAL_STEPS = 16,
	TRACER_LAST_SIGNAL = 64,
	TRACER_PROBE_STEPS = 64,
	TRACER_PROBE_STACK = 4096,
	TRACER_P_PID = 1,
	TRACER_WNOHANG = 1,
	TRACER_WSTOPPED = 2,
	TRACER_WEXITED = 4,
	TRACER_WNOWAIT = 0x01000000,
	TRACER_WALL = 0x40000000,
	TRACER_CLD_TRAPPED = 4,
	TRACER_CLD_STOPPED = 5,
	TRACER_SIGSET_BYTES = 8,
	TRACER_PR_SECCOMP = 22,
	TRACER_PR_NO_NEW_PRIVS = 38,
	TRACER_FILTERED = 0x7e57, /* first argument of the call that the probe's filter catches */
};

#define TRACER_BIT(number) (1ull << ((number)-1))
#define TRACER_ALL (~0ull)
#define TRACER_TRAP_STOP (SIGTRAP | PTRACE_EVENT_STOP << 8)

/* siginfo_t of a child, as waitid(2) writes it. */
struct tracer_child {
	int32_t signo, error, code, pad, pid, uid, status;
	int32_t rest[25];
};
_Static_assert(sizeof(struct tracer_child) == BLOB_INFO_BYTES, "siginfo_t");

/* The first words of every siginfo_t. */
struct tracer_info {
	int32_t signo, error, code;
};

/* Calls that a stop makes fail with EINTR although nothing has happened. */
static const uint16_t tracer_spurious[] = {
#define EINTR_CALL(name, limit, reason) SYS_##name,
#define EINTR_CALL_32(number, limit, name)
#include "inject/eintr.def"
#undef EINTR_CALL
#undef EINTR_CALL_32
};

static int64_t tracer_ptrace(uint64_t request, int32_t tid, uint64_t address, const void *data)
{
	return blob_syscall(SYS_ptrace, request, (uint64_t)tid, address, (uint64_t)data, 0, 0);
}

/* One look at a child of ours or a tracee: 1 = *ret tells of a stop or its end, 0 = nothing new. */
static int64_t tracer_look(int32_t tid, uint64_t more, struct tracer_child *ret)
{
	ret->pid = 0;
	int64_t r =
		blob_syscall(SYS_waitid, TRACER_P_PID, (uint64_t)tid, (uint64_t)ret,
			     TRACER_WNOHANG | TRACER_WSTOPPED | TRACER_WEXITED | TRACER_WALL | more, 0, 0);
	return r < 0 ? r : ret->pid != 0;
}

static int tracer_stopped(const struct tracer_child *child)
{
	return child->code == TRACER_CLD_TRAPPED || child->code == TRACER_CLD_STOPPED;
}

static void tracer_pause(int poll)
{
	const uint64_t pause[2] = {0, TRACER_PAUSE_NS};
	if (poll < TRACER_POLLS_BUSY)
		blob_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	else
		blob_syscall(SYS_nanosleep, (uint64_t)pause, 0, 0, 0, 0, 0);
}

/* Wait for a stop: what wait(2) calls status >> 8, or -errno. more: WNOWAIT leaves it to be waited for. */
static int64_t tracer_await(int32_t tid, uint64_t more)
{
	struct tracer_child child;
	for (int i = 0; i < TRACER_POLLS; i++) {
		int64_t r = tracer_look(tid, more, &child);
		if (r < 0)
			return r;
		if (r)
			return tracer_stopped(&child) ? child.status : -TRACER_ESRCH;
		tracer_pause(i);
	}
	return -TRACER_ETIMEDOUT;
}

static int64_t tracer_go(const struct blob_tracee *t, uint64_t request)
{
	return tracer_ptrace(request, t->tid, 0, 0);
}

static int64_t tracer_kill(const struct blob_tracee *t, int number)
{
	return blob_syscall(SYS_tgkill, (uint64_t)t->pid, (uint64_t)t->tid, (uint64_t)number, 0, 0, 0);
}

static void tracer_set_mask(const struct blob_tracee *t, uint64_t mask)
{
	tracer_ptrace(PTRACE_SETSIGMASK, t->tid, TRACER_SIGSET_BYTES, &mask);
}

/* SIGCHLD that its tracees have sent to us in vain. */
static void tracer_drain(uint32_t child)
{
	const uint64_t set = TRACER_BIT(SIGCHLD), none[2] = {0, 0};
	unsigned char info[BLOB_INFO_BYTES];
	if (!child)
		blob_syscall(SYS_rt_sigtimedwait, (uint64_t)&set, (uint64_t)info, (uint64_t)none,
			     TRACER_SIGSET_BYTES, 0, 0);
}

/* ---------------------------------------------------------------- stopping, putting back */

/* What kind of stop it stands in. */
static uint32_t tracer_classify(struct blob_tracee *t)
{
	struct tracer_info info;
	unsigned char call[88]; /* struct ptrace_syscall_info */
	if (tracer_ptrace(PTRACE_GETSIGINFO, t->tid, 0, t->info) < 0)
		return BLOB_STOP_GROUP;
	__builtin_memcpy(&info, t->info, sizeof(info));
	call[0] = 0;
	int64_t r = tracer_ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, sizeof(call), call);
	if ((r > 0 && call[0]) || info.code == SIGTRAP || info.code == (SIGTRAP | 0x80))
		return BLOB_STOP_SYSCALL;
	if (info.code <= 0 || info.code >> 8 == 0 || (info.code & 0xff) != info.signo)
		return BLOB_STOP_SIGNAL;
	if (info.code >> 8 != PTRACE_EVENT_STOP)
		return BLOB_STOP_EVENT;
	return info.signo == SIGTRAP ? BLOB_STOP_INTERRUPT : BLOB_STOP_GROUP;
}

/* The stop has broken a call off that is to be made again. */
static void tracer_mend(struct blob_tracee *t)
{
	struct user_regs_struct *regs = &t->regs;
	if ((int64_t)regs->orig_rax < 0 || (int64_t)regs->rax != -TRACER_EINTR)
		return;
	for (size_t i = 0; i < sizeof(tracer_spurious) / sizeof(tracer_spurious[0]); i++) {
		if (tracer_spurious[i] != regs->orig_rax)
			continue;
		regs->rip -= TRACER_SYSCALL_BYTES;
		regs->rax = regs->orig_rax;
		regs->orig_rax = ~0ull;
		tracer_ptrace(PTRACE_SETREGS, t->tid, 0, regs);
		return;
	}
}

static void tracer_read_debug(struct blob_tracee *t)
{
	for (int i = 0; i < BLOB_DEBUG_REGS; i++)
		tracer_ptrace(PTRACE_PEEKUSR, t->tid,
			      offsetof(struct user, u_debugreg) + (uint64_t)i * sizeof(t->debug[0]),
			      &t->debug[i]);
}

/*
 * Bring it into the stop of a signal. A SIGSTOP that waits for it, too, cannot be blocked and may come first: it goes back
 * to the queue.
 */
static int64_t tracer_raise(const struct blob_tracee *t, int number, uint64_t more)
{
	int stopped_first = 0;
	tracer_set_mask(t, TRACER_ALL & ~TRACER_BIT(number));
	int64_t r = tracer_kill(t, number);
	for (int i = 0; i < TRACER_SIGNAL_STEPS && r >= 0; i++) {
		r = tracer_go(t, PTRACE_CONT);
		if (r >= 0)
			r = tracer_await(t->tid, TRACER_WNOWAIT);
		if (r == number)
			break;
		stopped_first |= r == SIGSTOP;
		tracer_await(t->tid, 0);
	}
	if (stopped_first)
		tracer_kill(t, SIGSTOP);
	if (r == number && !more)
		tracer_await(t->tid, 0);
	return r < 0 ? r : r == number ? 0 : -TRACER_EPROTO;
}

/* Signals that wait for it, or for its process. */
static uint64_t tracer_waiting(const struct blob_tracee *t, uint32_t flags)
{
	struct {
		uint64_t first;
		uint32_t flags;
		int32_t n;
	} one = {0, flags, 1};
	struct {
		struct tracer_info info;
		unsigned char rest[BLOB_INFO_BYTES - sizeof(struct tracer_info)];
	} waits;
	uint64_t waiting = 0;
	for (; tracer_ptrace(PTRACE_PEEKSIGINFO, t->tid, (uint64_t)&one, &waits) == 1; one.first++)
		waiting |= TRACER_BIT(waits.info.signo);
	return waiting;
}

/* A signal of the same number that waits would be lost. Nobody sees the number of a stop that was waited for. */
static int tracer_choose(const struct blob_tracee *t, int number)
{
	uint64_t waiting = tracer_waiting(t, 0);
	if (t->untold || !(waiting & TRACER_BIT(number)))
		return number;
	for (number = TRACER_LAST_SIGNAL; number > SIGSYS && waiting & TRACER_BIT(number);)
		number--;
	return number;
}

/* It stands somewhere: let it stand where its tracer had it, or where it runs on from as if it had never been stopped. */
static int64_t tracer_put_back(struct blob_tracee *t)
{
	struct tracer_info info;
	int64_t r = 0;
	if (!t->moved)
		return 0;
	__builtin_memcpy(&info, t->info, sizeof(info));
	if (t->stop == BLOB_STOP_SIGNAL && (info.signo < 1 || info.signo > TRACER_LAST_SIGNAL))
		return -TRACER_EPROTO;
	/* What was sent to halt it. */
	if (t->stray) {
		r = tracer_go(t, PTRACE_CONT);
		if (r >= 0)
			tracer_await(t->tid, 0);
		t->stray = 0;
	}
	if (t->stop == BLOB_STOP_INTERRUPT) {
		r = tracer_ptrace(PTRACE_INTERRUPT, t->tid, 0, 0);
		if (r >= 0)
			r = tracer_go(t, PTRACE_CONT);
		if (r >= 0)
			r = tracer_await(t->tid, t->untold ? TRACER_WNOWAIT : 0);
	} else if (t->stop == BLOB_STOP_SIGNAL) {
		r = tracer_raise(t, tracer_choose(t, info.signo), t->untold);
		if (r >= 0)
			r = tracer_ptrace(PTRACE_SETSIGINFO, t->tid, 0, t->info);
	} else {
		r = tracer_raise(t, SIGSTOP, 0);
	}
	if (r < 0)
		return r;
	tracer_ptrace(PTRACE_SETREGS, t->tid, 0, &t->regs);
	tracer_set_mask(t, t->mask);
	t->moved = 0;
	return 0;
}

/*
 * From system call to system call: the call that it was in showed its end first. Our own stop comes behind that (but any stop
 * makes up for an interrupt), then the call begins once more, and it is in there again.
 */
static int64_t tracer_halt_undo(const struct blob_tracee *t)
{
	int64_t r = tracer_await(t->tid, 0);
	for (int i = t->seized; i < 2 && r >= 0; i++) {
		r = tracer_go(t, PTRACE_SYSCALL);
		if (r >= 0)
			r = tracer_await(t->tid, 0);
	}
	tracer_go(t, PTRACE_SYSCALL);
	return r < 0 ? r : -TRACER_EBUSY;
}

/* Stop one that runs. It may come to a stop of its own just now: that stays, and ours is to come. */
static int64_t tracer_halt(struct blob_serve *serve, struct blob_tracee *t)
{
	int64_t r = tracer_ptrace(PTRACE_INTERRUPT, t->tid, 0, 0);
	t->seized = r >= 0;
	int want = t->seized ? TRACER_TRAP_STOP : SIGSTOP;
	if (r < 0)
		r = tracer_kill(t, SIGSTOP);
	if (r >= 0)
		r = tracer_await(t->tid, TRACER_WNOWAIT);
	t->stop = BLOB_STOP_RUNS;
	if (r < 0)
		return r;
	if (r == want)
		return tracer_await(t->tid, 0) < 0 ? -TRACER_ESRCH : 0;
	t->stop = tracer_classify(t);
	if (t->stop == BLOB_STOP_SYSCALL)
		return tracer_halt_undo(t);
	t->untold = 1;
	t->stray = !t->seized;
	t->moved = t->stop == BLOB_STOP_SIGNAL;
	serve->child = 1;
	return 0;
}

static int64_t tracer_hold(struct blob_serve *serve, struct blob_tracee *t)
{
	struct tracer_child child;
	int64_t r = tracer_look(t->tid, TRACER_WNOWAIT, &child);
	if (r < 0 || (r && !tracer_stopped(&child))) {
		t->stop = BLOB_STOP_GONE;
		return r < 0 ? r : 0;
	}
	t->untold = r > 0;
	if (tracer_ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs) >= 0) {
		t->stop = tracer_classify(t);
	} else {
		r = tracer_halt(serve, t);
		if (r < 0)
			return r;
		tracer_ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs);
		if (t->stop == BLOB_STOP_RUNS)
			tracer_mend(t);
	}
	t->held = 1;
	tracer_ptrace(PTRACE_GETSIGMASK, t->tid, TRACER_SIGSET_BYTES, &t->mask);
	tracer_read_debug(t);
	return tracer_put_back(t);
}

/* ---------------------------------------------------------------- in the tracee */

static int64_t tracer_look_at(const struct blob_tracee *t, struct blob_look *look)
{
	struct {
		uint64_t first;
		uint32_t flags;
		int32_t n;
	} own = {0, 0, BLOB_LOOK_SIGNALS}, shared = {0, PTRACE_PEEKSIGINFO_SHARED, BLOB_LOOK_SIGNALS};
	struct {
		void *base;
		uint64_t bytes;
	} area = {look->xstate, sizeof(look->xstate)};
	int64_t r = tracer_ptrace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, &area);
	look->xstate_bytes = r < 0 ? r : (int64_t)area.bytes;
	look->n_own = tracer_ptrace(PTRACE_PEEKSIGINFO, t->tid, (uint64_t)&own, look->own);
	look->n_shared = tracer_ptrace(PTRACE_PEEKSIGINFO, t->tid, (uint64_t)&shared, look->shared);
	look->rseq = tracer_ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, 3 * sizeof(uint64_t),
				   &look->rseq_address);
	look->dispatch = tracer_ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, t->tid, 4 * sizeof(uint64_t),
				       &look->dispatch_mode);
	return 0;
}

/* Go on to the next stop at a system call. */
static int64_t tracer_step(const struct blob_tracee *t)
{
	int64_t r = 0;
	for (int i = 0; i < TRACER_SIGNAL_STEPS && r >= 0; i++) {
		r = tracer_go(t, PTRACE_SYSCALL);
		if (r >= 0)
			r = tracer_await(t->tid, 0);
		if (r == SIGTRAP || r == (SIGTRAP | 0x80))
			return 0;
	}
	return r < 0 ? r : -TRACER_EPROTO;
}

/* One system call in a tracee that stands anywhere but at a system call's entry. */
static int64_t tracer_call(struct blob_tracee *t, uint64_t nr, const uint64_t arg[6])
{
	struct user_regs_struct regs = t->regs;
	regs.rip = t->syscall_at;
	regs.orig_rax = ~0ull;
	regs.rax = nr;
	regs.rdi = arg[0];
	regs.rsi = arg[1];
	regs.rdx = arg[2];
	regs.r10 = arg[3];
	regs.r8 = arg[4];
	regs.r9 = arg[5];
	t->moved = 1;
	tracer_set_mask(t, TRACER_ALL);
	int64_t r = tracer_ptrace(PTRACE_SETREGS, t->tid, 0, &regs);
	if (r >= 0)
		r = tracer_step(t);
	if (r >= 0)
		r = tracer_step(t);
	if (r >= 0)
		r = tracer_ptrace(PTRACE_GETREGS, t->tid, 0, &regs);
	return r < 0 ? r : (int64_t)regs.rax;
}

/* Between our memory and the tracee's. */
static int64_t tracer_transfer(const struct blob_tracee *t, uint64_t nr, uint64_t ours, uint64_t theirs,
			       uint64_t bytes)
{
	const uint64_t from[2] = {ours, bytes}, to[2] = {theirs, bytes};
	int64_t r = blob_syscall(nr, (uint64_t)t->tid, (uint64_t)from, 1, (uint64_t)to, 1, 0);
	return r < 0 ? r : (uint64_t)r == bytes ? 0 : -TRACER_EFAULT;
}

/* Run what lies at the order's place to its end, where it stops itself. */
static int64_t tracer_run(struct blob_tracee *t, const struct blob_order *o)
{
	struct user_regs_struct regs = t->regs;
	regs.rip = o->at;
	regs.orig_rax = ~0ull;
	regs.rdi = o->at + o->bytes - sizeof(struct blob_args);
	regs.rsp = o->at + o->room - 64 - 8;
	regs.eflags = 0x202;
	int64_t r = tracer_ptrace(PTRACE_SETREGS, t->tid, 0, &regs);
	if (r >= 0)
		r = tracer_go(t, PTRACE_CONT);
	if (r >= 0)
		r = tracer_await(t->tid, 0);
	return r < 0 ? r : r == SIGSTOP ? 0 : -TRACER_EFAULT;
}

/* ---------------------------------------------------------------- options */

/*
 * The child's part. It shares its maker's memory; what it makes ends at once. The first calls are told apart by their exit
 * signals, as the kernel does it.
 */
static int64_t tracer_spawn(uint64_t flags, uint64_t stack)
{
	register uint64_t r10 __asm__("r10") = 0;
	register uint64_t r8 __asm__("r8") = 0;
	int64_t ret;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "mov $60, %%eax\n\t" /* exit */
			 "xor %%edi, %%edi\n\t"
			 "syscall\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((uint64_t)SYS_clone), "D"(flags), "S"(stack), "d"(0ul), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}

static int64_t tracer_caught(void)
{
	const struct sock_filter code[] = {
		{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
		{BPF_JMP | BPF_JEQ | BPF_K, 0, 3, SYS_getppid},
		{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args)},
		{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, TRACER_FILTERED},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRACE},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
	};
	const struct sock_fprog filter = {sizeof(code) / sizeof(code[0]), (struct sock_filter *)code};
	blob_syscall(SYS_prctl, TRACER_PR_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
	blob_syscall(SYS_prctl, TRACER_PR_SECCOMP, SECCOMP_MODE_FILTER, (uint64_t)&filter, 0, 0, 0);
	return blob_syscall(SYS_getppid, TRACER_FILTERED, 0, 0, 0, 0, 0);
}

void tracer_probed(uint64_t stack)
{
	static const uint64_t flags[] = {CLONE_VM | SIGCHLD, CLONE_VM | CLONE_VFORK | SIGCHLD, CLONE_VM};
	const char program[] = "/proc/self/exe";
	const uint64_t words[2] = {(uint64_t)program, 0}, none = 0;
	uint64_t self = (uint64_t)blob_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0);
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		int64_t pid = tracer_spawn(flags[i], stack);
		if (pid > 0)
			blob_syscall(SYS_wait4, (uint64_t)pid, 0, TRACER_WALL, 0, 0, 0);
	}
	tracer_caught();
	/* From here on each system call stops it. */
	blob_syscall(SYS_tgkill, self, self, SIGSTOP, 0, 0, 0);
	blob_syscall(SYS_execve, (uint64_t)program, (uint64_t)words, (uint64_t)&none, 0, 0, 0);
	for (;;)
		blob_syscall(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}

static void tracer_end(int32_t pid)
{
	struct tracer_child child;
	const struct blob_tracee t = {.pid = pid, .tid = pid};
	tracer_kill(&t, SIGKILL);
	for (int i = 0; i < TRACER_POLLS; i++) {
		int64_t r = tracer_look(pid, 0, &child);
		if (r < 0 || (r && !tracer_stopped(&child)))
			return;
		/* It may stand at its end, and that may be known already. */
		tracer_go(&t, PTRACE_CONT);
		tracer_pause(i);
	}
}

/* A stop of the probe: the option that it tells. What it has made is ended. */
static uint32_t tracer_event(const struct blob_tracee *c, int64_t status)
{
	uint64_t message = 0;
	int event = (int)(status >> 8);
	if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
		tracer_ptrace(PTRACE_GETEVENTMSG, c->tid, 0, &message);
		if ((int32_t)message > 0)
			tracer_end((int32_t)message);
	}
	if (event > 0 && event <= PTRACE_EVENT_SECCOMP)
		return 1u << event;
	return status == (SIGTRAP | 0x80) ? PTRACE_O_TRACESYSGOOD : 0;
}

static int64_t tracer_follow(const struct blob_tracee *c, uint32_t *ret_options)
{
	uint64_t go = PTRACE_CONT;
	int64_t r = 0;
	int calls = 0;
	for (int i = 0; i < TRACER_PROBE_STEPS && calls < 2; i++) {
		r = tracer_go(c, go);
		if (r >= 0)
			r = tracer_await(c->tid, 0);
		if (r < 0)
			break;
		*ret_options |= tracer_event(c, r);
		/* At its last own call: the program that it executes must not begin. */
		calls += go == PTRACE_SYSCALL && (r == SIGTRAP || r == (SIGTRAP | 0x80));
		if (r == SIGSTOP)
			go = PTRACE_SYSCALL;
		if (r >> 8 == PTRACE_EVENT_EXEC)
			break;
	}
	return r < 0 ? r : 0;
}

/* Killed, it may stop once more at its end. */
static void tracer_follow_end(const struct blob_tracee *c, uint32_t *ret_options)
{
	tracer_kill(c, SIGKILL);
	int64_t r = tracer_await(c->tid, 0);
	if (r >> 8 == PTRACE_EVENT_EXIT && r > 0)
		*ret_options |= PTRACE_O_TRACEEXIT;
	if (r > 0)
		tracer_end(c->tid);
}

/* Whoever executes a program has SIGCHLD sent to its parent at its end. */
static void tracer_forget_child(struct blob_tracee *t, const struct blob_order *o)
{
	const uint64_t words[3] = {TRACER_BIT(SIGCHLD), 0, 0};
	uint64_t at = o->at + o->room - sizeof(words) - BLOB_INFO_BYTES;
	const uint64_t take[6] = {at, at + sizeof(words), at + sizeof(words[0]), TRACER_SIGSET_BYTES};
	if (tracer_transfer(t, SYS_process_vm_writev, (uint64_t)words, at, sizeof(words)) >= 0)
		tracer_call(t, SYS_rt_sigtimedwait, take);
}

static int64_t tracer_probe(struct blob_tracee *t, const struct blob_order *o)
{
	uint64_t waiting = tracer_waiting(t, PTRACE_PEEKSIGINFO_SHARED);
	const uint64_t clone[6] = {CLONE_VM | CLONE_PTRACE | CLONE_UNTRACED,
				   o->at + o->room - TRACER_PROBE_STACK};
	int64_t pid = tracer_call(t, SYS_clone, clone);
	if (pid < 0)
		return pid;
	struct blob_tracee c = {.pid = (int32_t)pid, .tid = (int32_t)pid, .syscall_at = t->syscall_at};
	int64_t r = tracer_await(c.tid, 0);
	t->seized = r == TRACER_TRAP_STOP;
	if (r >= 0)
		r = tracer_ptrace(PTRACE_GETREGS, c.tid, 0, &c.regs);
	if (r >= 0) {
		c.regs.rip = o->at;
		c.regs.orig_rax = ~0ull;
		c.regs.rdi = o->at + o->bytes - sizeof(struct blob_args);
		c.regs.rsp = o->at + o->room - TRACER_PROBE_STACK - 8;
		c.regs.eflags = 0x202;
		r = tracer_ptrace(PTRACE_SETREGS, c.tid, 0, &c.regs);
	}
	uint32_t options = 0;
	if (r >= 0)
		r = tracer_follow(&c, &options);
	tracer_follow_end(&c, &options);
	t->options = options;
	/* What is left of it is its maker's, who never hears of it. */
	const uint64_t wait[6] = {(uint64_t)pid, 0, TRACER_WALL};
	int64_t waited = tracer_call(t, SYS_wait4, wait);
	if (!(waiting & TRACER_BIT(SIGCHLD)))
		tracer_forget_child(t, o);
	return r < 0 ? r : waited < 0 ? waited : 0;
}

/* ---------------------------------------------------------------- orders */

static int64_t tracer_visit(struct blob_tracee *t, const struct blob_order *o)
{
	/* MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE; all three ways of access */
	const uint64_t map[6] = {o->at, o->room, 7, 0x100022, ~0ull, 0}, unmap[6] = {o->at, o->room};
	int64_t r = tracer_call(t, SYS_mmap, map);
	uint64_t at = (uint64_t)r;
	if (r >= 0 && at != o->at)
		r = -TRACER_EBUSY;
	if (r >= 0 && at == o->at)
		r = tracer_transfer(t, SYS_process_vm_writev, o->object, at, o->bytes);
	if (r >= 0)
		r = o->type == BLOB_ORDER_PROBE ? tracer_probe(t, o) : tracer_run(t, o);
	if (r >= 0 && o->type == BLOB_ORDER_VISIT)
		r = tracer_transfer(t, SYS_process_vm_readv, o->object, at, o->bytes);
	if (at == o->at)
		tracer_call(t, SYS_munmap, unmap);
	if (t->rseq_value)
		tracer_transfer(t, SYS_process_vm_writev, (uint64_t)&t->rseq_value, t->rseq_at,
				sizeof(t->rseq_value));
	int64_t back = tracer_put_back(t);
	return r < 0 ? r : back;
}

static int64_t tracer_obey(struct blob_serve *serve, struct blob_order *o,
			   int64_t (*run)(struct blob_script *script))
{
	struct blob_tracee *t = (struct blob_tracee *)serve->tracees + o->tracee;
	switch (o->type) {
	case BLOB_ORDER_HOLD: return tracer_hold(serve, t);
	case BLOB_ORDER_LOOK: return tracer_look_at(t, (struct blob_look *)o->object);
	case BLOB_ORDER_VISIT:
	case BLOB_ORDER_PROBE: return tracer_visit(t, o);
	default: return run((struct blob_script *)o->object);
	}
}

int64_t tracer_serve(struct blob_serve *serve, int64_t (*run)(struct blob_script *script))
{
	uint64_t waiting = 0;
	blob_syscall(SYS_rt_sigpending, (uint64_t)&waiting, TRACER_SIGSET_BYTES, 0, 0, 0, 0);
	serve->child = !!(waiting & TRACER_BIT(SIGCHLD));
	for (;;) {
		blob_syscall(BLOB_SERVE_CALL, serve->mark, 0, 0, 0, 0, 0);
		struct blob_order *o = (struct blob_order *)*(volatile uint64_t *)&serve->next;
		if (!o)
			break;
		*(volatile uint64_t *)&serve->next = 0;
		o->ret = tracer_obey(serve, o, run);
		tracer_drain(serve->child);
	}
	struct blob_tracee *tracees = (struct blob_tracee *)serve->tracees;
	for (uint32_t i = 0; i < serve->n; i++)
		if (tracees[i].held && tracees[i].stop == BLOB_STOP_RUNS)
			tracer_go(&tracees[i], PTRACE_CONT);
	return 0;
}

/* ---------------------------------------------------------------- restore */

static int64_t tracer_take(struct blob_tracee *t)
{
	int64_t r;
	if (t->seized) {
		r = tracer_ptrace(PTRACE_SEIZE, t->tid, 0, (const void *)(uint64_t)t->options);
		if (r < 0 || (t->stop == BLOB_STOP_RUNS && !t->debug[BLOB_DEBUG_REGS - 1]))
			return r;
		r = tracer_ptrace(PTRACE_INTERRUPT, t->tid, 0, 0);
		return r < 0 ? r : tracer_await(t->tid, 0);
	}
	r = tracer_ptrace(PTRACE_ATTACH, t->tid, 0, 0);
	if (r >= 0)
		r = tracer_await(t->tid, 0);
	return r < 0 ? r : tracer_ptrace(PTRACE_SETOPTIONS, t->tid, 0, (const void *)(uint64_t)t->options);
}

static void tracer_write_debug(const struct blob_tracee *t)
{
	/* The last says which of the others count; what the sixth tells is over. */
	static const int order[] = {0, 1, 2, 3, 6, 7};
	for (size_t i = 0; t->debug[BLOB_DEBUG_REGS - 1] && i < sizeof(order) / sizeof(order[0]); i++)
		tracer_ptrace(PTRACE_POKEUSR, t->tid,
			      offsetof(struct user, u_debugreg) + (uint64_t)order[i] * sizeof(t->debug[0]),
			      (const void *)t->debug[order[i]]);
}

int64_t tracer_attach(const struct blob_attach *attach, struct blob_tracee *t)
{
	const uint64_t unmap[6] = {attach->unmap_address, attach->unmap_bytes};
	int64_t r = tracer_take(t);
	if (r < 0)
		return r;
	tracer_write_debug(t);
	if (t->stop == BLOB_STOP_RUNS) {
		if (!t->seized || t->debug[BLOB_DEBUG_REGS - 1])
			tracer_go(t, PTRACE_CONT);
		tracer_drain(0);
		return 0;
	}
	t->moved = 1;
	if (attach->unmap_bytes)
		r = tracer_call(t, SYS_munmap, unmap);
	if (r >= 0)
		r = tracer_put_back(t);
	tracer_drain(0);
	return r < 0 ? r : 0;
}
