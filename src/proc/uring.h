/* SPDX-License-Identifier: Apache-2.0 */
/* All that /proc/PID/fdinfo/N tells of an io_uring instance. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"
#include "proc/names.h"

struct proc_uring_file {
	uint32_t slot;
	uint32_t name; /* as a link of /proc/PID/fd has it; proc_names_get() */
};

struct proc_uring_buffer {
	uint32_t slot;
	uint64_t address, bytes;
};

struct proc_uring_cqe {
	uint64_t user_data;
	int32_t res;
	uint32_t flags;
};

struct proc_uring {
	uint32_t sq_mask, sq_head, sq_tail, cached_sq_head;
	uint32_t cq_mask, cq_head, cq_tail, cached_cq_tail;
	int32_t sq_thread;   /* as the first PID namespace numbers it; -1 = none */
	bool whole;          /* the kernel could lock the ring, and showed all of it */
	bool napi;           /* busy polling is on */
	bool personalities;  /* there are some; shown up to 6.11 */
	uint32_t sqes_shown; /* requests not taken yet that are shown one by one: only with an index array */
	bool wide_sqe, wide_cqe;           /* one was shown that has 128, 32 bytes */
	uint32_t n_files, n_buffers;       /* slots of the tables */
	VEC(struct proc_uring_file) files; /* of slots in use */
	VEC(struct proc_uring_buffer) buffers;
	VEC(uint32_t) polls;                 /* opcodes of requests that wait for an event */
	VEC(struct proc_uring_cqe) overflow; /* completions that found no room */
	struct proc_names names;
};

void proc_uring_release(struct proc_uring *u);
#define _cleanup_proc_uring_ __attribute__((cleanup(proc_uring_release)))

/* Parse a whole text. -EBADMSG names the line. *ret is to be released also after a failure. */
must_check int proc_uring_parse(const char *text, size_t n, struct proc_uring *ret, struct ferry_error *err);

/* Read that of a descriptor; again for a moment while the ring is busy. dirfd: /proc/PID. */
must_check int proc_read_uring(int dirfd, int fd, struct proc_uring *ret, struct ferry_error *err);
