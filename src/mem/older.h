/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes that a memory had in the round before, to compare with what it has now: for memory that nobody can track. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/files.h"

struct image_dir;
struct mem_older;

/* What dir has of a memory; *ret is NULL when it has nothing. dir has to outlive it. */
must_check int mem_older_open(struct image_dir *dir, enum image_kind kind, uint64_t id,
			      struct mem_older **ret, struct ferry_error *err);

/*
 * Tell for each of n_pages pages from address on whether it was there and had these bytes. scratch has room for as many bytes. Several
 * threads may ask at a time.
 */
must_check int mem_older_compare(const struct mem_older *o, uint64_t address, uint64_t n_pages,
				 const char *bytes, char *scratch, bool *ret_same, struct ferry_error *err);

/* o may be NULL. */
void mem_older_free(struct mem_older *o);
