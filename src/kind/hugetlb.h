/* SPDX-License-Identifier: Apache-2.0 */
/* Huge pages of hugetlbfs, by whichever call they were asked for. */
#pragma once

#include <stdint.h>
#include <sys/mman.h>

#include <ferry/error.h>

#include "base/macros.h"

/* The size of a page as mmap(2), memfd_create(2) and shmget(2) have it in their flags. 0: the usual one. */
uint32_t hugetlb_size_flags(unsigned page_shift);

/* That part of any such flags. */
static inline uint32_t hugetlb_size_of(uint32_t flags)
{
	return flags & (uint32_t)MAP_HUGE_MASK << MAP_HUGE_SHIFT;
}

/* Whether the machine has so many huge pages free, of the size in these flags; -ENOMEM. what: for the message. */
must_check int hugetlb_check(uint32_t flags, uint64_t bytes, const char *what, struct ferry_error *err);
