/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what a chain of images is over several commands: pre-dump, and dumps that build on an image before. Whatever does not fit (no
 * keeper, another image, another memory) makes the next image a full one, and is said.
 *
 * A pre-dump stops the tree twice for an instant: to make what tracks new tasks, and, once memory is armed, to have every system call
 * over that was under way (doc/tracking.md). Everything else happens while the tree runs.
 */
#include "engine/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/progress.h"
#include "engine/throttle.h"
#include "freeze/freeze.h"
#include "host/keeper.h"
#include "image/coverage.h"
#include "image/dir.h"
#include "image/pages.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/stats.pb-c.h"
#include "model/record.h"
#include "stream/pageclient.h"

enum { CHAIN_IMG_VERSION = 2, CHAIN_PRE_DUMP_READ = 2 /* inventory_entry.pre_dump_mode */ };

_Static_assert(sizeof(struct track_identity) <= KEEPER_IDENTITY_BYTES, "a keeper has room for it");

/* ------------------------------------------------------------- the image before */

/* Relative to the images directory, as the link in it will be. */
static int chain_open_before(struct chain *c, struct ferry_error *err)
{
	const struct options *o = c->engine->options;
	const char *images = o->images_dir;
	int at = engine_at(c->engine, &images);
	c->at = fd_open(at, ".", O_PATH | O_DIRECTORY, 0);
	if (c->at < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -c->at, "opening the working directory");
	c->made = mkdirat(c->at, images, 0700) == 0;
	_cleanup_close_ int dir = fd_open(c->at, images, O_PATH | O_DIRECTORY, 0);
	int fd = dir < 0 ? dir : fd_open(dir, o->prev_images_dir, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0) {
		error_errno(err, FERRY_ERROR_IMAGE_MISSING, -fd, "--prev-images-dir '%s'",
			    o->prev_images_dir);
		error_hint(err, "the directory is meant relative to that of --images-dir");
	}
	return fd;
}

/* What the keeper of that image has. Returns how many tasks it still tracks. */
static int chain_adopt(struct chain *c, int fd, struct image_dir *dir, struct ferry_error *err)
{
	struct keeper_record record;
	uint64_t hi, lo;
	int tracker;
	image_dir_id(dir, &hi, &lo);
	int r = keeper_find(fd, hi, lo, &c->before, err);
	while (r >= 0 && c->before && (r = keeper_next(c->before, &record, &tracker, err)) > 0) {
		struct track_identity identity;
		memcpy(&identity, record.identity, sizeof(identity));
		r = rounds_adopt(&c->rounds, record.pid, &identity, tracker, err);
	}
	return r < 0 ? r : (int)c->rounds.tasks.n;
}

/* Whoever writes pages here may compare them with those of the image before. */
static int chain_check_pages(const struct chain *c, const struct image_dir *dir, struct ferry_error *err)
{
	const struct options *o = c->engine->options;
	const struct image_covered *covered = NULL;
	if (o->page_server || !image_dir_pages_are_elsewhere(dir))
		return 0;
	while ((covered = image_coverage_next(c->covered, covered)))
		if (!image_dir_has(dir, covered->kind, covered->id)) {
			error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT,
				  "the pages of the image in '%s' went to a page server", o->prev_images_dir);
			error_hint(err, "give --page-server again, or put them beside that image");
			return -ENOENT;
		}
	return 0;
}

static int chain_build_on_before(struct chain *c, struct ferry_error *err)
{
	const struct image_dir_open options = {.no_checksums = true, .log = c->engine->log};
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	_cleanup_close_ int fd = chain_open_before(c, err);
	int r = fd < 0 ? fd : image_dir_open(fd, ".", &options, &dir, err);
	int n = r < 0 ? r : chain_adopt(c, fd, dir, err);
	if (n > 0) {
		r = image_coverage_read(dir, &c->covered, err);
		c->rounds.covered = c->covered;
		return r < 0 ? r : chain_check_pages(c, dir, err);
	}
	if (!n)
		log_write(c->engine->log, LOG_WARN, "track", NULL, (pid_t)c->engine->options->tree,
			  "nobody tracks this tree since '%s' was written, so this image is a full one",
			  c->engine->options->prev_images_dir);
	return n;
}

/* What memory is read by is found out while the tree runs; by what it could be tracked only when somebody wants to. */
static int chain_can_track(struct engine *e, bool needed, struct ferry_error *err)
{
	static const enum kern_cap_id ids[] = {KERN_CAP_PAGEMAP_SCAN, KERN_CAP_PAGEMAP_GUARD};
	kern_caps_probe_some(&e->caps, ids, ARRAY_SIZE(ids));
	if (!needed || track_is_possible(&e->caps))
		return 0;
	return error_set(err, FERRY_ERROR_KERNEL_FEATURE, EOPNOTSUPP,
			 "tracking what a tree writes needs Linux 6.7, or one with soft-dirty bits");
}

int chain_begin(struct chain *c, struct engine *e, bool track, struct ferry_error *err)
{
	*c = (struct chain){
		.engine = e,
		.rounds = {.caps = &e->caps, .log = e->log, .fault = &e->fault, .progress = e->progress},
		.at = -1};
	int r = chain_can_track(e, track, err);
	if (r >= 0 && e->options->prev_images_dir)
		r = chain_build_on_before(c, err);
	if (r >= 0 && track) {
		fault_effect(&e->fault, "track", "start-keeper");
		r = keeper_start(&c->next, err);
	}
	return r;
}

void chain_end(struct chain *c)
{
	keeper_client_free(c->before);
	keeper_cancel(c->next);
	rounds_release(&c->rounds);
	image_coverage_free(c->covered);
	/* Where no image has come to be the directory is empty. */
	if (c->made && unlinkat(c->at, c->engine->options->images_dir, AT_REMOVEDIR) < 0)
		c->made = false;
	if (c->at >= 0)
		close(c->at);
}

const char *chain_parent(const struct chain *c)
{
	return c->covered ? c->engine->options->prev_images_dir : NULL;
}

int chain_spend(struct chain *c, struct ferry_error *err)
{
	if (c->before)
		fault_effect(&c->engine->fault, "track", "end-keeper");
	int r = c->before ? keeper_end(c->before, err) : 0;
	keeper_client_free(c->before);
	c->before = NULL;
	return r;
}

static int chain_hand_over(struct chain *c, int dir_fd, uint64_t id_hi, uint64_t id_lo,
			   struct ferry_error *err)
{
	size_t n = 0;
	int r = 0;
	vec_foreach(t, &c->rounds.tasks) {
		struct keeper_record record = {.pid = t->pid};
		if (r < 0 || !track_is_settled(t->track))
			continue;
		memcpy(record.identity, &t->identity, sizeof(t->identity));
		fault_effect(&c->engine->fault, "track", "hand-over");
		r = keeper_hold(c->next, &record, track_fd(t->track), err);
		n++;
	}
	if (r >= 0 && !n)
		r = error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			      "no memory of this tree can be tracked");
	if (r < 0)
		return r;
	fault_effect(&c->engine->fault, "track", "keep");
	r = keeper_go(c->next, dir_fd, id_hi, id_lo, err);
	c->next = NULL;
	return r;
}

void chain_keep(struct chain *c, int dir_fd, uint64_t id_hi, uint64_t id_lo)
{
	struct ferry_error why = FERRY_ERROR_INIT;
	if (chain_hand_over(c, dir_fd, id_hi, id_lo, &why) < 0)
		log_write(c->engine->log, LOG_WARN, "track", NULL, (pid_t)c->engine->options->tree,
			  "%s: the next image will be a full one", why.message);
}

/* ------------------------------------------------------------------ an ordinary dump */

int chain_stands(void *context, struct frozen *f, const struct snapshot *snap, struct ferry_error *err)
{
	struct chain *c = context;
	int r = c->next ? chain_spend(c, err) : 0;
	return r < 0 ? r : rounds_stand(&c->rounds, f, snap, c->next, err);
}

/* ---------------------------------------------------------------------- pre-dump */

/* A round on its way into an image. */
struct pre_dump {
	struct chain *chain;
	struct image_dir *dir;
	struct chain_round cost;
};

/* Stop the tree, do something, let it run on. */
static int pre_dump_stop(struct pre_dump *p,
			 int (*what)(struct rounds *rs, struct frozen *f, struct ferry_error *err),
			 struct ferry_error *err)
{
	struct engine *e = p->chain->engine;
	const struct freeze_options options = {.timeout_ms = (int)e->options->timeout * 1000,
					       .fault = &e->fault,
					       .log = e->log,
					       .looker = e->kinds.looker,
					       .hurry = true,
					       .pause = e->pause,
					       .warden = e->warden};
	struct frozen frozen;
	throttle_end(e);
	int r = freeze_tree((pid_t)e->options->tree, &options, &frozen, err);
	error_context(err, "seize", NULL, 0);
	if (r < 0)
		return r;
	r = what(&p->chain->rounds, &frozen, err);
	uint64_t since = frozen.since_ns;
	freeze_release(&frozen);
	p->cost.settled_ns = time_now_ns() - since;
	p->cost.stopped_ns += p->cost.settled_ns;
	return r;
}

static int pre_dump_join_and_look(struct rounds *rs, struct frozen *f, struct ferry_error *err)
{
	int r = rounds_join(rs, f, err);
	return r >= 0 && rounds_want_stop(rs) ? rounds_look(rs, err) : r;
}

static int pre_dump_look(struct pre_dump *p, struct ferry_error *err)
{
	struct engine *e = p->chain->engine;
	uint64_t start = time_now_ns();
	bool join = !p->chain->joined || rounds_want_stop(&p->chain->rounds);
	p->chain->rounds.mapper = e->mapper;
	int r = join ? pre_dump_stop(p, pre_dump_join_and_look, err) : 0;
	p->chain->joined = r >= 0;
	engine_phase(e, "join", start);
	start = time_now_ns();
	if (r >= 0)
		r = chain_spend(p->chain, err);
	if (r >= 0 && !rounds_want_stop(&p->chain->rounds))
		r = rounds_look(&p->chain->rounds, err);
	engine_phase(e, "look", start);
	start = time_now_ns();
	if (r >= 0)
		r = pre_dump_stop(p, rounds_settle, err);
	engine_phase(e, "settle", start);
	return r;
}

/* A round holds memory alone; nothing of the tree that a restore would need. */
static int pre_dump_records(struct pre_dump *p, struct ferry_error *err)
{
	char run_id[37];
	image_dir_id_text(p->dir, run_id);
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	DumpStatsEntry dump = DUMP_STATS_ENTRY__INIT;
	StatsEntry stats = STATS_ENTRY__INIT;
	dump.pages_scanned = p->cost.mem.pages_scanned;
	dump.pages_written = p->cost.mem.pages_written;
	dump.freezing_time = (uint32_t)(p->cost.stopped_ns / 1000);
	stats.dump = &dump;
	inventory.img_version = CHAIN_IMG_VERSION;
	record_set(&inventory, fdinfo_per_id, 1);
	record_set(&inventory, ns_per_id, 1);
	record_set(&inventory, pre_dump_mode, CHAIN_PRE_DUMP_READ);
	inventory.dump_criu_run_id = run_id;
	int r = image_put_one(p->dir, IMAGE_STATS, IMAGE_STATS_DUMP, &stats.base, err);
	return r < 0 ? r : image_put_one(p->dir, IMAGE_INVENTORY, 0, &inventory.base, err);
}

/*
 * A round stores no shared memory (doc/tracking.md). What the image before has of it is referred to, so that whoever builds on the round
 * finds it.
 */
static int pre_dump_pass_on(struct image_dir *dir, const struct image_covered *covered,
			    struct ferry_error *err)
{
	struct image_pages_writer *w;
	int r = image_pages_create(dir, covered->kind, covered->id, &w, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < covered->n && r >= 0; i++)
		r = image_pages_add_reference(w, covered->v[i].start,
					      (covered->v[i].end - covered->v[i].start) / IMAGE_PAGE_BYTES,
					      IMAGE_PE_PARENT, err);
	int closed = image_pages_close(w, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

static int pre_dump_shared(struct pre_dump *p, struct ferry_error *err)
{
	const struct image_coverage *c = p->chain->covered;
	const struct image_covered *covered = NULL;
	int r = 0;
	while (r >= 0 && (covered = image_coverage_next(c, covered)))
		if (covered->kind == IMAGE_SHMEM_PAGEMAP)
			r = pre_dump_pass_on(p->dir, covered, err);
	return r;
}

static int pre_dump_write(struct pre_dump *p, struct ferry_error *err)
{
	struct engine *e = p->chain->engine;
	uint64_t start = time_now_ns();
	progress_begin(e->progress, PROGRESS_ROUND, p->chain->covered ? 0 : e->image_bytes);
	/* From here on until it is stopped again: what it writes after the round is left, too. */
	int r = p->chain->slowed ? throttle_begin(e, p->chain->slowed, p->chain->slow_stop_ns, err) : 0;
	if (r >= 0)
		r = rounds_store(&p->chain->rounds, p->dir, &e->fault, &p->cost.mem, err);
	p->cost.read_bytes = rounds_looked(&p->chain->rounds);
	p->cost.store_ns = time_now_ns() - start;
	if (r >= 0)
		r = pre_dump_shared(p, err);
	if (r >= 0)
		r = pre_dump_records(p, err);
	engine_phase(e, "dump", start);
	start = time_now_ns();
	progress_begin(e->progress, PROGRESS_SYNC, image_dir_bytes(p->dir));
	if (r >= 0)
		r = image_dir_finish(p->dir, err);
	engine_phase(e, "sync", start);
	error_context(err, "dump", NULL, 0);
	return r;
}

int chain_round(struct chain *c, struct image_dir *dir, struct chain_round *ret, struct ferry_error *err)
{
	struct pre_dump p = {.chain = c, .dir = dir};
	int r = pre_dump_look(&p, err);
	if (r >= 0)
		r = pre_dump_write(&p, err);
	*ret = p.cost;
	return r;
}

void chain_build_on(struct chain *c, struct image_coverage *covered)
{
	image_coverage_free(c->covered);
	c->rounds.covered = c->covered = covered;
}

static int pre_dump_link(struct chain *c, const struct image_pages_remote *remote, struct image_dir *dir,
			 struct ferry_error *err)
{
	struct image_dir *before;
	int r = image_dir_link_parent(dir, chain_parent(c), err);
	if (r < 0 || !remote)
		return r;
	r = image_dir_parent(dir, &before, err);
	return r < 0 ? r : dump_ask_remote(c->engine, remote, before, c->covered, err);
}

static int pre_dump_open(struct chain *c, const struct image_pages_remote *remote, struct image_dir **ret,
			 struct ferry_error *err)
{
	struct engine *e = c->engine;
	const struct image_dir_create create = {.overwrite = e->options->overwrite,
						.read_back = IMAGE_READ_BACK_STORED,
						.remote = remote,
						.fault = &e->fault,
						.progress = e->progress,
						.log = e->log};
	const char *path = e->options->images_dir;
	int at = engine_at(e, &path);
	int r = image_dir_create(at, path, &create, ret, err);
	if (r >= 0 && create.overwrite)
		keeper_dismiss(image_dir_fd(*ret));
	if (r >= 0 && chain_parent(c))
		r = pre_dump_link(c, remote, *ret, err);
	return r < 0 ? r : engine_warden(e, err);
}

static int pre_dump_run(struct chain *c, const struct image_pages_remote *remote, struct image_dir **dir,
			struct ferry_error *err)
{
	struct engine *e = c->engine;
	struct chain_round round = {0};
	uint64_t start = time_now_ns(), hi, lo;
	/* Engines say what comes from outside of a container, its mounts for instance, when they ask for the whole image. */
	e->kinds.memory_only = e->options->criu_compat;
	int r = chain_begin(c, e, true, err);
	if (r >= 0)
		r = dump_check(e, err);
	if (r >= 0)
		r = pre_dump_open(c, remote, dir, err);
	engine_phase(e, "check", start);
	if (r >= 0)
		r = chain_round(c, *dir, &round, err);
	if (r < 0)
		return r;
	e->report.pages_scanned = round.mem.pages_scanned;
	e->report.pages_written = round.mem.pages_written;
	e->report.bytes = image_dir_bytes(*dir);
	e->report.pid = (pid_t)e->options->tree;
	e->report.tasks = (uint32_t)c->rounds.tasks.n;
	e->report.freeze_ns = round.stopped_ns;
	dump_auto_dedup(e, *dir);
	image_dir_id(*dir, &hi, &lo);
	chain_keep(c, image_dir_fd(*dir), hi, lo);
	return 0;
}

int engine_pre_dump(struct engine *e, struct ferry_error *err)
{
	struct chain chain = {.engine = e, .at = -1};
	struct image_dir *dir = NULL;
	if (!e->options->images_dir)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	if (e->options->tree <= 0)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--tree PID is missing");
	struct pageclient client = {.fd = -1};
	bool sends = e->options->page_server;
	int r = sends ? dump_connect(e, &client, err) : 0;
	if (r >= 0)
		r = pre_dump_run(&chain, sends ? &client.remote : NULL, &dir, err);
	image_dir_free(dir);
	chain_end(&chain);
	if (client.fd >= 0)
		pageclient_close(&client);
	e->report.total_ns = time_now_ns() - e->start_ns;
	return r;
}
