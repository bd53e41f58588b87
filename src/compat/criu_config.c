/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns CRIU's configuration files: one option a line, without dashes, its value behind it; '#' begins a comment, a value in quotes
 * may have blanks.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "compat/criu_options.h"

#define CONFIG_SYSTEM "/etc/criu/default.conf"
#define CONFIG_HOME ".criu/default.conf"
#define CONFIG_VARIABLE "CRIU_CONFIG_FILE"

void criu_words_release(criu_words *words)
{
	vec_foreach(word, words)
		free(*word);
	vec_release(words);
}

static int config_add(criu_words *words, const char *prefix, const char *text)
{
	char *copy = NULL, **slot = asprintf(&copy, "%s%s", prefix, text) < 0 ? NULL : vec_push(words);
	if (!slot) {
		free(copy);
		return -ENOMEM;
	}
	*slot = copy;
	return 0;
}

/* The next word, ended by a zero byte; NULL: none is left. *text goes on behind it. */
static char *config_word(char **text)
{
	char *from = *text + strspn(*text, " \t\r\n"), *to = from;
	if (!*from || *from == '#')
		return NULL;
	char *word = from;
	for (char quote = 0; *from && (quote || !strchr(" \t\r\n", *from)); from++) {
		if (quote ? *from == quote : *from == '"' || *from == '\'')
			quote = quote ? 0 : *from;
		else
			*to++ = *from == '\\' && quote == '"' && from[1] ? *++from : *from;
	}
	*text = *from ? from + 1 : from;
	*to = '\0';
	return word;
}

int criu_config_line(char *text, criu_words *words)
{
	const char *prefix = "--";
	int r = 0;
	for (char *word; r >= 0 && (word = config_word(&text)); prefix = "")
		r = config_add(words, prefix, word);
	return r;
}

/* One that is not there is as good as an empty one, also where somebody names it: so it is with CRIU. */
int criu_config_read_file(const char *path, criu_words *words, struct ferry_error *err)
{
	_cleanup_free_ char *line = NULL;
	size_t room = 0;
	FILE *in = fopen(path, "re");
	int r = 0;
	if (!in && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
		return 0;
	if (!in)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "configuration file '%s'", path);
	while (r >= 0 && getline(&line, &room, in) >= 0)
		r = criu_config_line(line, words);
	if (r >= 0 && ferror(in))
		r = error_set(err, FERRY_ERROR_USAGE, EIO, "configuration file '%s' cannot be read", path);
	else if (r < 0)
		r = error_memory(err);
	fclose(in);
	return r;
}

int criu_config_read(const char *named, bool with_defaults, criu_words *words, struct ferry_error *err)
{
	const char *home = getenv("HOME"), *variable = getenv(CONFIG_VARIABLE);
	_cleanup_free_ char *of_user = NULL;
	int r = 0;
	if (with_defaults)
		r = criu_config_read_file(CONFIG_SYSTEM, words, err);
	if (r >= 0 && with_defaults && home) {
		if (asprintf(&of_user, "%s/" CONFIG_HOME, home) < 0) {
			of_user = NULL;
			return error_memory(err);
		}
		r = criu_config_read_file(of_user, words, err);
	}
	if (r >= 0 && variable)
		r = criu_config_read_file(variable, words, err);
	return r < 0 || !named ? r : criu_config_read_file(named, words, err);
}
