/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading and writing the registers, signal mask and pending signals of a stopped thread. Kernel
 * interface: ptrace(2) PTRACE_GETREGS and SETREGS, which a 64-bit tracer has with 64-bit registers whatever
 * code the thread runs (GETREGSET is as wide as the thread's code), PTRACE_GETREGSET for vector state (Linux
 * 2.6.34), PTRACE_GETSIGMASK (3.11), PTRACE_PEEKSIGINFO (3.10).
 *
 * A thread in 32-bit code is driven through the same pad, in 64-bit code, and leaves it by a far jump.
 *
 * Not handled: threads in code segments of their own (modify_ldt(2)); they are refused.
 */
#include <ferry/inject.h>

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "inject/internal.h"

#define XSTATE_MAX 16384

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

int regs_get(struct ferry_thread *t, struct user_regs_struct *ret, struct ferry_error *err)
{
	struct user_regs_struct regs;
	long r = thread_ptrace(t, PTRACE_GETREGS, 0, (uintptr_t)&regs);

	if (r < 0)
		return thread_failed(t, r, "reading registers", err);
	if (regs.cs != USER_CS_64 && regs.cs != USER_CS_32)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, EOPNOTSUPP,
				 "task %d runs code in segment %#llx", t->tid, regs.cs);
	/* What the kernel keeps of the call of a 32-bit program is as wide as its caller saw it. */
	if (regs_are_32(&regs)) {
		regs.orig_rax = (uint64_t)(int32_t)regs.orig_rax;
		if ((int64_t)regs.orig_rax >= 0)
			regs.rax = (uint64_t)(int32_t)regs.rax;
	}
	*ret = regs;
	return 0;
}

int regs_set(struct ferry_thread *t, const struct user_regs_struct *regs, const char *effect,
	     struct ferry_error *err)
{
	inject_effect(&t->opts, effect);
	long r = thread_ptrace(t, PTRACE_SETREGS, 0, (uintptr_t)regs);
	return r < 0 ? thread_failed(t, r, "setting registers", err) : 0;
}

int mask_get(struct ferry_thread *t, uint64_t *ret, struct ferry_error *err)
{
	uint64_t mask;
	long r = thread_ptrace(t, PTRACE_GETSIGMASK, sizeof(mask), (uintptr_t)&mask);

	if (r < 0)
		return thread_failed(t, r, "reading the signal mask", err);
	*ret = mask;
	return 0;
}

int mask_set(struct ferry_thread *t, uint64_t mask, const char *effect, struct ferry_error *err)
{
	inject_effect(&t->opts, effect);
	long r = thread_ptrace(t, PTRACE_SETSIGMASK, sizeof(mask), (uintptr_t)&mask);
	return r < 0 ? thread_failed(t, r, "setting the signal mask", err) : 0;
}

void regs_set_call(struct user_regs_struct *regs, uint64_t rip, const struct call *call)
{
	regs->rip = rip;
	regs->cs = USER_CS_64;
	regs->orig_rax = ~0ull;
	regs->rax = (uint64_t)call->nr;
	regs->rdi = call->args[0];
	regs->rsi = call->args[1];
	regs->rdx = call->args[2];
	regs->r10 = call->args[3];
	regs->r8 = call->args[4];
	regs->r9 = call->args[5];
}

/* What a far jump reads: an offset of 32 bits and a selector. */
static uint64_t far_pointer(const struct user_regs_struct *regs)
{
	return (uint32_t)regs->rip | regs->cs << 32;
}

void pad_data_set_regs(struct pad_data *data, uint64_t pad, const struct user_regs_struct *normal,
		       const struct user_regs_struct *eintr)
{
	data->rip = normal->rip;
	data->rax = normal->rax;
	data->eintr_rip = eintr->rip;
	data->eintr_rax = eintr->rax;
	data->rcx = normal->rcx;
	data->r15 = normal->r15;
	data->r14 = normal->r14;
	data->r13 = normal->r13;
	data->r12 = normal->r12;
	data->rbp = normal->rbp;
	data->rbx = normal->rbx;
	data->r11 = normal->r11;
	data->r10 = normal->r10;
	data->r9 = normal->r9;
	data->r8 = normal->r8;
	data->rdx = normal->rdx;
	data->rsi = normal->rsi;
	data->rdi = normal->rdi;
	data->rsp = normal->rsp;
	data->far = far_pointer(normal);
	data->eintr_far = far_pointer(eintr);
	if (!regs_are_32(normal))
		return;
	data->rip = pad ? pad + PAD_OFFSET(ferry__pad_far) : data->far;
	data->eintr_rip = pad ? pad + PAD_OFFSET(ferry__pad_eintr_far) : data->eintr_far;
}

/* ------------------------------------------------------------- public parts */

void ferry_regs_release(struct ferry_regs *regs)
{
	if (!regs)
		return;
	free(regs->xstate);
	*regs = (struct ferry_regs){.size = regs->size};
}

static int xstate_get(struct ferry_thread *t, uint8_t **ret_xstate, uint32_t *ret_bytes,
		      struct ferry_error *err)
{
	uint8_t area[XSTATE_MAX];
	struct iovec io = {area, sizeof(area)};
	long r = thread_ptrace(t, PTRACE_GETREGSET, NT_X86_XSTATE, (uintptr_t)&io);

	if (r < 0)
		return thread_failed(t, r, "reading floating point state", err);
	uint8_t *copy = malloc(io.iov_len ? io.iov_len : 1);
	if (!copy)
		return error_memory(err);
	memcpy(copy, area, io.iov_len);
	*ret_xstate = copy;
	*ret_bytes = (uint32_t)io.iov_len;
	return 0;
}

int ferry_thread_get_regs(struct ferry_thread *t, struct ferry_regs *ret_regs, struct ferry_error *err)
{
	struct user_regs_struct user;
	uint32_t bytes;
	uint8_t *xstate;
	int r = thread_check_stopped(t, "reading registers", err);

	if (r < 0)
		return r;
	if (t->home)
		user = t->own_regs;
	else
		r = regs_get(t, &user, err);
	if (r < 0)
		return r;
	r = xstate_get(t, &xstate, &bytes, err);
	if (r < 0)
		return r;
	free(ret_regs->xstate);
	*ret_regs = (struct ferry_regs){
		.size = sizeof(*ret_regs), .xstate_bytes = bytes, .xstate = xstate, .user = user};
	return 0;
}

int ferry_thread_set_regs(struct ferry_thread *t, const struct ferry_regs *regs, struct ferry_error *err)
{
	int r = thread_check_stopped(t, "setting registers", err);

	if (r < 0)
		return r;
	if (t->home)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY, "task %d is injected into", t->tid);
	if (regs->xstate) {
		struct iovec io = {regs->xstate, regs->xstate_bytes};
		inject_effect(&t->opts, "set-xstate");
		long set = thread_ptrace(t, PTRACE_SETREGSET, NT_X86_XSTATE, (uintptr_t)&io);
		if (set < 0)
			return thread_failed(t, set, "setting floating point state", err);
	}
	t->mended = false;
	return regs_set(t, &regs->user, "set-regs", err);
}

int ferry_thread_get_sigmask(struct ferry_thread *t, uint64_t *ret_mask, struct ferry_error *err)
{
	int r = thread_check_stopped(t, "reading the signal mask", err);

	if (r < 0)
		return r;
	if (!t->home)
		return mask_get(t, ret_mask, err);
	*ret_mask = t->own_mask;
	return 0;
}

int ferry_thread_set_sigmask(struct ferry_thread *t, uint64_t mask, struct ferry_error *err)
{
	int r = thread_check_stopped(t, "setting the signal mask", err);

	if (r < 0)
		return r;
	if (t->home)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY, "task %d is injected into", t->tid);
	return mask_set(t, mask, "set-mask", err);
}

int ferry_thread_peek_signals(struct ferry_thread *t, int shared, uint32_t first, siginfo_t *infos,
			      uint32_t n, struct ferry_error *err)
{
	struct __ptrace_peeksiginfo_args args = {
		.off = first,
		.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0,
		.nr = (int32_t)MIN(n, (uint32_t)INT32_MAX),
	};
	int r = thread_check_stopped(t, "reading pending signals", err);

	if (r < 0)
		return r;
	long count = thread_ptrace(t, PTRACE_PEEKSIGINFO, (uintptr_t)&args, (uintptr_t)infos);
	return count < 0 ? thread_failed(t, count, "reading pending signals", err) : (int)count;
}
