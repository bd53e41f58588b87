/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns functions that run inside a target. Code and data lie in one mapping, code readable and executable,
 * the rest readable and writable; memory that is both is never asked for, since a task may be forbidden to
 * have it.
 *
 * A function runs between two labels of the landing pad: it is called from there and returns there, to a
 * call without effect in whose entry the tracer finds its result. If nobody is there, the pad leads the
 * thread home. A function makes system calls at two stops each, so it should make few, or do much in each.
 *
 * Not handled: code that uses floating point (its registers are the application's), a function that faults
 * or blocks.
 */
#include <ferry/inject.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "inject/internal.h"

#define PAGE 4096u
#define STACK_BYTES 65536u
#define EFLAGS_CLEAN 0x202u
#define BLOB_MAX (1u << 30)

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

static int blob_protect(struct ferry_blob *blob, struct ferry_error *err)
{
	uint64_t address = blob->address + blob->code_bytes, bytes = blob->bytes - blob->code_bytes;
	struct aim aim = {
		.label = ferry__pad_call,
		.call = {SYS_mprotect, {address, bytes, PROT_READ | PROT_WRITE}},
	};
	int64_t result;

	int r = inject_run(blob->inject, blob->owner, &aim, &result, err);
	if (r < 0)
		return r;
	if (result < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-result,
				   "protecting injected memory of task %d", blob->owner->tid);
	return 0;
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
	/* What the process handles now: a signal that it ignores can tell when a function has returned. */
	if (thread_status_number(t->tid, "SigCgt:", 16, &inject->caught) < 0)
		inject->caught = ~0ull;
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
	struct user_regs_struct regs = t->own_regs;

	regs.orig_rax = ~0ull;
	regs.rip = slot_label(blob->inject, t->slot, ferry__pad_run);
	regs.rax = blob->address;
	regs.rdi = ferry_inject_blob_data(blob) + arg_offset;
	regs.rsp = blob->address + blob->bytes - 64;
	regs.r12 = t->own_regs.eflags;
	regs.eflags = EFLAGS_CLEAN;
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
	struct call catch = {.nr = (long)slot->data.catch_nr, .args = {slot->data.catch_arg, 0, 0, 8}};

	if (t->no_mask || seccomp_classify(seccomp_verdict(&t->seccomp, &catch,
							   blob->inject->place.address)) != SECCOMP_RUNS)
		return error_set(err, FERRY_ERROR_SECCOMP, EPERM,
				 "seccomp leaves task %d no way to return from a blob by itself", t->tid);
	return 0;
}

/* Run to the signal that follows the function: one stop. */
static int blob_run_quietly(struct ferry_blob *blob, struct ferry_thread *t, int64_t *ret_result,
			    struct ferry_error *err)
{
	int signal = (int)blob->inject->slots[t->slot].data.catch_signal;

	return inject_run_to_signal(t, signal, ret_result, err);
}

/* Run to the call that follows it: two stops, and two for each call of the function. */
static int blob_run_by_steps(struct ferry_blob *blob, struct ferry_thread *t, int64_t *ret_result,
			     struct ferry_error *err)
{
	struct syscall_stop stop;

	int r = inject_step(t, &stop, err);
	if (r < 0)
		return r;
	if (!stop.entry || stop.rip != slot_label(blob->inject, t->slot, ferry__pad_tail))
		return error_set(err, FERRY_ERROR_INTERNAL, EPROTO, "task %d left the way of its landing pad",
				 t->tid);
	*ret_result = (int64_t)stop.args[5];
	return inject_step(t, &stop, err);
}

static int blob_prepare(struct ferry_blob *blob, struct ferry_thread *t, size_t arg_offset, struct ferry_error *err)
{
	const struct aim home = {.label = ferry__pad_tail};

	int r = inject_aim(blob->inject, t, &home, err);
	if (r >= 0)
		r = blob_check(blob, t, err);
	if (r >= 0 && t->seccomp.mode)
		r = suspend_seccomp(t, true, err);
	int signal = (int)blob->inject->slots[t->slot].data.catch_signal;
	if (r >= 0 && signal)
		r = mask_set(t, inject_away_mask(signal), "unblock-catch", err);
	return r < 0 ? r : blob_start(blob, t, arg_offset, err);
}

int ferry_inject_blob_run(struct ferry_blob *blob, struct ferry_thread *t, size_t arg_offset, int64_t *ret_result,
			  struct ferry_error *err)
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
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "argument at %zu of %llu bytes", arg_offset,
				 (unsigned long long)blob->data_bytes);
	r = blob_prepare(blob, t, arg_offset, err);
	if (r < 0)
		return r;
	if (blob->inject->slots[t->slot].data.catch_signal)
		r = blob_run_quietly(blob, t, &result, err);
	else
		r = blob_run_by_steps(blob, t, &result, err);
	if (r < 0)
		return r;
	t->in_blob = false;
	if (ret_result)
		*ret_result = result;
	return 0;
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
