/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the text of /proc/PID/fdinfo of io_uring instances: io_uring/fdinfo.c of the kernel (5.10; positions 5.17, overflow
 * 6.0). Lists follow the line that says how many they hold. Lines that are not known are skipped.
 */
#include "proc/uring.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "proc/lex.h"
#include "proc/read.h"

enum { URING_TRIES = 200, URING_TRY_NS = 1000000, URING_TEXT_MAX = 64 << 20 };

enum uring_list { LIST_NONE, LIST_SQES, LIST_CQES, LIST_FILES, LIST_BUFFERS, LIST_POLLS, LIST_OVERFLOW };

struct uring_line {
	const char *key;
	size_t at; /* of a number in struct proc_uring */
	enum { VALUE_NONE, VALUE_U32, VALUE_I32, VALUE_HEX } value;
	enum uring_list list; /* what follows */
};

#define AT(member) offsetof(struct proc_uring, member)
static const struct uring_line uring_lines[] = {
	{"SqMask:", AT(sq_mask), VALUE_HEX, LIST_NONE},
	{"SqHead:", AT(sq_head), VALUE_U32, LIST_NONE},
	{"SqTail:", AT(sq_tail), VALUE_U32, LIST_NONE},
	{"CachedSqHead:", AT(cached_sq_head), VALUE_U32, LIST_NONE},
	{"CqMask:", AT(cq_mask), VALUE_HEX, LIST_NONE},
	{"CqHead:", AT(cq_head), VALUE_U32, LIST_NONE},
	{"CqTail:", AT(cq_tail), VALUE_U32, LIST_NONE},
	{"CachedCqTail:", AT(cached_cq_tail), VALUE_U32, LIST_NONE},
	{"SQEs:", 0, VALUE_NONE, LIST_SQES},
	{"CQEs:", 0, VALUE_NONE, LIST_CQES},
	{"SqThread:", AT(sq_thread), VALUE_I32, LIST_NONE},
	{"UserFiles:", AT(n_files), VALUE_U32, LIST_FILES},
	{"UserBufs:", AT(n_buffers), VALUE_U32, LIST_BUFFERS},
	{"Personalities:", 0, VALUE_NONE, LIST_NONE},
	{"PollList:", 0, VALUE_NONE, LIST_POLLS},
	{"CqOverflowList:", 0, VALUE_NONE, LIST_OVERFLOW},
	{"NAPI:", 0, VALUE_NONE, LIST_NONE},
};
#undef AT

void proc_uring_release(struct proc_uring *u)
{
	vec_release(&u->files);
	vec_release(&u->buffers);
	vec_release(&u->polls);
	vec_release(&u->overflow);
	proc_names_release(&u->names);
}

static bool uring_holds(const struct lex *l, const char *word)
{
	return memmem(l->p, lex_left(l), word, strlen(word));
}

/* "    3: anon_inode:[eventfd]"; "<none>" is a slot that is free. */
static int uring_file(struct proc_uring *u, struct lex *l)
{
	struct proc_uring_file file;
	lex_blanks(l);
	if (!lex_u32(l, &file.slot) || !lex_str(l, ": "))
		return -EBADMSG;
	if (lex_left(l) == 6 && !memcmp(l->p, "<none>", 6))
		return 0;
	int r = proc_names_add(&u->names, l->p, lex_left(l), &file.name);
	struct proc_uring_file *slot = r < 0 ? NULL : vec_push(&u->files);
	if (!slot)
		return r < 0 ? r : -ENOMEM;
	*slot = file;
	return 0;
}

/* "    2: 0x7f6c72243064/5000" */
static int uring_buffer(struct proc_uring *u, struct lex *l)
{
	struct proc_uring_buffer buffer;
	lex_blanks(l);
	if (!lex_u32(l, &buffer.slot) || !lex_str(l, ": "))
		return -EBADMSG;
	if (lex_left(l) == 6 && !memcmp(l->p, "<none>", 6))
		return 0;
	if (!lex_str(l, "0x") || !lex_hex(l, &buffer.address) || !lex_char(l, '/') ||
	    !lex_u64(l, &buffer.bytes))
		return -EBADMSG;
	struct proc_uring_buffer *slot = vec_push(&u->buffers);
	if (!slot)
		return -ENOMEM;
	*slot = buffer;
	return 0;
}

/* "  op=6, task_works=0" */
static int uring_poll(struct proc_uring *u, struct lex *l)
{
	uint32_t op;
	lex_blanks(l);
	if (!lex_str(l, "op=") || !lex_u32(l, &op))
		return -EBADMSG;
	uint32_t *slot = vec_push(&u->polls);
	if (!slot)
		return -ENOMEM;
	*slot = op;
	return 0;
}

/* "  user_data=7, res=-11, flags=0" */
static int uring_overflow(struct proc_uring *u, struct lex *l)
{
	struct proc_uring_cqe cqe;
	lex_blanks(l);
	if (!lex_str(l, "user_data=") || !lex_u64(l, &cqe.user_data) || !lex_str(l, ", res=") ||
	    !lex_i32(l, &cqe.res) || !lex_str(l, ", flags=") || !lex_u32_base(l, 16, &cqe.flags))
		return -EBADMSG;
	struct proc_uring_cqe *slot = vec_push(&u->overflow);
	if (!slot)
		return -ENOMEM;
	*slot = cqe;
	return 0;
}

static int uring_item(struct proc_uring *u, enum uring_list list, struct lex *l)
{
	switch (list) {
	case LIST_SQES:
		u->sqes_shown++;
		u->wide_sqe |= uring_holds(l, ", e0:");
		return 0;
	case LIST_CQES: u->wide_cqe |= uring_holds(l, ", extra1:"); return 0;
	case LIST_FILES: return uring_file(u, l);
	case LIST_BUFFERS: return uring_buffer(u, l);
	case LIST_POLLS: return uring_poll(u, l);
	case LIST_OVERFLOW: return uring_overflow(u, l);
	case LIST_NONE: return 0;
	}
	return 0;
}

static bool uring_value(struct proc_uring *u, const struct uring_line *line, struct lex *l)
{
	void *to = (char *)u + line->at;
	switch (line->value) {
	case VALUE_NONE: return true;
	case VALUE_U32: return lex_u32(l, to) && lex_rest_blank(l);
	case VALUE_I32: return lex_i32(l, to) && lex_rest_blank(l);
	case VALUE_HEX: return lex_str(l, "0x") && lex_u32_base(l, 16, to) && lex_rest_blank(l);
	}
	return true;
}

/* A line that begins with a capital has a key, others belong to the list before. */
static int uring_line(struct proc_uring *u, enum uring_list *list, const struct lex *line)
{
	struct lex l = *line;
	if (!lex_done(&l) && *l.p == ' ')
		return uring_item(u, *list, &l);
	for (size_t i = 0; i < ARRAY_SIZE(uring_lines); i++) {
		l = *line;
		if (!lex_str(&l, uring_lines[i].key))
			continue;
		lex_blanks(&l);
		*list = uring_lines[i].list;
		u->whole |= *list == LIST_POLLS;
		u->personalities |= uring_lines[i].key[0] == 'P' && uring_lines[i].key[1] == 'e';
		u->napi |= uring_lines[i].key[0] == 'N' && !lex_str(&l, "disabled");
		return uring_value(u, &uring_lines[i], &l) ? 0 : -EBADMSG;
	}
	return 0;
}

int proc_uring_parse(const char *text, size_t n, struct proc_uring *ret, struct ferry_error *err)
{
	enum uring_list list = LIST_NONE;
	struct lex l = lex_new(text, n), line;
	*ret = (struct proc_uring){.sq_thread = -1};
	while (lex_line(&l, &line)) {
		int r = uring_line(ret, &list, &line);
		if (r == -ENOMEM)
			return error_memory(err);
		if (r < 0)
			return lex_bad(err, "fdinfo", &line);
	}
	return lex_done(&l) ? 0 : lex_bad(err, "fdinfo", &l);
}

int proc_read_uring(int dirfd, int fd, struct proc_uring *ret, struct ferry_error *err)
{
	const struct timespec pause = {.tv_nsec = URING_TRY_NS};
	char name[32];
	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	for (int i = 0; i < URING_TRIES; i++) {
		_cleanup_free_ char *text = NULL;
		_cleanup_proc_uring_ struct proc_uring u = {0};
		size_t n = 0;
		int r = proc_read_file(dirfd, name, URING_TEXT_MAX, &text, &n, err);
		if (r >= 0)
			r = proc_uring_parse(text, n, &u, err);
		if (r < 0)
			return r;
		if (u.whole || i == URING_TRIES - 1) {
			*ret = u;
			u = (struct proc_uring){0};
			return 0;
		}
		nanosleep(&pause, NULL);
	}
	return 0;
}
