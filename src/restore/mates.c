/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the making of processes that have one memory (CLONE_VM without CLONE_THREAD): an owner, and mates. A mate is born into the
 * memory of its maker, with a stack of its own, long before that memory is what it is to be. Until each has entered the blob they
 * take turns: who has the baton executes our code and that of libc, which takes them for one thread; who sleeps in a call puts
 * the baton down first. The kernel is called directly while somebody else has it, for errno is everybody's.
 *
 * The blob of each, and the head, are mapped at their places by the first that gets there; the old mappings stay until the owner,
 * once all have left them, replaces the memory (blob/main.c).
 *
 * Kernel interface: clone3(2) with a stack (5.5), futex(2), mremap(2) of shared memory with an old size of 0.
 */
#include "restore/mates.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/error.h"
#include "blob/call.h"
#include "restore/restore.h"

enum {
	MATES_STACK_BYTES = 1 << 20,
	MATES_ALIGN = 64,
	MATES_FREE = 0,
	MATES_TAKEN,
	MATES_AWAITED, /* taken, and somebody sleeps until it is not */
};

/* What a mate begins with, at the end of its stack. */
struct mates_start {
	struct restore *r;
	int member;
};

/* ------------------------------------------------------------------ the baton */

void mates_begin(struct restore *r, const struct plan_task *t)
{
	r->baton = NULL;
	r->placed = false;
	if (!t || !t->n_mates)
		return;
	r->baton = &r->shared->members[t->member].baton;
	*r->baton = MATES_TAKEN;
}

static void mates_futex(uint32_t *word, uint64_t op, uint64_t value)
{
	blob_syscall(SYS_futex, (uint64_t)(uintptr_t)word, op, value, 0, 0, 0);
}

static void mates_take(struct restore *r)
{
	uint32_t seen = MATES_FREE;
	if (!r->baton || __atomic_compare_exchange_n(r->baton, &seen, MATES_TAKEN, false, __ATOMIC_SEQ_CST,
						     __ATOMIC_SEQ_CST))
		return;
	while (__atomic_exchange_n(r->baton, MATES_AWAITED, __ATOMIC_SEQ_CST) != MATES_FREE)
		mates_futex(r->baton, FUTEX_WAIT, MATES_AWAITED);
}

static void mates_put(struct restore *r)
{
	if (r->baton && __atomic_exchange_n(r->baton, MATES_FREE, __ATOMIC_SEQ_CST) == MATES_AWAITED)
		mates_futex(r->baton, FUTEX_WAKE, 1);
}

void mates_leave(struct restore *r)
{
	mates_put(r);
}

/* ------------------------------------------------------ calls that may sleep */

void mates_futex_wait(struct restore *r, uint32_t *word, uint32_t value)
{
	mates_put(r);
	mates_futex(word, FUTEX_WAIT, value);
	mates_take(r);
}

int mates_waitid(struct restore *r, pid_t pid, int options)
{
	siginfo_t info;
	int64_t ret;
	mates_put(r);
	do
		ret = blob_syscall(SYS_waitid, P_PID, (uint64_t)pid, (uint64_t)(uintptr_t)&info,
				   (uint64_t)options, 0, 0);
	while (ret == -EINTR);
	mates_take(r);
	return (int)ret;
}

void mates_poll(struct restore *r, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (!r->baton)
		return;
	mates_put(r);
	blob_syscall(SYS_poll, (uint64_t)(uintptr_t)&p, 1, (uint64_t)-1, 0, 0, 0);
	mates_take(r);
}

void mates_stop(struct restore *r, pid_t self)
{
	mates_put(r);
	blob_syscall(SYS_kill, (uint64_t)self, SIGSTOP, 0, 0, 0, 0);
	mates_take(r);
}

/* ---------------------------------------------------------------------- birth */

static __attribute__((noreturn, used)) void mates_main(struct mates_start *start)
{
	mates_take(start->r);
	birth_main(start->r, start->member);
}

/* It begins at the end of its own stack, and does not return. */
static int64_t mates_clone3(const struct clone_args *args, struct mates_start *start)
{
	int64_t ret;
	register struct mates_start *r12 __asm__("r12") = start;
	register void (*r13)(struct mates_start *) __asm__("r13") = mates_main;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r12, %%rdi\n\t"
			 "call *%%r13\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((uint64_t)SYS_clone3), "D"(args), "S"(sizeof(*args)), "r"(r12), "r"(r13)
			 : "rcx", "r11", "memory");
	return ret;
}

pid_t mates_clone(struct restore *r, int member, struct clone_args *args)
{
	char *stack = mmap(NULL, MATES_STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return -1;
	struct mates_start *start =
		(struct mates_start *)(stack + MATES_STACK_BYTES - align_up(sizeof(*start), MATES_ALIGN));
	*start = (struct mates_start){r, member};
	args->stack = (uint64_t)(uintptr_t)stack;
	args->stack_size = (uint64_t)((char *)start - stack);
	int64_t ret = mates_clone3(args, start);
	if (ret >= 0)
		return (pid_t)ret;
	munmap(stack, MATES_STACK_BYTES);
	errno = (int)-ret;
	return -1;
}

/* ----------------------------------------------------------- on to the blob */

static int mates_place_part(void *from, uint64_t bytes, uint64_t to, bool stays)
{
	/* Of shared memory a second mapping can be had. */
	void *at =
		mremap(from, stays ? 0 : bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)to);
	return at == MAP_FAILED ? -errno : 0;
}

static int mates_place_slice(const struct restore *r, const struct plan_task *t, bool stays)
{
	int ret = mates_place_part((char *)r->shared + t->region_offset, t->region_bytes, t->slice, stays);
	if (ret < 0)
		return ret;
	return mprotect((void *)(uintptr_t)t->slice, align_up(ferry_blob_bytes, 4096),
			PROT_READ | PROT_EXEC) < 0
		       ? -errno
		       : 0;
}

int mates_place(struct restore *r, const struct plan_task *t)
{
	const struct plan_task *owner = t->vm_owner ? t->vm_owner : t;
	bool stays = owner->n_mates;
	if (r->placed)
		return 0;
	int ret = mates_place_slice(r, owner, stays);
	for (size_t i = owner->index + 1; i < r->plan->n_tasks && stays && ret >= 0; i++)
		if (r->plan->tasks[i].vm_owner == owner)
			ret = mates_place_slice(r, &r->plan->tasks[i], true);
	/* The head comes last: where it was is where errors are left. */
	if (ret >= 0)
		ret = mates_place_part(r->shared, r->shared_bytes, owner->hole, stays);
	r->placed = ret >= 0;
	return ret;
}

/* ------------------------------------------------------------------ the plan */

static int mates_check(const struct plan_task *t, struct ferry_error *err)
{
	const char *what = t->stop_signal  ? "is to be stopped"
			   : t->traced     ? "is traced"
			   : plan_first(t) ? "has lost its first thread"
					   : NULL;
	vec_foreach(th, &t->threads)
		what = th->tracer ? "is traced" : what;
	return what ? error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				"pid %d shares its memory with another process, and %s", t->pid, what)
		    : 0;
}

int mates_plan(struct plan *p, struct ferry_error *err)
{
	int ret = 0;
	/* One that is under a tracer while it waits would let the others wait for it in vain. */
	for (size_t i = 0; i < p->n_tasks; i++)
		if (p->tasks[i].vm_owner)
			p->tasks[i].vm_owner->guarded |= p->tasks[i].guarded;
	for (size_t i = 0; i < p->n_tasks && ret >= 0; i++) {
		struct plan_task *t = &p->tasks[i];
		if (t->vm_owner)
			t->guarded |= t->vm_owner->guarded;
		if (t->vm_owner || t->n_mates)
			ret = mates_check(t, err);
	}
	return ret;
}
