/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the freestanding blob and its host agree on. The blob runs inside a task in two places: in a target that
 * is being dumped it executes a script of system calls; in a task that is being restored it executes the script
 * that turns a fork of ferry into that task, creates its threads and leads every thread to the barrier.
 *
 * A script is an array of struct blob_call. Kinds append calls on the host side (model/script.h), so the blob
 * itself knows nothing about kinds.
 */
#pragma once

#include <stdint.h>

/* Calls at and above BLOB_OP_FIRST are not system calls. */
enum blob_op {
	BLOB_OP_FIRST = 0x10000,
	BLOB_OP_COPY = BLOB_OP_FIRST, /* arg: destination, source, bytes */
	BLOB_OP_ATTACH,               /* arg: struct blob_attach (tracer.h) */
	BLOB_OP_STORE, /* arg: address, 64-bit value to store there; with data_mask a pointer between two pieces of data */
	BLOB_OP_KEEP,  /* arg: address, where the result of the call before is stored */
	BLOB_OP_AWAIT, /* arg: address of a 32-bit word, which the coordinator sets and wakes */
	BLOB_OP_TELL, /* arg: address of a 32-bit word that becomes 1, and of struct blob_control, whose event that is */
	BLOB_OP_SEGMENTS, /* arg: selectors for ds, es, fs, gs; of zero fs and gs stay as they are */
};

/* Which table of system calls a number belongs to. Calls of the 32-bit one take arguments of 32 bits. */
enum blob_abi { BLOB_ABI_NATIVE = 0, BLOB_ABI_I386 };

enum blob_check {
	BLOB_CHECK_OK = 0, /* stop the script unless ret >= 0 */
	BLOB_CHECK_NONE,   /* any result will do */
	BLOB_CHECK_EQUAL,  /* stop the script unless ret == expect */
	BLOB_CHECK_FULL, /* read and write family: go on until arg[2] bytes have passed; arg[3] is the file offset */
};

struct blob_call {
	uint32_t nr;       /* system call number, or enum blob_op */
	uint8_t check;     /* enum blob_check */
	uint8_t data_mask; /* bit i: arg[i] is an offset into the script's data */
	uint8_t load_mask; /* bit i: arg[i], offset or address, is where the 64-bit argument lies */
	uint8_t abi;       /* enum blob_abi */
	int64_t expect;
	int64_t ret; /* filled by the blob */
	uint64_t arg[6];
};
_Static_assert(sizeof(struct blob_call) == 72, "blob_call layout");

struct blob_script {
	uint64_t calls; /* address of struct blob_call[n] in the task */
	uint64_t data;  /* address of the data that data_mask refers to */
	uint32_t n;
	uint32_t done; /* calls that went well; < n after a failure: the index of the failed call */
};

/*
 * What a thread finds in memory when it leaves through the exit gadget, popped from the lowest word up. It lies in the
 * task's own memory (alternate stack, or below the red zone of its stack), because the blob is unmapped by then.
 */
enum blob_frame_word {
	BLOB_FRAME_UNMAP_ADDRESS,
	BLOB_FRAME_UNMAP_BYTES, /* 0 = nothing to unmap */
	BLOB_FRAME_SIGMASK,
	BLOB_FRAME_R15,
	BLOB_FRAME_R14,
	BLOB_FRAME_R13,
	BLOB_FRAME_R12,
	BLOB_FRAME_RBP,
	BLOB_FRAME_RBX,
	BLOB_FRAME_R11,
	BLOB_FRAME_R10,
	BLOB_FRAME_R9,
	BLOB_FRAME_R8,
	BLOB_FRAME_RAX,
	BLOB_FRAME_RCX,
	BLOB_FRAME_RDX,
	BLOB_FRAME_RSI,
	BLOB_FRAME_RDI,
	BLOB_FRAME_RIP,
	BLOB_FRAME_CS,
	BLOB_FRAME_RFLAGS,
	BLOB_FRAME_RSP,
	BLOB_FRAME_SS,
	BLOB_FRAME_WORDS,
};

/* One page that every task of a job and the coordinator share. */
struct blob_control {
	uint32_t go;     /* the barrier: 0 = wait, 1 = run; waited for with FUTEX_WAIT */
	uint32_t ready;  /* tasks that stand at the barrier */
	uint32_t failed; /* tasks that gave up */
	uint32_t event;  /* bumped and woken at each change of the two above */
};

/*
 * A thread of a task under seccomp waits for its tracer before it does anything; the tracer suspends the filters. It
 * does not call the kernel meanwhile, for it may have inherited filters.
 */
enum blob_guard { BLOB_GUARD_NONE = 0, BLOB_GUARD_WANTED, BLOB_GUARD_WAITS, BLOB_GUARD_HELD };

struct blob_thread {
	struct blob_script script;
	uint32_t guard; /* enum blob_guard */
	uint32_t reserved;
	uint64_t xstate;      /* XSAVE area (standard format, 64-byte aligned), 0 = leave alone */
	uint64_t xstate_mask; /* requested-feature bitmap for XRSTOR */
	uint64_t frame_to;    /* where the frame goes */
	uint64_t stack_top;   /* stack inside the blob's region while the script runs */
	uint64_t task;        /* struct blob_task */
	uint64_t clone_args;  /* struct clone_args; unused for the leader */
	uint64_t frame[BLOB_FRAME_WORDS];
};

enum blob_state { BLOB_STATE_RUNS = 0, BLOB_STATE_READY, BLOB_STATE_FAILED };

/* The blob's argument in a task that is being restored. */
struct blob_task {
	struct blob_script memory; /* run by the leader before threads exist */
	uint64_t control;          /* struct blob_control */
	uint64_t threads;          /* struct blob_thread[n_threads], leader first */
	uint32_t n_threads;
	/*
	 * Futex word on which the other threads wait until the leader has counted them. They sleep at the barrier then, but one
	 * that the kernel wakes for nothing waits here again: whoever opens the barrier sets this to 1 and wakes it, too.
	 */
	uint32_t park;
	uint32_t counted;       /* where sleepers are while they are counted */
	uint32_t state;         /* enum blob_state */
	uint32_t failed_thread; /* index; n_threads = the memory script; valid when FAILED */
	uint32_t ends;          /* 1: the leader ends instead of waiting at the barrier */
	uint64_t end_status;    /* what it gives to exit(2) then */
	int64_t failed_ret;
	uint64_t gadget; /* address of the exit gadget (in the vdso's slack at its final place) */
	/* Processes that have one memory: its owner makes it once all are in the blob, and is the last at the barrier. */
	uint64_t owner;   /* the owner's struct blob_task; 0: this is it */
	uint32_t n_mates; /* how many others have the memory that this one owns */
	uint32_t inside;  /* of those are in the blob; futex word, as the next two */
	uint32_t rebuilt; /* 1: the memory is what it has to be */
	uint32_t settled; /* mates that need nothing of the head any more, so that it can be unmapped */
};

enum blob_command {
	BLOB_COMMAND_SCRIPT, /* struct blob_script */
	BLOB_COMMAND_ENTER,  /* struct blob_task; does not return */
	BLOB_COMMAND_SERVE,  /* struct blob_serve: in a tracer, see tracer.h */
	BLOB_COMMAND_VISIT,  /* struct blob_script: in a tracee, stops at its end */
	BLOB_COMMAND_PROBED, /* the end of a stack: in a child that tells its options; does not return */
};

struct blob_args {
	uint64_t command; /* enum blob_command */
	uint64_t object;  /* what the command says */
	int64_t result;   /* of VISIT */
	uint64_t reserved;
};

enum { BLOB_SIGSTOP = 19 };

/* The blob as bytes: position-independent code whose entry is its first byte, `long entry(struct blob_args *)`. */
extern const unsigned char ferry_blob[];
extern const uint64_t ferry_blob_bytes;

/* The exit gadget as bytes; goes into the slack at the end of the vdso. */
extern const unsigned char ferry_gadget[];
extern const uint64_t ferry_gadget_bytes;
