/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include <ferry/error.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/*
 * libferry-inject: seize threads of a running process, run system calls and small functions inside it, and
 * put every thread back exactly where it was. See ferry-inject(7) for the whole picture.
 *
 * Guarantee: the calling process may die at any instant, by SIGKILL too. The target then heals itself: its
 * threads finish the call they stand in, drop what was mapped, and go on with their own registers and
 * signal mask.
 *
 * Rules that hold for all functions
 * - Linux lets only the thread that seized a task control it: call everything from that one thread.
 * - Functions return 0 (or what they say) or -errno, and fill *err (may be NULL). Outputs are written on
 *   success only.
 * - No signal is needed or disturbed: all signals of the caller may be blocked, SIGCHLD too.
 * - "stopped" means that ferry_thread_wait() has reported a stop and the thread was not resumed since.
 *
 * Since 0.1. Kernel: 5.3 (PTRACE_GET_SYSCALL_INFO); 5.6 for ferry_inject_get_fd(); x86-64 tasks only.
 */

struct ferry_thread; /* one seized thread */
struct ferry_inject; /* one process (address space) with a landing pad */
struct ferry_blob;   /* a function loaded into the process */

struct ferry_inject_options {
	uint32_t size;      /* sizeof(struct ferry_inject_options) */
	int32_t timeout_ms; /* longest time for one step inside the target; 0 = 10000, negative = no limit */
	uint32_t flags;     /* FERRY_INJECT_... below */
	uint32_t reserved;  /* 0 */
	void *context;      /* handed to the two functions below */

	/* Called right before every call that changes the target; may be NULL. For tests that kill here. */
	void (*on_effect)(void *context, const char *what);

	/* Nonzero makes the step 'point' fail with FERRY_ERROR_FAULT; may be NULL. Points: seize, inject-map,
	 * inject-call, inject-place (the vdso counts as full). */
	int (*fault)(void *context, const char *point);
};

/* clang-format off */
#define FERRY_INJECT_OPTIONS_INIT {.size = sizeof(struct ferry_inject_options)}
/* clang-format on */

/*
 * Also run calls that a seccomp filter of the target answers by killing it. The filter is suspended
 * meanwhile, but it comes back at the moment of the caller's death: between two instructions of such a call
 * that kills the target. Without the flag they are refused (SECCOMP).
 */
#define FERRY_INJECT_DEADLY_CALLS 1u

/*
 * Let calls with a relative time limit (epoll_wait with a timeout, sigtimedwait, SO_RCVTIMEO...) return EINTR
 * after a stop, as signal(7) says they do, instead of making them again. Made again, the limit counts anew: a
 * process that is stopped over and over, more often than the limit, would never see it reached. For seizing.
 */
#define FERRY_INJECT_TIMED_EINTR 2u

/*
 * All threads of the process are stopped, and stay so, from before a blob is loaded until it is unloaded; no other
 * process shares its signal handlers; no injected code changes them. Then most runs of a blob take one stop, however
 * many system calls it makes, and else two for each of them: the library may send the thread a signal that it neither
 * handles nor blocks and that is ignored by default.
 */
#define FERRY_INJECT_ALL_STOPPED 4u

/*
 * The process has one thread, so nobody can make a child while that is away, and memory that is mapped into it need not be kept
 * from children: two stops less for each mapping.
 */
#define FERRY_INJECT_ALONE 8u

/* ------------------------------------------------------------------ threads */

/* Why a thread stands still. */
enum ferry_stop {
	FERRY_STOP_NONE = 0, /* it runs */
	FERRY_STOP_EVENT,    /* stopped by ferry_thread_interrupt() */
	FERRY_STOP_GROUP,    /* stopped by SIGSTOP or its kin; ferry_thread_stop_signal() names the signal */
	FERRY_STOP_SIGNAL,   /* about to receive a signal: ferry_thread_stop_signal() */
	FERRY_STOP_EXEC, /* the process has just executed another program: forget all that was known of it */
	FERRY_STOP_SYSCALL, /* stopped at a system call by an earlier injection */
	FERRY_STOP_EXITED,  /* the thread is gone; ferry_thread_exit_status() */
};

/*
 * PTRACE_SEIZE: become the tracer of tid without stopping it. opts may be NULL; it is copied. Every signal
 * that the thread receives from now on stops it (FERRY_STOP_SIGNAL), so a thread that is seized and runs
 * must be looked after with ferry_thread_wait() and ferry_thread_resume(). -EBUSY (BUSY_TASK: traced
 * already, the message names the tracer), -ESRCH (NO_SUCH_TASK), -EPERM (PERMISSION; also kernel threads
 * and the caller's own threads), -ENOMEM.
 */
int ferry_thread_seize(pid_t tid, const struct ferry_inject_options *opts, struct ferry_thread **ret_thread,
		       struct ferry_error *err);

/*
 * Ask the thread to stop; it does so a little later. Harmless when it is stopped already. -ESRCH: it is
 * gone.
 */
int ferry_thread_interrupt(struct ferry_thread *thread, struct ferry_error *err);

/*
 * Wait until the thread is stopped or gone. A system call that the stop made fail with EINTR, although no
 * handler is due (epoll_wait, sigtimedwait, semop...), is set to be made again at once;
 * ferry_thread_release() lets it return EINTR after all if a handler has become due. timeout_ms: 0 only
 * looks, negative waits without limit. Returns enum ferry_stop (FERRY_STOP_NONE only with timeout_ms 0), or
 * -ETIMEDOUT (TIMEOUT). A thread that is stopped returns the same stop again.
 */
int ferry_thread_wait(struct ferry_thread *thread, int timeout_ms, struct ferry_error *err);

/* The stop that ferry_thread_wait() reported last. */
enum ferry_stop ferry_thread_stop(const struct ferry_thread *thread);

/*
 * The signal of a FERRY_STOP_SIGNAL or FERRY_STOP_GROUP stop; 0 for other stops. For FERRY_STOP_SIGNAL
 * *ret_info (may be NULL) receives what the handler would get: the kernel has taken it from the queue, so
 * no list of pending signals shows it. ferry_thread_release(), ferry_thread_resume() and
 * ferry_inject_settle() hand it back.
 */
int ferry_thread_stop_signal(const struct ferry_thread *thread, siginfo_t *ret_info);

/* The wait(2) status of a thread that is gone; 0 when it is not known. */
int ferry_thread_exit_status(const struct ferry_thread *thread);

pid_t ferry_thread_tid(const struct ferry_thread *thread);

/*
 * Let a stopped thread run on, still seized: a signal is delivered, a group stop stays a group stop. It may
 * stop once more with FERRY_STOP_EVENT although nobody has asked for it: resume it again.
 */
int ferry_thread_resume(struct ferry_thread *thread, struct ferry_error *err);

/*
 * Cure the thread if it was injected into, then detach: it goes on as if nothing had happened, a remembered
 * signal is delivered, a group stop lasts. Frees the thread in any case; NULL is fine. The thread must be
 * stopped; one that runs is stopped first.
 */
int ferry_thread_release(struct ferry_thread *thread, struct ferry_error *err);

/* ---------------------------------------------------------------- registers */

struct ferry_regs {
	uint32_t size;                /* sizeof(struct ferry_regs) */
	uint32_t xstate_bytes;        /* bytes in xstate */
	uint8_t *xstate;              /* XSAVE area as NT_X86_XSTATE has it; owned by this structure */
	struct user_regs_struct user; /* as PTRACE_GETREGS has them */
};

/* clang-format off */
#define FERRY_REGS_INIT {.size = sizeof(struct ferry_regs)}
/* clang-format on */

void ferry_regs_release(struct ferry_regs *regs);

/*
 * All registers of a stopped thread, as the application has them: also while it is injected into. A system
 * call that the stop interrupted shows as -512..-516 in user.rax with its number in user.orig_rax.
 */
int ferry_thread_get_regs(struct ferry_thread *thread, struct ferry_regs *ret_regs, struct ferry_error *err);

/* Set them. xstate NULL leaves floating point alone. Not while the thread is injected into: -EBUSY. */
int ferry_thread_set_regs(struct ferry_thread *thread, const struct ferry_regs *regs,
			  struct ferry_error *err);

/* The signal mask of a stopped thread, as the application has it (bit n-1 = signal n). */
int ferry_thread_get_sigmask(struct ferry_thread *thread, uint64_t *ret_mask, struct ferry_error *err);
int ferry_thread_set_sigmask(struct ferry_thread *thread, uint64_t mask, struct ferry_error *err);

/*
 * Pending signals of a stopped thread: its own (shared = 0) or those of its process (shared = 1), beginning
 * with entry 'first'. Returns how many of at most n were written.
 */
int ferry_thread_peek_signals(struct ferry_thread *thread, int shared, uint32_t first, siginfo_t *infos,
			      uint32_t n, struct ferry_error *err);

enum ferry_resume_use {
	FERRY_RESUME_IN_PLACE, /* the same task goes on: nanosleep or poll keep their deadline */
	FERRY_RESUME_IMAGE,    /* another task will: the call is made anew with its own number */
};

/*
 * Rewrite registers, got from a stopped thread, to what a thread must start with to go on without noticing:
 * - an interrupted system call is made again (-512, -513, -514, -516 in rax);
 * - so is one that returned EINTR only because of the stop (ferry_thread_wait() has set it so already);
 * - a thread inside a restartable sequence (rseq) starts at its abort handler.
 * user.orig_rax becomes -1. Nothing in the target changes. Returns a mask of what was done.
 */
#define FERRY_RESUMED_CALL 1
#define FERRY_RESUMED_EINTR 2
#define FERRY_RESUMED_RSEQ 4
int ferry_thread_normalize(struct ferry_thread *thread, enum ferry_resume_use use, struct ferry_regs *regs,
			   struct ferry_error *err);

/* ---------------------------------------------------------------- injection */

/*
 * Prepare a process for injection through any one of its stopped threads (the leader may be a zombie).
 * Changes nothing. -EOPNOTSUPP (UNSUPPORTED_TASK): 32-bit code, or no place for a landing pad; -EIO: its
 * memory cannot be read. opts may be NULL; it is copied.
 */
int ferry_inject_open(struct ferry_thread *thread, const struct ferry_inject_options *opts,
		      struct ferry_inject **ret_inject, struct ferry_error *err);

/*
 * Forget the process; NULL is fine. Threads must be cured or released first: one that is not heals when it
 * is released.
 */
void ferry_inject_close(struct ferry_inject *inject);

/*
 * Make sure that stopped threads stand in code of their own: a thread found in the landing pad of a ferry
 * that died runs out of it, a signal about to be delivered is delivered (the thread then stands at the
 * first instruction of its handler), and one in a call of the vdso gets a moment to come out of it. Call it for all seized threads of a process together, before the
 * registers of any are read for an image: threads in old pads may wait for each other. The other calls
 * settle their one thread by themselves.
 */
int ferry_inject_settle_all(struct ferry_inject *inject, struct ferry_thread *const *threads, size_t n,
			    struct ferry_error *err);
int ferry_inject_settle(struct ferry_inject *inject, struct ferry_thread *thread, struct ferry_error *err);

/*
 * Run one system call in a stopped thread. *ret_result (may be NULL) is what the kernel returns: -4095..-1
 * is an errno. The first call takes the thread away from its place; ferry_inject_cure() brings it back. A
 * few threads of a process (at least two) can be away at a time: -EBUSY beyond. Calls that make or end
 * threads or programs are refused (-EINVAL). A call must not block for long. When the caller dies, a thread
 * that is away finishes the call and heals.
 */
int ferry_inject_call(struct ferry_inject *inject, struct ferry_thread *thread, long number,
		      const uint64_t args[6], int64_t *ret_result, struct ferry_error *err);

/*
 * As ferry_inject_call() for calls that return a descriptor which the target must not keep if the caller
 * dies: until this thread's next call, or ferry_inject_cure(), death closes it again.
 */
int ferry_inject_call_fd(struct ferry_inject *inject, struct ferry_thread *thread, long number,
			 const uint64_t args[6], int64_t *ret_fd, struct ferry_error *err);

/*
 * Map memory (read, write) for buffers in the process. The thread stays away and owns it: when the caller
 * dies, its way back unmaps it. ferry_inject_cure() of that thread unmaps it, too. Other threads can use it
 * in their calls meanwhile.
 */
int ferry_inject_map(struct ferry_inject *inject, struct ferry_thread *thread, size_t bytes,
		     uint64_t *ret_address, struct ferry_error *err);
int ferry_inject_unmap(struct ferry_inject *inject, struct ferry_thread *thread, uint64_t address,
		       struct ferry_error *err);

/* Memory of the process, without running anything in it. Short transfers are errors (-EFAULT). */
int ferry_inject_read(struct ferry_inject *inject, uint64_t address, void *bytes, size_t n,
		      struct ferry_error *err);
int ferry_inject_write(struct ferry_inject *inject, uint64_t address, const void *bytes, size_t n,
		       struct ferry_error *err);

/*
 * Put the thread back into its own state: registers, signal mask. It stays stopped. Harmless when it is not
 * away.
 */
int ferry_inject_cure(struct ferry_inject *inject, struct ferry_thread *thread, struct ferry_error *err);

/* Whether the thread is away from its place. */
int ferry_inject_is_away(const struct ferry_thread *thread);

/*
 * Tell the seccomp mode of a thread (0, 1 strict, 2 filter; as in /proc/PID/status) when the caller knows
 * it anyway; saves reading it.
 */
void ferry_thread_set_seccomp(struct ferry_thread *thread, int mode);

/* -------------------------------------------------------------------- blobs */

/*
 * Tell which signals the process handles ('SigCgt' in /proc/PID/status, signal N is bit N-1), for a caller that has read
 * it; saves reading it for each blob. Only with FERRY_INJECT_ALL_STOPPED, and as long as all threads stay stopped.
 */
void ferry_inject_set_caught(struct ferry_inject *inject, uint64_t caught);

/*
 * Load position-independent, freestanding machine code that uses general registers only (-ffreestanding
 * -fpie -mgeneral-regs-only, no relocations) and whose first byte is the entry of `long f(void *arg)`. It
 * gets memory of its own with data_bytes for its argument and a stack of 64 KiB. The thread stays away and
 * owns it, as with ferry_inject_map().
 */
int ferry_inject_blob_load(struct ferry_inject *inject, struct ferry_thread *thread, const void *code,
			   size_t code_bytes, size_t data_bytes, struct ferry_blob **ret_blob,
			   struct ferry_error *err);

/* Address of the data area inside the process, page-aligned. */
uint64_t ferry_inject_blob_data(const struct ferry_blob *blob);

/*
 * Run it in the owner or any other stopped thread of the process, one at a time: f(arg) with arg = data
 * area + arg_offset. *ret_result receives what it returned. -ETIMEDOUT: it still runs; the thread can then
 * only be released.
 */
int ferry_inject_blob_run(struct ferry_blob *blob, struct ferry_thread *thread, size_t arg_offset,
			  int64_t *ret_result, struct ferry_error *err);

/* Unmap it (through its owner, which stays away) and free the handle; NULL is fine. */
int ferry_inject_blob_unload(struct ferry_blob *blob, struct ferry_error *err);

/* -------------------------------------------------------------- descriptors */

/*
 * A copy of descriptor fd of process pid (pidfd_getfd), close-on-exec; nothing stops. pid may be any thread
 * where the kernel can do that (6.9), which is what a process with a zombie leader needs. Returns it, or
 * -EBADF (the process has no such descriptor), -ESRCH (NO_SUCH_TASK), -EPERM (PERMISSION), -EMFILE, -ENOSYS
 * (KERNEL_FEATURE). Hold copies only while the target is frozen: a peer sees no end of file otherwise.
 */
int ferry_inject_get_fd(pid_t pid, int fd, struct ferry_error *err);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
