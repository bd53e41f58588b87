/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chain of images over several commands: which image the next one builds on, whether what tracks the tree is still at hand, and
 * handing it on.
 */
#pragma once

#include "engine/dump.h"
#include "engine/engine.h"
#include "engine/round.h"

struct keeper;
struct keeper_client;

struct chain {
	struct engine *engine;
	struct rounds rounds;
	struct image_coverage *covered; /* of the image before; NULL: there is none that can be built on */
	struct keeper *next;            /* NULL: nothing is tracked any further */
	struct keeper_client *before;
	unsigned slowed;       /* percent of the time that the tree stands still while a round is stored */
	uint64_t slow_stop_ns; /* and at most so long at a time */
	int at;                /* where paths begin; -1 */
	bool made;             /* the images directory was made */
	bool joined;           /* there was a round: who came since is stored whole */
};

/*
 * Look at --prev-images-dir and start a keeper if another round is to follow. When nothing can be built on the image
 * before, the next one is a full one, which is logged as a warning. To be called before namespaces are entered.
 */
must_check int chain_begin(struct chain *c, struct engine *e, bool track, struct ferry_error *err);
void chain_end(struct chain *c);

/* Where the link of the next image leads; NULL: it builds on none. */
const char *chain_parent(const struct chain *c);

/* For dump_to.stands: look at the tree, and arm it when another round is to follow. */
must_check int chain_stands(void *context, struct frozen *f, const struct snapshot *snap,
			    struct ferry_error *err);

/* From here on the keeper of the image before is out of date: to be called before anything is armed. */
must_check int chain_spend(struct chain *c, struct ferry_error *err);

/*
 * The image is complete: hand what tracks the tree to the keeper that goes with it. That it fails takes nothing from the image, and is
 * only said.
 */
void chain_keep(struct chain *c, int dir_fd, uint64_t id_hi, uint64_t id_lo);

/* What a round cost. */
struct chain_round {
	struct mem_stats mem;
	uint64_t stopped_ns; /* the tree stood so long, in all */
	uint64_t settled_ns; /* and so long the last time, for nothing but standing */
	uint64_t read_bytes; /* of what the look found dirty */
	uint64_t store_ns;   /* that reading and writing them took */
};

/* One round of a tree that runs, into an image directory that is made, which is whole then. */
must_check int chain_round(struct chain *c, struct image_dir *dir, struct chain_round *ret,
			   struct ferry_error *err);

/* What comes next builds on a round of a dump's own, which has these pages. They are the chain's from here on. */
void chain_build_on(struct chain *c, struct image_coverage *covered);

/* ferry pre-dump */
must_check int engine_pre_dump(struct engine *e, struct ferry_error *err);
