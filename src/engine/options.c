/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the options of jobs: table, defaults, setting one. */
#include "engine/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

const struct option_info option_infos[] = {
#define OPTION(field, word, letter, type, verbs, argument, value, help) \
	{word, letter, OPTION_##type, verbs, argument, help, offsetof(struct options, field)},
#include "engine/options.def"
#undef OPTION
};
const size_t option_infos_n = ARRAY_SIZE(option_infos);

static char *options_text(const char *s)
{
	return s ? strdup(s) : NULL;
}

#define OPTION_DEFAULT_BOOL(value) (value)
#define OPTION_DEFAULT_INT(value) (value)
#define OPTION_DEFAULT_TEXT(value) options_text(value)
#define OPTION_DEFAULT_CHOICE(value) options_text(value)
#define OPTION_DEFAULT_LIST(value) \
	(struct text_list)         \
	{                          \
		{                  \
			0          \
		}                  \
	}

void options_init(struct options *o)
{
#define OPTION(field, word, letter, type, verbs, argument, value, help) \
	o->field = OPTION_DEFAULT_##type(value);
#include "engine/options.def"
#undef OPTION
}

static void *option_place(struct options *o, const struct option_info *info)
{
	return (char *)o + info->offset;
}

void options_release(struct options *o)
{
	for (size_t i = 0; i < option_infos_n; i++) {
		void *place = option_place(o, &option_infos[i]);
		if (option_infos[i].type == OPTION_TEXT || option_infos[i].type == OPTION_CHOICE) {
			free(*(char **)place);
		} else if (option_infos[i].type == OPTION_LIST) {
			struct text_list *list = place;
			vec_foreach(text, &list->v)
				free(*text);
			vec_release(&list->v);
		}
	}
	memset(o, 0, sizeof(*o));
}

const struct option_info *option_by_word(const char *word, size_t n)
{
	for (size_t i = 0; i < option_infos_n; i++)
		if (strlen(option_infos[i].word) == n && !memcmp(option_infos[i].word, word, n))
			return &option_infos[i];
	return NULL;
}

const struct option_info *option_by_letter(char letter, unsigned verbs)
{
	for (size_t i = 0; i < option_infos_n && letter; i++)
		if (option_infos[i].letter == letter && option_infos[i].verbs & verbs)
			return &option_infos[i];
	return NULL;
}

static int option_set_int(int64_t *place, const struct option_info *info, const char *value,
			  struct ferry_error *err)
{
	char *end;
	errno = 0;
	long long number = strtoll(value, &end, 10);
	if (errno || end == value || *end || number < 0)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--%s wants a number from 0 on, not '%s'",
				 info->word, value);
	*place = number;
	return 0;
}

/* The argument is one of "word|word|word". */
static int option_check_choice(const struct option_info *info, const char *value, struct ferry_error *err)
{
	size_t n = strlen(value);
	for (const char *word = info->argument, *end; *word; word = *end ? end + 1 : end) {
		end = strchrnul(word, '|');
		if ((size_t)(end - word) == n && !memcmp(word, value, n))
			return 0;
	}
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--%s is one of %s, not '%s'", info->word,
			 info->argument, value);
}

static int option_set_list(struct text_list *list, const char *value, struct ferry_error *err)
{
	char *copy = strdup(value), **slot = copy ? vec_push(&list->v) : NULL;
	if (!slot) {
		free(copy);
		return error_memory(err);
	}
	*slot = copy;
	return 0;
}

int option_set(struct options *o, const struct option_info *info, const char *value, struct ferry_error *err)
{
	void *place = option_place(o, info);
	if (info->type == OPTION_BOOL) {
		if (value)
			return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--%s takes no argument",
					 info->word);
		*(bool *)place = true;
		return 0;
	}
	if (!value)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--%s wants an argument: %s", info->word,
				 info->argument);
	if (info->type == OPTION_INT)
		return option_set_int(place, info, value, err);
	if (info->type == OPTION_LIST)
		return option_set_list(place, value, err);
	int r = info->type == OPTION_CHOICE ? option_check_choice(info, value, err) : 0;
	if (r < 0)
		return r;
	char *copy = strdup(value);
	if (!copy)
		return error_memory(err);
	free(*(char **)place);
	*(char **)place = copy;
	return 0;
}
