/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the clocks of restored tasks: CLOCK_MONOTONIC and CLOCK_BOOTTIME go on where the dump stopped them, in a time namespace that
 * the root gets; those of other tasks are as far ahead of the root's as they were. A namespace whose maker still has it for its
 * children, and does not live in it itself, can only be made by that one; the coordinator makes the others.
 *
 * Kernel interface: time_namespaces(7) (5.6), setns(2) with CLONE_NEWTIME, which takes a process of one thread whose memory is its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/timens.h"
#include "image/proto/timens.pb-c.h"
#include "kernel/syscalls.h"
#include "restore/namespaces.h"

static int64_t clocks_now(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Offsets count from the machine's clocks; ours may be shifted itself. */
static struct timens_offsets clocks_of_root(const struct restore *r, const struct timens_offsets *own,
					    bool host)
{
	const FerryClocksEntry *clocks = r->plan->clocks;
	if (!clocks || host)
		return *own;
	return (struct timens_offsets){
		.monotonic_ns =
			(int64_t)clocks->monotonic_ns - (clocks_now(CLOCK_MONOTONIC) - own->monotonic_ns),
		.boottime_ns = (int64_t)clocks->boottime_ns - (clocks_now(CLOCK_BOOTTIME) - own->boottime_ns),
	};
}

static int64_t clocks_ns(const Timespec *t)
{
	return (int64_t)(t->tv_sec * 1000000000u + t->tv_nsec);
}

static struct timens_offsets clocks_beside(const struct restore *r, const struct plan_ns *ns)
{
	const FerryClocksEntry *root = r->plan->clocks;
	const TimensEntry *theirs = ns->data;
	return (struct timens_offsets){
		.monotonic_ns =
			r->clocks.monotonic_ns + clocks_ns(theirs->monotonic) - (int64_t)root->monotonic_ns,
		.boottime_ns =
			r->clocks.boottime_ns + clocks_ns(theirs->boottime) - (int64_t)root->boottime_ns,
	};
}

static int clocks_make_one(struct restore *r, struct plan_ns *ns, struct ferry_error *err)
{
	const struct timens_offsets offsets = clocks_beside(r, ns);
	int ret = timens_unshare(r->proc, &offsets, err);
	if (ret >= 0)
		ret = timens_open(r->proc, err);
	if (ret >= 0)
		ns->fd = ret;
	return ret;
}

/* Those of single tasks; the caller stays where it is, but its new children do not. */
static int clocks_make_all(struct restore *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->namespaces.n && ret >= 0; i++) {
		struct plan_ns *ns = &r->plan->namespaces.v[i];
		if (ns->type == PROC_NS_TIME && !ns->member)
			ret = clocks_make_one(r, ns, err);
	}
	return MIN(ret, 0);
}

int clocks_make(struct restore *r, bool host, struct ferry_error *err)
{
	struct timens_offsets own;
	bool any = plan_has_ns(r->plan, PROC_NS_TIME), root = r->plan->clocks && !host;
	int ret = timens_read_own(r->proc, &own, err);
	if (ret < 0)
		return ret;
	r->clocks = clocks_of_root(r, &own, host);
	/* A kernel without time namespaces has to do when nobody needs one. */
	_cleanup_close_ int home = any ? timens_open(r->proc, err) : -1;
	ret = any && home < 0 ? home : clocks_make_all(r, err);
	if (ret >= 0 && root)
		ret = timens_unshare(r->proc, &r->clocks, err);
	else if (ret >= 0 && any && setns(home, CLONE_NEWTIME) < 0)
		ret = error_errno(err, FERRY_ERROR_SYSTEM, errno, "going back to ferry's time namespace");
	r->plan->clocks_continue = ret >= 0 && root;
	if (ret >= 0 && any)
		ret = r->home[PROC_NS_TIME] = plan_keep_source(r->plan, timens_open(r->proc, err));
	return MIN(ret, 0);
}

/* Where a task finds itself: with the children of who made it. */
static uint32_t clocks_born(const struct plan_task *maker)
{
	if (!maker)
		return 0;
	return maker->children_time_ns ? maker->children_time_ns : maker->ns_id[PROC_NS_TIME];
}

int clocks_enter(struct restore *r, const struct plan_task *t, const struct plan_task *maker,
		 struct ferry_error *err)
{
	uint32_t id = t->ns_id[PROC_NS_TIME];
	struct plan_ns *ns = plan_ns(r->plan, PROC_NS_TIME, id);
	if (id != clocks_born(maker) && setns(ns ? ns->fd : r->home[PROC_NS_TIME], CLONE_NEWTIME) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "entering the time namespace of pid %d",
				   t->pid);
	struct plan_ns *children = plan_ns(r->plan, PROC_NS_TIME, t->children_time_ns);
	return children ? MIN(clocks_make_one(r, children, err), 0) : 0;
}
