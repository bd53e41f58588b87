/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the public face of injection: open a process, read and write its memory, run calls, put threads
 * back. How a thread is driven is in drive.c, what it owns in memory.c.
 *
 * On the way back alive the thread gets the registers it had when it was stopped, and a pending trap makes
 * it pass the kernel's signal code, so that the kernel itself restarts the interrupted call, or does not
 * when a handler is due. The pad has to fold that into the registers; see restart.c. First mask, then
 * registers: in between, the pad is still the way home.
 *
 * Not handled: a call that does not return. It times out, and the thread can then be cured if the call can
 * be interrupted.
 */
#include <ferry/inject.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "inject/internal.h"

/* Calls after which the thread would not come back, or come back twice. */
static const uint16_t refused_calls[] = {
	SYS_clone,    SYS_clone3, SYS_fork,       SYS_vfork,        SYS_execve,
	SYS_execveat, SYS_exit,   SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall,
};

/* ------------------------------------------------------------ open and close */

static void cleanup_inject(struct ferry_inject **inject)
{
	ferry_inject_close(*inject);
}

int ferry_inject_open(struct ferry_thread *t, const struct ferry_inject_options *opts,
		      struct ferry_inject **ret_inject, struct ferry_error *err)
{
	struct user_regs_struct regs;
	int r = thread_check_stopped(t, "preparing injection", err);

	if (r >= 0)
		r = regs_get(t, &regs, err);
	if (r < 0)
		return r;
	_cleanup_(cleanup_inject) struct ferry_inject *inject = calloc(1, sizeof(*inject));
	if (!inject)
		return error_memory(err);
	inject->mem_fd = -EBADF;
	inject->tid = t->tid;
	inject->caught = ~0ull;
	r = inject_options_copy(&inject->opts, opts, err);
	if (r < 0)
		return r;
	inject->mem_fd = fd_openf(O_RDWR, "/proc/%d/mem", t->tid);
	if (inject->mem_fd < 0)
		return error_errno(err, FERRY_ERROR_INJECT, -inject->mem_fd, "opening the memory of task %d",
				   t->tid);
	r = place_find(inject, err);
	if (r >= 0)
		r = slot_inspect(inject, err);
	if (r < 0)
		return r;
	*ret_inject = take_ptr(inject);
	return 0;
}

/*
 * Nobody steers the thread any more: it goes home through its pad, which knows about mended calls by
 * itself.
 */
static void inject_abandon(struct ferry_thread *t)
{
	t->home = NULL;
	t->mended = false;
}

void ferry_inject_close(struct ferry_inject *inject)
{
	if (!inject)
		return;
	for (int i = 0; i < INJECT_SLOTS; i++)
		if (inject->slots[i].thread)
			inject_abandon(inject->slots[i].thread);
	if (inject->mem_fd >= 0)
		close(inject->mem_fd);
	free(inject);
}

int ferry_inject_read(struct ferry_inject *inject, uint64_t address, void *bytes, size_t n,
		      struct ferry_error *err)
{
	int r = fd_pread_all(inject->mem_fd, bytes, n, address);

	if (r < 0)
		return error_errno(err, FERRY_ERROR_INJECT, EFAULT, "reading %zu bytes at %#llx of task %d",
				   n, (unsigned long long)address, inject->tid);
	return 0;
}

int ferry_inject_write(struct ferry_inject *inject, uint64_t address, const void *bytes, size_t n,
		       struct ferry_error *err)
{
	inject_effect(&inject->opts, "write-memory");
	int r = fd_pwrite_all(inject->mem_fd, bytes, n, address);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_INJECT, EFAULT, "writing %zu bytes at %#llx of task %d",
				   n, (unsigned long long)address, inject->tid);
	return 0;
}

int ferry_inject_is_away(const struct ferry_thread *t)
{
	return t->home != NULL;
}

/* -------------------------------------------------------------------- calls */

static int call_check(struct ferry_inject *inject, struct ferry_thread *t, long nr, struct ferry_error *err)
{
	int r = thread_check_stopped(t, "injecting", err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(refused_calls); i++)
		if (refused_calls[i] == nr)
			return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
					 "system call %ld cannot be injected", nr);
	return inject_fault(&inject->opts, "inject-call", err);
}

static int call_with(struct ferry_inject *inject, struct ferry_thread *t, struct aim *aim,
		     const uint64_t args[6], int64_t *ret_result, struct ferry_error *err)
{
	int64_t result = 0;
	int r = call_check(inject, t, aim->call.nr, err);

	if (r < 0)
		return r;
	if (args)
		memcpy(aim->call.args, args, sizeof(aim->call.args));
	r = inject_run(inject, t, aim, &result, err);
	if (r >= 0 && ret_result)
		*ret_result = result;
	return r;
}

int ferry_inject_call(struct ferry_inject *inject, struct ferry_thread *t, long number,
		      const uint64_t args[6], int64_t *ret_result, struct ferry_error *err)
{
	struct aim aim = {.label = ferry__pad_call, .call = {.nr = number}};

	return call_with(inject, t, &aim, args, ret_result, err);
}

int ferry_inject_call_fd(struct ferry_inject *inject, struct ferry_thread *t, long number,
			 const uint64_t args[6], int64_t *ret_fd, struct ferry_error *err)
{
	struct aim aim = {.label = ferry__pad_call_undo, .call = {.nr = number}, .undo_nr = SYS_close};

	return call_with(inject, t, &aim, args, ret_fd, err);
}

/* --------------------------------------------------------------------- cure */

static int cure_state(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	static const struct call nothing;
	struct syscall_stop stop;
	int r = 0;

	/* Off memory that may go, and past a call that it is about to make: that one is not made. */
	if (t->at_entry || t->in_blob)
		r = stand_at(inject, t, ferry__pad_tail, &nothing, "leave-blob", err);
	if (r >= 0 && t->at_entry)
		r = inject_step(t, &stop, err);
	t->in_blob = false;
	if (r >= 0)
		r = inject_drop_memory(inject, t, err);
	if (r < 0)
		return r;
	if (t->must_trap && !t->trap_pending) {
		inject_effect(&t->opts, "trap");
		long trap = thread_ptrace(t, PTRACE_INTERRUPT, 0, 0);
		if (trap < 0)
			return thread_failed(t, trap, "interrupting", err);
		t->trap_pending = true;
	}
	if (!t->no_mask)
		r = mask_set(t, t->own_mask, "restore-mask", err);
	if (r >= 0)
		r = regs_set(t, &t->own_regs, "restore-regs", err);
	return r < 0 ? r : suspend_seccomp(t, false, err);
}

int ferry_inject_cure(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	if (!t->home)
		return 0;
	int slot = t->slot, r = thread_check_stopped(t, "curing", err);
	if (r == -EBUSY)
		return r;
	if (r >= 0)
		r = cure_state(inject, t, err);
	if (r < 0 && t->stop != FERRY_STOP_EXITED)
		return r;
	/* Gone threads need no cure, but their slot is free. */
	bool gone = t->stop == FERRY_STOP_EXITED;
	inject_forget(inject, t);
	int erased = slot_erase(inject, slot, gone ? NULL : err);
	return gone ? r : erased;
}
