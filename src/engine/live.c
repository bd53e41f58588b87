/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the rounds of a live dump. Each stores what was written since the one before, into a directory of the image, until the rest can be
 * stored within the time that the tree may stand still, or further rounds would not help (engine/pace.c). A restore follows the link
 * to the last one as in any chain.
 *
 * Rounds are nothing but a saving of time: where something cannot be tracked it is stored while the tree stands (doc/tracking.md). So is the
 * memory of processes for which tracking would take longer than that.
 */
#include "engine/live.h"

#include <errno.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "engine/throttle.h"
#include "host/pause.h"
#include "image/coverage.h"

enum {
	LIVE_LEAST_BYTES = 32 << 20, /* less is stored while a round would begin */
	LIVE_LATE_BYTES = 64 << 20,  /* a round of less need not be on the disk before the next */
	LIVE_MS = 1000 * 1000,
};

/* ------------------------------------------------------------- whose memory */

static const struct check_memory *live_parent(const struct engine *e, const struct check_memory *m)
{
	vec_foreach(other, &e->large)
		if (other->pid == m->parent)
			return other;
	return NULL;
}

/* The memory of a parent and its child is compared only where both are large, so that few are. */
static struct pace_memory live_look(const struct engine *e, const struct check_memory *m)
{
	struct pace_memory ret = {.anonymous = m->anonymous, .own = m->anonymous, .n_vmas = m->n_vmas};
	const struct check_memory *parent = live_parent(e, m);
	uint64_t own;
	if (parent && check_memory_own(m, &own, NULL) >= 0) {
		ret.own = MIN(own, m->anonymous);
		ret.has_head = true;
	}
	return ret;
}

/* How many bytes a first round would store: of who is tracked since the image before, what was written. */
static int live_choose(struct live *l, uint64_t *ret_bytes, struct ferry_error *err)
{
	const struct engine *e = l->chain.engine;
	struct rounds *rs = &l->chain.rounds;
	int r = rounds_left(rs, ret_bytes, err);
	vec_foreach(m, &e->large) {
		struct pace_memory memory = live_look(e, m);
		bool tracked = rounds_track(rs, m->pid);
		pid_t *slot = !tracked && pace_pays(&memory) ? vec_push(&l->chosen) : NULL;
		l->untracked += m->shmem + (slot || tracked ? 0 : memory.own);
		if (!slot)
			continue;
		*slot = m->pid;
		*ret_bytes += m->anonymous;
	}
	rs->chosen = l->chosen.v;
	rs->n_chosen = l->chosen.n;
	rs->only_chosen = true;
	return r;
}

/* ------------------------------------------------------------------- rounds */

/* What a round has shown of the stop to come: collecting a tree is about as much work as checking it. */
static int live_measure(struct live *l, const struct chain_round *cost, struct ferry_error *err)
{
	struct pace *p = &l->pace;
	uint64_t start = time_now_ns();
	int r = rounds_left(&l->chain.rounds, &p->left, err);
	uint64_t look_ns = time_now_ns() - start;
	l->read_bytes += cost->read_bytes;
	l->store_ns += cost->store_ns;
	p->rounds++;
	p->before = cost->read_bytes;
	p->rate = (uint64_t)((double)l->read_bytes / (double)MAX(l->store_ns, 1u) * 1e9);
	p->fixed_ns = l->chain.engine->check_ns + cost->settled_ns + look_ns;
	if (p->rate)
		p->fixed_ns += (uint64_t)((double)l->untracked / (double)p->rate * 1e9);
	return r;
}

/*
 * While a round waits for the disk the tree goes on writing, for a small one longer than storing it took. A large one waits all the same: with
 * too much that is not on the disk the kernel lets everybody wait who writes, also while the tree stands. So does one of a tree that is to
 * end, which would stand meanwhile.
 */
static bool live_is_late(const struct live *l)
{
	return l->chain.engine->kinds.leave_running && l->pace.left <= LIVE_LATE_BYTES;
}

static int live_round(struct live *l, struct image_dir *dir, unsigned number, struct ferry_error *err)
{
	struct engine *e = l->chain.engine;
	const char *before = number > 1 ? l->parent : chain_parent(&l->chain);
	_cleanup_image_coverage_ struct image_coverage *covered = image_coverage_new();
	struct image_dir *round = NULL;
	struct chain_round cost;
	int r = covered ? image_dir_create_round(dir, number, before, covered, live_is_late(l), &round, err)
			: error_memory(err);
	if (r >= 0)
		r = chain_round(&l->chain, round, &cost, err);
	if (r < 0) {
		image_dir_free(round);
	} else {
		image_dir_add_round(dir, round);
		/* What was written down is what is there: to read all pagemaps again takes longer than a late round. */
		chain_build_on(&l->chain, take_ptr(covered));
		r = live_measure(l, &cost, err);
	}
	if (r < 0)
		return r;
	image_dir_round_name(number, l->parent);
	if (e->report.n_rounds < ENGINE_ROUNDS)
		e->report.rounds[e->report.n_rounds++] = (struct engine_round){
			.pages = cost.mem.pages_written, .bytes = cost.read_bytes, .ns = cost.store_ns};
	e->report.stopped_ns += cost.stopped_ns;
	log_write(
		e->log, LOG_INFO, "live", NULL, 0,
		"round %u: %llu pages, stood still for %llu us; %llu KiB are left, a stop now would take %llu us",
		number, (unsigned long long)cost.mem.pages_written,
		(unsigned long long)cost.stopped_ns / 1000, (unsigned long long)l->pace.left >> 10,
		(unsigned long long)pace_stop_ns(&l->pace) / 1000);
	return 0;
}

/* Who asked for a budget hears that it will not be kept, and why. */
static void live_tell(const struct live *l)
{
	const struct engine *e = l->chain.engine;
	const struct pace *p = &l->pace;
	bool asked = e->options->freeze_budget >= 0;
	log_write(
		e->log, asked ? LOG_WARN : LOG_INFO, "live", NULL, (pid_t)e->options->tree,
		pace_is_chased(p)
			? "the tree writes its memory as fast as it is stored: after %u rounds %llu MiB are left, and it will stand still for about %llu ms, not %llu"
			: "after %u rounds %llu MiB are left, and the tree will stand still for about %llu ms, not %llu, for what is no tracked memory",
		p->rounds, (unsigned long long)p->left >> 20, (unsigned long long)pace_stop_ns(p) / LIVE_MS,
		(unsigned long long)p->budget_ns / LIVE_MS);
}

/* Who had no rounds is tracked from here on, when another image is to follow. */
static int live_stands(void *context, struct frozen *f, const struct snapshot *snap, struct ferry_error *err)
{
	struct live *l = context;
	l->chain.rounds.only_chosen = false;
	return chain_stands(&l->chain, f, snap, err);
}

static int live_rounds(void *context, struct image_dir *dir, struct dump_to *to, struct ferry_error *err)
{
	struct live *l = context;
	enum pace_next next;
	uint64_t bytes = 0;
	int r = live_choose(l, &bytes, err);
	l->pace.left = bytes;
	if (r < 0 || bytes < LIVE_LEAST_BYTES || !track_is_possible(&l->chain.engine->caps))
		return r;
	do {
		r = live_round(l, dir, l->pace.rounds + 1, err);
		if (r < 0)
			return r;
		next = pace_next(&l->pace);
		if (next == PACE_SLOWER)
			pace_slow(&l->pace);
		l->chain.slowed = l->pace.slowed;
	} while (next == PACE_ROUND || next == PACE_SLOWER);
	if (next == PACE_OVER)
		live_tell(l);
	l->chain.engine->report.predicted_ns = pace_stop_ns(&l->pace);
	to->parent = l->parent;
	to->past = *rounds_past(&l->chain.rounds);
	to->stands = live_stands;
	return 0;
}

int live_begin(struct live *l, struct engine *e, struct dump_to *to, struct ferry_error *err)
{
	int64_t budget_ms = e->options->freeze_budget;
	*l = (struct live){0};
	l->pace.budget_ns = (uint64_t)(budget_ms < 0 ? PACE_BUDGET_MS : budget_ms) * LIVE_MS;
	l->pace.slowest = (unsigned)e->options->throttle;
	l->chain.slow_stop_ns = MAX(l->pace.budget_ns, (uint64_t)LIVE_MS);
	int r = chain_begin(&l->chain, e, e->options->track_mem && e->kinds.leave_running, err);
	to->context = l;
	to->parent = chain_parent(&l->chain);
	to->past = *rounds_past(&l->chain.rounds);
	if (e->options->prev_images_dir || e->options->track_mem)
		to->stands = live_stands;
	/* A page server takes one image; and who is frozen stands anyway. */
	if (r >= 0 && !e->options->no_live && !to->remote && !pause_is_on(e->pause))
		to->rounds = live_rounds;
	return r;
}

void live_end(struct live *l)
{
	throttle_end(l->chain.engine);
	chain_end(&l->chain);
	vec_release(&l->chosen);
}
