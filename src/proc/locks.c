/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the text of file locks. Kernel interface: lock_get_status() in fs/locks.c, proc(5). */
#include "proc/locks.h"

#include <errno.h>
#include <fcntl.h>

#include "base/error.h"
#include "proc/lex.h"

static const struct {
	const char *word;
	enum proc_lock_type type;
} lock_types[] = {
	{"POSIX", PROC_LOCK_POSIX},   {"OFDLCK", PROC_LOCK_OFD},       {"FLOCK", PROC_LOCK_FLOCK},
	{"LEASE", PROC_LOCK_LEASE},   {"DELEG", PROC_LOCK_DELEGATION}, {"LAYOUT", PROC_LOCK_LAYOUT},
	{"ACCESS", PROC_LOCK_ACCESS},
};

/* The second word: of leases their state, of locks whether they bind everybody. */
static const struct {
	const char *word;
	enum proc_lease_state lease;
	bool mandatory;
} lock_modes[] = {
	{"ADVISORY"}, {"MANDATORY", .mandatory = true}, {"*NOINODE*"},
	{"MSNFS"},    {"ACTIVE", PROC_LEASE_ACTIVE},    {"BREAKING", PROC_LEASE_BREAKING},
	{"UNKNOWN"},  {"BREAKER", PROC_LEASE_BREAKER},
};

static const struct {
	const char *word;
	uint8_t fl_type;
} lock_kinds[] = {
	{"READ", F_RDLCK}, {"WRITE", F_WRLCK}, {"UNLCK", F_UNLCK}, {"RW", F_WRLCK}, {"NONE", F_UNLCK},
};

static void lock_type(const struct lex *word, struct proc_lock *lock)
{
	lock->type = PROC_LOCK_OTHER;
	for (size_t i = 0; i < ARRAY_SIZE(lock_types); i++)
		if (lex_is(word, lock_types[i].word))
			lock->type = (uint8_t)lock_types[i].type;
}

static bool lock_mode(const struct lex *word, struct proc_lock *lock)
{
	for (size_t i = 0; i < ARRAY_SIZE(lock_modes); i++)
		if (lex_is(word, lock_modes[i].word)) {
			lock->lease = (uint8_t)lock_modes[i].lease;
			lock->mandatory = lock_modes[i].mandatory;
			return true;
		}
	return false;
}

static bool lock_kind(const struct lex *word, struct proc_lock *lock)
{
	for (size_t i = 0; i < ARRAY_SIZE(lock_kinds); i++)
		if (lex_is(word, lock_kinds[i].word)) {
			lock->fl_type = lock_kinds[i].fl_type;
			return true;
		}
	return false;
}

/* "fd:01:531", or "<none>:0" for a lock whose inode is gone */
static bool lock_inode(struct lex *l, struct proc_lock *lock)
{
	lex_blanks(l);
	return lex_str(l, "<none>:0") ||
	       (lex_dev_pair(l, &lock->dev) && lex_char(l, ':') && lex_u64(l, &lock->ino));
}

static bool lock_range(struct lex *l, struct proc_lock *lock)
{
	lex_blanks(l);
	if (!lex_u64(l, &lock->start))
		return false;
	lex_blanks(l);
	if (lex_str(l, "EOF"))
		lock->end = UINT64_MAX;
	else if (!lex_u64(l, &lock->end))
		return false;
	return lex_rest_blank(l);
}

int proc_lock_parse_line(const char *line, size_t n, struct proc_lock *ret_lock)
{
	struct proc_lock lock = {0};
	struct lex l = lex_new(line, n), type, mode, kind;
	lex_blanks(&l);
	if (!lex_u64(&l, &lock.id) || !lex_char(&l, ':'))
		return -EBADMSG;
	lex_blanks(&l);
	lock.waiting = lex_str(&l, "->");
	lex_blanks(&l);
	if (!lex_word(&l, &type))
		return -EBADMSG;
	lex_blanks(&l);
	if (!lex_word(&l, &mode))
		return -EBADMSG;
	lex_blanks(&l);
	lock_type(&type, &lock);
	if (!lex_word(&l, &kind) || !lock_mode(&mode, &lock) || !lock_kind(&kind, &lock))
		return -EBADMSG;
	lex_blanks(&l);
	if (!lex_i32(&l, &lock.pid) || !lock_inode(&l, &lock) || !lock_range(&l, &lock))
		return -EBADMSG;
	*ret_lock = lock;
	return 0;
}

void proc_locks_release(struct proc_locks *locks)
{
	vec_release(&locks->v);
}

int proc_locks_parse(const char *text, size_t n, struct proc_locks *ret_locks, struct ferry_error *err)
{
	struct lex l = lex_new(text, n), line;
	while (lex_line(&l, &line)) {
		struct proc_lock *lock = vec_push(&ret_locks->v);
		if (!lock)
			return error_memory(err);
		if (proc_lock_parse_line(line.p, lex_left(&line), lock) < 0)
			return lex_bad(err, "locks", &line);
	}
	return lex_done(&l) ? 0 : lex_bad(err, "locks", &l);
}
