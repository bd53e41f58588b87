/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what an address space and its threads are told about all their memory: that later mappings are locked (mlockall(2)),
 * that pages with equal contents are merged (PR_SET_MEMORY_MERGE), and NUMA policies of threads and mappings.
 *
 * Nobody tells whether mlockall(MCL_FUTURE) was called. A fresh page shows it: memory that is locked cannot be dropped by
 * MADV_DONTNEED, and is there already unless it is locked on fault only.
 *
 * Kernel interface: mlockall(2), mincore(2), prctl(2) PR_GET_MEMORY_MERGE (6.4), get_mempolicy(2), mbind(2),
 * set_mempolicy(2).
 * Does not handle: policies over nodes of which this machine has none, which are left out; the home node of a
 * policy (set_mempolicy_home_node(2), 5.17), which no call tells.
 */
#include "kind/mm.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/vma-status.h"

enum {
	MM_ASK_MAP,
	MM_ASK_DROP,
	MM_ASK_RESIDENT,
	MM_ASK_UNMAP,
	MM_ASK_MERGE,
	MM_ASK_POLICIES, /* from here on one call for each mapping */
};

enum { MM_PAGE = 4096, MM_NODES_BYTES = 128, MM_NODES_MAX = MM_NODES_BYTES * 8 + 1 };
#define MM_PROBE_FROM (1ull << 40) /* where neither programs nor the kernel put anything as a rule */
#define MM_PROBE_FROM_32 (1ull << 28)

/* What get_mempolicy(2) writes. */
struct mm_policy {
	int32_t mode;
	uint8_t nodes[MM_NODES_BYTES];
};

/* A page that is free in the task. */
static uint64_t mm_free_page(const struct snap_task *t)
{
	uint64_t at = t->is_32 ? MM_PROBE_FROM_32 : MM_PROBE_FROM;
	vec_foreach(vma, &t->vmas) {
		if (vma->entry->start < at + MM_PAGE && vma->entry->end > at)
			at = vma->entry->end;
	}
	return at;
}

static void mm_ask_future(const struct snap_task *t, struct script *s)
{
	uint64_t at = mm_free_page(t);
	script_call(s, "mapping a page", SYS_mmap, at, MM_PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0);
	script_call(s, "dropping a page", SYS_madvise, at, MM_PAGE, MADV_DONTNEED)->check = BLOB_CHECK_NONE;
	struct blob_call *call =
		script_call(s, "looking for a page", SYS_mincore, at, MM_PAGE, script_put(s, NULL, 1));
	call->data_mask = 1 << 2;
	script_call(s, "unmapping a page", SYS_munmap, at, MM_PAGE);
}

static void mm_ask_task(const struct snap_task *t, int proc_dir unused, struct script *s)
{
	if (t->memory != t)
		return;
	mm_ask_future(t, s);
	script_call(s, "reading the merging of memory", SYS_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0)->check =
		BLOB_CHECK_NONE;
	uint64_t at = script_put(s, NULL, t->vmas.n * sizeof(struct mm_policy));
	vec_foreach(vma, &t->vmas) {
		struct blob_call *call =
			script_call(s, "reading the NUMA policy of a mapping", SYS_get_mempolicy, at,
				    at + offsetof(struct mm_policy, nodes), MM_NODES_MAX, vma->entry->start,
				    MPOL_F_ADDR);
		call->data_mask = 1 << 0 | 1 << 1;
		call->check = BLOB_CHECK_NONE;
		at += sizeof(struct mm_policy);
	}
}

static void mm_ask_thread(const struct snap_task *t unused, const struct snap_thread *th unused,
			  struct script *s)
{
	uint64_t at = script_put(s, NULL, sizeof(struct mm_policy));
	struct blob_call *call = script_call(s, "reading the NUMA policy", SYS_get_mempolicy, at,
					     at + offsetof(struct mm_policy, nodes), MM_NODES_MAX, 0, 0);
	call->data_mask = 1 << 0 | 1 << 1;
	call->check = BLOB_CHECK_NONE;
}

static FerryMemoryPolicy *mm_policy(struct arena *a, const struct mm_policy *found)
{
	FerryMemoryPolicy *policy = record_new(a, FerryMemoryPolicy, ferry_memory_policy);
	size_t n = MM_NODES_BYTES;
	while (n && !found->nodes[n - 1])
		n--;
	if (!policy)
		return NULL;
	policy->mode = (uint32_t)found->mode;
	policy->nodes = record_bytes(a, found->nodes, n);
	return policy->nodes.data || !n ? policy : NULL;
}

/* Of mappings; kernels without NUMA answer -ENOSYS. */
static int mm_collect_policies(struct collect *c, struct snap_task *t, const struct answers *a,
			       const struct mm_policy *found, struct ferry_error *err)
{
	for (size_t i = 0; i < t->vmas.n; i++) {
		struct snap_vma *vma = &t->vmas.v[i];
		if (a->calls[MM_ASK_POLICIES + i].ret < 0 || found[i].mode == MPOL_DEFAULT)
			continue;
		FerryVmaEntry *extra = snapshot_vma_extra(c->snap, vma);
		if (extra)
			extra->policy = mm_policy(&c->snap->arena, &found[i]);
		if (!extra || !extra->policy)
			return error_memory(err);
	}
	return 0;
}

static int mm_collect_task(struct collect *c, struct snap_task *t, int proc_dir unused,
			   const struct answers *a, struct ferry_error *err)
{
	if (t->memory != t)
		return 0;
	unsigned char resident = (unsigned char)a->data[0];
	if (a->calls[MM_ASK_DROP].ret == -EINVAL)
		record_set(t->mm_extra, mlockall,
			   (uint32_t)(resident & 1 ? MCL_FUTURE : MCL_FUTURE | MCL_ONFAULT));
	if (a->calls[MM_ASK_MERGE].ret > 0)
		record_set(t->mm_extra, memory_merge, 1);
	return mm_collect_policies(c, t, a, (const struct mm_policy *)(a->data + 64), err);
}

static int mm_collect_thread(struct collect *c, struct snap_task *t, struct snap_thread *th,
			     int proc_dir unused, const struct answers *a, struct ferry_error *err)
{
	const struct mm_policy *found = (const struct mm_policy *)a->data;
	FerryMmEntry *mm = t->mm_extra;
	if (a->calls[0].ret < 0 || found->mode == MPOL_DEFAULT)
		return 0;
	if (!mm->policies)
		mm->policies = arena_array(&c->snap->arena, FerryMemoryPolicy *, t->threads.n);
	FerryMemoryPolicy *policy = mm->policies ? mm_policy(&c->snap->arena, found) : NULL;
	if (!policy)
		return error_memory(err);
	record_set(policy, tid, (uint32_t)th->inner_tid);
	mm->policies[mm->n_policies++] = policy;
	return 0;
}

/* -------------------------------------------------------------------------- restore */

/* Whether the machine has one of the nodes, or the policy names none. */
static bool mm_has_nodes(const FerryMemoryPolicy *policy)
{
	uint8_t allowed[MM_NODES_BYTES] = {0};
	int mode;
	if (!policy->nodes.len)
		return true;
	if (sys_call(SYS_get_mempolicy, &mode, allowed, MM_NODES_MAX, 0, MPOL_F_MEMS_ALLOWED) < 0)
		return false;
	for (size_t i = 0; i < MIN(policy->nodes.len, sizeof(allowed)); i++)
		if (policy->nodes.data[i] & allowed[i])
			return true;
	return false;
}

/* The mask in the script, as long as the calls want it. */
static uint64_t mm_put_nodes(struct script *s, const FerryMemoryPolicy *policy)
{
	uint8_t nodes[MM_NODES_BYTES] = {0};
	if (policy->nodes.len)
		memcpy(nodes, policy->nodes.data, MIN(policy->nodes.len, sizeof(nodes)));
	return script_put(s, nodes, sizeof(nodes));
}

void mm_bind(struct script *s, const FerryVmaEntry *vma)
{
	if (!vma->policy || !mm_has_nodes(vma->policy))
		return;
	script_call(s, "setting the NUMA policy of a mapping", SYS_mbind, vma->start, vma->end - vma->start,
		    vma->policy->mode, mm_put_nodes(s, vma->policy), MM_NODES_MAX, 0)
		->data_mask = 1 << 3;
	script_detail(s, vma->start);
}

/* It makes every mapping mergeable; those that were not become so again. */
static void mm_merge(const struct plan_task *t, struct script *s)
{
	script_call(s, "merging memory", SYS_prctl, PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *vma = t->mm->vmas[i];
		if (vma->status & (VMA_STATUS_KERNEL | VMA_STATUS_GUARD) || vma->madv >> MADV_MERGEABLE & 1)
			continue;
		script_call(s, "not merging a mapping", SYS_madvise, vma->start, vma->end - vma->start,
			    MADV_UNMERGEABLE);
		script_detail(s, vma->start);
	}
}

static int mm_restore_task(struct reader *r unused, struct plan_task *t, struct script *s,
			   struct ferry_error *err unused)
{
	const FerryMmEntry *mm = t->mm_extra;
	if (t->vm_owner)
		return 0;
	if (mm && mm->memory_merge)
		mm_merge(t, s);
	if (mm && mm->mlockall)
		script_call(s, "locking later mappings", SYS_mlockall, mm->mlockall);
	return 0;
}

static int mm_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th, struct script *s,
			     struct ferry_error *err unused)
{
	const FerryMmEntry *mm = t->mm_extra;
	for (size_t i = 0; mm && i < mm->n_policies; i++) {
		const FerryMemoryPolicy *policy = mm->policies[i];
		if (!policy->has_tid || policy->tid != (uint32_t)th->tid)
			continue;
		if (mm_has_nodes(policy))
			script_call(s, "setting the NUMA policy", SYS_set_mempolicy, policy->mode,
				    mm_put_nodes(s, policy), MM_NODES_MAX)
				->data_mask = 1 << 1;
		else
			log_write(r->log, LOG_WARN, "plan", "mm", th->tid,
				  "this machine has none of the nodes of a NUMA policy, ignoring");
	}
	return 0;
}

const struct kind_ops kind_mm = {
	.name = "mm",
	.what = "locking and merging of all memory, NUMA policies",
	.fd_type = -1,
	.image_file = -1,
	.ask_task = mm_ask_task,
	.ask_thread = mm_ask_thread,
	.collect_task = mm_collect_task,
	.collect_thread = mm_collect_thread,
	.restore_task = mm_restore_task,
	.restore_thread = mm_restore_thread,
};
