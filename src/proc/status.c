/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the text of /proc/PID/status and /proc/PID/stat. Kernel interface: fs/proc/array.c, proc(5). Not read:
 * counters of memory beyond those that ferry uses, NUMA nodes, speculation state, context switches.
 */
#include "proc/status.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "proc/lex.h"

struct status_field {
	const char *key;
	bool (*parse)(struct lex *l, void *at);
	size_t at;     /* offset in struct proc_status */
	uint32_t have; /* enum proc_status_have */
	bool required;
};

static bool field_pid(struct lex *l, void *at)
{
	return lex_i32(l, at);
}

static bool field_u32(struct lex *l, void *at)
{
	return lex_u32(l, at);
}

static bool field_octal(struct lex *l, void *at)
{
	return lex_u32_base(l, 8, at);
}

static bool field_mask(struct lex *l, void *at)
{
	return lex_hex(l, at);
}

static bool field_bool(struct lex *l, void *at)
{
	uint32_t value;
	if (!lex_u32(l, &value) || value > 1)
		return false;
	*(bool *)at = value;
	return true;
}

static bool field_u8(struct lex *l, void *at)
{
	uint32_t value;
	if (!lex_u32(l, &value) || value > UINT8_MAX)
		return false;
	*(uint8_t *)at = (uint8_t)value;
	return true;
}

static bool field_kb(struct lex *l, void *at)
{
	uint64_t kb;
	if (!lex_u64(l, &kb) || kb > UINT64_MAX / 1024)
		return false;
	lex_blanks(l);
	*(uint64_t *)at = kb * 1024;
	return lex_str(l, "kB");
}

static bool field_ids(struct lex *l, void *at)
{
	uint32_t v[4];
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		lex_blanks(l);
		if (!lex_u32(l, &v[i]))
			return false;
	}
	*(struct proc_ids *)at =
		(struct proc_ids){.real = v[0], .effective = v[1], .saved = v[2], .fs = v[3]};
	return true;
}

static bool field_pids(struct lex *l, void *at)
{
	struct proc_pids *pids = at;
	for (pids->n = 0; pids->n < PROC_PID_DEPTH; pids->n++) {
		if (lex_rest_blank(l))
			return pids->n > 0;
		if (!lex_i32(l, &pids->v[pids->n]))
			return false;
	}
	return lex_rest_blank(l);
}

/* A newline stands as \n and a backslash as \\. */
static bool field_name(struct lex *l, void *at)
{
	char *out = at;
	size_t n = 0;
	for (; !lex_done(l); n++) {
		if (n + 1 >= PROC_NAME_BYTES || !*l->p)
			return false;
		if (lex_str(l, "\\n"))
			out[n] = '\n';
		else if (lex_str(l, "\\\\"))
			out[n] = '\\';
		else
			out[n] = *l->p++;
	}
	out[n] = '\0';
	return true;
}

static bool field_state(struct lex *l, void *at)
{
	if (lex_done(l))
		return false;
	*(char *)at = *l->p;
	l->p = l->end; /* "(sleeping)" says the same */
	return true;
}

static bool field_sigq(struct lex *l, void *at)
{
	struct proc_status *st = at;
	return lex_u64(l, &st->sig_queued) && lex_char(l, '/') && lex_u64(l, &st->sig_queued_max);
}

static bool field_groups(struct lex *l, void *at)
{
	struct proc_status *st = at;
	struct lex counting = *l;
	uint32_t n = 0, gid;
	for (; !lex_rest_blank(&counting); n++)
		if (!lex_u32(&counting, &gid))
			return false;
	if (!n) {
		l->p = l->end;
		return true;
	}
	st->groups = calloc(n, sizeof(*st->groups));
	if (!st->groups)
		return false;
	for (; !lex_rest_blank(l) && st->n_groups < n; st->n_groups++)
		if (!lex_u32(l, &st->groups[st->n_groups]))
			return false;
	return true;
}

/* Groups of 32 bits in hexadecimal, the highest first. */
static bool field_cpus(struct lex *l, void *at)
{
	struct proc_status *st = at;
	uint32_t groups[PROC_CPU_WORDS * 2], n = 0;
	do {
		if (n == ARRAY_SIZE(groups) || !lex_u32_base(l, 16, &groups[n]))
			return false;
		n++;
	} while (lex_char(l, ','));
	for (uint32_t i = 0; i < n; i++)
		st->cpus_allowed[i / 2] |= (uint64_t)groups[n - 1 - i] << (i % 2 ? 32 : 0);
	st->n_cpu_words = (n + 1) / 2;
	return true;
}

static bool field_thread_features(struct lex *l, void *at)
{
	struct lex word;
	for (lex_blanks(l); lex_word(l, &word); lex_blanks(l))
		if (lex_is(&word, "shstk"))
			*(bool *)at = true;
	return true;
}

#define FIELD(key_, kind, member, ...)                                                                      \
	{                                                                                                   \
		.key = key_, .parse = field_##kind, .at = offsetof(struct proc_status, member), __VA_ARGS__ \
	}
#define WHOLE(key_, kind, ...)                                  \
	{                                                       \
		.key = key_, .parse = field_##kind, __VA_ARGS__ \
	}

/* In the kernel's order, which makes every search end at the first look. */
static const struct status_field status_fields[] = {
	FIELD("Name", name, name, .required = true),
	FIELD("Umask", octal, umask, .have = PROC_HAVE_UMASK),
	FIELD("State", state, state, .required = true),
	FIELD("Tgid", pid, tgid, .required = true),
	FIELD("Pid", pid, pid, .required = true),
	FIELD("PPid", pid, ppid, .required = true),
	FIELD("TracerPid", pid, tracer_pid, .required = true),
	FIELD("Uid", ids, uid, .required = true),
	FIELD("Gid", ids, gid, .required = true),
	FIELD("FDSize", u32, fd_size),
	WHOLE("Groups", groups),
	FIELD("NStgid", pids, ns_tgid),
	FIELD("NSpid", pids, ns_pid, .have = PROC_HAVE_NS_PIDS),
	FIELD("NSpgid", pids, ns_pgid),
	FIELD("NSsid", pids, ns_sid),
	FIELD("Kthread", bool, kthread, .have = PROC_HAVE_KTHREAD),
	FIELD("VmSize", kb, vm_size_bytes, .have = PROC_HAVE_VM),
	FIELD("VmLck", kb, vm_locked_bytes),
	FIELD("VmPin", kb, vm_pinned_bytes),
	FIELD("VmRSS", kb, vm_rss_bytes),
	FIELD("RssAnon", kb, rss_anon_bytes),
	FIELD("RssShmem", kb, rss_shmem_bytes),
	FIELD("VmSwap", kb, vm_swap_bytes),
	FIELD("HugetlbPages", kb, hugetlb_bytes),
	FIELD("CoreDumping", bool, core_dumping, .have = PROC_HAVE_CORE_DUMPING),
	FIELD("THP_enabled", bool, thp_enabled, .have = PROC_HAVE_THP),
	FIELD("Threads", u32, threads, .required = true),
	WHOLE("SigQ", sigq),
	FIELD("SigPnd", mask, sig_pending, .required = true),
	FIELD("ShdPnd", mask, sig_shared_pending, .required = true),
	FIELD("SigBlk", mask, sig_blocked, .required = true),
	FIELD("SigIgn", mask, sig_ignored, .required = true),
	FIELD("SigCgt", mask, sig_caught, .required = true),
	FIELD("CapInh", mask, cap_inheritable, .required = true),
	FIELD("CapPrm", mask, cap_permitted, .required = true),
	FIELD("CapEff", mask, cap_effective, .required = true),
	FIELD("CapBnd", mask, cap_bounding, .required = true),
	FIELD("CapAmb", mask, cap_ambient, .have = PROC_HAVE_CAP_AMBIENT),
	FIELD("NoNewPrivs", bool, no_new_privs, .have = PROC_HAVE_NO_NEW_PRIVS),
	FIELD("Seccomp", u8, seccomp, .have = PROC_HAVE_SECCOMP),
	FIELD("Seccomp_filters", u32, seccomp_filters, .have = PROC_HAVE_SECCOMP_FILTERS),
	WHOLE("Cpus_allowed", cpus, .have = PROC_HAVE_CPUS),
	FIELD("x86_Thread_features", thread_features, shadow_stack, .have = PROC_HAVE_SHSTK),
};

_Static_assert(ARRAY_SIZE(status_fields) <= 64, "one bit each");

/* The table entry for this key, looked for from 'from' on and around; NULL for a key that ferry does not read. */
static const struct status_field *status_find(const struct lex *key, size_t from)
{
	for (size_t i = 0; i < ARRAY_SIZE(status_fields); i++) {
		const struct status_field *f = &status_fields[(from + i) % ARRAY_SIZE(status_fields)];
		if (lex_is(key, f->key))
			return f;
	}
	return NULL;
}

static bool status_value(const struct status_field *f, struct lex *value, struct proc_status *st)
{
	if (f->parse != field_name)
		lex_blanks(value);
	else if (!lex_char(value, '\t'))
		return false;
	return f->parse(value, (char *)st + f->at) && lex_rest_blank(value);
}

void proc_status_release(struct proc_status *status)
{
	free(status->groups);
	status->groups = NULL;
	status->n_groups = 0;
}

static int status_lines(struct lex *l, struct proc_status *st, uint64_t *ret_seen, struct ferry_error *err)
{
	size_t next = 0;
	struct lex line;
	while (lex_line(l, &line)) {
		const char *colon = lex_done(&line) ? NULL : memchr(line.p, ':', lex_left(&line));
		if (!colon)
			return lex_bad(err, "status", &line);
		struct lex key = {.p = line.p, .end = colon}, value = {.p = colon + 1, .end = line.end};
		const struct status_field *f = status_find(&key, next);
		if (!f)
			continue;
		next = (size_t)(f - status_fields) + 1;
		if (*ret_seen >> (f - status_fields) & 1 || !status_value(f, &value, st))
			return lex_bad(err, "status", &line);
		*ret_seen |= 1ULL << (f - status_fields);
		st->have |= f->have;
	}
	return lex_done(l) ? 0 : lex_bad(err, "status", l);
}

int proc_status_parse(const char *text, size_t n, struct proc_status *ret_status, struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status st = {0};
	struct lex l = lex_new(text, n);
	uint64_t seen = 0;
	int r = status_lines(&l, &st, &seen, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(status_fields); i++)
		if (status_fields[i].required && !(seen >> i & 1))
			return lex_short(err, "status", status_fields[i].key);
	*ret_status = st;
	st.groups = NULL;
	return 0;
}

struct stat_field {
	uint16_t at;
	uint8_t bytes;
	bool is_signed;
};

#define STAT(member, is_signed_)                                                                            \
	{                                                                                                   \
		.at = offsetof(struct proc_stat, member), .bytes = sizeof(((struct proc_stat *)0)->member), \
		.is_signed = is_signed_                                                                     \
	}
#define SIGNED(member) STAT(member, true)
#define UNSIGNED(member) STAT(member, false)

/* From the fourth field on: after pid, name and state. */
static const struct stat_field stat_fields[] = {
	SIGNED(ppid),
	SIGNED(pgrp),
	SIGNED(session),
	SIGNED(tty_nr),
	SIGNED(tpgid),
	UNSIGNED(flags),
	UNSIGNED(minflt),
	UNSIGNED(cminflt),
	UNSIGNED(majflt),
	UNSIGNED(cmajflt),
	UNSIGNED(utime_ticks),
	UNSIGNED(stime_ticks),
	SIGNED(cutime_ticks),
	SIGNED(cstime_ticks),
	SIGNED(priority),
	SIGNED(nice),
	SIGNED(num_threads),
	SIGNED(itrealvalue),
	UNSIGNED(starttime_ticks),
	UNSIGNED(vsize_bytes),
	SIGNED(rss_pages),
	UNSIGNED(rsslim_bytes),
	UNSIGNED(startcode),
	UNSIGNED(endcode),
	UNSIGNED(startstack),
	UNSIGNED(kstkesp),
	UNSIGNED(kstkeip),
	UNSIGNED(signal),
	UNSIGNED(blocked),
	UNSIGNED(sigignore),
	UNSIGNED(sigcatch),
	UNSIGNED(wchan),
	UNSIGNED(nswap),
	UNSIGNED(cnswap),
	SIGNED(exit_signal),
	SIGNED(processor),
	UNSIGNED(rt_priority),
	UNSIGNED(policy),
	UNSIGNED(blkio_delay_ticks),
	UNSIGNED(guest_time_ticks),
	SIGNED(cguest_time_ticks),
	UNSIGNED(start_data),
	UNSIGNED(end_data),
	UNSIGNED(start_brk),
	UNSIGNED(arg_start),
	UNSIGNED(arg_end),
	UNSIGNED(env_start),
	UNSIGNED(env_end),
	SIGNED(exit_code),
};

enum {
	STAT_FIELDS_BEFORE = 3,
	STAT_FIELDS_LEAST = 44, /* up to cguest_time, 2.6.24 */
};

_Static_assert(ARRAY_SIZE(stat_fields) + STAT_FIELDS_BEFORE == 52, "proc(5) numbers 52 fields");

static bool stat_field(struct lex *l, const struct stat_field *f, struct proc_stat *st)
{
	void *at = (char *)st + f->at;
	if (f->bytes == 4)
		return f->is_signed ? lex_i32(l, at) : lex_u32(l, at);
	return f->is_signed ? lex_i64(l, at) : lex_u64(l, at);
}

/* "pid (name) state", where the name ends at the last parenthesis of all. */
static bool stat_head(struct lex *l, struct proc_stat *st)
{
	if (!lex_i32(l, &st->pid) || !lex_str(l, " (") || lex_done(l))
		return false;
	const char *close = memrchr(l->p, ')', lex_left(l));
	if (!close || (size_t)(close - l->p) >= sizeof(st->comm) ||
	    memchr(l->p, '\0', (size_t)(close - l->p)))
		return false;
	memcpy(st->comm, l->p, (size_t)(close - l->p));
	l->p = close + 1;
	if (!lex_char(l, ' ') || lex_done(l))
		return false;
	st->state = *l->p++;
	return true;
}

int proc_stat_parse(const char *text, size_t n, struct proc_stat *ret_stat, struct ferry_error *err)
{
	struct proc_stat st = {.n_fields = STAT_FIELDS_BEFORE};
	struct lex whole = lex_new(text, n), l = whole;
	if (!n || text[n - 1] != '\n')
		return lex_short(err, "stat", "its end");
	l.end--;
	if (!stat_head(&l, &st))
		return lex_bad(err, "stat", &whole);
	/* fields beyond the 52nd are for a later ferry */
	for (size_t i = 0; i < ARRAY_SIZE(stat_fields) && !lex_done(&l); i++, st.n_fields++)
		if (!lex_char(&l, ' ') || !stat_field(&l, &stat_fields[i], &st))
			return lex_bad(err, "stat", &whole);
	if (st.n_fields < STAT_FIELDS_LEAST)
		return lex_short(err, "stat", "fields");
	*ret_stat = st;
	return 0;
}
