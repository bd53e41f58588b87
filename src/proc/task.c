/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the text of the small files of /proc/PID. Kernel interface: fs/proc/base.c, proc(5). */
#include "proc/task.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "base/error.h"
#include "kernel/uapi.h"
#include "proc/lex.h"

static unsigned auxv_word_bytes(const char *bytes, size_t n)
{
	uint64_t type = 1;
	for (size_t at = 0; at + 8 <= n && type; at += 16) {
		memcpy(&type, bytes + at, 8);
		if (type > UINT32_MAX)
			return 4;
	}
	return 8;
}

int proc_auxv_parse(const void *bytes, size_t n, unsigned word_bytes, struct proc_auxv *ret_auxv,
		    struct ferry_error *err)
{
	if (!word_bytes)
		word_bytes = auxv_word_bytes(bytes, n);
	struct proc_auxv auxv = {.word_bytes = (uint8_t)word_bytes};
	if ((word_bytes != 4 && word_bytes != 8) || n % (2 * word_bytes))
		return lex_short(err, "auxv", "whole entries");
	for (size_t at = 0; at < n; at += 2 * word_bytes) {
		uint64_t pair[2] = {0};
		for (unsigned i = 0; i < 2; i++) {
			const char *from = (const char *)bytes + at + (size_t)i * word_bytes;
			uint32_t word;
			if (word_bytes == 8) {
				memcpy(&pair[i], from, 8);
			} else {
				memcpy(&word, from, 4);
				pair[i] = word;
			}
		}
		if (pair[0] == AT_NULL) {
			*ret_auxv = auxv;
			return 0;
		}
		if (auxv.n == PROC_AUXV_MAX)
			return lex_short(err, "auxv", "an end within 64 entries");
		auxv.v[auxv.n].type = pair[0];
		auxv.v[auxv.n++].value = pair[1];
	}
	return lex_short(err, "auxv", "AT_NULL");
}

bool proc_auxv_get(const struct proc_auxv *auxv, uint64_t type, uint64_t *ret_value)
{
	for (uint32_t i = 0; i < auxv->n; i++)
		if (auxv->v[i].type == type) {
			*ret_value = auxv->v[i].value;
			return true;
		}
	return false;
}

static const char *const limit_names[RLIM_NLIMITS] = {
	[RLIMIT_CPU] = "Max cpu time",
	[RLIMIT_FSIZE] = "Max file size",
	[RLIMIT_DATA] = "Max data size",
	[RLIMIT_STACK] = "Max stack size",
	[RLIMIT_CORE] = "Max core file size",
	[RLIMIT_RSS] = "Max resident set",
	[RLIMIT_NPROC] = "Max processes",
	[RLIMIT_NOFILE] = "Max open files",
	[RLIMIT_MEMLOCK] = "Max locked memory",
	[RLIMIT_AS] = "Max address space",
	[RLIMIT_LOCKS] = "Max file locks",
	[RLIMIT_SIGPENDING] = "Max pending signals",
	[RLIMIT_MSGQUEUE] = "Max msgqueue size",
	[RLIMIT_NICE] = "Max nice priority",
	[RLIMIT_RTPRIO] = "Max realtime priority",
	[RLIMIT_RTTIME] = "Max realtime timeout",
};

static bool limit_value(struct lex *l, uint64_t *ret_value)
{
	lex_blanks(l);
	if (!lex_str(l, "unlimited"))
		return lex_u64(l, ret_value);
	*ret_value = RLIM64_INFINITY;
	return true;
}

int proc_limits_parse(const char *text, size_t n, struct proc_limits *ret_limits, struct ferry_error *err)
{
	struct proc_limits limits = {0};
	struct lex l = lex_new(text, n), line;
	uint32_t seen = 0;
	while (lex_line(&l, &line))
		for (unsigned i = 0; i < RLIM_NLIMITS; i++) {
			struct lex rest = line;
			if (!lex_str(&rest, limit_names[i]))
				continue;
			if (!limit_value(&rest, &limits.v[i].soft) || !limit_value(&rest, &limits.v[i].hard))
				return lex_bad(err, "limits", &line);
			seen |= 1u << i;
		}
	if (!lex_done(&l) || seen != (1u << RLIM_NLIMITS) - 1)
		return lex_short(err, "limits", "some limits");
	*ret_limits = limits;
	return 0;
}

void proc_cgroups_release(struct proc_cgroups *cgroups)
{
	vec_release(&cgroups->v);
	free(cgroups->text);
	cgroups->text = NULL;
}

/* "4:cpu,cpuacct:/path"; the path may hold colons. The line lies in a buffer of our own. */
static bool cgroup_line(struct lex *l, struct proc_cgroup *c)
{
	if (!lex_u32(l, &c->hierarchy) || !lex_char(l, ':'))
		return false;
	char *colon = lex_done(l) ? NULL : memchr(l->p, ':', lex_left(l));
	if (!colon || colon[1] != '/')
		return false;
	c->controllers = l->p;
	c->path = colon + 1;
	c->deleted = lex_cut_deleted(l) && l->end > c->path;
	*colon = '\0';
	*(char *)l->end = '\0';
	return true;
}

int proc_cgroups_parse(const char *text, size_t n, struct proc_cgroups *ret_cgroups, struct ferry_error *err)
{
	if (n && memchr(text, '\0', n))
		return lex_short(err, "cgroup", "text free of NULs");
	ret_cgroups->text = malloc(n + 1);
	if (!ret_cgroups->text)
		return error_memory(err);
	if (n)
		memcpy(ret_cgroups->text, text, n);
	ret_cgroups->text[n] = '\0';
	struct lex l = lex_new(ret_cgroups->text, n), line;
	while (lex_line(&l, &line)) {
		struct proc_cgroup *c = vec_push(&ret_cgroups->v);
		if (!c)
			return error_memory(err);
		if (!cgroup_line(&line, c))
			return lex_bad(err, "cgroup", &line);
	}
	return lex_done(&l) ? 0 : lex_bad(err, "cgroup", &l);
}

void proc_pid_list_release(struct proc_pid_list *list)
{
	vec_release(&list->v);
}

int proc_children_parse(const char *text, size_t n, struct proc_pid_list *ret_list, struct ferry_error *err)
{
	struct lex l = lex_new(text, n);
	while (!lex_done(&l)) {
		pid_t *pid = vec_push(&ret_list->v);
		if (!pid)
			return error_memory(err);
		/* a blank follows each, the last one too */
		if (!lex_i32(&l, pid) || *pid < 0 || !lex_char(&l, ' '))
			return lex_bad(err, "children", &l);
	}
	return 0;
}

void proc_timers_release(struct proc_timers *timers)
{
	vec_release(&timers->v);
}

/* The value was printed with %p until 4.15: no 0x in front, and NULL as a padded "(null)". */
static bool timer_signal(struct lex *l, struct proc_timer *t)
{
	if (!lex_i32(l, &t->signo) || !lex_char(l, '/'))
		return false;
	lex_blanks(l);
	if (lex_str(l, "(null)"))
		return true;
	lex_str(l, "0x");
	return lex_hex(l, &t->sigval);
}

static bool timer_notify(struct lex *l, struct proc_timer *t)
{
	static const struct {
		const char *word;
		uint8_t notify;
	} words[] = {{"signal/", SIGEV_SIGNAL}, {"none/", SIGEV_NONE}, {"thread/", SIGEV_THREAD}};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (lex_str(l, words[i].word)) {
			t->notify = words[i].notify;
			t->thread_id = lex_str(l, "tid.");
			return (t->thread_id || lex_str(l, "pid.")) && lex_i32(l, &t->pid);
		}
	return false;
}

static bool timer_line(struct lex *l, struct proc_timer *t)
{
	bool good;
	if (lex_str(l, "signal: "))
		good = timer_signal(l, t);
	else if (lex_str(l, "notify: "))
		good = timer_notify(l, t);
	else if (lex_str(l, "ClockID: "))
		good = lex_i32(l, &t->clockid);
	else
		return true;
	return good && lex_rest_blank(l);
}

int proc_timers_parse(const char *text, size_t n, struct proc_timers *ret_timers, struct ferry_error *err)
{
	struct lex l = lex_new(text, n), line;
	while (lex_line(&l, &line)) {
		struct lex rest = line;
		if (lex_str(&rest, "ID: ")) {
			struct proc_timer *t = vec_push(&ret_timers->v);
			if (!t)
				return error_memory(err);
			if (!lex_i32(&rest, &t->id) || !lex_rest_blank(&rest))
				return lex_bad(err, "timers", &line);
		} else if (!ret_timers->v.n || !timer_line(&rest, &ret_timers->v.v[ret_timers->v.n - 1])) {
			return lex_bad(err, "timers", &line);
		}
	}
	return lex_done(&l) ? 0 : lex_bad(err, "timers", &l);
}

static bool timens_value(struct lex *l, int64_t *ret_sec, int64_t *ret_nsec)
{
	lex_blanks(l);
	if (!lex_i64(l, ret_sec))
		return false;
	lex_blanks(l);
	return lex_i64(l, ret_nsec) && *ret_nsec >= 0 && *ret_nsec < 1000000000 && lex_rest_blank(l);
}

int proc_timens_offsets_parse(const char *text, size_t n, struct proc_timens_offsets *ret_offsets,
			      struct ferry_error *err)
{
	struct proc_timens_offsets offsets = {0};
	struct lex l = lex_new(text, n), line;
	bool monotonic = false, boottime = false;
	while (lex_line(&l, &line)) {
		struct lex rest = line;
		bool good = true;
		if (lex_str(&rest, "monotonic"))
			good = monotonic =
				timens_value(&rest, &offsets.monotonic.sec, &offsets.monotonic.nsec);
		else if (lex_str(&rest, "boottime"))
			good = boottime = timens_value(&rest, &offsets.boottime.sec, &offsets.boottime.nsec);
		if (!good)
			return lex_bad(err, "timens_offsets", &line);
	}
	if (!lex_done(&l) || !monotonic || !boottime)
		return lex_short(err, "timens_offsets", "a clock");
	*ret_offsets = offsets;
	return 0;
}

void proc_id_map_release(struct proc_id_map *map)
{
	vec_release(&map->v);
}

int proc_id_map_parse(const char *text, size_t n, struct proc_id_map *ret_map, struct ferry_error *err)
{
	struct lex l = lex_new(text, n), line;
	while (lex_line(&l, &line)) {
		struct lex rest = line;
		uint32_t v[3];
		for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
			lex_blanks(&rest);
			if (!lex_u32(&rest, &v[i]))
				return lex_bad(err, "uid_map", &line);
		}
		struct proc_id_range *range = vec_push(&ret_map->v);
		if (!range)
			return error_memory(err);
		*range = (struct proc_id_range){.inside = v[0], .outside = v[1], .count = v[2]};
		if (!lex_rest_blank(&rest))
			return lex_bad(err, "uid_map", &line);
	}
	return lex_done(&l) ? 0 : lex_bad(err, "uid_map", &l);
}

int proc_setgroups_parse(const char *text, size_t n, bool *ret_allowed, struct ferry_error *err)
{
	struct lex l = lex_new(text, n), line;
	if (!lex_line(&l, &line) || !lex_done(&l) || (!lex_is(&line, "allow") && !lex_is(&line, "deny")))
		return lex_short(err, "setgroups", "'allow' or 'deny'");
	*ret_allowed = lex_is(&line, "allow");
	return 0;
}

/* The newline is there in most of these files. */
static bool number_end(struct lex *l)
{
	lex_char(l, '\n');
	return lex_done(l);
}

int proc_u64_parse(const char *text, size_t n, unsigned base, const char *what, uint64_t *ret_value,
		   struct ferry_error *err)
{
	struct lex whole = lex_new(text, n), l = whole;
	uint64_t value;
	if (!lex_uint(&l, base, &value) || !number_end(&l))
		return lex_bad(err, what, &whole);
	*ret_value = value;
	return 0;
}

int proc_i64_parse(const char *text, size_t n, const char *what, int64_t *ret_value, struct ferry_error *err)
{
	struct lex whole = lex_new(text, n), l = whole;
	int64_t value;
	if (!lex_i64(&l, &value) || !number_end(&l))
		return lex_bad(err, what, &whole);
	*ret_value = value;
	return 0;
}

int proc_link_number(const char *link, const char *word, uint64_t *ret_number)
{
	struct lex l = lex_new(link, strlen(link));
	uint64_t number;
	if (!lex_str(&l, word) || !lex_str(&l, ":[") || !lex_u64(&l, &number) || !lex_char(&l, ']') ||
	    !lex_done(&l))
		return -EINVAL;
	*ret_number = number;
	return 0;
}

static const struct proc_ns_info ns_infos[PROC_NS_COUNT] = {
	[PROC_NS_CGROUP] = {"cgroup", "cgroup", CLONE_NEWCGROUP},
	[PROC_NS_IPC] = {"ipc", "ipc", CLONE_NEWIPC},
	[PROC_NS_MNT] = {"mnt", "mnt", CLONE_NEWNS},
	[PROC_NS_NET] = {"net", "net", CLONE_NEWNET},
	[PROC_NS_PID] = {"pid", "pid", CLONE_NEWPID},
	[PROC_NS_PID_FOR_CHILDREN] = {"pid_for_children", "pid", CLONE_NEWPID},
	[PROC_NS_TIME] = {"time", "time", CLONE_NEWTIME},
	[PROC_NS_TIME_FOR_CHILDREN] = {"time_for_children", "time", CLONE_NEWTIME},
	[PROC_NS_USER] = {"user", "user", CLONE_NEWUSER},
	[PROC_NS_UTS] = {"uts", "uts", CLONE_NEWUTS},
};

const struct proc_ns_info *proc_ns_info(enum proc_ns ns)
{
	return (unsigned)ns < PROC_NS_COUNT ? &ns_infos[ns] : NULL;
}
