/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the seccomp mode and filters of threads.
 *
 * The image has all filters in one file. A thread names its oldest one, and each names the next newer one of its thread
 * as 'prev'. When all threads of a task have the same filters, the leader alone names them, with SECCOMP_FILTER_FLAG_TSYNC.
 * Which filters are the same object for the kernel cannot be seen; those with the same code are taken for one, and
 * what all threads of a task begin with is installed before they are created, so that it is one for them.
 *
 * They are installed before everything else, under a tracer that suspends them (restore/guard.c): what follows
 * gives up the right to install them.
 *
 * Kernel interface: ptrace(2) PTRACE_SECCOMP_GET_FILTER (4.4), PTRACE_SECCOMP_GET_METADATA (4.16); seccomp(2) (3.17),
 * SECCOMP_FILTER_FLAG_SPEC_ALLOW (4.17).
 * Does not handle: stopped processes, refused; filters that ask a supervisor (SECCOMP_RET_USER_NOTIF), refused: the kernel tells nobody who has the
 * listener, and gives out a new one only with a new filter.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/dir.h"
#include "kernel/caps.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

enum {
	SECCOMP_TSYNC = 1, /* in seccomp_filter.flags */
	SECCOMP_LOG = 2,
	SECCOMP_CODE_MAX = 4096, /* instructions; BPF_MAXINSNS */
	SECCOMP_CHAIN_MAX = 8192,
	SECCOMP_LOOK_THREADS = 8,
};

/* struct seccomp_metadata, which glibc's <sys/ptrace.h> hides. */
struct seccomp_flags {
	uint64_t filter, flags;
};

/* Filters of one thread. */
struct seccomp_chain {
	VEC(SeccompFilter *) v; /* oldest first */
};

/* ------------------------------------------------------------------ dump */

static bool seccomp_asks(const struct sock_filter *code, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (code[i].code == (BPF_RET | BPF_K) &&
		    (code[i].k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF)
			return true;
	return false;
}

/* Nobody but root of the machine reads filters or suspends them (PTRACE_SECCOMP_GET_FILTER, PTRACE_O_SUSPEND_SECCOMP). */
static int seccomp_check_task(pid_t pid, int proc_dir, const struct proc_status *status,
			      const struct kind_options *options, struct ferry_error *err)
{
	struct proc_pid_list tids = {0};
	bool any = status->seccomp;
	/* Asking the kernel whether we may takes as long as looking at some threads. */
	if (status->threads > SECCOMP_LOOK_THREADS &&
	    !kern_denied(options->caps, KERN_CAP_PTRACE_SECCOMP_FILTER))
		return 0;
	int r = any || status->threads < 2 ? 0 : proc_read_tasks(proc_dir, &tids, NULL);
	vec_foreach(tid, &tids.v) {
		_cleanup_proc_status_ struct proc_status thread = {0};
		_cleanup_close_ int dir = r < 0 || any ? -1 : proc_open_task(proc_dir, *tid, NULL);
		any |= dir >= 0 && proc_read_status(dir, &thread, NULL) >= 0 && thread.seccomp;
	}
	proc_pid_list_release(&tids);
	if (!any || !kern_denied(options->caps, KERN_CAP_PTRACE_SECCOMP_FILTER))
		return 0;
	error_set(err, FERRY_ERROR_PERMISSION, EPERM, "pid %d (%s) runs under seccomp, which needs root", pid,
		  status->name);
	error_hint(
		err,
		"ptrace(2) shows and suspends filters only to CAP_SYS_ADMIN outside of user namespaces (Linux 6.18)");
	return -EPERM;
}

/* Filter number i, oldest first (the manual page says the opposite). 1: there is one, 0: there is none. */
static int seccomp_read_filter(struct arena *a, pid_t tid, size_t i, SeccompFilter **ret,
			       struct ferry_error *err)
{
	long n = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, i, NULL);
	if (n < 0 && errno == ENOENT)
		return 0;
	struct sock_filter *code = n > 0 ? arena_alloc(a, (size_t)n * sizeof(*code)) : NULL;
	if (n > 0 && !code)
		return error_memory(err);
	if (n < 0 || ptrace(PTRACE_SECCOMP_GET_FILTER, tid, i, code) < 0)
		return error_errno(err, FERRY_ERROR_SECCOMP, errno,
				   "reading the seccomp filters of thread %d", tid);
	if (seccomp_asks(code, (size_t)n)) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			  "a seccomp filter of thread %d asks a supervisor (SECCOMP_RET_USER_NOTIF)", tid);
		error_hint(err, "the kernel has no interface to hand its listener to a new filter");
		return -ENOTSUP;
	}
	SeccompFilter *filter = record_new(a, SeccompFilter, seccomp_filter);
	if (!filter)
		return error_memory(err);
	struct seccomp_flags flags = {.filter = i};
	bool known = ptrace(PTRACE_SECCOMP_GET_METADATA, tid, sizeof(flags), &flags) >= 0;
	filter->filter.data = (uint8_t *)code;
	filter->filter.len = (size_t)n * sizeof(*code);
	record_set(filter, flags, known && flags.flags & SECCOMP_FILTER_FLAG_LOG ? SECCOMP_LOG : 0);
	*ret = filter;
	return 1;
}

static int seccomp_read_chain(struct arena *a, pid_t tid, struct seccomp_chain *chain,
			      struct ferry_error *err)
{
	SeccompFilter *filter = NULL;
	int r;
	while ((r = seccomp_read_filter(a, tid, chain->v.n, &filter, err)) > 0) {
		SeccompFilter **slot = chain->v.n < SECCOMP_CHAIN_MAX ? vec_push(&chain->v) : NULL;
		if (!slot)
			return error_memory(err);
		*slot = filter;
	}
	return r;
}

static bool seccomp_same_filter(const SeccompFilter *a, const SeccompFilter *b)
{
	return a == b || (a->filter.len == b->filter.len && !((a->flags ^ b->flags) & SECCOMP_LOG) &&
			  !memcmp(a->filter.data, b->filter.data, a->filter.len));
}

/* How many filters two chains have in common, from the oldest on. */
static size_t seccomp_common(SeccompFilter *const *a, size_t n_a, SeccompFilter *const *b, size_t n_b)
{
	size_t n = 0;
	while (n < n_a && n < n_b && seccomp_same_filter(a[n], b[n]))
		n++;
	return n;
}

/* Give the chain its place in the image; the index of the oldest is what a thread names. */
static int seccomp_place(struct snapshot *snap, const struct seccomp_chain *chain, uint32_t flags,
			 uint32_t *ret_index)
{
	for (size_t i = chain->v.n; i-- > 0;) {
		SeccompFilter **slot = vec_push(&snap->seccomp_filters);
		if (!slot)
			return -ENOMEM;
		*slot = chain->v.v[i];
		(*slot)->flags |= flags;
		if (i + 1 < chain->v.n)
			record_set(*slot, prev, (uint32_t)snap->seccomp_filters.n - 2);
	}
	*ret_index = (uint32_t)snap->seccomp_filters.n - 1;
	return 0;
}

/* Write down what was found; chains[i] belongs to thread i. */
static int seccomp_name(struct snapshot *snap, struct snap_task *t, const struct seccomp_chain *chains)
{
	bool alike = chains[0].v.n > 0;
	for (size_t i = 1; i < t->threads.n && alike; i++)
		alike = chains[i].v.n == chains[0].v.n &&
			seccomp_common(chains[0].v.v, chains[0].v.n, chains[i].v.v, chains[i].v.n) ==
				chains[0].v.n;
	for (size_t i = 0; i < t->threads.n; i++) {
		ThreadCoreEntry *core = t->threads.v[i].core->thread_core;
		uint32_t index;
		if (!chains[i].v.n || (alike && i))
			continue;
		if (seccomp_place(snap, &chains[i], alike ? SECCOMP_TSYNC : 0, &index) < 0)
			return -ENOMEM;
		record_set(core, seccomp_mode, SECCOMP_MODE__filter);
		record_set(core, seccomp_filter, index);
	}
	return 0;
}

static int seccomp_collect_task(struct collect *c, struct snap_task *t, int proc_dir unused,
				const struct answers *a unused, struct ferry_error *err)
{
	struct seccomp_chain *chains = arena_array(&c->snap->arena, struct seccomp_chain, t->threads.n);
	int r = chains ? 0 : error_memory(err);
	for (size_t i = 0; i < t->threads.n && r >= 0; i++) {
		const struct snap_thread *th = &t->threads.v[i];
		/* The filters of a leader that has ended went with it; it gets those that the others can have from it. */
		if (th->ended)
			th = snapshot_look(t);
		if (th->status.seccomp == SECCOMP_MODE_STRICT)
			record_set(th->core->thread_core, seccomp_mode, SECCOMP_MODE__strict);
		if (th->status.seccomp && t->threads.v[0].core->tc->has_stop_signo)
			r = error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				      "pid %d is stopped, and runs under seccomp", t->pid);
		else if (th->status.seccomp == SECCOMP_MODE_FILTER)
			r = seccomp_read_chain(&c->snap->arena, th->tid, &chains[i], err);
	}
	if (r >= 0 && seccomp_name(c->snap, t, chains) < 0)
		r = error_memory(err);
	for (size_t i = 0; chains && i < t->threads.n; i++)
		vec_release(&chains[i].v);
	return r;
}

/* --------------------------------------------------------------- restore */

static int seccomp_bad(struct ferry_error *err, pid_t tid, const char *what)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "seccomp.img: the filters of thread %d %s", tid,
			 what);
}

static int seccomp_read(struct reader *r, struct ferry_error *err)
{
	if (!image_dir_has(r->dir, IMAGE_SECCOMP, 0))
		return 0;
	return records_one(r, IMAGE_SECCOMP, 0, &r->plan->kind_data[KIND_seccomp], err);
}

/* The filters that the image has for a thread, oldest first. */
static int seccomp_resolve(const SeccompEntry *all, const struct plan_thread *th, struct seccomp_chain *chain,
			   struct ferry_error *err)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	if (!core || !core->has_seccomp_mode || core->seccomp_mode != SECCOMP_MODE__filter)
		return 0;
	bool more = core->has_seccomp_filter;
	if (!more)
		return seccomp_bad(err, th->tid, "are not named");
	for (uint32_t at = core->seccomp_filter; more;) {
		if (!all || at >= all->n_seccomp_filters)
			return seccomp_bad(err, th->tid, "are not there");
		SeccompFilter *filter = all->seccomp_filters[at];
		size_t n = filter->filter.len / sizeof(struct sock_filter);
		if (!n || n > SECCOMP_CODE_MAX || filter->filter.len % sizeof(struct sock_filter))
			return seccomp_bad(err, th->tid, "are no programs");
		if (chain->v.n >= MIN(all->n_seccomp_filters, (size_t)SECCOMP_CHAIN_MAX))
			return seccomp_bad(err, th->tid, "go in a circle");
		SeccompFilter **slot = vec_push(&chain->v);
		if (!slot)
			return error_memory(err);
		*slot = filter;
		more = filter->has_prev;
		at = filter->prev;
	}
	return 0;
}

static void seccomp_install(struct script *s, const SeccompFilter *filter)
{
	struct {
		uint64_t length, code;
	} program = {.length = filter->filter.len / sizeof(struct sock_filter)};
	uint64_t code = script_put(s, filter->filter.data, filter->filter.len);
	uint64_t at = script_put(s, &program, sizeof(program));
	/* Without this flag a filter may switch mitigations on for good; prctl restores them as they were. */
	uint64_t flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW;
	if (filter->flags & SECCOMP_LOG)
		flags |= SECCOMP_FILTER_FLAG_LOG;
	script_call(s, "describing a seccomp filter", BLOB_OP_STORE, at + 8, code)->data_mask =
		1 << 0 | 1 << 1;
	script_call(s, "installing a seccomp filter", SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, at)
		->data_mask = 1 << 2;
}

/* Threads without filters of their own in the image have the leader's, when those are for all. */
static bool seccomp_inherits(const struct seccomp_chain *leader, const struct plan_thread *th)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	return leader->v.n && leader->v.v[0]->flags & SECCOMP_TSYNC &&
	       !(core && core->has_seccomp_mode && core->seccomp_mode != SECCOMP_MODE__disabled);
}

static bool seccomp_is_strict(const struct plan_thread *th)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	return core && core->has_seccomp_mode && core->seccomp_mode == SECCOMP_MODE__strict;
}

static void seccomp_plan(struct plan_task *t, const struct seccomp_chain *chains)
{
	size_t common = chains[0].v.n;
	for (size_t i = 1; i < t->threads.n; i++)
		common = seccomp_common(chains[0].v.v, common, chains[i].v.v, chains[i].v.n);
	for (size_t i = 0; i < common; i++)
		seccomp_install(&t->memory, chains[0].v.v[i]);
	for (size_t i = 0; i < t->threads.n; i++) {
		struct plan_thread *th = &t->threads.v[i];
		for (size_t n = common; n < chains[i].v.n; n++)
			seccomp_install(&th->script, chains[i].v.v[n]);
		if (seccomp_is_strict(th))
			script_call(&th->script, "entering strict seccomp mode", SYS_prctl, PR_SET_SECCOMP,
				    SECCOMP_MODE_STRICT, 0, 0, 0);
		t->filtered |= chains[i].v.n || seccomp_is_strict(th);
		t->guarded |= t->filtered;
	}
}

static int seccomp_restore_task(struct reader *r, struct plan_task *t, struct script *s unused,
				struct ferry_error *err)
{
	const SeccompEntry *all = r->plan->kind_data[KIND_seccomp];
	struct seccomp_chain *chains = arena_array(&r->plan->arena, struct seccomp_chain, t->threads.n);
	int ret = chains ? 0 : error_memory(err);
	for (size_t i = 0; i < t->threads.n && ret >= 0; i++)
		ret = i && seccomp_inherits(&chains[0], &t->threads.v[i])
			      ? seccomp_resolve(all, &t->threads.v[0], &chains[i], err)
			      : seccomp_resolve(all, &t->threads.v[i], &chains[i], err);
	if (ret >= 0)
		seccomp_plan(t, chains);
	for (size_t i = 0; chains && i < t->threads.n; i++)
		vec_release(&chains[i].v);
	return ret;
}

const struct kind_ops kind_seccomp = {
	.name = "seccomp",
	.what = "seccomp modes and filters",
	.fd_type = -1,
	.image_file = -1,
	.check_task = seccomp_check_task,
	.collect_task = seccomp_collect_task,
	.read = seccomp_read,
	.restore_task = seccomp_restore_task,
};
