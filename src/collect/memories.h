/* SPDX-License-Identifier: Apache-2.0 */
/* How large the memories of a tree are, as a look from outside finds them. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"

/* One of some size. */
struct check_memory {
	pid_t pid, look, parent; /* parent: 0 for the root */
	uint64_t anonymous;      /* bytes that are there, swapped out ones included */
	uint64_t shmem;          /* bytes of shared objects that are there */
	uint64_t n_vmas;
};

typedef VEC(struct check_memory) check_memories;

/* How much of it no other process has mapped; of anonymous memory, and at most. Takes a walk through its page tables. */
must_check int check_memory_own(const struct check_memory *m, uint64_t *ret_bytes, struct ferry_error *err);
