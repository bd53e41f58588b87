/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns threads that other threads of the tree trace, and the servers in these. A server is a function that stays in the tracer
 * while the tree is frozen. If ferry dies, the kernel lets the tracer go, the server finds no further order, lets run
 * what it held, and returns.
 *
 * Kernel interface: /proc/PID/status TracerPid, /proc/PID/maps; what the server does is in blob/tracer.c.
 * Does not handle: what a tracee stands in cannot always be made again. At a system call or an event (fork, exec, exit): no
 * call starts a thread there. In a group stop: a tracer that attaches finds it, but without what the stop told. Such are
 * refused once the tree stands, since only the tracer can see it, and are left as they were.
 */
#include "freeze/traced.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "blob/blob.h"
#include "freeze/freeze.h"
#include "model/script.h"
#include "proc/read.h"

enum {
	TRACED_SERVE_AT = 64, /* offsets in the server's data */
	TRACED_ORDER_AT = 128,
	TRACED_TRACEES_AT = 256,
	TRACED_MAX = 256,
	TRACED_LOOK_AT = 256 * 1024,
	TRACED_WORK_AT = 320 * 1024,
	TRACED_BYTES = 2048 * 1024,
	TRACED_STACK_BYTES = 64 * 1024,
	TRACED_GAP_BYTES = 2 * 1024 * 1024, /* to the neighbours in a tracee: stacks grow */
	TRACED_CS_64 = 0x33,
	TRACED_RSEQ_CS = 8, /* offsetof(struct rseq, rseq_cs) */
};
_Static_assert(TRACED_TRACEES_AT + TRACED_MAX * sizeof(struct blob_tracee) <= TRACED_LOOK_AT, "tracees fit");
_Static_assert(TRACED_LOOK_AT + sizeof(struct blob_look) <= TRACED_WORK_AT, "a look fits");

#define TRACED_MARK 0x66657272795f6f72ull

struct traced_server {
	pid_t pid;
	struct ferry_inject *inject;
	struct ferry_thread *thread;
	struct ferry_blob *blob;
	uint64_t data; /* address of its data in the tracer */
	uint32_t n;
	bool serves;
};

/* ------------------------------------------------------------------ lists */

int traced_add(struct frozen *f, const struct frozen_task *t, pid_t tid, struct ferry_thread **ret,
	       struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	_cleanup_close_ int dir = proc_open_task(t->proc_dir, tid, err);
	int r = dir < 0 ? dir : proc_read_status(dir, &status, err);
	if (r < 0)
		return r;
	if (!status.tracer_pid)
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, EAGAIN, "thread %d is traced no more", tid);
	struct frozen_tracee *n = calloc(1, sizeof(*n));
	struct frozen_tracee **slot = n ? vec_push(&f->tracees) : NULL;
	if (!slot) {
		free(n);
		return error_memory(err);
	}
	*n = (struct frozen_tracee){.pid = t->pid, .tid = tid, .tracer = status.tracer_pid};
	*slot = n;
	r = thread_remote_new(tid, &n->remote, &n->thread, err);
	if (r >= 0)
		*ret = n->thread;
	return r;
}

const struct frozen_tracee *traced_find(const struct frozen *f, pid_t tid)
{
	vec_foreach(t, &f->tracees) {
		if ((*t)->tid == tid)
			return *t;
	}
	return NULL;
}

struct traced_server *traced_server(const struct frozen *f, pid_t tid)
{
	vec_foreach(s, &f->servers) {
		if ((*s)->thread && ferry_thread_tid((*s)->thread) == tid)
			return *s;
	}
	return NULL;
}

void traced_place(const struct traced_server *server, uint64_t *ret_address, uint64_t *ret_bytes)
{
	inject_blob_place(server->blob, ret_address, ret_bytes);
}

/* ------------------------------------------------------------------ orders */

static int traced_order(struct traced_server *s, struct blob_order *o, struct ferry_error *err)
{
	const uint64_t next = s->data + TRACED_ORDER_AT;
	int r = ferry_inject_write(s->inject, next, o, sizeof(*o), err);
	if (r >= 0)
		r = ferry_inject_write(s->inject,
				       s->data + TRACED_SERVE_AT + offsetof(struct blob_serve, next), &next,
				       sizeof(next), err);
	if (r >= 0)
		r = inject_serve_next(s->blob, s->thread, err);
	if (r == 0) {
		s->serves = false;
		r = error_set(err, FERRY_ERROR_INTERNAL, EPROTO, "thread %d serves no longer",
			      ferry_thread_tid(s->thread));
	}
	return r < 0 ? r : ferry_inject_read(s->inject, next, o, sizeof(*o), err);
}

static uint64_t traced_entry(const struct traced_server *s, uint32_t index)
{
	return s->data + TRACED_TRACEES_AT + index * sizeof(struct blob_tracee);
}

/* The server's data, with what has to be there before it begins. */
static int traced_begin(struct traced_server *s, struct ferry_error *err)
{
	const struct blob_args args = {.command = BLOB_COMMAND_SERVE, .object = s->data + TRACED_SERVE_AT};
	const struct blob_serve serve = {
		.mark = TRACED_MARK,
		.tracees = traced_entry(s, 0),
		.n = TRACED_MAX,
	};
	int r = ferry_inject_write(s->inject, s->data, &args, sizeof(args), err);
	if (r >= 0)
		r = ferry_inject_write(s->inject, s->data + TRACED_SERVE_AT, &serve, sizeof(serve), err);
	if (r >= 0)
		r = inject_serve_start(s->blob, s->thread, TRACED_MARK, err);
	s->serves = r > 0;
	return r < 0 ? r : 0;
}

static struct ferry_thread *traced_tracer(struct frozen *f, pid_t tid, struct frozen_task **ret_task)
{
	vec_foreach(t, &f->tasks)
		vec_foreach(th, &t->threads)
			if (ferry_thread_tid(*th) == tid) {
				*ret_task = t;
				return *th;
			}
	return NULL;
}

static int traced_check_tracer(const struct frozen *f, const struct frozen_task *t,
			       const struct ferry_thread *tracer, struct ferry_error *err)
{
	if (thread_remote(tracer))
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				 "thread %d of pid %d traces others and is traced itself",
				 ferry_thread_tid(tracer), t->pid);
	vec_foreach(s, &f->servers)
		if ((*s)->pid == t->pid)
			return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
					 "more than one thread of pid %d traces others", t->pid);
	return 0;
}

static int traced_check_code(struct ferry_thread *tracer, struct ferry_error *err)
{
	_cleanup_(ferry_regs_release) struct ferry_regs regs = FERRY_REGS_INIT;
	int r = ferry_thread_get_regs(tracer, &regs, err);
	if (r >= 0 && regs.user.cs != TRACED_CS_64)
		r = error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			      "thread %d traces others and executes 32-bit code", ferry_thread_tid(tracer));
	return MIN(r, 0);
}

static int traced_open(struct frozen *f, const struct frozen_tracee *t, struct traced_server **ret,
		       struct ferry_error *err)
{
	struct frozen_task *task = NULL;
	struct ferry_thread *thread = traced_tracer(f, t->tracer, &task);
	if (!thread)
		return error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY,
				 "thread %d of pid %d is traced by thread %d, which is outside the tree",
				 t->tid, t->pid, t->tracer);
	int r = traced_check_tracer(f, task, thread, err);
	if (r >= 0)
		r = traced_check_code(thread, err);
	if (r < 0)
		return r;
	struct traced_server *s = calloc(1, sizeof(*s));
	struct traced_server **slot = s ? vec_push(&f->servers) : NULL;
	if (!slot) {
		free(s);
		return error_memory(err);
	}
	*slot = s;
	s->pid = task->pid;
	r = freeze_inject(f, task, &s->inject, err);
	if (r >= 0)
		r = ferry_inject_settle(s->inject, thread, err);
	if (r >= 0)
		r = ferry_inject_blob_load(s->inject, thread, ferry_blob, ferry_blob_bytes, TRACED_BYTES,
					   &s->blob, err);
	if (r < 0)
		return r;
	s->thread = thread;
	s->data = ferry_inject_blob_data(s->blob);
	*ret = s;
	return traced_begin(s, err);
}

/* ------------------------------------------------------------------ looking */

static int traced_read_maps(pid_t pid, struct proc_maps *ret, struct ferry_error *err)
{
	_cleanup_close_ int dir = proc_open(pid, err);
	return dir < 0 ? dir : proc_read_maps(dir, NULL, ret, err);
}

/* A system call instruction: any will do, and the vdso has some. */
static int traced_find_call(struct frozen_tracee *t, const struct proc_maps *maps, struct ferry_error *err)
{
	static const unsigned char insn[] = {0x0f, 0x05};
	vec_foreach(vma, &maps->vmas) {
		uint64_t words[512];
		for (uint64_t at = vma->start; vma->kind == PROC_VMA_VDSO && at < vma->end;
		     at += sizeof(words)) {
			if (remote_peek(t->tid, at, words, ARRAY_SIZE(words)) < 0)
				break;
			const unsigned char *found = memmem(words, sizeof(words), insn, sizeof(insn));
			if (!found)
				continue;
			t->state.syscall_at = at + (uint64_t)(found - (const unsigned char *)words);
			return 0;
		}
	}
	return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP, "pid %d, which is traced, has no vdso",
			 t->pid);
}

/* Where memory is free, far from everything that may grow. */
static uint64_t traced_find_room(const struct proc_maps *maps, uint64_t bytes)
{
	uint64_t end = TRACED_GAP_BYTES;
	vec_foreach(vma, &maps->vmas) {
		if (vma->start > end && vma->start - end >= bytes + 2 * TRACED_GAP_BYTES)
			return end + TRACED_GAP_BYTES;
		end = MAX(end, vma->end);
	}
	return 0;
}

static int traced_check_stop(const struct frozen_tracee *t, struct ferry_error *err)
{
	static const char *const what[] = {
		[BLOB_STOP_SYSCALL] = "at a system call",
		[BLOB_STOP_EVENT] = "at an event (fork, exec, exit)",
		[BLOB_STOP_GROUP] = "by SIGSTOP or its kin",
	};
	if (t->state.stop == BLOB_STOP_GONE)
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESRCH, "thread %d ended", t->tid);
	if (t->state.regs.cs != TRACED_CS_64)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				 "thread %d of pid %d, which thread %d traces, executes 32-bit code", t->tid,
				 t->pid, t->tracer);
	const char *where = t->state.stop < ARRAY_SIZE(what) ? what[t->state.stop] : NULL;
	if (!where)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
		  "thread %d of pid %d, which thread %d traces, is stopped %s", t->tid, t->pid, t->tracer,
		  where);
	error_hint(err, "let its debugger continue it, or stop it at a breakpoint, and try again");
	return -ENOTSUP;
}

static int traced_look(struct frozen_tracee *t, struct ferry_error *err)
{
	struct traced_server *s = t->server;
	struct blob_order o = {
		.type = BLOB_ORDER_LOOK, .tracee = t->index, .object = s->data + TRACED_LOOK_AT};
	int r = traced_order(s, &o, err);
	if (r >= 0)
		r = ferry_inject_read(s->inject, o.object, &t->look, sizeof(t->look), err);
	if (r < 0)
		return r;
	const struct blob_look *l = &t->look;
	if (l->xstate_bytes < 0 || l->n_own < 0 || l->n_shared < 0)
		return error_set(err, FERRY_ERROR_INJECT, EIO, "looking at thread %d through its tracer",
				 t->tid);
	if (l->n_own >= BLOB_LOOK_SIGNALS || l->n_shared >= BLOB_LOOK_SIGNALS)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				 "%d or more signals wait for thread %d, which is traced", BLOB_LOOK_SIGNALS,
				 t->tid);
	if (l->dispatch >= 0 && l->dispatch_mode)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				 "thread %d, which is traced, has its system calls dispatched to itself",
				 t->tid);
	return 0;
}

static void traced_tell(struct frozen_tracee *t)
{
	const struct blob_look *l = &t->look;
	t->remote = (struct thread_remote){
		.regs = t->state.regs,
		.mask = t->state.mask,
		.xstate = l->xstate,
		.xstate_bytes = MIN((size_t)l->xstate_bytes, sizeof(l->xstate)),
		.signals = {(const siginfo_t *)l->own, (const siginfo_t *)l->shared},
		.n_signals = {(size_t)l->n_own, (size_t)l->n_shared},
		.rseq = {l->rseq_address, l->rseq_rest[0], l->rseq_rest[1]},
		.rseq_bytes = (long)l->rseq,
	};
}

/* The kernel clears the pointer to a restartable sequence as soon as the thread is seen elsewhere. */
static int traced_keep_rseq(struct frozen_tracee *t, struct ferry_error *err)
{
	uint64_t at = t->look.rseq > 0 ? t->look.rseq_address : 0, value = 0;
	if (!at || remote_peek(t->tid, at + TRACED_RSEQ_CS, &value, 1) < 0 || !value)
		return 0;
	t->state.rseq_at = at + TRACED_RSEQ_CS;
	t->state.rseq_value = value;
	return ferry_inject_write(t->server->inject, traced_entry(t->server, t->index), &t->state,
				  sizeof(t->state), err);
}

/* ------------------------------------------------------------------ visits */

/* Code, script and arguments as they are going to lie at one place of a tracee. */
static int traced_pack(const struct script *s, uint64_t at, enum blob_command command, uint64_t object,
		       char **ret_bytes, size_t *ret_n, struct ferry_error *err)
{
	size_t code = align_up(ferry_blob_bytes, 64), head = code + (s ? script_bytes(s) : 0);
	size_t n = head + sizeof(struct blob_script) + sizeof(struct blob_args);
	char *bytes = calloc(1, n);
	if (!bytes)
		return error_memory(err);
	memcpy(bytes, ferry_blob, ferry_blob_bytes);
	if (s)
		script_place(s, bytes + code, at + code, (struct blob_script *)(bytes + head));
	*(struct blob_args *)(bytes + head + sizeof(struct blob_script)) =
		(struct blob_args){.command = command, .object = s ? at + head : object};
	*ret_bytes = bytes;
	*ret_n = n;
	return 0;
}

/* Have the server copy bytes into the tracee and run them there; *bytes is what it left. */
static int traced_visit(const struct frozen_tracee *t, struct blob_order *o, char *bytes,
			struct ferry_error *err)
{
	struct traced_server *s = t->server;
	o->tracee = t->index;
	o->object = s->data + TRACED_WORK_AT;
	if (o->bytes > TRACED_BYTES - TRACED_WORK_AT)
		return error_set(err, FERRY_ERROR_LIMIT, E2BIG, "too much is to be asked in thread %d",
				 t->tid);
	int r = ferry_inject_write(s->inject, o->object, bytes, o->bytes, err);
	if (r >= 0)
		r = traced_order(s, o, err);
	if (r >= 0 && o->ret < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-o->ret,
				   "working in thread %d through its tracer, thread %d", t->tid, t->tracer);
	return r < 0 ? r : ferry_inject_read(s->inject, o->object, bytes, o->bytes, err);
}

static int traced_place_visit(const struct frozen_tracee *t, size_t bytes, struct blob_order *o,
			      struct ferry_error *err)
{
	struct proc_maps maps = {0};
	o->room = align_up(bytes, 4096) + TRACED_STACK_BYTES;
	int r = traced_read_maps(t->pid, &maps, err);
	if (r < 0)
		return r;
	o->at = traced_find_room(&maps, o->room);
	proc_maps_release(&maps);
	return o->at ? 0
		     : error_set(err, FERRY_ERROR_NO_MEMORY, ENOMEM, "no room in the memory of pid %d",
				 t->pid);
}

static int traced_results(const struct frozen_tracee *t, struct script *s, const char *calls, int64_t result,
			  const struct blob_script *head, struct ferry_error *err)
{
	if (result < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-result, "thread %d: %s", t ? t->tid : 0,
				   head->done < s->notes.n ? s->notes.v[head->done].what
							   : "running the script");
	if (s->calls.n)
		memcpy(s->calls.v, calls, s->calls.n * sizeof(*s->calls.v));
	if (s->data.n)
		memcpy(s->data.s, calls + script_calls_bytes(s), s->data.n);
	return 0;
}

int traced_run(const struct frozen_tracee *t, struct script *s, struct ferry_error *err)
{
	struct blob_order o = {.type = BLOB_ORDER_VISIT};
	size_t code = align_up(ferry_blob_bytes, 64);
	_cleanup_free_ char *bytes = NULL;
	int r = traced_place_visit(t, code + script_bytes(s) + 4096, &o, err);
	if (r >= 0)
		r = traced_pack(s, o.at, BLOB_COMMAND_VISIT, 0, &bytes, &o.bytes, err);
	if (r >= 0)
		r = traced_visit(t, &o, bytes, err);
	if (r < 0)
		return r;
	const struct blob_args *args = (const struct blob_args *)(bytes + o.bytes - sizeof(*args));
	return traced_results(t, s, bytes + code, args->result, (const struct blob_script *)args - 1, err);
}

int traced_serve(struct traced_server *server, struct script *s, struct ferry_error *err)
{
	size_t n = sizeof(struct blob_script) + script_bytes(s);
	uint64_t at = server->data + TRACED_WORK_AT;
	struct blob_order o = {.type = BLOB_ORDER_SCRIPT, .object = at + script_bytes(s)};
	if (n > TRACED_BYTES - TRACED_WORK_AT)
		return error_set(err, FERRY_ERROR_LIMIT, E2BIG, "too much is to be asked in thread %d",
				 ferry_thread_tid(server->thread));
	_cleanup_free_ char *bytes = calloc(1, n);
	if (!bytes)
		return error_memory(err);
	struct blob_script *head = (struct blob_script *)(bytes + script_bytes(s));
	script_place(s, bytes, at, head);
	int r = ferry_inject_write(server->inject, at, bytes, n, err);
	if (r >= 0)
		r = traced_order(server, &o, err);
	if (r >= 0)
		r = ferry_inject_read(server->inject, at, bytes, n, err);
	return r < 0 ? r : traced_results(NULL, s, bytes, o.ret, head, err);
}

/* Which options its tracer has set. */
static int traced_probe(struct frozen_tracee *t, struct ferry_error *err)
{
	struct blob_order o = {.type = BLOB_ORDER_PROBE};
	_cleanup_free_ char *bytes = NULL;
	int r = traced_place_visit(t, ferry_blob_bytes + 4096, &o, err);
	if (r >= 0)
		r = traced_pack(NULL, o.at, BLOB_COMMAND_PROBED, o.at + o.room - TRACED_STACK_BYTES / 2,
				&bytes, &o.bytes, err);
	if (r >= 0)
		r = traced_visit(t, &o, bytes, err);
	return r < 0 ? r
		     : ferry_inject_read(t->server->inject, traced_entry(t->server, t->index), &t->state,
					 sizeof(t->state), err);
}

/* ------------------------------------------------------------------ holding */

/* The numbers by which its tracer knows a thread, which may live in a PID namespace of the tree's own. */
static int traced_number(struct frozen_tracee *t, struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status tracer = {0}, traced = {0};
	_cleanup_close_ int tracer_dir = proc_open(t->tracer, err);
	int r = tracer_dir < 0 ? tracer_dir : proc_read_status(tracer_dir, &tracer, err);
	_cleanup_close_ int pid_dir = r < 0 ? r : proc_open(t->pid, err);
	_cleanup_close_ int dir = pid_dir < 0 ? pid_dir : proc_open_task(pid_dir, t->tid, err);
	r = dir < 0 ? dir : proc_read_status(dir, &traced, err);
	if (r < 0)
		return r;
	uint32_t level = tracer.ns_pid.n ? tracer.ns_pid.n - 1 : 0;
	if (level >= traced.ns_pid.n || level >= traced.ns_tgid.n)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				 "thread %d is traced by thread %d, which has no number for it", t->tid,
				 t->tracer);
	t->state.pid = traced.ns_tgid.v[level];
	t->state.tid = traced.ns_pid.v[level];
	return 0;
}

static int traced_hold_one(struct frozen *f, struct frozen_tracee *t, struct ferry_error *err)
{
	struct traced_server *s = traced_server(f, t->tracer);
	struct proc_maps maps = {0};
	int r = s ? 0 : traced_open(f, t, &s, err);
	if (r >= 0 && s->n == TRACED_MAX)
		r = error_set(err, FERRY_ERROR_LIMIT, E2BIG, "thread %d traces more than %d threads",
			      t->tracer, TRACED_MAX);
	if (r >= 0)
		r = traced_read_maps(t->pid, &maps, err);
	if (r < 0)
		return r;
	t->state = (struct blob_tracee){0};
	r = traced_number(t, err);
	if (r >= 0)
		r = traced_find_call(t, &maps, err);
	proc_maps_release(&maps);
	if (r < 0)
		return r;
	t->index = s->n++;
	struct blob_order o = {.type = BLOB_ORDER_HOLD, .tracee = t->index};
	r = ferry_inject_write(s->inject, traced_entry(s, t->index), &t->state, sizeof(t->state), err);
	if (r >= 0)
		r = traced_order(s, &o, err);
	if (r >= 0)
		r = ferry_inject_read(s->inject, traced_entry(s, t->index), &t->state, sizeof(t->state), err);
	if (r < 0)
		return r;
	t->server = s;
	if (o.ret == -EBUSY) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			  "thread %d of pid %d runs from system call to system call, followed by thread %d",
			  t->tid, t->pid, t->tracer);
		error_hint(err, "end the tracer (strace) or let it detach");
		return -ENOTSUP;
	}
	if (o.ret < 0)
		return error_errno(err, FERRY_ERROR_TARGET_CHANGED, (int)-o.ret, "holding thread %d", t->tid);
	return traced_check_stop(t, err);
}

int traced_hold(struct frozen *f, struct ferry_error *err)
{
	int held = 0, r = 0;
	for (size_t i = 0; i < f->tracees.n && r >= 0; i++) {
		if (f->tracees.v[i]->server)
			continue;
		r = traced_hold_one(f, f->tracees.v[i], err);
		held++;
	}
	if (r < 0 || held)
		return r < 0 ? r : held;
	/* Nobody runs any more, so nothing changes while they are asked. */
	for (size_t i = 0; i < f->tracees.n && r >= 0; i++) {
		struct frozen_tracee *t = f->tracees.v[i];
		r = traced_look(t, err);
		if (r >= 0)
			r = traced_keep_rseq(t, err);
		if (r >= 0)
			r = traced_probe(t, err);
		if (r >= 0)
			traced_tell(t);
	}
	return r;
}

/* ------------------------------------------------------------------ the end */

static void traced_close(struct traced_server *s, bool dead)
{
	int r = s->serves && !dead;
	while (r > 0)
		r = inject_serve_next(s->blob, s->thread, NULL);
	/* On its own it lets run what it holds, as without us. */
	if (r < 0)
		inject_serve_abandon(s->thread);
	if (s->blob && ferry_inject_blob_unload(s->blob, NULL) < 0)
		s->blob = NULL; /* its thread unmaps it on its way home */
	free(s);
}

void traced_release(struct frozen *f, bool dead)
{
	vec_foreach(s, &f->servers)
		traced_close(*s, dead);
	vec_release(&f->servers);
	vec_foreach(t, &f->tracees)
		free(*t);
	vec_release(&f->tracees);
}
