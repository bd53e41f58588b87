/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns bringing back a mount namespace from an image: what the image has, what of it whoever restores has, the plan, and the
 * instants at which its two parts are carried out.
 *
 * Kernel interface: see mounts_make.c.
 */
#include "kind/mounts_restore.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/dir.h"
#include "kind/kinds.h"
#include "kind/mounts_make.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

struct mounts_remade {
	struct mounts_maker maker;
	struct mounts_list image, here, gone;
	bool drops_proc; /* the tree had none, and we need ours meanwhile */
};

static int mounts_read(struct opener *o, const struct plan_ns *ns, struct mounts_list *ret,
		       struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	struct arena *a = &o->plan->arena;
	struct mounts_list l = {.v = arena_array(a, struct mounts_one, MOUNTS_MAX)};
	if (!l.v)
		return error_memory(err);
	int r = image_open(o->dir, IMAGE_MNTS, ns->id, &in, err);
	for (int got = 1; r >= 0 && got;) {
		MntEntry *e;
		r = got = image_get(in, &mnt_entry__descriptor, &e, err);
		if (got <= 0)
			break;
		r = records_keep(o->plan, e, err);
		if (r < 0)
			return r;
		if (l.n == MOUNTS_MAX || strlen(e->mountpoint) >= MOUNTS_PATH_BYTES)
			return image_bad(in, err, "mount %u is one too many, or has a bad path", e->mnt_id);
		l.v[l.n++] = (struct mounts_one){
			.id = e->mnt_id,
			.parent_id = e->parent_mnt_id,
			.type = (Fstype)e->fstype,
			.fstype = e->fsname,
			.root = e->root,
			.point = e->mountpoint,
			.source = e->source,
			.options = e->options,
			.dev = e->root_dev,
			.flags = e->flags,
			.sb_flags = e->has_sb_flags ? e->sb_flags : 0,
			.shared = e->has_shared_id ? e->shared_id : 0,
			.master = e->has_master_id ? e->master_id : 0,
			.unbindable = e->flags & MS_UNBINDABLE,
			.key = e->ext_key,
			.outer =
				o->options->ext_sharing && e->ext_key && e->shared_id && !e->internal_sharing,
		};
	}
	/* The file begins with the latest. */
	for (size_t i = 0; i < l.n / 2; i++) {
		struct mounts_one other = l.v[i];
		l.v[i] = l.v[l.n - 1 - i];
		l.v[l.n - 1 - i] = other;
	}
	if (r >= 0)
		r = mounts_order(a, &l, err);
	*ret = l;
	return r;
}

/* Which of the image's mounts the tree had for itself, and which others it had not. 0: the image does not tell. */
static int mounts_read_own(struct opener *o, const struct plan_ns *ns, struct mounts_list *image,
			   struct mounts_list *ret_gone, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	struct arena *a = &o->plan->arena;
	struct mounts_list gone = {.v = arena_array(a, struct mounts_one, MOUNTS_MAX)};
	int r = gone.v ? image_open_optional(o->dir, IMAGE_FERRY_MOUNTS, ns->id, &in, err)
		       : error_memory(err);
	for (size_t i = 0; i < image->n; i++)
		image->v[i].known = true;
	for (int got = 1; in && r >= 0 && got;) {
		_cleanup_message_ FerryMountEntry *e = NULL;
		r = got = image_get(in, &ferry_mount_entry__descriptor, &e, err);
		for (size_t i = 0; i < image->n && got > 0; i++)
			if (e->has_mnt_id && image->v[i].id == e->mnt_id)
				image->v[i].known = false;
		if (got <= 0 || !e->gone_point)
			continue;
		if (gone.n == MOUNTS_MAX || !e->gone_root)
			return image_bad(in, err, "an unmounted mount too many, or without a root");
		gone.v[gone.n++] = (struct mounts_one){
			.type = (Fstype)e->gone_fstype,
			.root = arena_string(a, e->gone_root),
			.point = arena_string(a, e->gone_point),
			.level = e->gone_level,
		};
		if (!gone.v[gone.n - 1].root || !gone.v[gone.n - 1].point)
			return error_memory(err);
	}
	*ret_gone = gone;
	return r < 0 ? r : in != NULL;
}

/* What the tree had unmounted of the mounts around it. */
static int mounts_drop(struct mounts_remade *m, struct ferry_error *err)
{
	for (size_t i = m->here.n; i-- > 0;) {
		const struct mounts_one *here = &m->here.v[i];
		if (!mounts_find(&m->gone, here, false))
			continue;
		if (!strcmp(here->point, "/proc")) {
			m->drops_proc = true;
			continue;
		}
		if (umount2(here->point, MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "unmounting '%s'",
					   here->point);
	}
	return 0;
}

/*
 * An image that does not tell: what is not here was the tree's, and so was the /proc of its PID namespace. Returns whether the root
 * was.
 */
static bool mounts_guess(const struct plan *p, struct mounts_list *image, const struct mounts_list *here)
{
	struct mounts_one *proc = NULL;
	for (size_t i = 0; i < image->n; i++) {
		struct mounts_one *m = &image->v[i];
		m->known = mounts_find(here, m, false) != NULL;
		if (m->type == FSTYPE__PROC && !strcmp(m->point, "/proc"))
			proc = m;
	}
	if (proc && plan_own_ns(p, PROC_NS_PID))
		proc->known = false;
	return image->n && !image->v[0].known;
}

/* The image's mounts, and what of them is here. */
static int mounts_read_all(struct opener *o, struct plan_ns *ns, struct mounts_remade *m,
			   struct ferry_error *err)
{
	struct arena *a = &o->plan->arena;
	struct proc_mounts *mounts = arena_new(a, struct proc_mounts);
	_cleanup_close_ int self = proc_open(getpid(), err);
	if (!mounts)
		return error_memory(err);
	int r = self < 0 ? self : proc_read_mounts(self, mounts, err);
	if (r >= 0)
		r = mounts_from_proc(a, mounts, &m->here, err);
	if (r >= 0)
		r = mounts_read(o, ns, &m->image, err);
	m->maker.facts.own_root = o->options->root != NULL;
	if (r < 0 || m->maker.facts.own_root)
		return r;
	r = mounts_read_own(o, ns, &m->image, &m->gone, err);
	if (r == 0)
		m->maker.facts.own_root = mounts_guess(o->plan, &m->image, &m->here);
	return r;
}

static int mounts_plan_all(struct opener *o, struct mounts_remade *m, struct ferry_error *err)
{
	struct mounts_maker *k = &m->maker;
	struct mounts_trouble trouble;
	k->o = o;
	k->l = &m->image;
	k->here = &m->here;
	k->facts.own_pidns = plan_own_ns(o->plan, PROC_NS_PID);
	k->facts.detached = true;
	k->fds = arena_array(&o->plan->arena, int, m->image.n + 1);
	k->groups = arena_array(&o->plan->arena, int, m->image.n + 1);
	if (!k->fds || !k->groups)
		return error_memory(err);
	for (size_t i = 0; i < m->image.n; i++)
		k->fds[i] = k->groups[i] = -1;
	int r = mounts_sources(&m->image, &k->facts, &trouble, err);
	if (trouble.mount)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP, "'%.200s' (%s) %s",
				 trouble.mount->point, mounts_type_name(trouble.mount), trouble.why);
	return r < 0 ? r : mounts_plan(&o->plan->arena, &m->image, &k->facts, &k->plan, err);
}

int mounts_restore(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	struct mounts_remade *m = ns->data = arena_new(&o->plan->arena, struct mounts_remade);
	if (!m)
		return error_memory(err);
	int r = mounts_read_all(o, ns, m, err);
	if (r >= 0)
		r = mounts_plan_all(o, m, err);
	if (r >= 0)
		r = mounts_make_outside(&m->maker, err);
	if (r >= 0)
		r = mounts_part(&m->maker, err);
	if (r >= 0)
		r = mounts_drop(m, err);
	return r < 0 ? r : mounts_make_early(&m->maker, err);
}

static void mounts_close(struct mounts_remade *m, size_t i)
{
	if (m->maker.fds[i] >= 0)
		close(m->maker.fds[i]);
	if (m->maker.groups[i] >= 0)
		close(m->maker.groups[i]);
	m->maker.fds[i] = m->maker.groups[i] = -1;
}

int mounts_finish(struct opener *o unused, struct plan_ns *ns, struct ferry_error *err)
{
	struct mounts_remade *m = ns->data;
	if (m->drops_proc && umount2("/proc", MNT_DETACH) < 0 && errno != EINVAL)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "unmounting '/proc'");
	int r = mounts_make_late(&m->maker, err);
	for (size_t i = 0; i < m->image.n; i++)
		mounts_close(m, i);
	return r;
}
