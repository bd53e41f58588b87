/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the code in a tracer of the tree and its host agree on. A thread that another task traces cannot be traced by ferry,
 * so what ferry wants of it is done by its own tracer, inside of which the blob serves orders: hold a tracee, look at
 * it, run a script in it, find out its options. Whatever an order does, at its end the tracee stands in its own stop again.
 *
 * Between two orders the server makes the call that marks this; ferry, which traces the server, finds it there. If nobody
 * leaves an order, because nobody lives who could, the server lets run what it held, and returns.
 */
#pragma once

#include <stdint.h>
#include <sys/user.h>

enum blob_stop {
	BLOB_STOP_RUNS = 0,
	BLOB_STOP_SIGNAL,    /* about to receive the signal of .info: signal-delivery-stop */
	BLOB_STOP_INTERRUPT, /* PTRACE_INTERRUPT's; only of tracers that have seized */
	/* Those that no image can hold: */
	BLOB_STOP_SYSCALL, /* at the entry or exit of a system call */
	BLOB_STOP_EVENT,   /* fork, exec, exit and the like */
	BLOB_STOP_GROUP,   /* stopped by SIGSTOP or its kin */
	BLOB_STOP_GONE,
};

enum { BLOB_INFO_BYTES = 128, BLOB_DEBUG_REGS = 8, BLOB_XSTATE_MAX = 16384, BLOB_LOOK_SIGNALS = 32 };

struct blob_tracee {
	int32_t pid, tid; /* as its tracer numbers it */
	uint32_t held;    /* the server has it */
	uint32_t stop;    /* enum blob_stop: what its tracer had it in */
	uint32_t untold;  /* its tracer has not waited for that stop yet */
	uint32_t seized;
	uint32_t options; /* PTRACE_O_x */
	uint32_t moved;   /* it stands elsewhere at the moment */
	uint32_t stray;   /* what was sent to halt it has yet to stop it */
	uint32_t reserved;
	uint64_t mask;                /* its signals that are blocked */
	uint64_t syscall_at;          /* address of a system call instruction in its memory */
	uint64_t rseq_at, rseq_value; /* what lies in its rseq area and the kernel clears; 0 = nothing */
	uint64_t debug[BLOB_DEBUG_REGS];
	struct user_regs_struct regs;
	unsigned char info[BLOB_INFO_BYTES]; /* siginfo_t */
};

/* All that only the tracer can see of a tracee. */
struct blob_look {
	int64_t xstate_bytes, dispatch, rseq;
	uint64_t dispatch_mode, dispatch_rest[3];
	uint64_t rseq_address, rseq_rest[2];
	int64_t n_own, n_shared; /* pending signals; -errno */
	unsigned char own[BLOB_LOOK_SIGNALS][BLOB_INFO_BYTES];
	unsigned char shared[BLOB_LOOK_SIGNALS][BLOB_INFO_BYTES];
	unsigned char xstate[BLOB_XSTATE_MAX] __attribute__((aligned(64)));
};

enum blob_order_type {
	BLOB_ORDER_HOLD = 1,
	BLOB_ORDER_LOOK,
	BLOB_ORDER_VISIT,
	BLOB_ORDER_PROBE,
	BLOB_ORDER_SCRIPT
};

struct blob_order {
	uint32_t type;   /* enum blob_order_type */
	uint32_t tracee; /* index */
	int64_t ret;     /* 0 or -errno; of SCRIPT and VISIT the script's */
	uint64_t
		object; /* LOOK: struct blob_look; SCRIPT: struct blob_script; VISIT and PROBE: what is copied into the tracee */
	uint64_t bytes; /* of object, for VISIT and PROBE */
	uint64_t at,
		room; /* VISIT and PROBE: where memory for it is free in the tracee, and how much is to be mapped */
};

struct blob_serve {
	uint64_t mark;    /* first argument of the call between two orders */
	uint64_t next;    /* struct blob_order; 0 = none, that is the end */
	uint64_t tracees; /* struct blob_tracee[n] */
	uint32_t n;       /* room for so many; unused ones are zero */
	uint32_t child;   /* SIGCHLD was pending before */
};

/* In a restored tracer: BLOB_OP_ATTACH. */
struct blob_attach {
	uint64_t word; /* address of what is not 0 once the tracee stands at the barrier */
	uint64_t unmap_address,
		unmap_bytes; /* of the blob in a tracee of which no thread runs; 0 bytes = nothing */
	struct blob_tracee tracee;
};

/* The call between two orders. */
#define BLOB_SERVE_CALL 110 /* getppid */

struct blob_script;
int64_t tracer_serve(struct blob_serve *serve, int64_t (*run)(struct blob_script *script));
int64_t tracer_attach(const struct blob_attach *attach, struct blob_tracee *tracee);

/* In a child of a tracee, to find out the options it has inherited. */
__attribute__((noreturn)) void tracer_probed(uint64_t stack);
