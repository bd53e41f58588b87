/* SPDX-License-Identifier: Apache-2.0 */
/* What a job was asked for: one structure, made from options.def. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"

enum option_verbs {
	V_DUMP = 1 << 0,
	V_RESTORE = 1 << 1,
	V_CHECK = 1 << 2,
	V_SHOW = 1 << 3,
	V_MIGRATE = 1 << 4,
	V_RECEIVE = 1 << 5,
	V_MIGRATIONS = 1 << 6,
	V_RUN = 1 << 7,
	V_PS = 1 << 8,
	V_LOGS = 1 << 9,
	V_SAVE = 1 << 10,
	V_STOP = 1 << 11,
	V_RM = 1 << 12,
	V_ATTACH = 1 << 13,
	V_PRE_DUMP = 1 << 14,
	V_DEDUP = 1 << 15,
	V_PAGE_SERVER = 1 << 16,
	V_SNAPSHOT = 1 << 17,
	V_LAZY_PAGES = 1 << 18,
	V_DOCTOR = 1 << 19,
	V_CPUINFO = 1 << 20,
	V_IMAGE = 1 << 21,
	V_ALL = V_IMAGE - 1,
};

enum option_type { OPTION_BOOL, OPTION_INT, OPTION_TEXT, OPTION_CHOICE, OPTION_LIST };

struct text_list {
	VEC(char *) v;
};

#define OPTION_FIELD_BOOL(name) bool name;
#define OPTION_FIELD_INT(name) int64_t name;
#define OPTION_FIELD_TEXT(name) char *name;
#define OPTION_FIELD_CHOICE(name) char *name;
#define OPTION_FIELD_LIST(name) struct text_list name;

struct options {
#define OPTION(field, word, letter, type, verbs, argument, value, help) OPTION_FIELD_##type(field)
#include "engine/options.def"
#undef OPTION
};

struct option_info {
	const char *word;
	char letter;
	enum option_type type;
	unsigned verbs;
	const char *argument;
	const char *help;
	size_t offset;
};

extern const struct option_info option_infos[];
extern const size_t option_infos_n;

void options_init(struct options *o);
void options_release(struct options *o);

/* Find an option by its long name, or by its letter. NULL when there is none. */
const struct option_info *option_by_word(const char *word, size_t n);
const struct option_info *option_by_letter(char letter, unsigned verbs);

/* Set an option; value is NULL for one without argument. USAGE when it does not fit. */
must_check int option_set(struct options *o, const struct option_info *info, const char *value,
			  struct ferry_error *err);
