/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * What went wrong, told once, at its origin. See ferry-errors(7) for every identifier.
 *
 * A caller hands in a zeroed structure with .size set (FERRY_ERROR_INIT); the library fills the rest
 * and never prints it. Strings inside are owned by the structure; nothing needs freeing.
 */

enum ferry_error_id {
	FERRY_ERROR_NONE = 0,
#define FERRY_ERROR(name, word, exit_class, text) FERRY_ERROR_##name,
#include <ferry/errors.def>
#undef FERRY_ERROR
	FERRY_ERROR_COUNT,
};

struct ferry_error {
	uint32_t size;          /* sizeof(struct ferry_error) as the caller knows it */
	enum ferry_error_id id; /* stable identifier */
	int code;               /* errno value, positive; 0 = no error */
	pid_t pid;              /* task concerned as ferry sees it; 0 = none */
	char stage[16];         /* "check", "seize", "collect", "dump", "plan", "restore", ... */
	char kind[24];          /* resource kind, "" = none */
	char message[512];      /* names the object and the cause: "fd 7 of pid 41 (nginx): ..." */
	char hint[384];         /* what the user can do; "" = nothing known */
};

/* clang-format off */
#define FERRY_ERROR_INIT {.size = sizeof(struct ferry_error)}
/* clang-format on */

/* The identifier as a word, for instance "pid-taken"; "none" for FERRY_ERROR_NONE. Never NULL. Thread-safe. */
__attribute__((visibility("default"))) const char *ferry_error_word(enum ferry_error_id id);

/* One sentence that explains the identifier, as ferry-errors(7) does. Never NULL. Thread-safe. */
__attribute__((visibility("default"))) const char *ferry_error_text(enum ferry_error_id id);

/* Exit code of the command line for this identifier: 1 failed, 2 usage, 3 refused, 4 outcome unknown; 0 for NONE. */
__attribute__((visibility("default"))) int ferry_error_exit_code(enum ferry_error_id id);
