/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that choose among the sockets of one port, which no call tells: read by a program that walks over all sockets. */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

/* One program is kept no longer than this, and sockets of a group beyond this many are not told apart. */
enum { REUSEPORT_INSTRUCTIONS_MAX = 1024, REUSEPORT_PLACES_MAX = 32 };

/* A socket of a group that has a program. */
struct reuseport {
	uint64_t inode;
	uint64_t group;           /* the same for all of one */
	uint32_t members;         /* of the group */
	uint32_t place;           /* in the group, from 0; UINT32_MAX = not known */
	uint32_t n;               /* instructions of a classic program; 0 = it is one of eBPF */
	struct sock_filter *code; /* owned; NULL where n is 0 or more than REUSEPORT_INSTRUCTIONS_MAX */
};

/*
 * Every such socket of the caller's network namespace. -EOPNOTSUPP where the kernel has no iterators over sockets (5.9) or does not
 * describe itself (CONFIG_DEBUG_INFO_BTF), -EPERM without the rights; or -errno. The list is released by reuseport_free().
 */
must_check int reuseport_list(struct reuseport **ret, size_t *ret_n);
void reuseport_free(struct reuseport *list, size_t n);
