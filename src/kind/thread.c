/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what the kernel keeps for a thread's own library: name, list of robust futexes, rseq area, the address that is
 * cleared when the thread ends.
 *
 * Kernel interface: get_robust_list(2), also of the 32-bit table, prctl(2) PR_GET_TID_ADDRESS (3.5, CONFIG_CHECKPOINT_RESTORE), ptrace(2)
 * PTRACE_GET_RSEQ_CONFIGURATION (5.13), rseq(2) (4.18), set_tid_address(2).
 * Does not handle: of a first thread that has ended while others run, what it blocked and what waits for it alone, which mean
 * nothing any more; one that was ended by a seccomp filter, and a process that has lost its first thread and is traced, both refused.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "inject/remote.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/read.h"

enum {
	THREAD_COMM_BYTES = 16,
	THREAD_NAME_OFFSET = 64, /* in the answers, behind the address */
	THREAD_ROBUST_BYTES_32 = 12,
	THREAD_NR32_SET_ROBUST_LIST = 311,
	THREAD_NR32_GET_ROBUST_LIST = 312,
};

static void thread_ask_thread(const struct snap_task *t unused, const struct snap_thread *th unused,
			      struct script *s)
{
	script_call(s, "reading the address to clear at exit", SYS_prctl, PR_GET_TID_ADDRESS,
		    script_put(s, NULL, 8), 0, 0, 0)
		->data_mask = 1 << 1;
	script_call(s, "reading the name", SYS_prctl, PR_GET_NAME, script_put(s, NULL, THREAD_COMM_BYTES), 0,
		    0, 0)
		->data_mask = 1 << 1;
}

static int thread_collect_rseq(struct collect *c, struct snap_thread *th, struct ferry_error *err)
{
	struct kern_rseq_configuration rseq = {0};
	const struct thread_remote *remote = thread_remote(th->control);
	long n = remote ? remote_ptrace(remote, PTRACE_GET_RSEQ_CONFIGURATION, sizeof(rseq), (uintptr_t)&rseq)
			: ptrace(PTRACE_GET_RSEQ_CONFIGURATION, th->tid, sizeof(rseq), &rseq);
	if (n < 0 || !rseq.rseq_abi_pointer)
		return 0;
	RseqEntry *entry = record_new(&c->snap->arena, RseqEntry, rseq_entry);
	if (!entry)
		return error_memory(err);
	entry->rseq_abi_pointer = rseq.rseq_abi_pointer;
	entry->rseq_abi_size = rseq.rseq_abi_size;
	entry->signature = rseq.signature;
	th->core->thread_core->rseq_entry = entry;
	return 0;
}

/* What get_robust_list(2) of the 32-bit table writes, which takes addresses of 32 bits. */
struct thread_robust_32 {
	uint32_t head, length;
};

static int thread_read_robust_32(pid_t tid, struct thread_robust_32 *ret)
{
	struct thread_robust_32 *low = mmap(NULL, sizeof(*low), PROT_READ | PROT_WRITE,
					    MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		return -errno;
	uint32_t at = (uint32_t)(uintptr_t)low;
	int r = sys_call_i386(THREAD_NR32_GET_ROBUST_LIST, (uint32_t)tid, at, at + 4);
	*ret = *low;
	munmap(low, sizeof(*low));
	return r;
}

/* A thread can have two lists, one of each width; that of 32 bits is told by its length. */
static int thread_collect_robust(const struct snap_task *t, pid_t tid, ThreadCoreEntry *core,
				 struct ferry_error *err)
{
	struct thread_robust_32 narrow = {0};
	uint64_t head = 0;
	size_t length = 0;
	int r = (int)sys_call(SYS_get_robust_list, tid, &head, &length);
	if (r >= 0 && t->is_32)
		r = thread_read_robust_32(tid, &narrow);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading the robust futex list of thread %d",
				   tid);
	if (head && narrow.head)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				 "thread %d has two lists of robust futexes, of 32-bit and of 64-bit code",
				 tid);
	core->futex_rla = narrow.head ? narrow.head : head;
	core->futex_rla_len = (uint32_t)(narrow.head ? narrow.length : length);
	return 0;
}

static int thread_set_name(struct collect *c, const struct snap_task *t, struct snap_thread *th,
			   const char *comm, struct ferry_error *err)
{
	ThreadCoreEntry *core = th->core->thread_core;
	core->comm = arena_string(&c->snap->arena, comm);
	if (th == t->threads.v)
		th->core->tc->comm = core->comm;
	return core->comm ? 0 : error_memory(err);
}

static int thread_collect_ended(struct collect *c, struct snap_task *t, struct snap_thread *th, int proc_dir,
				const struct answers *a unused, struct ferry_error *err)
{
	char comm[PROC_NAME_BYTES];
	_cleanup_close_ int dir = proc_open_task(proc_dir, th->tid, err);
	int r = dir < 0 ? dir : proc_read_comm(dir, comm, err);
	return r < 0 ? r : thread_set_name(c, t, th, comm, err);
}

static int thread_collect_thread(struct collect *c, struct snap_task *t, struct snap_thread *th,
				 int proc_dir unused, const struct answers *a, struct ferry_error *err)
{
	ThreadCoreEntry *core = th->core->thread_core;
	char comm[THREAD_COMM_BYTES + 1] = "";
	memcpy(comm, a->data + THREAD_NAME_OFFSET, THREAD_COMM_BYTES);
	int r = thread_set_name(c, t, th, comm, err);
	if (r >= 0)
		r = thread_collect_robust(t, th->tid, core, err);
	if (r < 0)
		return r;
	if (a->calls[0].ret < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-a->calls[0].ret,
				   "reading the tid address of thread %d", th->tid);
	uint64_t clear;
	memcpy(&clear, a->data, sizeof(clear));
	th->core->thread_info->clear_tid_addr = clear;
	return thread_collect_rseq(c, th, err);
}

static int thread_restore_thread(struct reader *r unused, struct plan_task *t, struct plan_thread *th,
				 struct script *s, struct ferry_error *err unused)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	bool leader = th == t->threads.v;
	const char *name = core && core->comm ? core->comm : leader ? th->core->tc->comm : NULL;
	script_call(s, "setting the address to clear at exit", SYS_set_tid_address,
		    th->core->thread_info->clear_tid_addr);
	if (name) {
		char comm[THREAD_COMM_BYTES] = {0};
		snprintf(comm, sizeof(comm), "%s", name);
		script_call(s, "naming the thread", SYS_prctl, PR_SET_NAME, script_put(s, comm, sizeof(comm)),
			    0, 0, 0)
			->data_mask = 1 << 1;
	}
	if (core && core->futex_rla && core->futex_rla_len == THREAD_ROBUST_BYTES_32)
		script_call_i386(s, "setting the robust futex list", THREAD_NR32_SET_ROBUST_LIST,
				 core->futex_rla, core->futex_rla_len);
	else if (core && core->futex_rla)
		script_call(s, "setting the robust futex list", SYS_set_robust_list, core->futex_rla,
			    core->futex_rla_len);
	if (core && core->rseq_entry) {
		const RseqEntry *rseq = core->rseq_entry;
		/* The kernel wants the fields as a new thread has them; what the image holds was written for another CPU. */
		uint64_t fresh[4] = {0};
		fresh[0] = 0xffffffff00000000ull; /* cpu_id_start 0, cpu_id RSEQ_CPU_ID_UNINITIALIZED */
		script_call(s, "clearing the rseq area", BLOB_OP_COPY, rseq->rseq_abi_pointer,
			    script_put(s, fresh, sizeof(fresh)), 16)
			->data_mask = 1 << 1;
		script_call(s, "registering rseq", SYS_rseq, rseq->rseq_abi_pointer, rseq->rseq_abi_size, 0,
			    rseq->signature);
	}
	return 0;
}

const struct kind_ops kind_thread = {
	.name = "thread",
	.what = "names, robust futex lists, rseq areas, tid addresses",
	.fd_type = -1,
	.image_file = -1,
	.ask_thread = thread_ask_thread,
	.collect_thread = thread_collect_thread,
	.collect_ended = thread_collect_ended,
	.restore_thread = thread_restore_thread,
};
