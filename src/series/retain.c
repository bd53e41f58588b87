/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns which snapshots stay, and what becomes of the others: removed, retired, or merged into the oldest that stays.
 *
 * When to merge: retired images are looked at from the youngest on, and each is taken into the merge that is not more than twice as large
 * as what comes after it. So their sizes at least double from one to the next: there are few of them, and a page is copied again only
 * when what changed since has become as much as half of what it lies among.
 *
 * The merged image is made beside the one that it replaces and takes its place by one exchange. Before that nothing depends on it, after
 * that nothing depends on what it replaces.
 *
 * Kernel interface: renameat2(2) RENAME_EXCHANGE (3.15).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "image/dedup.h"
#include "image/dir.h"
#include "image/merge.h"
#include "series/internal.h"

struct retain {
	struct series *series;
	const struct fault *fault;
	const struct log_sink *log;
	struct ferry_error *err;
	struct image_dir *image; /* the oldest that stays */
	size_t first;            /* its index */
	struct series_retained done;
};

/* Whether the oldest that stays needs a folder. */
static bool retain_needs(const struct retain *t, const char *name)
{
	struct stat wanted, st;
	struct image_dir *at = t->image;
	if (fstatat(t->series->dir, name, &wanted, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	while (at) {
		if (fstat(image_dir_fd(at), &st) == 0 && st.st_ino == wanted.st_ino &&
		    st.st_dev == wanted.st_dev)
			return true;
		if (image_dir_parent(at, &at, NULL) < 0)
			return true; /* rather one too many than one too few */
	}
	return false;
}

/* 1: nobody reads it. */
static int retain_is_free(const struct retain *t, const char *name)
{
	_cleanup_close_ int fd = fd_open(t->series->dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	return fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

static int retain_remove(struct retain *t, const char *name)
{
	if (!retain_is_free(t, name)) {
		t->done.waits = true;
		return 0;
	}
	int r = series_remove(t->series, name, t->fault, t->err);
	t->done.removed += r >= 0;
	return r;
}

/* ---- merging ---- */

/* The first of the retired that is worth a merge; t->first: none. All of them are needed. */
static size_t retain_choose(const struct retain *t)
{
	const struct series *s = t->series;
	uint64_t sum = series_bytes(s, s->items.v[t->first].name);
	size_t chosen = t->first;
	while (chosen) {
		uint64_t bytes = series_bytes(s, s->items.v[chosen - 1].name);
		if (bytes > 2 * sum)
			break;
		sum += bytes;
		chosen--;
	}
	return chosen;
}

static int retain_exchange(struct retain *t, const char *merged, const char *name)
{
	int dir = t->series->dir;
	fault_effect(t->fault, "retain", "exchange");
	if (renameat2(dir, merged, dir, name, RENAME_EXCHANGE) < 0)
		return error_errno(t->err, FERRY_ERROR_SYSTEM, errno, "exchanging '%s/%s' for one merged",
				   t->series->path, name);
	return fsync(dir) < 0 ? error_errno(t->err, FERRY_ERROR_SYSTEM, errno, "syncing the directory '%s'",
					    t->series->path)
			      : 0;
}

static int retain_merge(struct retain *t, size_t chosen)
{
	const struct series *s = t->series;
	const char *name = s->items.v[t->first].name;
	char merged[SERIES_NAME_BYTES + sizeof(SERIES_MERGING)], parent[SERIES_NAME_BYTES + 3];
	snprintf(merged, sizeof(merged), SERIES_MERGING "%s", name);
	if (chosen)
		snprintf(parent, sizeof(parent), "../%s", s->items.v[chosen - 1].name);
	const struct image_merge options = {
		.parent = chosen ? parent : NULL, .fault = t->fault, .log = t->log};
	int r = series__remove_rest(s, merged, t->err);
	if (r >= 0)
		r = image_merge(t->image, s->dir, merged, &options, &t->done.copied_bytes, t->err);
	if (r >= 0)
		r = retain_exchange(t, merged, name);
	if (r < 0) {
		if (series__remove_rest(s, merged, NULL) < 0)
			return r; /* the next who comes tries again */
		return r;
	}
	snprintf(t->done.into, sizeof(t->done.into), "%s", name);
	fault_effect(t->fault, "retain", "merged");
	for (size_t i = t->first; r >= 0 && i-- > chosen;) {
		r = series_remove(s, s->items.v[i].name, t->fault, t->err);
		t->done.merged += r >= 0;
	}
	return r < 0 ? r : series__remove_rest(s, merged, t->err);
}

/* Links of younger ones, for other readers, lead through what was replaced. Also of one who was killed before he came to this. */
static int retain_mend(struct retain *t)
{
	static const struct image_dir_open options = {.no_checksums = true};
	const struct series *s = t->series;
	int r = 0;
	for (size_t i = t->first; i < s->items.n && r >= 0; i++) {
		_cleanup_image_dir_ struct image_dir *image = NULL;
		if (s->items.v[i].state != SERIES_WHOLE)
			continue;
		r = image_dir_open(s->dir, s->items.v[i].name, &options, &image, t->err);
		if (r >= 0)
			r = image_dir_mend_family(image, t->err);
	}
	return r;
}

/* ---- all of it ---- */

/* Older ones that nobody needs go; *ret_needed: how many are left. */
static int retain_clear(struct retain *t, size_t *ret_needed)
{
	struct series *s = t->series;
	size_t needed = 0;
	for (size_t i = 0; i < t->first; i++) {
		int r = 0;
		if (retain_needs(t, s->items.v[i].name))
			needed++;
		else
			r = retain_remove(t, s->items.v[i].name);
		if (r < 0)
			return r;
	}
	*ret_needed = needed;
	return 0;
}

static int retain_retire(struct retain *t)
{
	struct image_dedup taken;
	vec_foreach(item, &t->series->items)
		t->done.retired +=
			(size_t)(item - t->series->items.v) < t->first && item->state == SERIES_WHOLE;
	return image_dedup_unneeded(t->image, t->fault, &taken, t->err);
}

/* Which of those that are whole is the first to stay. */
static size_t retain_first(const struct series *s, unsigned keep)
{
	size_t i = s->items.n;
	while (keep && i)
		keep -= s->items.v[--i].state == SERIES_WHOLE;
	return i;
}

static int retain_open(struct retain *t)
{
	static const struct image_dir_open options = {.no_checksums = true};
	const char *name = t->series->items.v[t->first].name;
	int r = image_dir_open(t->series->dir, name, &options, &t->image, t->err);
	if (r >= 0)
		r = image_dir_reserve(t->image, t->err);
	t->done.waits = !r;
	return r;
}

int series_retain(struct series *s, unsigned keep, const struct fault *fault, const struct log_sink *log,
		  struct series_retained *ret, struct ferry_error *err)
{
	struct retain t = {.series = s, .fault = fault, .log = log, .err = err};
	size_t needed = 0;
	t.first = retain_first(s, keep);
	/* Without any that is whole nothing is known of the others. */
	if (!t.first || t.first == s->items.n || s->items.v[t.first].state != SERIES_WHOLE)
		return 0;
	int r = retain_open(&t);
	if (r > 0)
		r = retain_clear(&t, &needed);
	if (r >= 0 && !t.done.waits)
		r = series_look(s, err);
	if (r >= 0 && !t.done.waits && needed) {
		t.first = retain_first(s, keep);
		r = retain_retire(&t);
		size_t chosen = r < 0 ? t.first : retain_choose(&t);
		if (chosen < t.first)
			r = retain_merge(&t, chosen);
	}
	image_dir_free(t.image);
	t.image = NULL;
	if (r >= 0 && !t.done.waits)
		r = retain_mend(&t);
	*ret = t.done;
	return r < 0 ? r : series_look(s, err);
}
