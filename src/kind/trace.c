/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns who traces whom in the tree (ptrace(2)): a program under a debugger, with the options of the tracer, the stop that a
 * tracee stands in, and its debug registers. What is said of a tracee comes from its tracer (freeze/traced.c); restored, the
 * tracer attaches to it anew and brings it into the same stop.
 *
 * Kernel interface: ptrace(2) PTRACE_SEIZE (3.4), PTRACE_ATTACH, PTRACE_SETOPTIONS, PTRACE_SETSIGINFO, PTRACE_POKEUSER.
 * Does not handle: PTRACE_O_EXITKILL, which no interface tells. It is taken to be set where debuggers set it: for a tracee
 * that is a child of its tracer, when any other option is set. Single steps that are broken off in the middle of a
 * system call, which nothing tells either: the tracee goes on without. Refused are stops at system calls, at events (fork,
 * exec, exit) and by SIGSTOP, and tracees that run from system call to system call (strace): nothing starts a thread there.
 * These show once the tree stands, for only the tracer can see them. Refused are, too, tracers that are traced themselves, more
 * than one tracer in a process, seccomp filters and 32-bit code on either side, and live migration, during which no tracer can let
 * go of what it holds for ferry.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include "base/error.h"
#include "blob/tracer.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/read.h"

enum {
	TRACE_LAST_SIGNAL = 64,
	TRACE_SYSCALL_AT = 5, /* in the exit gadget: its first system call instruction */
};

#define TRACE_OPTIONS (PTRACE_O_MASK & ~(unsigned)PTRACE_O_SUSPEND_SECCOMP)

/* ------------------------------------------------------------------ collect */

/* While a tree is held for a migration no tracer can let go of what it holds for ferry. */
static int trace_check_task(pid_t pid, int proc_dir unused, const struct proc_status *status,
			    const struct kind_options *options, struct ferry_error *err)
{
	if (!status->tracer_pid || status->tracer_pid == getpid() || !options->moving)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
		  "pid %d (%s) is traced by pid %d, and does not migrate", pid, status->name,
		  status->tracer_pid);
	error_hint(err, "use ferry dump and ferry restore, or let the debugger detach meanwhile");
	return -ENOTSUP;
}

static pid_t trace_process(const struct snapshot *snap, pid_t tid)
{
	vec_foreach(t, &snap->tasks)
		vec_foreach(th, &t->threads)
			if (th->tid == tid)
				return t->pid;
	return 0;
}

static uint32_t trace_options(const struct snapshot *snap, const struct snap_task *t,
			      const struct snap_thread *th)
{
	uint32_t options = th->traced->options;
	if (options && t->ppid == trace_process(snap, th->tracer))
		options |= PTRACE_O_EXITKILL;
	return options;
}

static bool trace_has_debug(const struct blob_tracee *traced)
{
	return traced->debug[BLOB_DEBUG_REGS - 1];
}

static int trace_collect_thread(struct collect *c, struct snap_task *t, struct snap_thread *th,
				int proc_dir unused, const struct answers *a unused, struct ferry_error *err)
{
	const struct blob_tracee *traced = th->traced;
	if (!traced)
		return 0;
	struct arena *arena = &c->snap->arena;
	FerryTraceEntry *entry = record_new(arena, FerryTraceEntry, ferry_trace_entry);
	if (!entry)
		return error_memory(err);
	entry->tracer = (uint32_t)snapshot_inner_pid(c->snap, th->tracer);
	entry->seized = traced->seized != 0;
	entry->options = trace_options(c->snap, t, th);
	entry->stop = traced->stop;
	if (traced->stop == BLOB_STOP_SIGNAL) {
		entry->info = record_bytes(arena, traced->info, sizeof(traced->info));
		entry->has_info = 1;
		if (!entry->info.data)
			return error_memory(err);
	}
	if (traced->stop != BLOB_STOP_RUNS && traced->untold)
		record_set(entry, untold, 1);
	if (trace_has_debug(traced)) {
		entry->debug = arena_copy(arena, traced->debug, sizeof(traced->debug));
		entry->n_debug = BLOB_DEBUG_REGS;
		if (!entry->debug)
			return error_memory(err);
	}
	th->extra->trace = entry;
	return 0;
}

/* ------------------------------------------------------------------ restore */

static struct plan_thread *trace_thread(const struct plan *p, pid_t tid, const struct plan_task **ret_task)
{
	for (size_t i = 0; i < p->n_tasks; i++)
		vec_foreach(th, &p->tasks[i].threads)
			if (th->tid == tid) {
				*ret_task = &p->tasks[i];
				return th;
			}
	return NULL;
}

static int trace_check_stop(const FerryTraceEntry *entry, pid_t tid, struct ferry_error *err)
{
	int number = 0;
	if (entry->has_info && entry->info.len == BLOB_INFO_BYTES)
		memcpy(&number, entry->info.data, sizeof(number));
	bool good = entry->stop == BLOB_STOP_RUNS || (entry->stop == BLOB_STOP_INTERRUPT && entry->seized) ||
		    (entry->stop == BLOB_STOP_SIGNAL && number > 0 && number <= TRACE_LAST_SIGNAL);
	if (good && !(entry->options & ~TRACE_OPTIONS) &&
	    (!entry->n_debug || entry->n_debug == BLOB_DEBUG_REGS))
		return 0;
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
			 "thread %d is traced, in a stop that there is not", tid);
}

/* A tracer waits for its tracees, so none may wait for itself. */
static int trace_check_tracer(const struct plan *p, const struct plan_task *t, const struct plan_thread *th,
			      struct ferry_error *err)
{
	const struct plan_task *tracer_task = NULL;
	const struct plan_thread *tracer = trace_thread(p, (pid_t)th->extra->trace->tracer, &tracer_task);
	bool good = tracer && tracer_task != t && !tracer->ended;
	vec_foreach(other, &(good ? tracer_task : t)->threads)
		good = good && !(other->extra && other->extra->trace);
	return good ? 0
		    : error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				"thread %d of pid %d is traced by thread %u, which cannot be", th->tid,
				t->pid, th->extra->trace->tracer);
}

static int trace_read(struct reader *r, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		struct plan_task *t = &r->plan->tasks[i];
		vec_foreach(th, &t->threads) {
			const FerryTraceEntry *entry = th->extra ? th->extra->trace : NULL;
			if (!entry)
				continue;
			int ret = trace_check_stop(entry, th->tid, err);
			if (ret >= 0)
				ret = trace_check_tracer(r->plan, t, th, err);
			if (ret < 0)
				return ret;
			if (!r->plan->kind_data[KIND_trace])
				r->plan->kind_data[KIND_trace] = t;
			t->traced = true;
			th->traced = true;
			th->stands = entry->stop != BLOB_STOP_RUNS;
		}
	}
	return 0;
}

static void trace_regs(const UserX86RegsEntry *from, struct user_regs_struct *to)
{
	*to = (struct user_regs_struct){
		.r15 = from->r15,
		.r14 = from->r14,
		.r13 = from->r13,
		.r12 = from->r12,
		.rbp = from->bp,
		.rbx = from->bx,
		.r11 = from->r11,
		.r10 = from->r10,
		.r9 = from->r9,
		.r8 = from->r8,
		.rax = from->ax,
		.rcx = from->cx,
		.rdx = from->dx,
		.rsi = from->si,
		.rdi = from->di,
		.orig_rax = from->orig_ax,
		.rip = from->ip,
		.cs = from->cs,
		.eflags = from->flags,
		.rsp = from->sp,
		.ss = from->ss,
		.fs_base = from->fs_base,
		.gs_base = from->gs_base,
	};
}

/* All that its tracer needs to know of a tracee. */
static void trace_attach(const struct plan_task *tracer, const struct plan_task *t,
			 const struct plan_thread *th, struct blob_attach *ret)
{
	const FerryTraceEntry *entry = th->extra->trace;
	bool leader = th == t->threads.v;
	*ret = (struct blob_attach){.word = tracer->hole + t->built_offset};
	struct blob_tracee *traced = &ret->tracee;
	traced->pid = t->pid;
	traced->tid = th->tid;
	traced->stop = entry->stop;
	traced->untold = entry->has_untold && entry->untold;
	traced->seized = entry->seized;
	traced->options = entry->options;
	traced->mask = leader ? th->core->tc->blk_sigset : th->core->thread_core->blk_sigset;
	traced->syscall_at = t->gadget + TRACE_SYSCALL_AT;
	trace_regs(th->core->thread_info->gpregs, &traced->regs);
	if (entry->has_info)
		memcpy(traced->info, entry->info.data, sizeof(traced->info));
	if (entry->n_debug)
		memcpy(traced->debug, entry->debug, sizeof(traced->debug));
}

/* The first task that is traced is known: there is none, as a rule. */
static int trace_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th,
				struct script *s, struct ferry_error *err unused)
{
	struct plan_task *end = r->plan->tasks + r->plan->n_tasks;
	for (struct plan_task *other = r->plan->kind_data[KIND_trace]; other && other < end; other++) {
		vec_foreach(traced, &other->threads) {
			struct blob_attach attach;
			if (!traced->traced || (pid_t)traced->extra->trace->tracer != th->tid)
				continue;
			trace_attach(t, other, traced, &attach);
			traced->tracer = s;
			traced->attach = script_put(s, &attach, sizeof(attach));
			script_call(s, "attaching to a thread that it traces", BLOB_OP_ATTACH, traced->attach)
				->data_mask = 1 << 0;
			script_detail(s, (uint64_t)traced->tid);
		}
	}
	return 0;
}

const struct kind_ops kind_trace = {
	.name = "trace",
	.what = "tracers of the tree (debuggers), their options, and the stops of what they trace",
	.fd_type = -1,
	.image_file = -1,
	.check_task = trace_check_task,
	.collect_thread = trace_collect_thread,
	.read = trace_read,
	.restore_thread = trace_restore_thread,
};
