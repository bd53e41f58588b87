/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the code that runs inside a task: the script interpreter, thread creation and the way to the barrier.
 * Freestanding, position-independent, no globals, no recursion, general registers only (the FPU state of the
 * thread must not change), fixed stack use below 1 KiB.
 *
 * Kernel interface: whatever the script calls; clone3(2) with set_tid (5.5), futex(2) FUTEX_CMP_REQUEUE, XRSTOR.
 */
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "blob/blob.h"
#include "blob/call.h"
#include "blob/tracer.h"

/* The kernel may clear the registers that 32-bit code does not have. */
static inline int64_t blob_syscall_i386(uint64_t nr, const uint64_t arg[6])
{
	register uint64_t r12 __asm__("r12") = (uint32_t)arg[5];
	int32_t ret;
	__asm__ volatile("push %%rbp\n\t"
			 "mov %%r12, %%rbp\n\t"
			 "int $0x80\n\t"
			 "pop %%rbp"
			 : "=a"(ret)
			 : "a"((uint32_t)nr), "b"((uint32_t)arg[0]), "c"((uint32_t)arg[1]),
			   "d"((uint32_t)arg[2]), "S"((uint32_t)arg[3]), "D"((uint32_t)arg[4]), "r"(r12)
			 : "r8", "r9", "r10", "r11", "memory");
	return ret;
}

/* Bases follow from the descriptors. Nothing here uses one of these registers. */
static inline void blob_segments(const uint64_t arg[4])
{
	__asm__ volatile("mov %0, %%ds\n\tmov %1, %%es"
			 :
			 : "r"((uint32_t)arg[0]), "r"((uint32_t)arg[1])
			 : "memory");
	if (arg[2])
		__asm__ volatile("mov %0, %%fs" : : "r"((uint32_t)arg[2]) : "memory");
	if (arg[3])
		__asm__ volatile("mov %0, %%gs" : : "r"((uint32_t)arg[3]) : "memory");
}

static inline void blob_copy(uint64_t to, uint64_t from, uint64_t n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* The coordinator sets the word. */
static void blob_await(uint32_t *word)
{
	while (!__atomic_load_n(word, __ATOMIC_SEQ_CST))
		blob_syscall(SYS_futex, (uint64_t)word, FUTEX_WAIT, 0, 0, 0, 0);
}

/* That is once the tracee stands where it can be attached to. */
static int64_t blob_attach(const struct blob_attach *attach)
{
	struct blob_tracee tracee = attach->tracee;
	blob_await((uint32_t *)attach->word);
	return tracer_attach(attach, &tracee);
}

static void blob_wake(uint32_t *word, uint64_t how_many)
{
	blob_syscall(SYS_futex, (uint64_t)word, FUTEX_WAKE, how_many, 0, 0, 0);
}

/* The coordinator waits for events. */
static void blob_event(struct blob_control *control)
{
	__atomic_add_fetch(&control->event, 1, __ATOMIC_SEQ_CST);
	blob_wake(&control->event, 1 << 30);
}

static int64_t blob_call_full(const struct blob_call *call, const uint64_t arg[6])
{
	uint64_t at = 0;
	while (at < arg[2]) {
		int64_t n = blob_syscall(call->nr, arg[0], arg[1] + at, arg[2] - at, arg[3] + at, 0, 0);
		if (n <= 0)
			return n ? n : -61 /* ENODATA */;
		at += (uint64_t)n;
	}
	return (int64_t)at;
}

static int64_t blob_call_run(struct blob_call *call, uint64_t data, int64_t before)
{
	uint64_t arg[6];
	for (int i = 0; i < 6; i++) {
		arg[i] = call->arg[i] + (call->data_mask & (1u << i) ? data : 0);
		if (call->load_mask & (1u << i))
			arg[i] = *(const volatile uint64_t *)arg[i];
	}
	if (call->nr == BLOB_OP_COPY) {
		blob_copy(arg[0], arg[1], arg[2]);
		return 0;
	}
	if (call->nr == BLOB_OP_STORE) {
		*(volatile uint64_t *)arg[0] = arg[1];
		return 0;
	}
	if (call->nr == BLOB_OP_ATTACH)
		return blob_attach((const struct blob_attach *)arg[0]);
	if (call->nr == BLOB_OP_KEEP) {
		*(volatile int64_t *)arg[0] = before;
		return 0;
	}
	if (call->nr == BLOB_OP_AWAIT) {
		blob_await((uint32_t *)arg[0]);
		return 0;
	}
	if (call->nr == BLOB_OP_TELL) {
		__atomic_store_n((uint32_t *)arg[0], 1, __ATOMIC_SEQ_CST);
		blob_event((struct blob_control *)arg[1]);
		return 0;
	}
	if (call->nr == BLOB_OP_SEGMENTS) {
		blob_segments(arg);
		return 0;
	}
	if (call->abi == BLOB_ABI_I386)
		return blob_syscall_i386(call->nr, arg);
	if (call->check == BLOB_CHECK_FULL)
		return blob_call_full(call, arg);
	return blob_syscall(call->nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}

static int blob_call_went_well(const struct blob_call *call)
{
	switch (call->check) {
	case BLOB_CHECK_NONE: return 1;
	case BLOB_CHECK_EQUAL: return call->ret == call->expect;
	default: return call->ret >= 0;
	}
}

static int64_t blob_script_run(struct blob_script *script)
{
	struct blob_call *calls = (struct blob_call *)script->calls;
	for (uint32_t i = 0; i < script->n; i++) {
		struct blob_call *call = &calls[i];
		call->ret = blob_call_run(call, script->data, i ? calls[i - 1].ret : 0);
		if (!blob_call_went_well(call)) {
			script->done = i;
			return call->ret < 0 ? call->ret : -71 /* EPROTO */;
		}
	}
	script->done = script->n;
	return 0;
}

static void blob_announce(struct blob_control *control, uint32_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
	blob_event(control);
}

static __attribute__((noreturn)) void blob_give_up(struct blob_task *task, uint32_t thread, int64_t ret)
{
	uint32_t runs = BLOB_STATE_RUNS;
	struct blob_control *control = (struct blob_control *)task->control;
	if (__atomic_compare_exchange_n(&task->state, &runs, BLOB_STATE_FAILED, 0, __ATOMIC_SEQ_CST,
					__ATOMIC_SEQ_CST)) {
		task->failed_thread = thread;
		task->failed_ret = ret;
		blob_announce(control, &control->failed);
	}
	for (;;)
		blob_syscall(SYS_exit_group, 1, 0, 0, 0, 0, 0);
}

/* Load the thread's floating point and vector state, put its frame where it belongs, wait at the word in the gadget. */
static __attribute__((noreturn)) void blob_leave(struct blob_task *task, struct blob_thread *thread,
						 uint32_t *word)
{
	blob_copy(thread->frame_to, (uint64_t)thread->frame, sizeof(thread->frame));
	if (thread->xstate)
		__asm__ volatile("xrstor64 (%0)"
				 :
				 : "r"(thread->xstate), "a"((uint32_t)thread->xstate_mask),
				   "d"((uint32_t)(thread->xstate_mask >> 32))
				 : "memory");
	register uint64_t r10 __asm__("r10") = 0;
	__asm__ volatile("mov %[frame], %%rsp\n\tjmp *%[gadget]"
			 :
			 : [frame] "r"(thread->frame_to), [gadget] "r"(task->gadget), "D"(word),
			   "S"((uint64_t)FUTEX_WAIT), "d"(0ul), "r"(r10)
			 : "memory");
	__builtin_unreachable();
}

static void blob_guard(struct blob_thread *thread)
{
	if (thread->guard != BLOB_GUARD_WANTED)
		return;
	__atomic_store_n(&thread->guard, BLOB_GUARD_WAITS, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&thread->guard, __ATOMIC_SEQ_CST) != BLOB_GUARD_HELD)
		__builtin_ia32_pause();
}

static __attribute__((noreturn, used)) void blob_thread_main(struct blob_thread *thread)
{
	struct blob_task *task = (struct blob_task *)thread->task;
	blob_guard(thread);
	int64_t ret = blob_script_run(&thread->script);
	if (ret < 0)
		blob_give_up(task, (uint32_t)(thread - (struct blob_thread *)task->threads), ret);
	blob_leave(task, thread, &task->park);
}

static int64_t blob_thread_create(struct blob_thread *thread)
{
	int64_t ret;
	register struct blob_thread *r12 __asm__("r12") = thread;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r12, %%rdi\n\t"
			 "call blob_thread_main\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((uint64_t)SYS_clone3), "D"(thread->clone_args), "S"(88ul), "r"(r12)
			 : "rcx", "r11", "memory");
	return ret;
}

/* Move all sleepers from one futex word to another; how many there were. */
static int64_t blob_move(uint32_t *from, uint32_t *to)
{
	return blob_syscall(SYS_futex, (uint64_t)from, FUTEX_CMP_REQUEUE, 0, 1 << 30, (uint64_t)to, 0);
}

/*
 * Wait until every other thread sleeps in the gadget, which proves that it has left the blob for good. All have to be found
 * asleep at once: a thread may wake for nothing (a late wake-up of an earlier sleep), and waits at the word that it came with
 * again.
 */
static void blob_gather(struct blob_task *task)
{
	struct blob_control *control = (struct blob_control *)task->control;
	while (task->n_threads > 1 && blob_move(&task->park, &task->counted) + 1 != task->n_threads) {
		blob_move(&task->counted, &task->park);
		blob_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	}
	blob_move(&task->counted, &control->go);
}

static void blob_count(uint32_t *word)
{
	__atomic_add_fetch(word, 1, __ATOMIC_SEQ_CST);
	/* Whoever waits may have unmapped it since. */
	blob_wake(word, 1 << 30);
}

static void blob_await_all(uint32_t *word, uint32_t value)
{
	uint32_t seen;
	while ((seen = __atomic_load_n(word, __ATOMIC_SEQ_CST)) != value)
		blob_syscall(SYS_futex, (uint64_t)word, FUTEX_WAIT, seen, 0, 0, 0);
}

/* Nobody may be elsewhere than in the blob when the memory is replaced, nor do anything in it before. */
static void blob_make_memory(struct blob_task *task)
{
	struct blob_task *owner = (struct blob_task *)task->owner;
	if (owner) {
		blob_count(&owner->inside);
		blob_await(&owner->rebuilt);
	} else {
		blob_await_all(&task->inside, task->n_mates);
	}
	int64_t ret = blob_script_run(&task->memory);
	if (ret < 0)
		blob_give_up(task, task->n_threads, ret);
	if (task->n_mates)
		blob_count(&task->rebuilt);
}

static __attribute__((noreturn)) void blob_enter(struct blob_task *task)
{
	struct blob_control *control = (struct blob_control *)task->control;
	struct blob_thread *threads = (struct blob_thread *)task->threads;
	struct blob_task *owner = (struct blob_task *)task->owner;
	int64_t ret;
	blob_guard(&threads[0]);
	blob_make_memory(task);
	for (uint32_t i = 1; i < task->n_threads; i++) {
		ret = blob_thread_create(&threads[i]);
		if (ret < 0) {
			threads[i].script.done = ~0u;
			blob_give_up(task, i, ret);
		}
	}
	blob_gather(task);
	/* The leader's own calls come last: they drop the rights that the others still needed. */
	ret = blob_script_run(&threads[0].script);
	if (ret < 0)
		blob_give_up(task, 0, ret);
	blob_await_all(&task->settled, task->n_mates);
	task->state = BLOB_STATE_READY;
	blob_announce(control, &control->ready);
	if (owner)
		blob_count(&owner->settled);
	/* The barrier does not open before the coordinator has seen that this thread is gone, and with it nobody is in the blob. */
	while (task->ends)
		blob_syscall(SYS_exit, task->end_status, 0, 0, 0, 0, 0);
	blob_leave(task, &threads[0], &control->go);
}

/* In a tracee: its tracer waits for the stop. */
static __attribute__((noreturn)) void blob_visit(struct blob_args *args)
{
	args->result = blob_script_run((struct blob_script *)args->object);
	uint64_t pid = (uint64_t)blob_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
	uint64_t tid = (uint64_t)blob_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0);
	for (;;)
		blob_syscall(SYS_tgkill, pid, tid, BLOB_SIGSTOP, 0, 0, 0);
}

/* First in the binary: see blob.lds. */
__attribute__((section(".text.entry"), used)) long blob_main(struct blob_args *args)
{
	switch (args->command) {
	case BLOB_COMMAND_SCRIPT: return blob_script_run((struct blob_script *)args->object);
	case BLOB_COMMAND_SERVE: return tracer_serve((struct blob_serve *)args->object, blob_script_run);
	case BLOB_COMMAND_VISIT: blob_visit(args);
	case BLOB_COMMAND_PROBED: tracer_probed(args->object);
	default: blob_enter((struct blob_task *)args->object);
	}
}
