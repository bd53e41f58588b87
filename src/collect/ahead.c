/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading tasks that stand, from outside, some of them before their turn.
 *
 * Every task stands, and only the one whose turn it is has anything of ferry's in it, so what is read of the others is what would
 * be read later. Who shares memory or descriptors with one that has had its turn is not asked for either.
 *
 * Kernel interface: pthreads(7); /proc/PID/status, stat, ns, auxv, limits and other settings, maps or what replaces
 * it, fd.
 */
#include "collect/ahead.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/lanes.h"
#include "proc/mapper.h"

enum {
	AHEAD_SLOTS = 16,
	AHEAD_LEAST_TASKS = 8, /* that a thread is worth */
};

struct ahead_slot {
	bool ready;
	int r;
	struct ferry_error err;
	struct collect_reading reading;
};

struct collect_ahead {
	struct collect_from from;
	pthread_t thread;
	size_t next; /* to be read; the thread's own */
	_Atomic bool end;
	_Atomic size_t taken; /* all before this one have had their turn */
	pthread_mutex_t lock; /* of the slots, but for those that are being read */
	struct ahead_slot slots[AHEAD_SLOTS];
};

void collect_reading_release(struct collect_reading *r)
{
	proc_status_release(&r->checked.status);
	proc_maps_release(&r->maps);
	proc_fds_release(&r->fds);
	*r = (struct collect_reading){0};
}

static int ahead_read(const struct collect_from *from, size_t index, struct collect_reading *ret,
		      struct ferry_error *err)
{
	const struct collect *c = from->c;
	const struct frozen_task *ft = &from->f->tasks.v[index];
	ret->checked = (struct check_task){
		.pid = ft->pid,
		.look = ft->look,
		.root = from->f->tasks.v[0].pid,
		.proc_dir = ft->proc_dir,
		.of_root = index ? from->of_root : NULL,
		.options = c->options,
	};
	if (!index)
		ret->checked.namespaces = *from->of_root;
	int r = check_task_read(&ret->checked, err);
	if (r >= 0)
		r = collect_check_task(&ret->checked, err);
	if (r >= 0)
		r = proc_read_settings(ft->proc_dir, &ret->settings, err);
	if (r >= 0)
		r = proc_read_auxv(ft->proc_dir, &ret->auxv, err);
	if (r >= 0)
		r = proc_mapper_read(c->mapper, ft->proc_dir, ft->look, &ret->maps, err);
	return r < 0 ? r : proc_read_fds(ft->proc_dir, &ret->fds, err);
}

/*
 * The next one that has not had its turn; false: that is all. A task that is made to answer is woken on a processor that has
 * nothing to do, and one that sleeps takes longer to wake than most answers take: this thread yields, and does not sleep.
 */
static bool ahead_next(struct collect_ahead *a, size_t *ret_index)
{
	size_t taken = a->taken;
	while (!a->end && a->next >= taken + AHEAD_SLOTS) {
		sched_yield();
		taken = a->taken;
	}
	*ret_index = MAX(a->next, taken);
	a->next = *ret_index + 1;
	return !a->end && *ret_index < a->from.f->tasks.n;
}

static void *ahead_main(void *argument)
{
	struct collect_ahead *a = argument;
	size_t index;
	while (ahead_next(a, &index)) {
		struct ahead_slot *slot = &a->slots[index % AHEAD_SLOTS];
		slot->err = (struct ferry_error)FERRY_ERROR_INIT;
		int r = ahead_read(&a->from, index, &slot->reading, &slot->err);
		pthread_mutex_lock(&a->lock);
		bool late = a->taken > index;
		slot->r = r;
		slot->ready = !late;
		pthread_mutex_unlock(&a->lock);
		if (late)
			collect_reading_release(&slot->reading);
	}
	return NULL;
}

/* Whoever reads is no more urgent than others, also when the caller hurries. */
static int ahead_begin(struct collect_ahead *a)
{
	const struct sched_param ordinary = {0};
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);
	if (r)
		return -r;
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_OTHER);
	pthread_attr_setschedparam(&attr, &ordinary);
	r = pthread_create(&a->thread, &attr, ahead_main, a);
	pthread_attr_destroy(&attr);
	return -r;
}

struct collect_ahead *collect_ahead_start(const struct collect_from *from)
{
	if (from->f->tasks.n < AHEAD_LEAST_TASKS || lanes_wanted() < 2)
		return NULL;
	struct collect_ahead *a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	a->from = *from;
	pthread_mutex_init(&a->lock, NULL);
	if (ahead_begin(a) >= 0)
		return a;
	pthread_mutex_destroy(&a->lock);
	free(a);
	return NULL;
}

/* 1: it was read. */
static int ahead_find(struct collect_ahead *a, size_t index, struct collect_reading *ret,
		      struct ferry_error *err)
{
	struct ahead_slot *slot = &a->slots[index % AHEAD_SLOTS];
	pthread_mutex_lock(&a->lock);
	bool ready = slot->ready;
	slot->ready = false;
	int r = slot->r;
	if (ready) {
		*ret = slot->reading;
		slot->reading = (struct collect_reading){0};
		error_pass(err, &slot->err);
	}
	a->taken = index + 1; /* and from here on the slot is another's */
	pthread_mutex_unlock(&a->lock);
	return !ready ? 0 : r < 0 ? r : 1;
}

int collect_ahead_take(struct collect_ahead *a, const struct collect_from *from, size_t index,
		       struct collect_reading *ret, struct ferry_error *err)
{
	int r = a ? ahead_find(a, index, ret, err) : 0;
	if (!r)
		r = ahead_read(from, index, ret, err);
	if (r < 0)
		collect_reading_release(ret);
	return MIN(r, 0);
}

void collect_ahead_end(struct collect_ahead *a)
{
	if (!a)
		return;
	a->end = true;
	pthread_join(a->thread, NULL);
	for (size_t i = 0; i < AHEAD_SLOTS; i++)
		collect_reading_release(&a->slots[i].reading);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
