/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool of strings, each stored once and named by a 32-bit number: what 100000 mappings of the same few
 * libraries need. Number 0 is the empty string. Bytes may be anything but NUL.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct proc_names {
	char *text; /* strings one after another, each with its NUL */
	size_t n;
	size_t cap;
	uint32_t *slots; /* open addressing; offsets into text, 0 = free */
	size_t n_slots;
	size_t n_used;
	uint32_t last; /* what was found last: neighbours often repeat */
};

/* Number of the string s of n bytes, in *ret_id; -ENOMEM, or -EBADMSG when it holds a NUL. */
must_check int proc_names_add(struct proc_names *names, const char *s, size_t n, uint32_t *ret_id);

/* The string; valid until the next proc_names_add(). Never NULL. */
const char *proc_names_get(const struct proc_names *names, uint32_t id);

void proc_names_release(struct proc_names *names);
