/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the text of /proc/PID/mountinfo. Kernel interface: fs/proc_namespace.c, proc(5). */
#include "proc/mountinfo.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "proc/lex.h"

void proc_mounts_release(struct proc_mounts *mounts)
{
	vec_release(&mounts->v);
	free(mounts->text);
	mounts->text = NULL;
}

/* One blank-separated field, decoded and terminated in place; the line lies in a buffer of our own. */
static bool mount_string(struct lex *l, const char **ret_string)
{
	const char *p = l->p;
	while (p < l->end && *p != ' ')
		p++;
	/* an empty field is possible for the source, where two blanks meet */
	char *s = (char *)l->p;
	bool more = p < l->end;
	s[lex_unescape_octal(s, (size_t)(p - l->p))] = '\0';
	l->p = more ? p + 1 : p;
	*ret_string = s;
	return true;
}

static bool mount_option(const char *word, struct proc_mount *m)
{
	static const struct {
		const char *key;
		size_t at;
	} keys[] = {
		{"shared:", offsetof(struct proc_mount, shared)},
		{"master:", offsetof(struct proc_mount, master)},
		{"propagate_from:", offsetof(struct proc_mount, propagate_from)},
	};
	struct lex l = lex_new(word, strlen(word));
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (lex_str(&l, keys[i].key))
			return lex_u32(&l, (uint32_t *)((char *)m + keys[i].at)) && lex_done(&l);
	if (lex_is(&l, "unbindable"))
		m->unbindable = true;
	return true; /* the kernel may add more */
}

static bool mount_optional_fields(struct lex *l, struct proc_mount *m)
{
	const char *word;
	while (!lex_done(l) && mount_string(l, &word)) {
		if (!strcmp(word, "-"))
			return true;
		if (!mount_option(word, m))
			return false;
	}
	return false;
}

static bool mount_line(struct lex *l, struct proc_mount *m)
{
	uint64_t major, minor;
	if (!lex_i32(l, &m->id) || !lex_char(l, ' ') || !lex_i32(l, &m->parent_id) || !lex_char(l, ' ') ||
	    !lex_u64(l, &major) || !lex_char(l, ':') || !lex_u64(l, &minor) || !lex_char(l, ' ') ||
	    major > UINT32_MAX || minor > UINT32_MAX)
		return false;
	m->dev = makedev((unsigned)major, (unsigned)minor);
	const char **first[] = {&m->root, &m->point, &m->options};
	for (size_t i = 0; i < ARRAY_SIZE(first); i++)
		if (lex_done(l) || !mount_string(l, first[i]))
			return false;
	if (!mount_optional_fields(l, m))
		return false;
	const char **last[] = {&m->fstype, &m->source, &m->super_options};
	for (size_t i = 0; i < ARRAY_SIZE(last); i++)
		if (lex_done(l) || !mount_string(l, last[i]))
			return false;
	return lex_done(l);
}

int proc_mounts_parse(const char *text, size_t n, struct proc_mounts *ret_mounts, struct ferry_error *err)
{
	if (n && memchr(text, '\0', n))
		return lex_short(err, "mountinfo", "text free of NULs");
	ret_mounts->text = malloc(n + 1);
	if (!ret_mounts->text)
		return error_memory(err);
	if (n)
		memcpy(ret_mounts->text, text, n);
	ret_mounts->text[n] = '\0';
	struct lex l = lex_new(ret_mounts->text, n), line;
	while (lex_line(&l, &line)) {
		struct proc_mount *m = vec_push(&ret_mounts->v);
		if (!m)
			return error_memory(err);
		/* the message shows the line as it came, not as it was decoded */
		struct lex given = lex_new(text + (line.p - ret_mounts->text), lex_left(&line));
		if (!mount_line(&line, m))
			return lex_bad(err, "mountinfo", &given);
	}
	return lex_done(&l) ? 0 : lex_bad(err, "mountinfo", &l);
}

const struct proc_mount *proc_mounts_find(const struct proc_mounts *mounts, int32_t id)
{
	vec_foreach(m, &mounts->v)
		if (m->id == id)
			return m;
	return NULL;
}

bool proc_mount_has_option(const char *options, const char *option)
{
	size_t n = strlen(option);
	for (const char *p = options; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, option, n) && (!p[n] || p[n] == ','))
			return true;
	return false;
}
