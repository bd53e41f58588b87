/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the words of --cgroup-props. */
#include "kind/cgroup_props.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"

enum { PROPS_WORD = 128 };

struct props {
	const char *at, *text;
	char controller[PROPS_WORD], word[PROPS_WORD];
};

static int props_bad(const struct props *p, const char *wanted, struct ferry_error *err)
{
	size_t line = 1;
	for (const char *at = p->text; at < p->at; at++)
		line += *at == '\n';
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--cgroup-props: %s is missing in line %zu", wanted,
			 line);
}

static bool props_take(struct props *p, char c)
{
	while (isspace((unsigned char)*p->at))
		p->at++;
	bool there = *p->at == c;
	p->at += there && c;
	return there;
}

/* A word, in quotes or not; no slash, which no controller and no file of a group has. */
static int props_word(struct props *p, char *ret, const char *what, struct ferry_error *err)
{
	bool quoted = props_take(p, '"');
	size_t n = strcspn(p->at, quoted ? "\"\n/" : " \t\n:,[]/\"");
	if (!n || n >= PROPS_WORD || *p->at == '.' || p->at[n] == '/' || (quoted && p->at[n] != '"'))
		return props_bad(p, what, err);
	memcpy(ret, p->at, n);
	ret[n] = '\0';
	p->at += n + quoted;
	return 0;
}

static int props_list(struct props *p, const struct cgroup_props_take *take, struct ferry_error *err)
{
	if (!props_take(p, '['))
		return props_bad(p, "'['", err);
	do {
		int r = props_word(p, p->word, "the name of a property", err);
		if (r >= 0 && take->property && take->property(take->context, p->controller, p->word) < 0)
			r = error_memory(err);
		if (r < 0)
			return r;
	} while (props_take(p, ','));
	return props_take(p, ']') ? 0 : props_bad(p, "']'", err);
}

static int props_item(struct props *p, const struct cgroup_props_take *take, struct ferry_error *err)
{
	char key[PROPS_WORD];
	int r = props_word(p, key, "'strategy' or 'properties'", err);
	if (r >= 0 && !props_take(p, ':'))
		r = props_bad(p, "':'", err);
	if (r < 0)
		return r;
	if (!strcmp(key, "properties"))
		return props_list(p, take, err);
	if (strcmp(key, "strategy") != 0)
		return props_bad(p, "'strategy' or 'properties'", err);
	r = props_word(p, p->word, "'replace' or 'append'", err);
	bool replace = r >= 0 && !strcmp(p->word, "replace");
	if (r >= 0 && !replace && strcmp(p->word, "append") != 0)
		return props_bad(p, "'replace' or 'append'", err);
	if (replace && take->replace && take->replace(take->context, p->controller) < 0)
		return error_memory(err);
	return r;
}

int cgroup_props_parse(const char *text, const struct cgroup_props_take *take, struct ferry_error *err)
{
	struct props p = {.at = text, .text = text};
	int r = 0;
	while (r >= 0 && !props_take(&p, '\0')) {
		r = props_word(&p, p.controller, "the name of a controller", err);
		if (r >= 0 && !props_take(&p, ':'))
			r = props_bad(&p, "':'", err);
		if (r >= 0 && !props_take(&p, '-'))
			r = props_bad(&p, "'-'", err);
		do {
			r = r < 0 ? r : props_item(&p, take, err);
		} while (r >= 0 && props_take(&p, '-'));
	}
	return r;
}
