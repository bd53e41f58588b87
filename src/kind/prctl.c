/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what prctl(2) and its kin set for a process or thread and what credentials do not cover. It runs after creds,
 * because changing credentials resets the dumpable flag and the parent death signal.
 *
 * Kernel interface: prctl(2), membarrier(2) MEMBARRIER_CMD_GET_REGISTRATIONS (6.3), /proc/PID/oom_score_adj,
 * loginuid, autogroup, personality; arch_prctl(2) ARCH_GET_CPUID (4.12); ptrace(2)
 * PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG (6.4).
 * Does not handle: the session id of audit, which the kernel counts up; the size of a private futex hash (6.16), which
 * is a matter of speed; a core scheduling cookie (PR_SCHED_CORE): the kernel tells only a number that differs after each
 * start; a parent death signal that a first thread has asked for and that ended while others run, which nothing tells.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/lex.h"
#include "proc/read.h"

#ifndef MEMBARRIER_CMD_GET_REGISTRATIONS
#define MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9)
#endif

enum {
	PRCTL_ASK_DUMPABLE,
	PRCTL_ASK_SUBREAPER,
	PRCTL_ASK_THP,
	PRCTL_ASK_BRK,
	PRCTL_ASK_MEMBARRIER,
	PRCTL_ASK_MDWE
};
enum {
	PRCTL_ASK_PDEATHSIG,
	PRCTL_ASK_TIMERSLACK,
	PRCTL_ASK_MCE_KILL,
	PRCTL_ASK_IO_FLUSHER,
	PRCTL_ASK_TSC,
	PRCTL_ASK_CPUID,
	PRCTL_ASK_PERSONALITY,
	PRCTL_ASK_SPECULATION
};
enum { PRCTL_SPECULATIONS = PR_SPEC_L1D_FLUSH + 1, PRCTL_THP_FLAGS = ~1 };

#define PRCTL_SAME_PERSONALITY 0xffffffffu
#define PRCTL_SPECULATION_OFF (PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE | PR_SPEC_DISABLE_NOEXEC)

static void prctl_ask_task(const struct snap_task *t unused, int proc_dir unused, struct script *s)
{
	script_call(s, "reading dumpable", SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
	script_call(s, "reading subreaper", SYS_prctl, PR_GET_CHILD_SUBREAPER, script_put(s, NULL, 4), 0, 0,
		    0)
		->data_mask = 1 << 1;
	script_call(s, "reading THP disable", SYS_prctl, PR_GET_THP_DISABLE, 0, 0, 0, 0)->check =
		BLOB_CHECK_NONE;
	script_call(s, "reading brk", SYS_brk, 0);
	script_call(s, "reading membarrier registrations", SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS,
		    0, 0)
		->check = BLOB_CHECK_NONE;
	script_call(s, "reading memory-deny-write-execute", SYS_prctl, PR_GET_MDWE, 0, 0, 0, 0)->check =
		BLOB_CHECK_NONE;
}

static void prctl_ask_thread(const struct snap_task *t unused, const struct snap_thread *th unused,
			     struct script *s)
{
	script_call(s, "reading the parent death signal", SYS_prctl, PR_GET_PDEATHSIG, script_put(s, NULL, 4),
		    0, 0, 0)
		->data_mask = 1 << 1;
	script_call(s, "reading timer slack", SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)->check =
		BLOB_CHECK_NONE;
	script_call(s, "reading the memory error policy", SYS_prctl, PR_MCE_KILL_GET, 0, 0, 0, 0)->check =
		BLOB_CHECK_NONE;
	script_call(s, "reading IO flusher", SYS_prctl, PR_GET_IO_FLUSHER, 0, 0, 0, 0)->check =
		BLOB_CHECK_NONE;
	script_call(s, "reading the use of the time stamp counter", SYS_prctl, PR_GET_TSC,
		    script_put(s, NULL, 4), 0, 0, 0)
		->data_mask = 1 << 1;
	script_call(s, "reading the use of CPUID", SYS_arch_prctl, ARCH_GET_CPUID, 0)->check =
		BLOB_CHECK_NONE;
	script_call(s, "reading the personality", SYS_personality, PRCTL_SAME_PERSONALITY);
	for (unsigned i = 0; i < PRCTL_SPECULATIONS; i++)
		script_call(s, "reading speculation", SYS_prctl, PR_GET_SPECULATION_CTRL, i, 0, 0, 0)->check =
			BLOB_CHECK_NONE;
}

/* Of the session, which its leader stands for. */
static void prctl_collect_autogroup(struct snap_task *t, int proc_dir)
{
	char text[64] = "";
	int32_t nice;
	_cleanup_close_ int fd = t->sid == t->pid ? fd_open(proc_dir, "autogroup", O_RDONLY, 0) : -EBADF;
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return;
	struct lex l = lex_new(text, strlen(text));
	if (lex_str(&l, "/autogroup-") && lex_skip_words(&l, 1) && lex_str(&l, "nice ") &&
	    lex_i32(&l, &nice) && nice)
		record_set(t->threads.v[0].extra, autogroup_nice, nice);
}

static int prctl_collect_task(struct collect *c unused, struct snap_task *t, int proc_dir,
			      const struct answers *a, struct ferry_error *err)
{
	TaskCoreEntry *tc = t->threads.v[0].core->tc;
	if (a->calls[PRCTL_ASK_DUMPABLE].ret < 0 || a->calls[PRCTL_ASK_BRK].ret < 0)
		return error_errno(err, FERRY_ERROR_INJECT, EIO, "reading process values of pid %d", t->pid);
	int subreaper;
	memcpy(&subreaper, a->data, sizeof(subreaper));
	record_set(tc, child_subreaper, subreaper != 0);
	record_set(t->mm, dumpable, (int)a->calls[PRCTL_ASK_DUMPABLE].ret);
	record_set(t->mm, thp_disabled, a->calls[PRCTL_ASK_THP].ret > 0);
	t->mm->mm_brk = (uint64_t)a->calls[PRCTL_ASK_BRK].ret;
	if (a->calls[PRCTL_ASK_MEMBARRIER].ret > 0)
		record_set(tc, membarrier_registration_mask, (uint32_t)a->calls[PRCTL_ASK_MEMBARRIER].ret);
	FerryTaskEntry *extra = t->threads.v[0].extra;
	if (a->calls[PRCTL_ASK_MDWE].ret > 0)
		record_set(extra, mdwe, (uint32_t)a->calls[PRCTL_ASK_MDWE].ret);
	if (a->calls[PRCTL_ASK_THP].ret > 0 && a->calls[PRCTL_ASK_THP].ret & PRCTL_THP_FLAGS)
		record_set(extra, thp_flags, (uint32_t)a->calls[PRCTL_ASK_THP].ret & PRCTL_THP_FLAGS);
	prctl_collect_autogroup(t, proc_dir);
	tc->personality = t->settings.personality;
	record_set(tc, oom_score_adj, t->settings.oom_score_adj);
	if (t->settings.has_coredump_filter)
		record_set(extra, coredump_filter, t->settings.coredump_filter);
	if (t->settings.has_loginuid)
		record_set(tc, loginuid, t->settings.loginuid);
	return 0;
}

static int prctl_collect_speculation(struct arena *arena, struct snap_thread *th,
				     const struct blob_call *calls)
{
	bool off = false;
	uint32_t values[PRCTL_SPECULATIONS] = {0};
	for (unsigned i = 0; i < PRCTL_SPECULATIONS; i++) {
		if (calls[i].ret > 0)
			values[i] = (uint32_t)calls[i].ret;
		off |= values[i] & PR_SPEC_PRCTL && values[i] & PRCTL_SPECULATION_OFF;
	}
	if (!off)
		return 0;
	th->extra->speculation = arena_copy(arena, values, sizeof(values));
	th->extra->n_speculation = th->extra->speculation ? PRCTL_SPECULATIONS : 0;
	return th->extra->speculation ? 0 : -ENOMEM;
}

/* It is switched by a byte of the program, so only setting it up is state. */
static int prctl_collect_dispatch(struct arena *arena, const struct snap_task *t, struct snap_thread *th,
				  struct ferry_error *err)
{
	struct kern_sud_config config = {0};
	if (ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, th->tid, sizeof(config), &config) < 0 ||
	    !config.mode)
		return 0;
	if (t->threads.v[0].core->tc->has_stop_signo)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				 "pid %d is stopped, and has its system calls dispatched to itself", t->pid);
	FerryDispatchEntry *entry = record_new(arena, FerryDispatchEntry, ferry_dispatch_entry);
	if (!entry)
		return error_memory(err);
	entry->selector = config.selector;
	entry->start = config.offset;
	entry->length = config.len;
	if (config.mode != PR_SYS_DISPATCH_ON)
		record_set(entry, mode, config.mode);
	th->extra->dispatch = entry;
	return 0;
}

static int prctl_collect_thread(struct collect *c, struct snap_task *t unused, struct snap_thread *th,
				int proc_dir unused, const struct answers *a, struct ferry_error *err)
{
	if (a->calls[PRCTL_ASK_PDEATHSIG].ret < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-a->calls[PRCTL_ASK_PDEATHSIG].ret,
				   "reading the parent death signal of thread %d", th->tid);
	int pdeath;
	memcpy(&pdeath, a->data, sizeof(pdeath));
	if (pdeath)
		record_set(th->core->thread_core, pdeath_sig, (uint32_t)pdeath);
	if (a->calls[PRCTL_ASK_TIMERSLACK].ret > 0)
		record_set(th->extra, timerslack_ns, (uint64_t)a->calls[PRCTL_ASK_TIMERSLACK].ret);
	if (a->calls[PRCTL_ASK_MCE_KILL].ret >= 0 && a->calls[PRCTL_ASK_MCE_KILL].ret != PR_MCE_KILL_DEFAULT)
		record_set(th->extra, mce_kill, (uint32_t)a->calls[PRCTL_ASK_MCE_KILL].ret);
	if (a->calls[PRCTL_ASK_IO_FLUSHER].ret > 0)
		record_set(th->extra, io_flusher, 1);
	uint32_t personality = (uint32_t)a->calls[PRCTL_ASK_PERSONALITY].ret;
	if (personality != t->threads.v[0].core->tc->personality)
		record_set(th->extra, personality, personality);
	int tsc;
	memcpy(&tsc, a->data + 64, sizeof(tsc));
	if (a->calls[PRCTL_ASK_TSC].ret >= 0 && tsc == PR_TSC_SIGSEGV)
		record_set(th->extra, tsc_faults, 1);
	if (!a->calls[PRCTL_ASK_CPUID].ret)
		record_set(th->extra, cpuid_faults, 1);
	if (prctl_collect_speculation(&c->snap->arena, th, a->calls + PRCTL_ASK_SPECULATION) < 0)
		return error_memory(err);
	return prctl_collect_dispatch(&c->snap->arena, t, th, err);
}

static int prctl_restore_task(struct reader *r unused, struct plan_task *t, struct script *s,
			      struct ferry_error *err unused)
{
	const TaskCoreEntry *tc = t->threads.v[0].core->tc;
	const FerryTaskEntry *extra = t->threads.v[0].extra;
	if (tc->has_child_subreaper && tc->child_subreaper)
		script_call(s, "becoming a subreaper", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (!t->vm_owner && t->mm->has_thp_disabled && t->mm->thp_disabled)
		script_call(s, "disabling huge pages", SYS_prctl, PR_SET_THP_DISABLE, 1,
			    extra ? extra->thp_flags : 0, 0, 0);
	uint32_t registered = tc->has_membarrier_registration_mask ? tc->membarrier_registration_mask : 0;
	for (int bit = 0; bit < 32; bit++)
		if (registered >> bit & 1)
			script_call(s, "registering for membarrier", SYS_membarrier, 1ul << bit, 0, 0);
	return 0;
}

static void prctl_restore_processor(struct script *s, const FerryTaskEntry *extra)
{
	for (size_t i = 0; i < extra->n_speculation && i < PRCTL_SPECULATIONS; i++)
		if (extra->speculation[i] & PR_SPEC_PRCTL && extra->speculation[i] & PRCTL_SPECULATION_OFF) {
			script_call(s, "restricting speculation", SYS_prctl, PR_SET_SPECULATION_CTRL, i,
				    extra->speculation[i] & PRCTL_SPECULATION_OFF, 0, 0);
			script_detail(s, i);
		}
	if (extra->tsc_faults)
		script_call(s, "forbidding the time stamp counter", SYS_prctl, PR_SET_TSC, PR_TSC_SIGSEGV, 0,
			    0, 0);
	if (extra->cpuid_faults)
		script_call(s, "forbidding CPUID", SYS_arch_prctl, ARCH_SET_CPUID, 0);
}

/*
 * The signal comes when the thread ends that is the parent, not the process. A leader that had ended ends again while it is the
 * parent of all its children, and that is no news to them.
 */
static void prctl_await_leader(const struct plan *p, const struct plan_task *t, const ThreadCoreEntry *core,
			       struct script *s)
{
	const struct plan_task *parent = plan_task(p, t->ppid);
	if (parent && parent != t && plan_first(parent) && core && core->has_pdeath_sig && core->pdeath_sig)
		script_call(s, "waiting for the end of the parent's first thread", BLOB_OP_AWAIT,
			    t->hole + parent->left_offset);
}

static int prctl_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th,
				struct script *s, struct ferry_error *err unused)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	script_call(s, "setting the personality", SYS_personality,
		    th->extra && th->extra->has_personality ? th->extra->personality
							    : t->threads.v[0].core->tc->personality);
	if (th->extra)
		prctl_restore_processor(s, th->extra);
	if (th->extra && th->extra->io_flusher)
		script_call(s, "becoming an IO flusher", SYS_prctl, PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	/* The kernel lets only a tracer set it without being caught by it. */
	if (th->extra && th->extra->dispatch)
		t->guarded = true;
	if (th->extra && th->extra->has_timerslack_ns)
		script_call(s, "setting timer slack", SYS_prctl, PR_SET_TIMERSLACK, th->extra->timerslack_ns,
			    0, 0, 0);
	if (th->extra && th->extra->has_mce_kill)
		script_call(s, "setting the memory error policy", SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET,
			    th->extra->mce_kill, 0, 0);
	prctl_await_leader(r->plan, t, core, s);
	script_call(s, "setting the parent death signal", SYS_prctl, PR_SET_PDEATHSIG,
		    core && core->has_pdeath_sig ? core->pdeath_sig : 0, 0, 0, 0);
	if (core && core->creds && core->creds->has_no_new_privs && core->creds->no_new_privs)
		script_call(s, "setting no_new_privs", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (th == t->threads.v && th->extra && th->extra->mdwe)
		script_call(s, "forbidding new executable memory", SYS_prctl, PR_SET_MDWE, th->extra->mdwe, 0,
			    0, 0);
	/* The leader comes last: every change of credentials before this one has reset the flag. 2 cannot be asked for. */
	if (th == t->threads.v && t->mm->has_dumpable && t->mm->dumpable != 2)
		script_call(s, "setting dumpable", SYS_prctl, PR_SET_DUMPABLE, (uint64_t)t->mm->dumpable, 0,
			    0, 0);
	return 0;
}

static int prctl_write(const char *path, const char *text, struct ferry_error *err)
{
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_WRONLY, 0);
	int r = fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "writing %s to %s", text, path) : 0;
}

/* What every task has from the coordinator, which it is a fork of. */
struct prctl_own {
	bool has_oom_score_adj, has_coredump_filter, has_loginuid;
	int oom_score_adj;
	uint32_t coredump_filter, loginuid;
};

/* It stands in audit records alone, and containers may not set it: the program runs as well without. */
static void prctl_settle_loginuid(struct settle *s)
{
	const TaskCoreEntry *tc = s->task->threads.v[0].core->tc;
	struct ferry_error err = FERRY_ERROR_INIT;
	char text[32];
	const struct prctl_own *own = s->plan->kind_data[KIND_prctl];
	if (!tc->has_loginuid || !own->has_loginuid || own->loginuid == tc->loginuid)
		return;
	snprintf(text, sizeof(text), "%u", tc->loginuid);
	if (prctl_write("/proc/self/loginuid", text, &err) < 0)
		log_write(s->log, LOG_WARN, "restore", "prctl", s->task->pid, "%s, ignoring", err.message);
}

static int prctl_read(struct reader *r, struct ferry_error *err)
{
	struct prctl_own *own = arena_new(&r->plan->arena, struct prctl_own);
	if (!own)
		return error_memory(err);
	_cleanup_close_ int dir = proc_open_self(err);
	if (dir < 0)
		return dir;
	own->has_oom_score_adj = proc_read_oom_score_adj(dir, &own->oom_score_adj, NULL) >= 0;
	own->has_coredump_filter = proc_read_coredump_filter(dir, &own->coredump_filter, NULL) >= 0;
	own->has_loginuid = proc_read_loginuid(dir, &own->loginuid, NULL) >= 0;
	r->plan->kind_data[KIND_prctl] = own;
	return 0;
}

/* Who has memory in common has this in common, too: whoever sets it sets it for all of them. */
static bool prctl_has_oom_score_adj(const struct settle *s, int wanted)
{
	const struct prctl_own *own = s->plan->kind_data[KIND_prctl];
	const struct plan_task *t = s->task;
	int now;
	if (!t->vm_owner && !t->n_mates)
		return !own->has_oom_score_adj || own->oom_score_adj == wanted;
	_cleanup_close_ int dir = proc_open_self(NULL);
	return dir < 0 || proc_read_oom_score_adj(dir, &now, NULL) < 0 || now == wanted;
}

static int prctl_settle_task(struct settle *s, struct ferry_error *err)
{
	const TaskCoreEntry *tc = s->task->threads.v[0].core->tc;
	const FerryTaskEntry *extra = s->task->threads.v[0].extra;
	const struct prctl_own *own = s->plan->kind_data[KIND_prctl];
	char text[32];
	int r = 0;
	/* Lowering it takes CAP_SYS_RESOURCE, which may be missing where nothing has to change. */
	if (tc->has_oom_score_adj && !prctl_has_oom_score_adj(s, tc->oom_score_adj)) {
		snprintf(text, sizeof(text), "%d", tc->oom_score_adj);
		r = prctl_write("/proc/self/oom_score_adj", text, err);
	}
	if (r >= 0 && extra && extra->has_coredump_filter &&
	    (!own->has_coredump_filter || own->coredump_filter != extra->coredump_filter)) {
		snprintf(text, sizeof(text), "0x%x", extra->coredump_filter);
		r = prctl_write("/proc/self/coredump_filter", text, err);
	}
	if (r >= 0 && extra && extra->has_autogroup_nice) {
		snprintf(text, sizeof(text), "%d", extra->autogroup_nice);
		r = prctl_write("/proc/self/autogroup", text, err);
	}
	if (r >= 0)
		prctl_settle_loginuid(s);
	return r;
}

const struct kind_ops kind_prctl = {
	.name = "prctl",
	.what = "dumpable, subreaper, death signal, no_new_privs, timer slack, THP, membarrier, personality, "
		"syscall user dispatch, speculation",
	.fd_type = -1,
	.image_file = -1,
	.ask_task = prctl_ask_task,
	.ask_thread = prctl_ask_thread,
	.collect_task = prctl_collect_task,
	.collect_thread = prctl_collect_thread,
	.restore_task = prctl_restore_task,
	.read = prctl_read,
	.settle_task = prctl_settle_task,
	.restore_thread = prctl_restore_thread,
};
