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
#include <time.h>

#define LANES_ASK_AGAIN_NS 5000000

struct lanes {
	pthread_mutex_t lock;
	pthread_cond_t turned;
	pthread_cond_t ended; /* no further piece begins */
	bool alone;           /* one lane: everything is in order by itself */
	uint64_t begun, turn, n;
	int failed; /* what the first failure returned */
	lanes_piece *piece;
	void *context;
	unsigned ours;          /* lanes that need not ask */
	lanes_left_to_us *left; /* what others are asked, by the lane behind these */
	void *others;
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

static bool lanes_more(const struct lanes *l)
{
	return l->begun < l->n && !l->failed;
}

static bool lanes_begin(struct lanes *l, uint64_t *ret_number)
{
	pthread_mutex_lock(&l->lock);
	bool more = lanes_more(l);
	if (more)
		*ret_number = l->begun++;
	if (!lanes_more(l))
		pthread_cond_broadcast(&l->ended);
	pthread_mutex_unlock(&l->lock);
	return more;
}

/* False: there is nothing to do any more. */
static bool lanes_pause(struct lanes *l)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LANES_ASK_AGAIN_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&l->lock);
	if (lanes_more(l))
		pthread_cond_clockwait(&l->ended, &l->lock, CLOCK_MONOTONIC, &until);
	bool more = lanes_more(l);
	pthread_mutex_unlock(&l->lock);
	return more;
}

/* As long as others need its processor. */
static void lane_stand_aside(const struct lane *lane)
{
	struct lanes *l = lane->lanes;
	while (lane->number >= l->ours && !l->left(l->others) && lanes_pause(l))
		;
}

static void lanes_fail(struct lanes *l, int r)
{
	pthread_mutex_lock(&l->lock);
	if (!l->failed)
		l->failed = r;
	pthread_cond_broadcast(&l->turned);
	pthread_cond_broadcast(&l->ended);
	pthread_mutex_unlock(&l->lock);
}

static void *lane_main(void *argument)
{
	struct lane *lane = argument;
	struct lanes *l = lane->lanes;
	uint64_t number;
	while (lane_stand_aside(lane), lanes_begin(l, &number)) {
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

static int lanes_go(struct lanes *l, unsigned lanes)
{
	struct lane all[LANES_MAX];
	unsigned started = 1;
	lanes = (unsigned)MIN((uint64_t)MIN(lanes, (unsigned)LANES_MAX), l->n);
	l->alone = lanes <= 1;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->turned, NULL);
	pthread_cond_init(&l->ended, NULL);
	all[0] = (struct lane){.lanes = l};
	/* Without further threads the caller's does everything. */
	for (; started < lanes; started++) {
		all[started] = (struct lane){.lanes = l, .number = started};
		if (pthread_create(&all[started].thread, NULL, lane_main, &all[started]))
			break;
	}
	lane_main(&all[0]);
	for (unsigned i = 1; i < started; i++)
		pthread_join(all[i].thread, NULL);
	pthread_cond_destroy(&l->ended);
	pthread_cond_destroy(&l->turned);
	pthread_mutex_destroy(&l->lock);
	return l->failed;
}

int lanes_run(unsigned lanes, uint64_t n, lanes_piece *piece, void *context)
{
	struct lanes l = {.n = n, .piece = piece, .context = context, .ours = LANES_MAX};
	return lanes_go(&l, lanes);
}

int lanes_run_beside(uint64_t n, lanes_piece *piece, void *context, lanes_left_to_us *left, void *others)
{
	unsigned wanted = lanes_wanted(), ours = MAX(1u, MIN(lanes_cpus() - 1, (unsigned)LANES_MAX));
	struct lanes l = {
		.n = n, .piece = piece, .context = context, .ours = ours, .left = left, .others = others};
	return lanes_go(&l, wanted);
}
