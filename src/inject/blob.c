/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns functions that run inside a target. Code and data lie in one mapping, code readable and executable,
 * the rest readable and writable; memory that is both is never asked for, since a task may be forbidden to
 * have it.
 *
 * A function runs between two labels of the landing pad: it is called from there and returns there. If nobody is
 * there, the pad leads the thread home. How the tracer hears of the end:
 * - By a signal that it sends before, and that the pad lets in behind the function: one stop. This takes a signal that
 *   means nothing to the application, and knowing so takes that nobody can change the handlers meanwhile.
 * - Otherwise by the stops of the call behind the function, and then every call of the function costs two more.
 *
 * Not handled: code that uses floating point (its registers are the application's), a function that faults
 * or blocks.
 */
#include <ferry/inject.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "inject/internal.h"
#include "inject/remote.h"

#define PAGE 4096u
#define STACK_BYTES 65536u
#define BLOB_MAX (1u << 30)
#define EFLAGS_AC 0x40000u

/* Why the call before a function fails, which is then its result: no room for one mapping more. */
#define BLOB_NOT_PROTECTED ((uint64_t)-ENOMEM)

struct ferry_blob {
	struct ferry_inject *inject;
	struct ferry_thread *owner; /* may be gone: see blob_map() */
	int slot, index;
	uint64_t address, code_bytes, data_bytes, bytes;
};

/* The blob's mapping, or NULL when its owner was cured. */
static const struct inject_map *blob_map(const struct ferry_blob *blob)
{
	const struct inject_slot *slot = &blob->inject->slots[blob->slot];
	const struct inject_map *map = &slot->maps[blob->index];

	return slot->thread && slot->thread == blob->owner && map->bytes && map->address == blob->address
		       ? map
		       : NULL;
}

/* What makes the data writable, and not executable. */
static struct call blob_protection(const struct ferry_blob *blob)
{
	return (struct call){SYS_mprotect,
			     {blob->address + blob->code_bytes, blob->bytes - blob->code_bytes,
			      PROT_READ | PROT_WRITE, [5] = BLOB_NOT_PROTECTED}};
}

/*
 * Before a function runs the pad does this. Under seccomp it may be that none can run, and the data is used by single
 * calls.
 */
static int blob_protect(struct ferry_blob *blob, struct ferry_error *err)
{
	const struct aim aim = {.label = ferry__pad_call, .call = blob_protection(blob)};
	int64_t result = 0;
	int r = blob->owner->seccomp.mode ? inject_run(blob->inject, blob->owner, &aim, &result, err) : 0;

	if (r < 0)
		return r;
	if (result < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-result,
				   "protecting injected memory of task %d", blob->owner->tid);
	return 0;
}

/* What the process handles now. Unless all its threads are stopped, that can change at any time. */
static void blob_look_at_handlers(struct ferry_inject *inject, const struct ferry_thread *t)
{
	if (inject->caught_told)
		return;
	if (!(inject->opts.flags & FERRY_INJECT_ALL_STOPPED) ||
	    thread_status_number(t->tid, "SigCgt:", 16, &inject->caught) < 0)
		inject->caught = ~0ull;
}

void ferry_inject_set_caught(struct ferry_inject *inject, uint64_t caught)
{
	if (!(inject->opts.flags & FERRY_INJECT_ALL_STOPPED))
		return;
	inject->caught = caught;
	inject->caught_told = true;
}

int ferry_inject_blob_load(struct ferry_inject *inject, struct ferry_thread *t, const void *code,
			   size_t code_bytes, size_t data_bytes, struct ferry_blob **ret_blob,
			   struct ferry_error *err)
{
	int r = thread_check_stopped(t, "loading a blob", err);

	if (r < 0)
		return r;
	if (!code_bytes || code_bytes > BLOB_MAX || data_bytes > BLOB_MAX)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "blob of %zu and %zu bytes", code_bytes,
				 data_bytes);
	_cleanup_free_ struct ferry_blob *blob = calloc(1, sizeof(*blob));
	if (!blob)
		return error_memory(err);
	*blob = (struct ferry_blob){
		.inject = inject,
		.owner = t,
		.code_bytes = align_up(code_bytes, PAGE),
		.data_bytes = align_up(data_bytes, PAGE),
	};
	blob->bytes = blob->code_bytes + blob->data_bytes + STACK_BYTES;
	blob_look_at_handlers(inject, t);
	r = inject_map_memory(inject, t, blob->bytes, PROT_READ | PROT_EXEC, &blob->index, err);
	if (r < 0)
		return r;
	blob->slot = t->slot;
	blob->address = inject->slots[t->slot].maps[blob->index].address;
	r = blob_protect(blob, err);
	if (r >= 0)
		r = ferry_inject_write(inject, blob->address, code, code_bytes, err);
	if (r < 0) {
		int undone = inject_unmap_memory(inject, t, blob->index, NULL);
		return undone == -ESRCH ? undone : r;
	}
	*ret_blob = take_ptr(blob);
	return 0;
}

uint64_t ferry_inject_blob_data(const struct ferry_blob *blob)
{
	return blob->address + blob->code_bytes;
}

/* Stand at the call of the function. */
static int blob_start(struct ferry_blob *blob, struct ferry_thread *t, size_t arg_offset,
		      struct ferry_error *err)
{
	const struct call protection = blob_protection(blob);
	struct user_regs_struct regs = slot_regs(t);

	regs_set_call(&regs, slot_label(blob->inject, t->slot, ferry__pad_run), &protection);
	/* Code may access memory as it likes; nobody is harmed who goes home without that check. */
	regs.eflags &= ~(unsigned long long)EFLAGS_AC;
	regs.rbx = blob->address;
	regs.rbp = ferry_inject_blob_data(blob) + arg_offset;
	regs.rsp = blob->address + blob->bytes - 64;
	regs.r12 = t->own_regs.eflags;
	int r = regs_set(t, &regs, "start-blob", err);
	if (r >= 0) {
		blob->inject->slots[t->slot].at_undo = false;
		t->in_blob = true;
	}
	return r;
}

static int blob_check(struct ferry_blob *blob, struct ferry_thread *t, struct ferry_error *err)
{
	const struct inject_slot *slot = &blob->inject->slots[t->slot];
	struct call catch = {.nr = (long)slot->data.catch_nr,
			     .args = {slot->data.catch_arg, slot_catch_mask(blob->inject, t->slot), 0, 8}};

	if (t->no_mask || seccomp_classify(seccomp_verdict(&t->seccomp, &catch,
							   blob->inject->place.address)) != SECCOMP_RUNS)
		return error_set(err, FERRY_ERROR_SECCOMP, EPERM,
				 "seccomp leaves task %d no way to return from a blob by itself", t->tid);
	return 0;
}

/* Tell the slot which signal is let in behind the function, unless it was told when it was made. */
static int blob_set_catch(struct ferry_blob *blob, struct ferry_thread *t, int signal,
			  struct ferry_error *err)
{
	struct pad_data *data = &blob->inject->slots[t->slot].data;
	uint64_t mask = catch_mask(signal);

	if (data->catch_mask == mask)
		return 0;
	data->catch_mask = mask;
	return slots_write(blob->inject, "set-catch", err);
}

static bool in_blob(const struct ferry_blob *blob, uint64_t rip)
{
	return rip - blob->address < blob->bytes;
}

/*
 * The function did not come to its end in time. If the thread is not on its way at all, the signal has got lost, and it
 * has gone home; then there is nothing to be put back.
 */
static void blob_look_for(struct ferry_blob *blob, struct ferry_thread *t)
{
	struct user_regs_struct regs;

	if (t->stop == FERRY_STOP_NONE || t->stop == FERRY_STOP_EXITED || regs_get(t, &regs, NULL) < 0)
		return;
	if (!in_place(blob->inject, regs.rip) && !in_blob(blob, regs.rip))
		inject_forget(blob->inject, t);
}

/*
 * Run to the signal that waits behind the function: one stop. It is sent while it is blocked; when the tracer dies, the
 * thread lets it in on its way, and ignores it. -EAGAIN: it cannot be sent.
 */
static int blob_run_to_signal(struct ferry_blob *blob, struct ferry_thread *t, int signal,
			      int64_t *ret_result, struct ferry_error *err)
{
	uint64_t end = slot_label(blob->inject, t->slot, ferry__pad_tail);
	struct user_regs_struct regs;

	inject_effect(&t->opts, "send-catch");
	if (syscall(SYS_tkill, t->tid, signal) < 0)
		return -EAGAIN;
	int r = inject_run_to_signal(t, signal, end, &regs, err);
	if (r == -ETIMEDOUT)
		blob_look_for(blob, t);
	if (r >= 0)
		*ret_result = (int64_t)regs.r9;
	return r;
}

/* To the next stop in the slot that is not at the call before the function. */
static int blob_step(struct ferry_blob *blob, struct ferry_thread *t, struct syscall_stop *ret,
		     struct ferry_error *err)
{
	uint64_t before = slot_label(blob->inject, t->slot, ferry__pad_run) + PAD_SYSCALL_BYTES;
	int r;

	do
		r = inject_step(t, ret, err);
	while (r >= 0 && ret->rip == before);
	return r;
}

/* Run to the call that follows it: four stops, and two for each call of the function. */
static int blob_run_by_steps(struct ferry_blob *blob, struct ferry_thread *t, int64_t *ret_result,
			     struct ferry_error *err)
{
	struct syscall_stop stop;

	int r = blob_step(blob, t, &stop, err);
	if (r < 0)
		return r;
	if (!stop.entry || stop.rip != slot_label(blob->inject, t->slot, ferry__pad_tail))
		return error_set(err, FERRY_ERROR_INTERNAL, EPROTO, "task %d left the way of its landing pad",
				 t->tid);
	*ret_result = (int64_t)stop.args[5];
	return inject_step(t, &stop, err);
}

static int blob_run_at(struct ferry_blob *blob, struct ferry_thread *t, size_t arg_offset,
		       int64_t *ret_result, struct ferry_error *err)
{
	const struct aim home = {.label = ferry__pad_tail};
	int r = inject_aim(blob->inject, t, &home, err);

	if (r >= 0)
		r = blob_check(blob, t, err);
	if (r < 0)
		return r;
	int signal = catch_choose(blob->inject, t);
	/* Stopped at each of its calls it would be killed if the tracer died there. */
	if (t->seccomp.mode && !signal && blob->inject->opts.flags & FERRY_INJECT_ALL_STOPPED)
		return error_set(err, FERRY_ERROR_SECCOMP, EPERM,
				 "no signal can tell the end of a blob in task %d, which is under seccomp",
				 t->tid);
	if (t->seccomp.mode)
		r = suspend_seccomp(t, true, err);
	if (r >= 0)
		r = blob_set_catch(blob, t, signal, err);
	if (r >= 0)
		r = blob_start(blob, t, arg_offset, err);
	if (r >= 0 && signal) {
		r = blob_run_to_signal(blob, t, signal, ret_result, err);
		if (r != -EAGAIN || t->seccomp.mode)
			return r;
		r = blob_set_catch(blob, t, 0, err);
	}
	return r < 0 ? r : blob_run_by_steps(blob, t, ret_result, err);
}

int ferry_inject_blob_run(struct ferry_blob *blob, struct ferry_thread *t, size_t arg_offset,
			  int64_t *ret_result, struct ferry_error *err)
{
	int r = thread_check_stopped(t, "running a blob", err);
	int64_t result = 0;

	if (r >= 0)
		r = inject_fault(&blob->inject->opts, "inject-call", err);
	if (r < 0)
		return r;
	if (!blob_map(blob))
		return error_set(err, FERRY_ERROR_INTERNAL, ESTALE, "the blob's owner was cured");
	if (arg_offset > blob->data_bytes)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "argument at %zu of %llu bytes",
				 arg_offset, (unsigned long long)blob->data_bytes);
	r = blob_run_at(blob, t, arg_offset, &result, err);
	if (r < 0)
		return r;
	t->in_blob = false;
	if (ret_result)
		*ret_result = result;
	return 0;
}

/* Go on to the next mark, or to the end. */
static int serve_on(struct ferry_blob *blob, struct ferry_thread *t, struct ferry_error *err)
{
	struct syscall_stop stop;
	int r = blob_step(blob, t, &stop, err);

	if (r < 0)
		return r;
	if (stop.entry && stop.rip != slot_label(blob->inject, t->slot, ferry__pad_tail))
		return 1;
	t->mark = 0;
	t->in_blob = false;
	return stop.entry ? inject_step(t, &stop, err) : 0;
}

int inject_serve_start(struct ferry_blob *blob, struct ferry_thread *t, uint64_t mark,
		       struct ferry_error *err)
{
	const struct aim home = {.label = ferry__pad_tail};
	int r = thread_check_stopped(t, "running a blob", err);

	if (r >= 0)
		r = inject_aim(blob->inject, t, &home, err);
	if (r >= 0 && t->seccomp.mode)
		r = error_set(err, FERRY_ERROR_SECCOMP, EPERM, "task %d is under seccomp and traces others",
			      t->tid);
	if (r >= 0)
		r = blob_set_catch(blob, t, 0, err);
	if (r >= 0)
		r = blob_start(blob, t, 0, err);
	if (r < 0)
		return r;
	t->mark = mark;
	return serve_on(blob, t, err);
}

int inject_serve_next(struct ferry_blob *blob, struct ferry_thread *t, struct ferry_error *err)
{
	return t->mark ? serve_on(blob, t, err) : 0;
}

void inject_serve_abandon(struct ferry_thread *t)
{
	t->mark = 0;
	t->in_blob = false;
	t->at_entry = false;
	if (t->home)
		inject_forget(t->home, t);
}

void inject_blob_place(const struct ferry_blob *blob, uint64_t *ret_address, uint64_t *ret_bytes)
{
	*ret_address = blob->address;
	*ret_bytes = blob->bytes;
}

int ferry_inject_blob_unload(struct ferry_blob *blob, struct ferry_error *err)
{
	int r = 0;

	if (!blob)
		return 0;
	if (blob_map(blob))
		r = inject_unmap_memory(blob->inject, blob->owner, blob->index, err);
	free(blob);
	return r;
}
