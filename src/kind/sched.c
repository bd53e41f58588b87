/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns scheduling of threads: policy, priority, nice value, processor affinity, I/O priority.
 *
 * Kernel interface: sched_getattr(2), sched_setattr(2) (3.14), sched_setaffinity(2), ioprio_get(2), ioprio_set(2).
 * CRIU's records hold nice, policy and priority; the rest is in ferry-task. An affinity that names no processor of this
 * machine is left out: the thread may then run anywhere.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "model/record.h"

enum { SCHED_IOPRIO_WHO_PROCESS = 1, SCHED_MASK_BYTES = 1024 };

/* The flag of sched_attr. CRIU's record has it in the policy, as sched_getscheduler(2) does: SCHED_RESET_ON_FORK. */
enum { SCHED_ATTR_RESET_ON_FORK = 1 };

static int sched_collect_thread(struct collect *c, struct snap_task *t unused, struct snap_thread *th,
				int proc_dir unused, const struct answers *a unused, struct ferry_error *err)
{
	ThreadCoreEntry *core = th->core->thread_core;
	struct kern_sched_attr attr = {.size = sizeof(attr)};
	int r = (int)sys_call(SYS_sched_getattr, th->tid, &attr, sizeof(attr), 0);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading the scheduling of thread %d",
				   th->tid);
	record_set(core, sched_nice, attr.sched_nice);
	bool reset = attr.sched_flags & SCHED_ATTR_RESET_ON_FORK;
	record_set(core, sched_policy, attr.sched_policy | (reset ? SCHED_RESET_ON_FORK : 0));
	if (attr.sched_policy == SCHED_FIFO || attr.sched_policy == SCHED_RR)
		record_set(core, sched_prio, attr.sched_priority);
	th->extra->sched_attr = record_bytes(&c->snap->arena, &attr, sizeof(attr));
	th->extra->has_sched_attr = th->extra->sched_attr.data != NULL;
	unsigned char mask[SCHED_MASK_BYTES];
	long n = sys_call(SYS_sched_getaffinity, th->tid, sizeof(mask), mask);
	if (n < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, (int)-n, "reading the affinity of thread %d",
				   th->tid);
	th->extra->affinity = record_bytes(&c->snap->arena, mask, (size_t)n);
	th->extra->has_affinity = th->extra->affinity.data != NULL;
	int ioprio = (int)sys_call(SYS_ioprio_get, SCHED_IOPRIO_WHO_PROCESS, th->tid);
	if (ioprio > 0)
		record_set(th->extra, ioprio, (uint32_t)ioprio);
	return th->extra->has_sched_attr && th->extra->has_affinity ? 0 : error_memory(err);
}

/* The saved set, unless it is what a new thread has anyway or names nothing that exists here. */
static bool sched_affinity_wanted(const ProtobufCBinaryData *saved)
{
	unsigned char now[SCHED_MASK_BYTES] = {0};
	long n = sys_call(SYS_sched_getaffinity, 0, sizeof(now), now);
	if (n <= 0)
		return false;
	bool common = false, equal = true;
	for (size_t i = 0; i < sizeof(now); i++) {
		unsigned char byte = i < saved->len ? saved->data[i] : 0;
		common |= byte & now[i];
		equal &= byte == now[i];
	}
	return common && !equal;
}

/* A fair thread's slice is told always; one that differs from ours was asked for. */
static bool sched_slice_is_plain(const struct kern_sched_attr *attr)
{
	struct kern_sched_attr ours = {.size = sizeof(ours)};
	if (attr->sched_policy != SCHED_OTHER && attr->sched_policy != SCHED_BATCH)
		return false;
	return sys_call(SYS_sched_getattr, 0, &ours, sizeof(ours), 0) >= 0 &&
	       attr->sched_runtime == ours.sched_runtime;
}

static int sched_restore_thread(struct reader *r unused, struct plan_task *t unused, struct plan_thread *th,
				struct script *s, struct ferry_error *err unused)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	struct kern_sched_attr attr = {.size = sizeof(attr)};
	if (th->extra && th->extra->has_sched_attr) {
		memcpy(&attr, th->extra->sched_attr.data, MIN(sizeof(attr), th->extra->sched_attr.len));
		attr.size = sizeof(attr);
	} else if (core) {
		attr.sched_policy = core->sched_policy & ~(uint32_t)SCHED_RESET_ON_FORK;
		if (core->sched_policy & SCHED_RESET_ON_FORK)
			attr.sched_flags = SCHED_ATTR_RESET_ON_FORK;
		attr.sched_nice = core->sched_nice;
		attr.sched_priority = core->sched_prio;
	}
	/* Utilisation clamps are set only where they were asked for; a kernel without them refuses the flags. */
	attr.sched_flags &= ~(uint64_t)0x60;
	if (sched_slice_is_plain(&attr))
		attr.sched_runtime = 0;
	script_call(s, "setting the scheduling policy", SYS_sched_setattr, 0,
		    script_put(s, &attr, sizeof(attr)), 0)
		->data_mask = 1 << 1;
	if (th->extra && th->extra->has_affinity && sched_affinity_wanted(&th->extra->affinity))
		script_call(s, "setting the processor affinity", SYS_sched_setaffinity, 0,
			    th->extra->affinity.len,
			    script_put(s, th->extra->affinity.data, th->extra->affinity.len))
			->data_mask = 1 << 2;
	if (th->extra && th->extra->has_ioprio)
		script_call(s, "setting the I/O priority", SYS_ioprio_set, SCHED_IOPRIO_WHO_PROCESS, 0,
			    th->extra->ioprio);
	return 0;
}

const struct kind_ops kind_sched = {
	.name = "sched",
	.what = "scheduling policy, nice value, affinity, I/O priority",
	.fd_type = -1,
	.image_file = -1,
	.collect_thread = sched_collect_thread,
	.collect_ended = sched_collect_thread,
	.restore_thread = sched_restore_thread,
};
