/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of libferry-inject share. thread.c owns the life of a seized thread (attach, stops,
 * detach), place.c finds room for the landing pad, slot.c writes it, inject.c drives a thread through it,
 * blob.c runs functions, seccomp.c says what a task's filters allow; arch/<cpu>/ knows registers, the pad's
 * code and system call restart.
 *
 * Every call that changes a target is preceded by inject_effect(): tests kill there.
 */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <sys/ptrace.h>

#include <ferry/inject.h>

#include "base/error.h"
#include "base/macros.h"
#include "inject/arch/x86_64/pad.h"

#define INJECT_SLOTS 2 /* at most, see slots_of() */

/* A system call: what goes into registers, and what seccomp filters see. */
struct call {
	long nr;
	uint64_t args[6];
};

struct bpf_filter {
	uint16_t n;
	struct sock_filter *code;
};

struct seccomp_state {
	int mode; /* 0 none, 1 strict, 2 filter */
	struct bpf_filter *filters;
	size_t n;
};

struct ferry_thread {
	pid_t tid;
	struct ferry_inject_options opts;

	/* The stop: what the caller is told, and what the kernel has. */
	enum ferry_stop stop;
	int signal;            /* of a signal or group stop */
	siginfo_t signal_info; /* of a signal stop */
	int exit_status;       /* wait(2) format */
	bool stepped;          /* the kernel's stop is one of our own steps; .stop is older */
	bool at_entry;         /* namely before the call */
	bool in_blob;          /* a function was started and has not returned yet */
	bool mended;           /* the call it stands before returned a spurious EINTR */
	bool trap_pending;     /* PTRACE_INTERRUPT was sent and its stop not taken yet */
	bool listening;        /* group stop with PTRACE_LISTEN */

	/* Away: the registers and the mask are kept here, the thread stands in a slot of home. */
	struct ferry_inject *home;
	int slot;
	struct user_regs_struct
		own_regs; /* to be put back; the kernel's own restart logic has still to see them */
	uint64_t own_mask;
	uint64_t away_mask; /* its mask while it is away */
	bool must_trap;     /* own_regs show a call to restart: the kernel's signal code has to see them */

	/* seccomp; the filters are kept while away */
	int seccomp_mode; /* -1 = not known yet */
	struct seccomp_state seccomp;
	bool suspended;   /* PTRACE_O_SUSPEND_SECCOMP is set */
	bool deadly;      /* the call that it stands before would kill it under its filters */
	bool mask_open;   /* a signal was let in; blocked again before the thread runs */
	bool can_unblock; /* the pad may let in a signal */
	bool no_mask;     /* the pad may not restore a signal mask: signals stay unblocked */

	/* See remote.h. */
	const struct thread_remote *remote; /* traced by somebody else, who has told this */
	uint64_t mark; /* a function stands at its call that has this argument; 0 = none */
};

/*
 * Memory that a thread away owns. The last bytes hold a word that is 1 while another thread may use the
 * memory.
 */
struct inject_map {
	uint64_t address, bytes; /* bytes 0 = unused entry */
};

#define MAP_WORD(map) ((map)->address + (map)->bytes - 8)

struct inject_slot {
	struct ferry_thread *thread; /* who is away in it; NULL = free */
	bool at_undo;                /* it stands, or stood last, at ferry__pad_call_undo */
	bool can_unmap, can_close;   /* seccomp lets the pad do that */
	struct inject_map maps[PAD_UNMAPS];

	bool dirty; /* a dead ferry left something, for this thread with this stack pointer (0 = unknown) */
	pid_t dirty_tid;
	uint64_t dirty_rsp;

	struct pad_head head;
	struct pad_data data;
};

struct place {
	uint64_t address;        /* of the slots, all in one page */
	uint64_t area, area_end; /* pads of any ferry lie in here */
	uint64_t vdso, vdso_end; /* the kernel's functions; 0 = not known */
};

struct ferry_inject {
	struct ferry_inject_options opts;
	pid_t tid;
	int mem_fd;
	struct place place;
	bool low;         /* a 32-bit program: it has the narrow pad, and can have no memory above 4 GiB */
	uint64_t caught;  /* signals that the process may handle, as of the time when a blob was loaded */
	bool caught_told; /* see ferry_inject_set_caught() */
	struct inject_slot slots[INJECT_SLOTS];
};

/* ------------------------------------------------------------------ options */

/* Copy what a caller gave (maybe NULL, maybe an older and shorter structure). */
must_check int inject_options_copy(struct ferry_inject_options *ret, const struct ferry_inject_options *opts,
				   struct ferry_error *err);

/* Announce a change of the target, right before it. */
void inject_effect(const struct ferry_inject_options *opts, const char *what);

/* A fault on purpose: 0, or -EIO with err set. */
must_check int inject_fault(const struct ferry_inject_options *opts, const char *point,
			    struct ferry_error *err);

static inline int inject_timeout(const struct ferry_inject_options *opts)
{
	return opts->timeout_ms ? opts->timeout_ms : 10000;
}

/* ------------------------------------------------------------------- thread */

/* ptrace(2) with -errno as its result; of a thread that another one traces, what that one has told. */
long thread_ptrace(const struct ferry_thread *t, int request, uintptr_t address, uintptr_t data);

/* Words of its memory. */
must_check int thread_peek(const struct ferry_thread *t, uint64_t address, uint64_t *words, size_t n);

/*
 * Wait for the next stop and note it; *ret_code is what wait(2) calls status >> 8. 0, -ETIMEDOUT, -ESRCH
 * when gone.
 */
must_check int thread_await(struct ferry_thread *t, int timeout_ms, int *ret_code, struct ferry_error *err);

/* Consume a stop, if it is that after an exec; any other is left for the kernel to see. */
void thread_take_exec(const struct ferry_thread *t, int code);

/* 0 when stopped; else -EBUSY with err set. */
must_check int thread_check_stopped(const struct ferry_thread *t, const char *what, struct ferry_error *err);

/*
 * A failed ptrace call on a thread that should have been stopped: tell a thread that is gone from other
 * causes.
 */
int thread_failed(struct ferry_thread *t, long r, const char *what, struct ferry_error *err);

/* One line of /proc/TID/status ("TracerPid:") as a number in the given base; -errno when it is not there. */
must_check int thread_status_number(pid_t tid, const char *key, int base, uint64_t *ret);

/* ---------------------------------------------------------- registers (arch) */

/* Code segments of the kernel's own. */
#define USER_CS_32 0x23
#define USER_CS_64 0x33

static inline bool regs_are_32(const struct user_regs_struct *regs)
{
	return regs->cs == USER_CS_32;
}

must_check int regs_get(struct ferry_thread *t, struct user_regs_struct *ret, struct ferry_error *err);
must_check int regs_set(struct ferry_thread *t, const struct user_regs_struct *regs, const char *effect,
			struct ferry_error *err);
must_check int mask_get(struct ferry_thread *t, uint64_t *ret, struct ferry_error *err);
must_check int mask_set(struct ferry_thread *t, uint64_t mask, const char *effect, struct ferry_error *err);

/*
 * What has to happen for a stopped thread to go on without noticing. The three steps of
 * ferry_thread_normalize(), apart because a thread that comes back alive leaves restarting to the kernel.
 */
enum restart { RESTART_NONE, RESTART_AGAIN, RESTART_BLOCK, RESTART_NO_HANDLER };

/* How the kernel would restart the call that these registers stand in. */
enum restart regs_restart(const struct user_regs_struct *regs);

/*
 * Whether these registers show a call that has failed with EINTR and can be made again; with_limit: also one
 * whose time limit would count anew.
 */
bool regs_eintr_listed(const struct user_regs_struct *regs, bool with_limit);

/*
 * If a stop made the call fail with EINTR for no reason, have it made again. Done as soon as the stop is
 * seen: a tracer that dies later changes nothing any more. regs_unmend() takes it back when a handler has
 * become due meanwhile.
 */
must_check int regs_mend(struct ferry_thread *t, struct ferry_error *err);
must_check int regs_unmend(struct ferry_thread *t, struct ferry_error *err);

/* As if a mended call had returned EINTR. */
void regs_set_eintr(struct user_regs_struct *regs);

/* Make the call again: with its own number, or with that of restart_syscall. */
void regs_fold(struct user_regs_struct *regs, enum ferry_resume_use use, bool compat_call);

/* Whether the thread's system call was one of the 32-bit table: made by 32-bit code, or by int $0x80. */
must_check int regs_compat_call(struct ferry_thread *t, const struct user_regs_struct *regs);

/* Move out of a restartable sequence; 1 when it was in one (*ret_area = address of struct rseq), 0 not. */
must_check int regs_leave_rseq(struct ferry_thread *t, struct user_regs_struct *regs, uint64_t *ret_area,
			       struct ferry_error *err);

void regs_set_call(struct user_regs_struct *regs, uint64_t rip, const struct call *call);

/* ------------------------------------------------------------------ seccomp */

/*
 * Run one classic filter over a call; the SECCOMP_RET_* it gives, SECCOMP_RET_KILL_PROCESS when it is
 * malformed.
 */
uint32_t bpf_evaluate(const struct bpf_filter *filter, const struct call *call, uint64_t rip);

must_check int seccomp_read(struct ferry_thread *t, struct seccomp_state *ret, struct ferry_error *err);
void seccomp_release(struct seccomp_state *state);

/* The most severe verdict of all filters: SECCOMP_RET_*. */
uint32_t seccomp_verdict(const struct seccomp_state *state, const struct call *call, uint64_t rip);

/* What a verdict means for a call that is made although nobody traces the task any more. */
enum seccomp_class { SECCOMP_RUNS, SECCOMP_DENIES, SECCOMP_KILLS };
enum seccomp_class seccomp_classify(uint32_t verdict);

static inline void cleanup_seccomp(struct seccomp_state *state)
{
	seccomp_release(state);
}

/* ------------------------------------------------------------ place and slots */

must_check int place_find(struct ferry_inject *inject, struct ferry_error *err);

/* So many free bytes below 4 GiB: their address, or -ENOMEM. */
must_check int place_find_low(const struct ferry_inject *inject, uint64_t bytes, uint64_t *ret_address);

/* How many threads can be away at a time: there is no room for two narrow pads where there is for one. */
static inline int slots_of(const struct ferry_inject *inject)
{
	return inject->low ? 1 : INJECT_SLOTS;
}

static inline uint64_t slot_bytes(const struct ferry_inject *inject)
{
	return inject->low ? PAD_NARROW_BYTES : PAD_BYTES;
}

static inline uint64_t slot_code_bytes(const struct ferry_inject *inject)
{
	return inject->low ? PAD_NARROW_CODE_BYTES : PAD_CODE_BYTES;
}

static inline uint64_t slot_address(const struct ferry_inject *inject, int slot)
{
	return inject->place.address + (uint64_t)slot * slot_bytes(inject);
}

/* Address of a label inside a slot; labels are named as the wide pad has them. */
uint64_t slot_label(const struct ferry_inject *inject, int slot, const unsigned char *label);

static inline bool in_place(const struct ferry_inject *inject, uint64_t rip)
{
	return rip >= inject->place.area && rip < inject->place.area_end;
}

/*
 * Write what stands in all slots in use to the target: one write, so a death leaves the old or the new
 * state.
 */
must_check int slots_write(struct ferry_inject *inject, const char *effect, struct ferry_error *err);

/* Zero a free slot. */
must_check int slot_erase(struct ferry_inject *inject, int slot, struct ferry_error *err);

/* Look at what dead ferries left in the slots. */
must_check int slot_inspect(struct ferry_inject *inject, struct ferry_error *err);

/*
 * Whether a thread that stands still with these pointers is in the slot, or in a handler that returns
 * there.
 */
bool slot_awaits(struct ferry_inject *inject, int slot, uint64_t stack, uint64_t program);

/* Whether an address is behind the call of a slot, ours by its code, that a dead ferry left. */
bool slot_behind_call(const struct ferry_inject *inject, uint64_t rip);

/* A slot that no thread is in, nor will come back to: its number, or -EBUSY. */
must_check int slot_find_free(struct ferry_inject *inject, struct ferry_error *err);

/* ----------------------------------------------------------- driving (drive.c) */

/* Where a thread is sent, and what is given back if nobody is there when the call returns. */
struct aim {
	const unsigned char *label;
	struct call call;
	long undo_nr; /* with ferry__pad_call_undo: SYS_close or SYS_munmap */
	uint64_t undo_arg;
};

#define SIGNAL_BIT(signal) (1ull << ((signal)-1))

/* The ptrace options of a seized thread. */
#define INJECT_PTRACE_OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC)

/* Whether the pad may make a call under the thread's seccomp filters if it has to find its way alone. */
bool pad_may(const struct ferry_inject *inject, struct ferry_thread *t, long nr, const uint64_t args[6]);

#define PAD_MAY(inject, t, nr, ...) pad_may(inject, t, nr, (const uint64_t[6]){__VA_ARGS__})

/*
 * A signal that means nothing to the thread: ignored by default, not handled, and not blocked, so that nobody waits for
 * it either. Whether it comes once more or once less cannot be told. 0 = none.
 */
int catch_choose(const struct ferry_inject *inject, const struct ferry_thread *t);

static inline uint64_t catch_mask(int signal)
{
	return signal ? SIGNAL_BIT(signal) : 0;
}

/* Let a thread that is away stand at a label of its slot, with the registers of a call. */
must_check int stand_at(struct ferry_inject *inject, struct ferry_thread *t, const unsigned char *label,
			const struct call *call, const char *effect, struct ferry_error *err);

/* Take the thread to its slot unless it is there, and let it stand at the label. */
must_check int inject_aim(struct ferry_inject *inject, struct ferry_thread *t, const struct aim *aim,
			  struct ferry_error *err);

/* Aim, and go on to the end of the call; its raw result. */
/* A thread's own registers, with which it stands in its slot. */
struct user_regs_struct slot_regs(const struct ferry_thread *t);

must_check int inject_run(struct ferry_inject *inject, struct ferry_thread *t, const struct aim *aim,
			  int64_t *ret_result, struct ferry_error *err);

/*
 * Let a thread run until the signal, which waits for it blocked, is let in and stops it at rip; its registers there.
 * One stop, however many calls it makes.
 */
must_check int inject_run_to_signal(struct ferry_thread *t, int signal, uint64_t rip,
				    struct user_regs_struct *ret_regs, struct ferry_error *err);

/* PTRACE_O_SUSPEND_SECCOMP on or off. */
must_check int suspend_seccomp(struct ferry_thread *t, bool suspend, struct ferry_error *err);

/* As ferry_inject_settle(), but for a thread that must not run if it need not. */
must_check int inject_settle(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err);

/* Go on to the next system-call stop inside the slot. */
struct syscall_stop {
	bool entry;
	uint64_t rip;
	int64_t result;       /* at exit */
	uint64_t nr, args[6]; /* at entry */
};
must_check int inject_step(struct ferry_thread *t, struct syscall_stop *ret, struct ferry_error *err);

/* The thread is in its slot no longer (or gone). */
void inject_forget(struct ferry_inject *inject, struct ferry_thread *t);

/*
 * Memory with a word at its end, owned by the thread; prot as for mmap(2). *ret_index names it in the slot.
 */
must_check int inject_map_memory(struct ferry_inject *inject, struct ferry_thread *t, uint64_t bytes,
				 int prot, int *ret_index, struct ferry_error *err);
must_check int inject_unmap_memory(struct ferry_inject *inject, struct ferry_thread *t, int index,
				   struct ferry_error *err);

/* Unmap all that the thread owns, and let nobody wait for it: it is about to leave. */
must_check int inject_drop_memory(struct ferry_inject *inject, struct ferry_thread *t,
				  struct ferry_error *err);

/* Whether any thread that is away owns memory. */
bool inject_owns_memory(const struct ferry_inject *inject);

/*
 * Let threads that are away wait for each other's memory, as things stand now. 'leaving' (may be NULL)
 * counts as back.
 */
must_check int inject_pair(struct ferry_inject *inject, const struct ferry_thread *leaving,
			   struct ferry_error *err);

/* Address of a word of the slot that is zero: waiting for it takes no time. */
uint64_t slot_zero_word(const struct ferry_inject *inject, int slot);

/* Address of the slot's set of signals that are let in when a function has returned. */
uint64_t slot_catch_mask(const struct ferry_inject *inject, int slot);
