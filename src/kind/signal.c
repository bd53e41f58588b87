/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns signal state: actions of the process, masks, alternate stacks and pending signals of processes and threads.
 *
 * Kernel interface: rt_sigaction(2), which notes in the action from which table of system calls it was called, for
 * handlers of 32-bit programs get other frames, and does not tell that; sigaltstack(2), ptrace(2) PTRACE_GETSIGMASK (3.11) and PTRACE_PEEKSIGINFO (3.10);
 * rt_sigqueueinfo(2) and rt_tgsigqueueinfo(2), which take any si_code from a task that signals itself.
 * Does not handle: actions that code of one width sets in a program of the other, which become the program's own.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include <ferry/inject.h>

#include "base/error.h"
#include "kind/kinds.h"
#include "kind/timer.h"
#include "model/record.h"

enum { SIGNAL_LAST = 64, SIGNAL_SET_BYTES = 8, SIGNAL_PEEK = 32 };

/* As rt_sigaction(2) has it on x86-64. */
struct signal_action {
	uint64_t handler, flags, restorer, mask;
};

/* And for 32-bit programs. */
struct signal_action_32 {
	uint32_t handler, flags, restorer, mask[2];
};

enum { SIGNAL_NR32_RT_SIGACTION = 174 };

/* SIGKILL and SIGSTOP have no action, and no place in the image. */
static bool signal_has_action(int number)
{
	return number != SIGKILL && number != SIGSTOP;
}

static void signal_ask_task(const struct snap_task *t unused, int proc_dir unused, struct script *s)
{
	for (int number = 1; number <= SIGNAL_LAST; number++)
		if (signal_has_action(number))
			script_call(s, "reading signal actions", SYS_rt_sigaction, (uint64_t)number, 0,
				    script_put(s, NULL, sizeof(struct signal_action)), SIGNAL_SET_BYTES)
				->data_mask = 1 << 2;
}

static void signal_ask_thread(const struct snap_task *t unused, const struct snap_thread *th unused,
			      struct script *s)
{
	script_call(s, "reading the alternate stack", SYS_sigaltstack, 0,
		    script_put(s, NULL, sizeof(stack_t)))
		->data_mask = 1 << 1;
}

static int signal_collect_queue(struct collect *c, struct ferry_thread *thread, int shared,
				SignalQueueEntry **ret, struct ferry_error *err)
{
	VEC(SiginfoEntry *) list = {0};
	siginfo_t infos[SIGNAL_PEEK];
	int n, r = 0;
	do {
		n = ferry_thread_peek_signals(thread, shared, (uint32_t)list.n, infos, SIGNAL_PEEK, err);
		for (int i = 0; i < n && !r; i++) {
			SiginfoEntry *entry = record_new(&c->snap->arena, SiginfoEntry, siginfo_entry);
			SiginfoEntry **slot = entry ? vec_push(&list) : NULL;
			if (slot) {
				entry->siginfo = record_bytes(&c->snap->arena, &infos[i], sizeof(infos[i]));
				*slot = entry;
			}
			if (!slot || !entry->siginfo.data)
				r = error_memory(err);
		}
	} while (n == SIGNAL_PEEK && !r);
	if (n < 0)
		r = n;
	SignalQueueEntry *queue =
		r < 0 ? NULL : record_new(&c->snap->arena, SignalQueueEntry, signal_queue_entry);
	if (queue && list.n) {
		queue->n_signals = list.n;
		queue->signals = arena_copy(&c->snap->arena, list.v, list.n * sizeof(*list.v));
	}
	if (!r && (!queue || (list.n && !queue->signals)))
		r = error_memory(err);
	vec_release(&list);
	if (!r)
		*ret = queue;
	return r;
}

static int signal_collect_task(struct collect *c, struct snap_task *t, int proc_dir unused,
			       const struct answers *a, struct ferry_error *err)
{
	TaskCoreEntry *tc = t->threads.v[0].core->tc;
	tc->sigactions = arena_array(&c->snap->arena, SaEntry *, SIGNAL_LAST);
	if (!tc->sigactions)
		return error_memory(err);
	for (int number = 1; number <= SIGNAL_LAST; number++) {
		if (!signal_has_action(number))
			continue;
		size_t i = tc->n_sigactions;
		struct signal_action action;
		memcpy(&action, a->data + i * 64, sizeof(action));
		if (a->calls[i].ret < 0)
			return error_errno(err, FERRY_ERROR_INJECT, (int)-a->calls[i].ret,
					   "reading the action of signal %d of pid %d", number, t->pid);
		SaEntry *entry = record_new(&c->snap->arena, SaEntry, sa_entry);
		if (!entry)
			return error_memory(err);
		entry->sigaction = action.handler;
		entry->flags = action.flags;
		entry->restorer = action.restorer;
		entry->mask = action.mask;
		record_set(entry, compat_sigaction, t->is_32);
		tc->sigactions[tc->n_sigactions++] = entry;
	}
	return signal_collect_queue(c, snapshot_look(t)->control, 1, &tc->signals_s, err);
}

static int signal_collect_thread(struct collect *c, struct snap_task *t, struct snap_thread *th,
				 int proc_dir unused, const struct answers *a, struct ferry_error *err)
{
	ThreadCoreEntry *core = th->core->thread_core;
	stack_t stack;
	memcpy(&stack, a->data, sizeof(stack));
	if (a->calls[0].ret < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-a->calls[0].ret,
				   "reading the alternate stack of thread %d", th->tid);
	core->sas = record_new(&c->snap->arena, ThreadSasEntry, thread_sas_entry);
	if (!core->sas)
		return error_memory(err);
	core->sas->ss_sp = (uint64_t)(uintptr_t)stack.ss_sp;
	core->sas->ss_size = stack.ss_size;
	core->sas->ss_flags = (uint32_t)stack.ss_flags;
	uint64_t mask;
	int r = ferry_thread_get_sigmask(th->control, &mask, err);
	if (r < 0)
		return r;
	if (th == t->threads.v)
		th->core->tc->blk_sigset = mask;
	else
		record_set(core, blk_sigset, mask);
	return signal_collect_queue(c, th->control, 0, &core->signals_p, err);
}

/*
 * No signal may reach it on its second way to the end, so all are blocked. What still waits for a thread that has ended
 * nobody takes any more.
 */
static int signal_collect_ended(struct collect *c unused, struct snap_task *t unused, struct snap_thread *th,
				int proc_dir unused, const struct answers *a unused,
				struct ferry_error *err unused)
{
	th->core->tc->blk_sigset = ~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
	return 0;
}

/* The task signals itself, so the kernel lets every si_code through. All signals are blocked at this time. */
static int signal_queue(const struct plan_task *t, const SignalQueueEntry *queue, pid_t tid, struct script *s,
			struct ferry_error *err)
{
	for (size_t i = 0; queue && i < queue->n_signals; i++) {
		const ProtobufCBinaryData *bytes = &queue->signals[i]->siginfo;
		siginfo_t info;
		if (bytes->len != sizeof(info))
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "a pending signal of pid %d has %zu bytes instead of %zu", t->pid,
					 bytes->len, sizeof(info));
		memcpy(&info, bytes->data, sizeof(info));
		if (timer_sends(t, &info))
			continue;
		uint64_t at = script_put(s, &info, sizeof(info));
		struct blob_call *call;
		if (tid)
			call = script_call(s, "queueing a pending signal of the thread",
					   SYS_rt_tgsigqueueinfo, (uint64_t)t->pid, (uint64_t)tid,
					   (uint64_t)info.si_signo, at);
		else
			call = script_call(s, "queueing a pending signal", SYS_rt_sigqueueinfo,
					   (uint64_t)t->pid, (uint64_t)info.si_signo, at);
		call->data_mask = tid ? 1 << 3 : 1 << 2;
	}
	return 0;
}

/* The call takes an address of 32 bits: the action goes where the frame will be. */
static int signal_set_action_32(const struct plan_task *t, const SaEntry *entry, int number, struct script *s,
				struct ferry_error *err)
{
	const struct signal_action_32 action = {
		.handler = (uint32_t)entry->sigaction,
		.flags = (uint32_t)entry->flags,
		.restorer = (uint32_t)entry->restorer,
		.mask = {(uint32_t)entry->mask, (uint32_t)(entry->mask >> 32)},
	};
	uint64_t at = plan_leader_scratch(t, sizeof(action));
	if ((entry->sigaction | entry->restorer | entry->flags | (at + BLOB_FRAME_WORDS * 8)) > UINT32_MAX)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "the action of signal %d of pid %d is not one of a 32-bit program", number,
				 t->pid);
	script_call(s, "placing a signal action", BLOB_OP_COPY, at, script_put(s, &action, sizeof(action)),
		    sizeof(action))
		->data_mask = 1 << 1;
	script_call_i386(s, "setting a signal action", SIGNAL_NR32_RT_SIGACTION, (uint64_t)number, at, 0,
			 SIGNAL_SET_BYTES);
	script_detail(s, (uint64_t)number);
	return 0;
}

static int signal_restore_task(struct reader *r unused, struct plan_task *t, struct script *s,
			       struct ferry_error *err)
{
	const TaskCoreEntry *tc = t->threads.v[0].core->tc;
	size_t i = 0;
	/* Those that another process has, too, it sets. */
	for (int number = 1; number <= SIGNAL_LAST && !t->sighand_owner && i < tc->n_sigactions; number++) {
		if (!signal_has_action(number))
			continue;
		const SaEntry *entry = tc->sigactions[i++];
		/* Every signal has that when the script begins. */
		if (!entry->sigaction && !entry->flags && !entry->restorer && !entry->mask)
			continue;
		if (entry->has_compat_sigaction && entry->compat_sigaction) {
			int ret = signal_set_action_32(t, entry, number, s, err);
			if (ret < 0)
				return ret;
			continue;
		}
		struct signal_action action = {entry->sigaction, entry->flags, entry->restorer, entry->mask};
		script_call(s, "setting a signal action", SYS_rt_sigaction, (uint64_t)number,
			    script_put(s, &action, sizeof(action)), 0, SIGNAL_SET_BYTES)
			->data_mask = 1 << 1;
		script_detail(s, (uint64_t)number);
	}
	return signal_queue(t, tc->signals_s, 0, s, err);
}

static int signal_restore_thread(struct reader *r unused, struct plan_task *t, struct plan_thread *th,
				 struct script *s, struct ferry_error *err)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	if (!core)
		return 0;
	if (core->sas) {
		/* SS_ONSTACK only says where the thread is. */
		stack_t stack = {
			.ss_sp = (void *)(uintptr_t)core->sas->ss_sp,
			.ss_size = core->sas->ss_size,
			.ss_flags = (int)core->sas->ss_flags & ~SS_ONSTACK,
		};
		script_call(s, "setting the alternate stack", SYS_sigaltstack,
			    script_put(s, &stack, sizeof(stack)), 0)
			->data_mask = 1 << 0;
	}
	return signal_queue(t, core->signals_p, th->tid, s, err);
}

const struct kind_ops kind_signal = {
	.name = "signal",
	.what = "signal actions, masks, alternate stacks, pending signals",
	.fd_type = -1,
	.image_file = -1,
	.ask_task = signal_ask_task,
	.ask_thread = signal_ask_thread,
	.collect_task = signal_collect_task,
	.collect_thread = signal_collect_thread,
	.collect_ended = signal_collect_ended,
	.restore_task = signal_restore_task,
	.restore_thread = signal_restore_thread,
};
