/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns when a thread need not be asked. A process with thousands of threads has few kinds of them: they differ in their numbers, names
 * and stacks, and in nothing else. What the calls of a script answer depends on words that the kernel keeps of the thread (proc/looker.h).
 * Where these are the same for two threads, and the scripts are too, the answers are; what differs from thread to thread is told by the
 * words themselves.
 *
 * Does not handle: 32-bit programs, threads under seccomp, scripts with any other call than those of the list: such threads are asked.
 */
#include "collect/alike.h"

#include <asm/prctl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "blob/blob.h"
#include "model/snapshot.h"
#include "proc/looker.h"

/* Calls whose answers depend on nothing but struct proc_words, and on these two beside it. */
static const struct alike_call {
	uint32_t nr;
	bool any; /* whatever the first argument is */
	uint64_t option;
} alike_calls[] = {
	{SYS_prctl, false, PR_GET_TID_ADDRESS}, /* proc_thread_look.clear_tid */
	{SYS_prctl, false, PR_GET_NAME},        /* .comm */
	{SYS_prctl, false, PR_GET_PDEATHSIG},
	{SYS_prctl, false, PR_GET_TIMERSLACK},
	{SYS_prctl, false, PR_MCE_KILL_GET},         /* flags */
	{SYS_prctl, false, PR_GET_IO_FLUSHER},       /* flags */
	{SYS_prctl, false, PR_GET_TSC},              /* info_flags */
	{SYS_arch_prctl, false, ARCH_GET_CPUID},     /* info_flags */
	{SYS_prctl, false, PR_GET_SPECULATION_CTRL}, /* info_flags, atomic_flags */
	{SYS_prctl, false, PR_GET_SECUREBITS},       /* cred */
	{SYS_kcmp, true, 0},                         /* cred: whom it may look at */
	{SYS_personality, false, 0xffffffffu},
	{SYS_sigaltstack, false, 0},  /* stack_address, stack_bytes, stack_flags */
	{SYS_get_mempolicy, true, 0}, /* mempolicy: the same only where there is none */
};

static bool alike_is_listed(const struct blob_call *call)
{
	for (size_t i = 0; i < ARRAY_SIZE(alike_calls); i++)
		if (alike_calls[i].nr == call->nr &&
		    (alike_calls[i].any || alike_calls[i].option == call->arg[0]))
			return call->abi == BLOB_ABI_NATIVE && !call->load_mask;
	return false;
}

static bool alike_calls_same(const struct blob_call *a, const struct blob_call *b)
{
	return a->nr == b->nr && a->check == b->check && a->data_mask == b->data_mask &&
	       a->expect == b->expect && !memcmp(a->arg, b->arg, sizeof(a->arg));
}

static bool alike_scripts(const struct script *a, const struct script *b)
{
	bool same = a->calls.n == b->calls.n && a->data.n == b->data.n;
	for (size_t i = 0; i < a->calls.n && same; i++)
		same = alike_is_listed(&a->calls.v[i]) && alike_calls_same(&a->calls.v[i], &b->calls.v[i]);
	return same;
}

int alike_status(const struct proc_looker *looker, const struct snap_task *t, struct snap_thread *th)
{
	const struct proc_status *known = &snapshot_look(t)->status;
	const struct proc_thread_look *a = proc_looker_find(looker, t->pid, t->look);
	const struct proc_thread_look *b = proc_looker_find(looker, t->pid, th->tid);
	if (!a || !b || known->pid != t->look || known->ns_pid.n != 1 || known->seccomp)
		return 0;
	const struct proc_words *x = &a->words, *y = &b->words;
	if (x->cred != y->cred || x->real_cred != y->real_cred || x->fs != y->fs ||
	    x->atomic_flags != y->atomic_flags || x->seccomp_mode || y->seccomp_mode)
		return 0;
	uint32_t *groups = calloc(known->n_groups + 1, sizeof(*groups));
	if (!groups)
		return -ENOMEM;
	if (known->n_groups)
		memcpy(groups, known->groups, known->n_groups * sizeof(*groups));
	th->status = (struct proc_status){
		.have = known->have,
		.umask = known->umask,
		.tgid = known->tgid,
		.pid = th->tid,
		.uid = known->uid,
		.gid = known->gid,
		.n_groups = known->n_groups,
		.groups = groups,
		.ns_pid = {.n = 1, .v = {th->tid}},
		.no_new_privs = known->no_new_privs,
		.cap_inheritable = known->cap_inheritable,
		.cap_permitted = known->cap_permitted,
		.cap_effective = known->cap_effective,
		.cap_bounding = known->cap_bounding,
		.cap_ambient = known->cap_ambient,
	};
	return 1;
}

bool alike(const struct proc_looker *looker, const struct snap_task *t, const struct snap_thread *asked,
	   const struct snap_thread *th)
{
	if (t->is_32 || asked->status.seccomp || th->status.seccomp)
		return false;
	const struct proc_thread_look *a = proc_looker_find(looker, t->pid, asked->tid);
	const struct proc_thread_look *b = proc_looker_find(looker, t->pid, th->tid);
	return a && b && !a->words.seccomp_mode && !memcmp(&a->words, &b->words, sizeof(a->words)) &&
	       alike_scripts(&asked->script, &th->script);
}

/* What a call writes to the script's data, where the look has it. */
static void alike_tell(struct script *s, const struct blob_call *call, const struct proc_thread_look *look)
{
	if (call->nr != SYS_prctl || call->data_mask != 1 << 1)
		return;
	if (call->arg[0] == PR_GET_TID_ADDRESS)
		memcpy(s->data.s + call->arg[1], &look->clear_tid, sizeof(look->clear_tid));
	if (call->arg[0] == PR_GET_NAME)
		memcpy(s->data.s + call->arg[1], look->comm, sizeof(look->comm));
}

void alike_copy(const struct proc_looker *looker, const struct snap_task *t, const struct snap_thread *asked,
		struct snap_thread *th)
{
	const struct proc_thread_look *look = proc_looker_find(looker, t->pid, th->tid);
	struct script *s = &th->script;
	if (s->data.n)
		memcpy(s->data.s, asked->script.data.s, s->data.n);
	for (size_t i = 0; i < s->calls.n; i++) {
		s->calls.v[i].ret = asked->script.calls.v[i].ret;
		alike_tell(s, &s->calls.v[i], look);
	}
}
