/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling struct ferry_error. An error is set once, at its origin; outer layers only add what the origin
 * could not know (stage, kind, pid), with error_context().
 */
#pragma once

#include <ferry/error.h>

#include "base/macros.h"

/*
 * Set the error and return -code, so that a failing function can `return error_set(...)`.
 * code: errno value, positive. Only the first error is kept; err may be NULL.
 */
int error_set(struct ferry_error *err, enum ferry_error_id id, int code, const char *fmt, ...)
	printf_like(4, 5);

/* As error_set(), and appends ": " and the text of code. */
int error_errno(struct ferry_error *err, enum ferry_error_id id, int code, const char *fmt, ...)
	printf_like(4, 5);

/* Out of memory; returns -ENOMEM. */
int error_memory(struct ferry_error *err);

/* Say what the user can do about it. Only the first hint is kept. err may be NULL. */
void error_hint(struct ferry_error *err, const char *fmt, ...) printf_like(2, 3);

/* What to tell the user of it: the hint, or the usual next step for an error of this sort where its origin named none; "": there is none. */
const char *error_next_step(const struct ferry_error *err);

/* Add what the origin did not know; fields already set stay. stage and kind may be NULL, pid 0. */
void error_context(struct ferry_error *err, const char *stage, const char *kind, pid_t pid);

/* Whether an error was set. */
static inline int error_is_set(const struct ferry_error *err)
{
	return err && err->id != FERRY_ERROR_NONE;
}

/* Forget a handled error; .size stays. */
void error_clear(struct ferry_error *err);

/* What another thread, or another way, has failed with, if it says anything and nothing was said before; .size stays. */
void error_pass(struct ferry_error *err, const struct ferry_error *told);
