/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the memory that the coordinator shares with the tasks: a head with the barrier, then one slice a task. A task moves
 * head and slice into its hole, so a slice is laid out for that address:
 *
 *   hole: [head][blob code][struct blob_task][threads][scripts][XSAVE areas][stacks]
 *
 * In memory that several tasks have there is one head, and a slice for each of them behind the other.
 */
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/lanes.h"
#include "blob/tracer.h"
#include "restore/restore.h"

enum {
	REGION_PAGE = 4096,
	REGION_STACK_BYTES = 8192,
	REGION_PIECE = 64, /* so many tasks are worth a thread */
};

/* Where the parts of a slice begin, as offsets into it. */
struct region_layout {
	uint64_t code, task, threads, clones, memory, scripts, xstates, stacks, end;
};

/* Far more than any tree needs, and what is not touched costs nothing. */
static const uint64_t REGION_RESERVE_MOST = 16ull << 30, REGION_RESERVE_LEAST = 16ull << 20;

/*
 * Where neither programs nor the kernel put anything as a rule, if it is free. Among the kernel's choices it would meet the memory of one
 * family in 64, which then is not filled before its members fork (inherit.c), and each has its own.
 */
#define REGION_PLACE (1ull << 44)

static uint64_t region_code_bytes(void)
{
	return align_up(ferry_blob_bytes, REGION_PAGE);
}

static uint64_t region_xstate_bytes(const struct plan_thread *th)
{
	return align_up(th->xstate_bytes, 64);
}

/* struct clone_args and the ids that it points to, innermost first. */
struct region_clone {
	struct clone_args args;
	int32_t tids[PROC_PID_DEPTH];
};

static void region_measure(const struct plan_task *t, struct region_layout *l)
{
	uint64_t scripts = 0, xstates = 0;
	vec_foreach(th, &t->threads) {
		scripts += script_bytes(&th->script);
		xstates += region_xstate_bytes(th);
	}
	l->code = 0;
	l->task = region_code_bytes();
	l->threads = align_up(l->task + sizeof(struct blob_task), 64);
	l->clones = align_up(l->threads + t->threads.n * sizeof(struct blob_thread), 64);
	l->memory = align_up(l->clones + t->threads.n * sizeof(struct region_clone), 64);
	l->scripts = align_up(l->memory + script_bytes(&t->memory), 64);
	l->xstates = align_up(l->scripts + scripts, 64);
	l->stacks = align_up(l->xstates + xstates, REGION_PAGE);
	l->end = l->stacks + t->threads.n * REGION_STACK_BYTES;
}

static void *region_slice(const struct restore *r, const struct plan_task *t)
{
	return (char *)r->shared + t->region_offset;
}

struct blob_task *region_task(const struct restore *r, const struct plan_task *t)
{
	return (struct blob_task *)((char *)region_slice(r, t) + region_code_bytes());
}

struct blob_thread *region_thread(const struct restore *r, const struct plan_task *t, size_t index)
{
	uint64_t threads = align_up(region_code_bytes() + sizeof(struct blob_task), 64);
	return (struct blob_thread *)((char *)region_slice(r, t) + threads) + index;
}

/* What a task unmaps in the end: its slice, and who owns the memory the head before it. */
static void region_unmapped(const struct restore *r, const struct plan_task *t, uint64_t ret_place[2])
{
	ret_place[0] = t->vm_owner ? t->slice : t->hole;
	ret_place[1] = t->vm_owner ? t->region_bytes : r->shared_bytes + t->region_bytes;
}

/* Who unmaps the blob when the barrier opens: the first that runs then; NULL: the tracer of all does it before. */
static const struct plan_thread *region_unmapper(const struct plan_task *t)
{
	vec_foreach(th, &t->threads) {
		if (!th->stands && !th->ended)
			return th;
	}
	return NULL;
}

static void region_tell_tracer(const struct restore *r, const struct plan_task *t)
{
	const struct plan_thread *leader = t->threads.v;
	if (region_unmapper(t) || !leader->tracer)
		return;
	uint64_t place[2];
	region_unmapped(r, t, place);
	memcpy(leader->tracer->data.s + leader->attach + offsetof(struct blob_attach, unmap_address), place,
	       sizeof(place));
}

static void region_frame(const struct restore *r, const struct plan_task *t, const struct plan_thread *th,
			 uint64_t frame[BLOB_FRAME_WORDS])
{
	const UserX86RegsEntry *regs = th->core->thread_info->gpregs;
	bool leader = th == t->threads.v, unmaps = th == region_unmapper(t);
	uint64_t place[2] = {0};
	if (unmaps)
		region_unmapped(r, t, place);
	frame[BLOB_FRAME_UNMAP_ADDRESS] = place[0];
	frame[BLOB_FRAME_UNMAP_BYTES] = place[1];
	frame[BLOB_FRAME_SIGMASK] = leader ? th->core->tc->blk_sigset : th->core->thread_core->blk_sigset;
	frame[BLOB_FRAME_R15] = regs->r15;
	frame[BLOB_FRAME_R14] = regs->r14;
	frame[BLOB_FRAME_R13] = regs->r13;
	frame[BLOB_FRAME_R12] = regs->r12;
	frame[BLOB_FRAME_RBP] = regs->bp;
	frame[BLOB_FRAME_RBX] = regs->bx;
	frame[BLOB_FRAME_R11] = regs->r11;
	frame[BLOB_FRAME_R10] = regs->r10;
	frame[BLOB_FRAME_R9] = regs->r9;
	frame[BLOB_FRAME_R8] = regs->r8;
	frame[BLOB_FRAME_RAX] = regs->ax;
	frame[BLOB_FRAME_RCX] = regs->cx;
	frame[BLOB_FRAME_RDX] = regs->dx;
	frame[BLOB_FRAME_RSI] = regs->si;
	frame[BLOB_FRAME_RDI] = regs->di;
	frame[BLOB_FRAME_RIP] = regs->ip;
	frame[BLOB_FRAME_CS] = regs->cs;
	frame[BLOB_FRAME_RFLAGS] = regs->flags;
	frame[BLOB_FRAME_RSP] = regs->sp;
	frame[BLOB_FRAME_SS] = regs->ss;
}

/* Threads share everything that POSIX threads share; the ids come from the image. */
static void region_clone_args(struct region_clone *clone, uint64_t address, const struct plan_thread *th,
			      uint64_t stack)
{
	uint64_t n = 0;
	for (size_t i = th->nested.n; i-- > 0;)
		clone->tids[n++] = th->nested.v[i];
	clone->tids[n++] = th->tid;
	clone->args = (struct clone_args){
		.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
		.stack = stack,
		.stack_size = REGION_STACK_BYTES,
		.set_tid = address + offsetof(struct region_clone, tids),
		.set_tid_size = n,
	};
}

/* What the region leaves free of the hole, for a script that asked for it. */
static void region_tell_rest(const struct restore *r, struct plan_task *t)
{
	uint64_t from = t->hole + r->shared_bytes + t->group_bytes;
	const uint64_t rest[2] = {from, t->vdso_parked - from};
	if (t->hole_blocked)
		memcpy(t->memory.data.s + t->hole_rest, rest, sizeof(rest));
}

static void region_fill_task(struct restore *r, struct plan_task *t)
{
	struct region_layout l;
	region_measure(t, &l);
	char *slice = region_slice(r, t);
	uint64_t base = t->slice;
	const struct plan_task *owner = t->vm_owner;
	memcpy(slice, ferry_blob, ferry_blob_bytes);

	struct blob_task *task = (struct blob_task *)(slice + l.task);
	*task = (struct blob_task){
		.control = t->hole + offsetof(struct restore_shared, control),
		.threads = base + l.threads,
		.n_threads = (uint32_t)t->threads.n,
		.gadget = t->gadget,
		.owner = owner ? owner->slice + l.task : 0,
		.n_mates = t->n_mates,
		.ends = t->threads.v[0].ended,
		.end_status = t->threads.v[0].ended ? t->threads.v[0].extra->ended >> 8 : 0,
	};
	region_tell_rest(r, t);
	script_place(&t->memory, slice + l.memory, base + l.memory, &task->memory);

	uint64_t script_at = l.scripts, xstate_at = l.xstates;
	for (size_t i = 0; i < t->threads.n; i++) {
		struct plan_thread *th = &t->threads.v[i];
		struct blob_thread *thread = (struct blob_thread *)(slice + l.threads) + i;
		uint64_t stack = base + l.stacks + i * REGION_STACK_BYTES;
		uint64_t clone_at = l.clones + i * sizeof(struct region_clone);
		*thread = (struct blob_thread){
			.frame_to = plan_frame_place(th),
			.guard = t->guarded ? BLOB_GUARD_WANTED : BLOB_GUARD_NONE,
			.stack_top = stack + REGION_STACK_BYTES,
			.task = base + l.task,
			.clone_args = base + clone_at,
		};
		region_frame(r, t, th, thread->frame);
		region_clone_args((struct region_clone *)(slice + clone_at), base + clone_at, th, stack);
		script_place(&th->script, slice + script_at, base + script_at, &thread->script);
		script_at += script_bytes(&th->script);
		uint64_t xstate = region_xstate_bytes(th);
		if (xstate) {
			memcpy(slice + xstate_at, th->xstate, th->xstate_bytes);
			thread->xstate = base + xstate_at;
			thread->xstate_mask = th->xstate_mask;
		}
		xstate_at += xstate;
	}
}

static int region_fill_piece(void *context, struct lanes *l unused, unsigned lane unused, uint64_t number)
{
	struct restore *r = context;
	size_t from = number * REGION_PIECE, to = MIN(from + REGION_PIECE, r->plan->n_tasks);
	for (size_t i = from; i < to; i++)
		region_fill_task(r, &r->plan->tasks[i]);
	return 0;
}

int region_reserve(struct restore *r, struct ferry_error *err)
{
	for (uint64_t bytes = REGION_RESERVE_MOST; bytes >= REGION_RESERVE_LEAST && !r->shared; bytes /= 2) {
		void *shared = mmap((void *)REGION_PLACE, bytes, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (shared == MAP_FAILED)
			continue;
		r->shared = shared;
		r->region_bytes = bytes;
	}
	return r->shared ? 0
			 : error_errno(err, FERRY_ERROR_NO_MEMORY, ENOMEM,
				       "reserving addresses to share with the tasks");
}

/* What was reserved is cut to size; without that the region is mapped now. */
static int region_map(struct restore *r, uint64_t bytes, struct ferry_error *err)
{
	if (r->shared && bytes > r->region_bytes)
		return error_set(err, FERRY_ERROR_NO_MEMORY, ENOMEM,
				 "%llu bytes to share with the tasks, %llu could be reserved",
				 (unsigned long long)bytes, (unsigned long long)r->region_bytes);
	bytes = align_up(bytes, REGION_PAGE);
	if (r->shared) {
		munmap((char *)r->shared + bytes, r->region_bytes - bytes);
		r->region_bytes = bytes;
		return 0;
	}
	void *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return error_errno(err, FERRY_ERROR_NO_MEMORY, errno,
				   "mapping %llu bytes to share with the tasks", (unsigned long long)bytes);
	r->shared = shared;
	r->region_bytes = bytes;
	return 0;
}

static void region_place(struct restore *r, struct plan_task *t, struct plan_task *owner, uint64_t *offset)
{
	struct region_layout l;
	region_measure(t, &l);
	t->region_offset = *offset;
	t->region_bytes = l.end;
	t->slice = owner->hole + r->shared_bytes + owner->group_bytes;
	owner->group_bytes += l.end;
	*offset += l.end;
}

/* The slices of all that have one memory lie side by side, the owner's first. */
static void region_place_group(struct restore *r, struct plan_task *owner, uint64_t *offset)
{
	region_place(r, owner, owner, offset);
	for (size_t i = owner->index + 1; i < r->plan->n_tasks && owner->n_mates; i++)
		if (r->plan->tasks[i].vm_owner == owner)
			region_place(r, &r->plan->tasks[i], owner, offset);
}

int region_build(struct restore *r, struct ferry_error *err)
{
	r->shared_bytes = align_up(sizeof(struct restore_shared) +
					   r->plan->family.members.n * sizeof(struct restore_member),
				   REGION_PAGE);
	uint64_t bytes = r->shared_bytes;
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		struct plan_task *t = &r->plan->tasks[i];
		if (t->vm_owner)
			continue;
		region_place_group(r, t, &bytes);
		if (r->shared_bytes + t->group_bytes > t->vdso_parked - t->hole)
			return error_set(err, FERRY_ERROR_RESTORE_STEP, ENOMEM,
					 "the restore script of pid %d is too large", t->pid);
	}
	int ret = region_map(r, bytes, err);
	if (ret < 0)
		return ret;
	for (size_t i = 0; i < r->plan->n_tasks; i++)
		region_tell_tracer(r, &r->plan->tasks[i]);
	return lanes_run(lanes_wanted(), (r->plan->n_tasks + REGION_PIECE - 1) / REGION_PIECE,
			 region_fill_piece, r);
}

void region_release(struct restore *r)
{
	if (r->shared)
		munmap(r->shared, r->region_bytes);
	r->shared = NULL;
}
