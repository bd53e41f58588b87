/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns running numbered pieces of work in a few threads, with turns where their order matters.
 *
 * Interface: pthreads(7), sched_getaffinity(2).
 */
#include "base/lanes.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

struct lanes {
	pthread_mutex_t lock;
	pthread_cond_t turned;
	bool alone; /* one lane: everything is in order by itself */
	uint64_t begun, turn, n;
	int failed; /* what the first failure returned */
	lanes_piece *piece;
	void *context;
};

struct lane {
	struct lanes *lanes;
	unsigned number;
	pthread_t thread;
};

/* CPUs that we may use. */
static unsigned lanes_cpus(void)
{
	cpu_set_t cpus;
	return sched_getaffinity(0, sizeof(cpus), &cpus) < 0 ? 1 : (unsigned)CPU_COUNT(&cpus);
}

unsigned lanes_wanted(void)
{
	return MAX(1u, MIN(lanes_cpus(), (unsigned)LANES_MAX));
}

unsigned lanes_beside(void)
{
	return MAX(1u, MIN(lanes_cpus() - 1, (unsigned)LANES_MAX));
}

int lanes_turn(struct lanes *l, uint64_t number)
{
	if (l->alone)
		return 0;
	pthread_mutex_lock(&l->lock);
	while (l->turn < number && !l->failed)
		pthread_cond_wait(&l->turned, &l->lock);
	int r = l->failed ? -ECANCELED : 0;
	pthread_mutex_unlock(&l->lock);
	return r;
}

void lanes_next(struct lanes *l, uint64_t number)
{
	if (l->alone)
		return;
	pthread_mutex_lock(&l->lock);
	if (l->turn == number) {
		l->turn++;
		pthread_cond_broadcast(&l->turned);
	}
	pthread_mutex_unlock(&l->lock);
}

static bool lanes_begin(struct lanes *l, uint64_t *ret_number)
{
	pthread_mutex_lock(&l->lock);
	bool more = l->begun < l->n && !l->failed;
	if (more)
		*ret_number = l->begun++;
	pthread_mutex_unlock(&l->lock);
	return more;
}

static void lanes_fail(struct lanes *l, int r)
{
	pthread_mutex_lock(&l->lock);
	if (!l->failed)
		l->failed = r;
	pthread_cond_broadcast(&l->turned);
	pthread_mutex_unlock(&l->lock);
}

static void *lane_main(void *argument)
{
	struct lane *lane = argument;
	struct lanes *l = lane->lanes;
	uint64_t number;
	while (lanes_begin(l, &number)) {
		int r = l->piece(l->context, l, lane->number, number);
		if (r >= 0)
			r = lanes_turn(l, number);
		if (r < 0)
			lanes_fail(l, r);
		else
			lanes_next(l, number);
	}
	return NULL;
}

int lanes_run(unsigned lanes, uint64_t n, lanes_piece *piece, void *context)
{
	struct lane all[LANES_MAX];
	unsigned started = 1;
	lanes = (unsigned)MIN((uint64_t)MIN(lanes, (unsigned)LANES_MAX), n);
	struct lanes l = {
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.turned = PTHREAD_COND_INITIALIZER,
		.alone = lanes <= 1,
		.n = n,
		.piece = piece,
		.context = context,
	};
	all[0] = (struct lane){.lanes = &l};
	/* Without further threads the caller's does everything. */
	for (; started < lanes; started++) {
		all[started] = (struct lane){.lanes = &l, .number = started};
		if (pthread_create(&all[started].thread, NULL, lane_main, &all[started]))
			break;
	}
	lane_main(&all[0]);
	for (unsigned i = 1; i < started; i++)
		pthread_join(all[i].thread, NULL);
	pthread_cond_destroy(&l.turned);
	pthread_mutex_destroy(&l.lock);
	return l.failed;
}
