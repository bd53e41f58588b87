/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns resource limits. Kernel interface: /proc/PID/limits (prlimit(2) on another user's task takes
 * CAP_SYS_RESOURCE, reading the file does not); setting a limit through prlimit(2) in the task itself.
 */
#include <errno.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/caps.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/read.h"

#include <linux/capability.h>

static int rlimit_collect_task(struct collect *c, struct snap_task *t, int proc_dir unused,
			       const struct answers *a unused, struct ferry_error *err)
{
	struct arena *arena = &c->snap->arena;
	const struct proc_limits *limits = &t->settings.limits;
	TaskRlimitsEntry *all = record_new(arena, TaskRlimitsEntry, task_rlimits_entry);
	if (all)
		all->rlimits = arena_array(arena, RlimitEntry *, RLIM_NLIMITS);
	for (int i = 0; all && all->rlimits && i < RLIM_NLIMITS; i++) {
		RlimitEntry *entry = record_new(arena, RlimitEntry, rlimit_entry);
		if (!entry)
			return error_memory(err);
		entry->cur = limits->v[i].soft;
		entry->max = limits->v[i].hard;
		all->rlimits[all->n_rlimits++] = entry;
	}
	if (!all || !all->n_rlimits)
		return error_memory(err);
	t->threads.v[0].core->tc->rlimits = all;
	return 0;
}

/* What every task has from the coordinator, which it is a fork of. */
static int rlimit_read(struct reader *r, struct ferry_error *err)
{
	struct rlimit64 *ours = arena_array(&r->plan->arena, struct rlimit64, RLIM_NLIMITS);
	if (!ours)
		return error_memory(err);
	for (size_t i = 0; i < RLIM_NLIMITS; i++)
		if (syscall(SYS_prlimit64, 0, i, NULL, &ours[i]) < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading resource limit %zu", i);
	r->plan->kind_data[KIND_rlimit] = ours;
	return 0;
}

static int rlimit_restore_task(struct reader *r, struct plan_task *t, struct script *s,
			       struct ferry_error *err)
{
	const TaskRlimitsEntry *all = t->threads.v[0].core->tc->rlimits;
	const struct rlimit64 *ours = r->plan->kind_data[KIND_rlimit];
	for (size_t i = 0; all && i < all->n_rlimits && i < RLIM_NLIMITS; i++) {
		const struct rlimit64 wanted = {all->rlimits[i]->cur, all->rlimits[i]->max};
		if (wanted.rlim_max > ours[i].rlim_max && !kern_capable(r->caps, CAP_SYS_RESOURCE)) {
			error_set(err, FERRY_ERROR_LIMIT, EPERM,
				  "pid %d had resource limit %zu at %llu, ferry may not go above %llu",
				  t->pid, i, (unsigned long long)wanted.rlim_max,
				  (unsigned long long)ours[i].rlim_max);
			error_hint(
				err,
				"raise the hard limit of the shell that starts ferry, or give ferry CAP_SYS_RESOURCE");
			return -EPERM;
		}
		script_call(s, "setting a resource limit", SYS_prlimit64, 0, i,
			    script_put(s, &wanted, sizeof(wanted)), 0)
			->data_mask = 1 << 2;
		script_detail(s, i);
	}
	return 0;
}

const struct kind_ops kind_rlimit = {
	.name = "rlimit",
	.what = "resource limits",
	.fd_type = -1,
	.image_file = -1,
	.collect_task = rlimit_collect_task,
	.restore_task = rlimit_restore_task,
	.read = rlimit_read,
};
