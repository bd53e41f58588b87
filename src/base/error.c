/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the text of errors: identifiers, words, and how a struct ferry_error is filled. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct error_info {
	const char *word;
	const char *text;
	int exit_class;
};

static const struct error_info error_infos[FERRY_ERROR_COUNT] = {
	[FERRY_ERROR_NONE] = {"none", "No error.", 0},
#define FERRY_ERROR(name, word, exit_class, text) [FERRY_ERROR_##name] = {word, text, exit_class},
#include <ferry/errors.def>
#undef FERRY_ERROR
};

static const struct error_info *error_info(enum ferry_error_id id)
{
	if ((unsigned)id >= FERRY_ERROR_COUNT)
		id = FERRY_ERROR_INTERNAL;
	return &error_infos[id];
}

const char *ferry_error_word(enum ferry_error_id id)
{
	return error_info(id)->word;
}

const char *ferry_error_text(enum ferry_error_id id)
{
	return error_info(id)->text;
}

int ferry_error_exit_code(enum ferry_error_id id)
{
	return error_info(id)->exit_class;
}

static void error_fill(struct ferry_error *err, enum ferry_error_id id, int code, int with_errno,
		       const char *fmt, va_list args)
{
	if (!err || err->id != FERRY_ERROR_NONE)
		return;
	err->id = id;
	err->code = code;
	int n = vsnprintf(err->message, sizeof(err->message), fmt, args);
	if (with_errno && n >= 0 && (size_t)n < sizeof(err->message))
		snprintf(err->message + n, sizeof(err->message) - (size_t)n, ": %s", strerror(code));
}

int error_set(struct ferry_error *err, enum ferry_error_id id, int code, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	error_fill(err, id, code, 0, fmt, args);
	va_end(args);
	return -code;
}

int error_errno(struct ferry_error *err, enum ferry_error_id id, int code, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	/* Any call that makes a descriptor may say so, and then it is about that. */
	bool full = code == EMFILE && id != FERRY_ERROR_LIMIT;
	error_fill(err, full ? FERRY_ERROR_LIMIT : id, code, 1, fmt, args);
	va_end(args);
	if (full)
		error_hint(err, "raise RLIMIT_NOFILE (ulimit -n)");
	return -code;
}

int error_memory(struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_NO_MEMORY, ENOMEM, "out of memory");
}

void error_hint(struct ferry_error *err, const char *fmt, ...)
{
	if (!err || err->hint[0])
		return;
	va_list args;
	va_start(args, fmt);
	vsnprintf(err->hint, sizeof(err->hint), fmt, args);
	va_end(args);
}

const char *error_next_step(const struct ferry_error *err)
{
	static const char *const steps[FERRY_ERROR_COUNT] = {
		[FERRY_ERROR_UNSUPPORTED_FD] =
			"let the program close it before the dump and open it again afterwards",
		[FERRY_ERROR_UNSUPPORTED_VMA] =
			"let the program unmap it before the dump and map it again afterwards",
		[FERRY_ERROR_OUTSIDE_PEER] = "dump from a common ancestor of both on, or part them first",
		[FERRY_ERROR_IN_FLIGHT] = "try again when it has arrived",
		[FERRY_ERROR_TIMEOUT] = "give it more time with --timeout",
		[FERRY_ERROR_IMAGE_MISSING] = "copy the whole images directory again, or take another image",
		[FERRY_ERROR_IMAGE_BAD] =
			"copy the image again, or take another; ferry image verify says what is wrong with it",
		[FERRY_ERROR_IMAGE_UNSUPPORTED] =
			"restore it with the program that wrote it, or a newer ferry",
		[FERRY_ERROR_FILES_CHANGED] = "put the file back as it was when the dump was taken",
	};
	if (err->hint[0])
		return err->hint;
	return (unsigned)err->id < FERRY_ERROR_COUNT && steps[err->id] ? steps[err->id] : "";
}

void error_context(struct ferry_error *err, const char *stage, const char *kind, pid_t pid)
{
	if (!err || err->id == FERRY_ERROR_NONE)
		return;
	if (stage && !err->stage[0])
		snprintf(err->stage, sizeof(err->stage), "%s", stage);
	if (kind && !err->kind[0])
		snprintf(err->kind, sizeof(err->kind), "%s", kind);
	if (pid && !err->pid)
		err->pid = pid;
}

void error_clear(struct ferry_error *err)
{
	if (err)
		*err = (struct ferry_error){.size = err->size};
}

void error_pass(struct ferry_error *err, const struct ferry_error *told)
{
	if (!err || error_is_set(err) || !error_is_set(told))
		return;
	uint32_t size = err->size;
	*err = *told;
	err->size = size;
}
