/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what only the task itself can tell: every kind says which system calls it needs, they are put into one
 * script for the task and the thread that it is looked at through, and one for each other thread, and the blob runs each
 * script in one go.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <ferry/inject.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/lanes.h"
#include "blob/blob.h"
#include "collect/alike.h"
#include "collect/collect.h"
#include "host/warden.h"
#include "inject/defuse.h"
#include "kind/kinds.h"
#include "proc/read.h"

enum {
	INSIDE_HEAD_BYTES = 128,
	INSIDE_THREADS_EACH = 128, /* to look at in one go */
	INSIDE_ASKED = 4,          /* that others are compared with */
};

/* What lies at the start of the blob's data, before the script. */
struct inside_head {
	struct blob_args args;
	struct blob_script script;
};
_Static_assert(sizeof(struct inside_head) <= INSIDE_HEAD_BYTES, "head fits");

static void inside_mark(const struct script *s, struct snap_ask *ask)
{
	ask->call = (uint32_t)s->calls.n;
	ask->data = align_up(s->data.n, 64);
}

static struct script *inside_script(struct snap_task *t, struct snap_thread *th)
{
	return th == snapshot_look(t) ? &t->script : &th->script;
}

/* Threads whose status is read, some by each lane. */
struct inside_look {
	struct snap_task *t;
	const struct proc_looker *looker;
	int proc_dir;
	struct ferry_error *errs; /* by lane */
};

static int inside_look_at_some(void *context, struct lanes *l unused, unsigned lane, uint64_t number)
{
	struct inside_look *j = context;
	size_t at = (size_t)number * INSIDE_THREADS_EACH,
	       end = MIN(at + INSIDE_THREADS_EACH, j->t->threads.n);
	int r = 0;
	for (; at < end && r >= 0; at++) {
		struct snap_thread *th = &j->t->threads.v[at];
		if (th->status.pid == th->tid)
			continue; /* it was looked at */
		r = th->ended ? 0 : alike_status(j->looker, j->t, th);
		if (r < 0)
			r = error_memory(&j->errs[lane]);
		else if (!r)
			r = proc_read_thread_status(j->proc_dir, th->tid, &th->status, &j->errs[lane]);
	}
	return r;
}

/* One look at the status of each thread, for the kinds and for the injection. */
static int inside_look(const struct collect *c, struct snap_task *t, int proc_dir, struct ferry_error *err)
{
	struct ferry_error errs[LANES_MAX];
	for (size_t i = 0; i < LANES_MAX; i++)
		errs[i] = (struct ferry_error)FERRY_ERROR_INIT;
	struct inside_look j = {.t = t, .looker = c->options->looker, .proc_dir = proc_dir, .errs = errs};
	int r = lanes_run(lanes_wanted(), (t->threads.n + INSIDE_THREADS_EACH - 1) / INSIDE_THREADS_EACH,
			  inside_look_at_some, &j);
	for (size_t i = 0; i < LANES_MAX && r < 0; i++)
		error_pass(err, &errs[i]);
	vec_foreach(th, &t->threads)
		if (r >= 0 && !th->ended)
			ferry_thread_set_seccomp(th->control, th->status.seccomp);
	return r;
}

static int inside_ask(struct collect *c, struct snap_task *t, int proc_dir, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	int r = inside_look(c, t, proc_dir, err);
	if (r < 0)
		return r;
	t->asks = arena_array(a, struct snap_ask, KIND_COUNT);
	if (!t->asks)
		return error_memory(err);
	for (size_t i = 0; i < KIND_COUNT; i++) {
		inside_mark(&t->script, &t->asks[i]);
		if (kind_table[i]->ask_task)
			kind_table[i]->ask_task(t, proc_dir, &t->script);
	}
	vec_foreach(th, &t->threads) {
		struct script *script = inside_script(t, th);
		th->asks = arena_array(a, struct snap_ask, KIND_COUNT);
		if (!th->asks)
			return error_memory(err);
		for (size_t i = 0; i < KIND_COUNT && !th->ended; i++) {
			inside_mark(script, &th->asks[i]);
			if (kind_table[i]->ask_thread)
				kind_table[i]->ask_thread(t, th, script);
		}
		if (th->script.failed)
			return error_memory(err);
	}
	return t->script.failed ? error_memory(err) : 0;
}

/*
 * One call after the other, for a thread whose seccomp filters leave it no way to come back from a blob by itself: each call
 * goes through its landing pad.
 */
static int inside_run_singly(struct ferry_inject *inject, struct ferry_thread *thread, struct script *s,
			     uint64_t data, int64_t *ret_result, uint32_t *ret_done, struct ferry_error *err)
{
	int64_t result = 0;
	uint32_t i = 0;
	for (; i < s->calls.n && result >= 0; i++) {
		struct blob_call *call = &s->calls.v[i];
		uint64_t arg[6];
		if (call->nr >= BLOB_OP_FIRST || call->check == BLOB_CHECK_FULL)
			return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
					 "a call that cannot be made singly");
		for (int n = 0; n < 6; n++)
			arg[n] = call->arg[n] + (call->data_mask & (1u << n) ? data : 0);
		int r = ferry_inject_call(inject, thread, (long)call->nr, arg, &call->ret, err);
		if (r < 0)
			return r;
		if (call->check == BLOB_CHECK_EQUAL ? call->ret != call->expect
						    : call->check != BLOB_CHECK_NONE && call->ret < 0)
			result = call->ret < 0 ? call->ret : -EPROTO;
	}
	*ret_done = result < 0 ? i - 1 : i;
	*ret_result = result;
	return 0;
}

struct inside {
	struct collect *c;
	struct ferry_inject *inject;
	struct ferry_blob *blob;
};

/* Run a script in a thread; results replace what was in it. */
static int inside_run(const struct inside *in, struct ferry_thread *thread, struct script *s, pid_t tid,
		      struct ferry_error *err)
{
	struct ferry_inject *inject = in->inject;
	struct ferry_blob *blob = in->blob;
	size_t bytes = INSIDE_HEAD_BYTES + script_bytes(s);
	uint64_t base = ferry_inject_blob_data(blob);
	_cleanup_free_ char *buffer = calloc(1, bytes);
	if (!buffer)
		return error_memory(err);
	struct inside_head *head = (struct inside_head *)buffer;
	head->args = (struct blob_args){
		.command = BLOB_COMMAND_SCRIPT,
		.object = base + offsetof(struct inside_head, script),
	};
	script_place(s, buffer + INSIDE_HEAD_BYTES, base + INSIDE_HEAD_BYTES, &head->script);
	int r = ferry_inject_write(inject, base, buffer, bytes, err);
	int64_t result = 0;
	bool singly = false;
	if (r >= 0) {
		struct ferry_error refusal = FERRY_ERROR_INIT;
		r = ferry_inject_blob_run(blob, thread, 0, &result, &refusal);
		singly = r < 0 && refusal.id == FERRY_ERROR_SECCOMP;
		if (r < 0 && !singly && err)
			*err = refusal;
	}
	uint32_t done = 0;
	if (singly)
		r = inside_run_singly(inject, thread, s, base + INSIDE_HEAD_BYTES + script_calls_bytes(s),
				      &result, &done, err);
	if (r >= 0)
		r = ferry_inject_read(inject, base, buffer, bytes, err);
	if (r < 0)
		return r;
	if (result < 0) {
		uint32_t failed = singly ? done : head->script.done;
		return error_errno(err, FERRY_ERROR_INJECT, (int)-result, "thread %d: %s", tid,
				   failed < s->notes.n ? s->notes.v[failed].what : "running the script");
	}
	if (!singly)
		memcpy(s->calls.v, buffer + INSIDE_HEAD_BYTES, s->calls.n * sizeof(*s->calls.v));
	if (s->data.n)
		memcpy(s->data.s, buffer + INSIDE_HEAD_BYTES + script_calls_bytes(s), s->data.n);
	return 0;
}

/* What runs under suspended filters must not outlive the one who suspends them: the warden waits for its end. */
static int inside_arm(const struct inside *in, const struct snap_thread *th, int *ret_entry,
		      struct ferry_error *err)
{
	*ret_entry = -1;
	if (!th->status.seccomp)
		return 0;
	int entry = warden_arm(in->c->warden, WARDEN_STAND, th->tid, inject_pads(in->inject), NULL, 0);
	if (entry < 0)
		return error_errno(err, FERRY_ERROR_LIMIT, -entry, "entering thread %d into the undo log",
				   th->tid);
	*ret_entry = in->c->warden ? entry : -1;
	return 0;
}

static int inside_load(struct inside *in, struct snap_task *t, struct snap_thread *th,
		       struct ferry_error *err)
{
	size_t bytes = script_bytes(&t->script);
	vec_foreach(other, &t->threads)
		bytes = MAX(bytes, script_bytes(&other->script));
	return ferry_inject_blob_load(in->inject, th->control, ferry_blob, ferry_blob_bytes,
				      INSIDE_HEAD_BYTES + bytes, &in->blob, err);
}

/* The blob goes, and the thread that has it comes home. */
static int inside_unload(struct inside *in, struct snap_thread *th, int r, struct ferry_error *err)
{
	int unload = ferry_inject_blob_unload(in->blob, r < 0 ? NULL : err);
	int cure = ferry_inject_cure(in->inject, th->control, r < 0 || unload < 0 ? NULL : err);
	in->blob = NULL;
	return r < 0 ? r : unload < 0 ? unload : cure;
}

static int inside_run_thread(struct inside *in, struct snap_task *t, struct snap_thread *th,
			     struct ferry_error *err)
{
	bool shared = in->blob != NULL;
	int entry, r = inside_arm(in, th, &entry, err);
	if (r < 0)
		return r;
	if (!shared)
		r = inside_load(in, t, th, err);
	if (r >= 0)
		r = inside_run(in, th->control, &th->script, th->tid, err);
	if (!shared)
		r = inside_unload(in, th, r, err);
	else if (r >= 0)
		r = ferry_inject_cure(in->inject, th->control, err);
	warden_disarm(in->c->warden, entry);
	return r;
}

/* Of many threads in the same state one is asked. */
static int inside_run_others(struct inside *in, struct snap_task *t, struct snap_thread *th,
			     struct ferry_error *err)
{
	const struct proc_looker *looker = in->c->options->looker;
	const struct snap_thread *asked[INSIDE_ASKED] = {0};
	unsigned n = 0;
	for (int r; th < t->threads.v + t->threads.n; th++) {
		const struct snap_thread *like = NULL;
		for (unsigned i = 0; i < INSIDE_ASKED && !like; i++)
			like = asked[i] && alike(looker, t, asked[i], th) ? asked[i] : NULL;
		if (like) {
			alike_copy(looker, t, like, th);
			continue;
		}
		r = inside_run_thread(in, t, th, err);
		if (r < 0)
			return r;
		asked[n++ % INSIDE_ASKED] = th;
	}
	return 0;
}

/*
 * All threads use the blob that the first has, which is away meanwhile; where only one can be away, each has one of its
 * own.
 */
static int inside_run_first(struct inside *in, struct snap_task *t, struct ferry_error *err)
{
	struct snap_thread *first = snapshot_look(t);
	bool alone = inject_room(in->inject) < 2;
	int r = inside_load(in, t, first, err);
	if (r < 0)
		return r;
	t->asked_after_ns = time_now_ns() - in->c->snap->clocks_read_ns;
	r = inside_run(in, first->control, &t->script, t->pid, err);
	if (alone)
		r = inside_unload(in, first, r, err);
	if (r >= 0)
		r = inside_run_others(in, t, first + 1, err);
	return alone ? r : inside_unload(in, first, r, err);
}

/* A thread that serves for its tracees does this, too; its neighbours have blobs of their own meanwhile. */
static int inside_run_beside(struct inside *in, struct snap_thread *th, struct script *script,
			     struct ferry_error *err)
{
	int r = ferry_inject_blob_load(in->inject, th->control, ferry_blob, ferry_blob_bytes,
				       INSIDE_HEAD_BYTES + script_bytes(script), &in->blob, err);
	if (r < 0)
		return r;
	r = inside_run(in, th->control, script, th->tid, err);
	int unload = ferry_inject_blob_unload(in->blob, r < 0 ? NULL : err);
	int cure = ferry_inject_cure(in->inject, th->control, r < 0 || unload < 0 ? NULL : err);
	return r < 0 ? r : unload < 0 ? unload : cure;
}

static int inside_run_one(struct inside *in, struct frozen *f, struct snap_thread *th, struct script *script,
			  struct ferry_error *err)
{
	const struct frozen_tracee *traced = traced_find(f, th->tid);
	struct traced_server *server = traced_server(f, th->tid);
	if (!traced && !server)
		return inside_run_beside(in, th, script, err);
	return traced ? traced_run(traced, script, err) : traced_serve(server, script, err);
}

/* Whether any of its threads traces others or is traced. */
static bool inside_has_traced(const struct frozen *f, const struct snap_task *t)
{
	bool found = false;
	vec_foreach(th, &t->threads)
		found |= traced_find(f, th->tid) || traced_server(f, th->tid);
	return found;
}

static int inside_run_traced(struct inside *in, struct frozen *f, struct frozen_task *ft, struct snap_task *t,
			     struct ferry_error *err)
{
	const struct snap_thread *first = snapshot_look(t);
	int r = first->traced ? 0 : freeze_inject(f, ft, &in->inject, err);
	t->asked_after_ns = time_now_ns() - in->c->snap->clocks_read_ns;
	vec_foreach(th, &t->threads) {
		if (th->ended)
			continue;
		if (r >= 0 && !th->traced != !first->traced)
			r = error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				      "some threads of pid %d are traced, and others are not", t->pid);
		if (r >= 0 && th->status.seccomp)
			r = error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				      "pid %d has seccomp filters, and traces or is traced", t->pid);
		if (r >= 0)
			r = inside_run_one(in, f, th, inside_script(t, th), err);
	}
	return r;
}

static int inside_run_all(struct collect *c, struct frozen *f, struct frozen_task *ft, struct snap_task *t,
			  struct ferry_error *err)
{
	struct inside in = {.c = c};
	if (inside_has_traced(f, t))
		return inside_run_traced(&in, f, ft, t, err);
	int entry, r = freeze_inject(f, ft, &in.inject, err);
	if (r >= 0)
		ferry_inject_set_caught(in.inject, snapshot_look(t)->status.sig_caught);
	if (r >= 0)
		r = inside_arm(&in, snapshot_look(t), &entry, err);
	if (r < 0)
		return r;
	r = inside_run_first(&in, t, err);
	warden_disarm(c->warden, entry);
	return r;
}

static struct answers inside_answers(const struct script *s, const struct snap_ask *ask)
{
	return (struct answers){.calls = s->calls.v + ask->call, .data = s->data.s + ask->data};
}

static int inside_collect_thread(struct collect *c, struct frozen_task *ft, struct snap_task *t,
				 struct snap_thread *th, struct ferry_error *err)
{
	for (size_t i = 0; i < KIND_COUNT; i++) {
		const struct kind_ops *kind = kind_table[i];
		struct answers a = inside_answers(inside_script(t, th), &th->asks[i]);
		int (*collect)(struct collect *, struct snap_task *, struct snap_thread *, int,
			       const struct answers *, struct ferry_error *) =
			th->ended ? kind->collect_ended : kind->collect_thread;
		int r = collect ? collect(c, t, th, ft->proc_dir, &a, err) : 0;
		if (r < 0) {
			error_context(err, "collect", kind->name, th->tid);
			return r;
		}
	}
	return 0;
}

static int inside_collect(struct collect *c, struct frozen_task *ft, struct snap_task *t,
			  struct ferry_error *err)
{
	for (size_t i = 0; i < KIND_COUNT; i++) {
		const struct kind_ops *kind = kind_table[i];
		struct answers a = inside_answers(&t->script, &t->asks[i]);
		int r = kind->collect_task ? kind->collect_task(c, t, ft->proc_dir, &a, err) : 0;
		if (r < 0) {
			error_context(err, "collect", kind->name, t->pid);
			return r;
		}
	}
	/* The leader last: when it has ended, some of what it had is taken from the thread behind it. */
	for (size_t i = t->threads.n; i-- > 0;) {
		int r = inside_collect_thread(c, ft, t, &t->threads.v[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

int collect_inside(struct collect *c, struct frozen *f, struct frozen_task *ft, struct snap_task *t,
		   struct ferry_error *err)
{
	int r = inside_ask(c, t, ft->proc_dir, err);
	if (r >= 0)
		r = inside_run_all(c, f, ft, t, err);
	if (r >= 0)
		r = inside_collect(c, ft, t, err);
	return r;
}
