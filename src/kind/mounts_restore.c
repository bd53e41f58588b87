/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns bringing back a mount namespace from an image: what the image has, what of it whoever restores has, the plan, and the
 * instants at which its two parts are carried out.
 *
 * Kernel interface: see mounts_make.c.
 */
#include "kind/mounts_restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "kind/kinds.h"
#include "kind/mounts_ids.h"
#include "kind/mounts_make.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

struct mounts_remade {
	struct mounts_maker maker;
	struct mounts_list image, here, gone;
	bool drops_proc; /* the tree had none, and we need ours meanwhile */
};

static int mounts_read(struct image_dir *dir, struct plan *p, const struct kind_options *options, uint32_t id,
		       struct mounts_list *ret, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	struct arena *a = &p->arena;
	struct mounts_list l = {.v = arena_array(a, struct mounts_one, MOUNTS_MAX)};
	if (!l.v)
		return error_memory(err);
	int r = image_open(dir, IMAGE_MNTS, id, &in, err);
	for (int got = 1; r >= 0 && got;) {
		MntEntry *e;
		r = got = image_get(in, &mnt_entry__descriptor, &e, err);
		if (got <= 0)
			break;
		r = records_keep(p, e, err);
		if (r < 0)
			return r;
		if (l.n == MOUNTS_MAX || strlen(e->mountpoint) >= MOUNTS_PATH_BYTES)
			return image_bad(in, err, "mount %u is one too many, or has a bad path", e->mnt_id);
		struct mounts_one *m = &l.v[l.n++];
		*m = (struct mounts_one){
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
			.outer = options->ext_sharing && e->ext_key && e->shared_id && !e->internal_sharing,
		};
		uint64_t number;
		if (mounts_is_nsfs(m, &m->ns_type, &number) && number <= UINT32_MAX)
			m->ns_id = (uint32_t)number;
	}
	/* The file begins with the latest. */
	for (size_t i = 0; i < l.n / 2; i++) {
		struct mounts_one other = l.v[i];
		l.v[i] = l.v[l.n - 1 - i];
		l.v[l.n - 1 - i] = other;
	}
	if (r >= 0)
		r = mounts_order(a, &l, err);
	if (r >= 0)
		r = mounts_load_ids(dir, id, a, &l, err);
	*ret = l;
	return r;
}

/* What an image tells of whoever dumped: mounts that the tree had not, and the sources of what it had elsewhere. */
struct mounts_told {
	struct mounts_list gone, sources;
};

static int mounts_take_here(struct image_reader *in, struct arena *a, const FerryMountEntry *e,
			    struct mounts_list *l, struct ferry_error *err)
{
	if (l->n == MOUNTS_MAX || !e->here_root)
		return image_bad(in, err, "a mount of the dumper's too many, or without a root");
	struct mounts_one *m = &l->v[l->n++];
	*m = (struct mounts_one){
		.type = (Fstype)e->here_fstype,
		.root = arena_string(a, e->here_root),
		.point = arena_string(a, e->here_point),
		.level = e->here_level,
		.dev = e->here_dev,
	};
	return m->root && m->point ? 0 : error_memory(err);
}

/* Also which of the image's mounts the tree had for itself. 0: the image does not tell. */
static int mounts_read_own(struct opener *o, const struct plan_ns *ns, struct mounts_list *image,
			   struct mounts_told *ret, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	struct arena *a = &o->plan->arena;
	ret->gone.v = arena_array(a, struct mounts_one, MOUNTS_MAX);
	ret->sources.v = arena_array(a, struct mounts_one, MOUNTS_MAX);
	int r = ret->gone.v && ret->sources.v
			? image_open_optional(o->dir, IMAGE_FERRY_MOUNTS, ns->id, &in, err)
			: error_memory(err);
	for (size_t i = 0; i < image->n; i++)
		image->v[i].known = true;
	for (int got = 1; in && r >= 0 && got;) {
		_cleanup_message_ FerryMountEntry *e = NULL;
		r = got = image_get(in, &ferry_mount_entry__descriptor, &e, err);
		for (size_t i = 0; i < image->n && got > 0; i++)
			if (e->has_mnt_id && image->v[i].id == e->mnt_id)
				image->v[i].known = false;
		if (got > 0 && e->here_point)
			r = mounts_take_here(in, a, e, e->has_here_dev ? &ret->sources : &ret->gone, err);
	}
	return r < 0 ? r : in != NULL;
}

/* A namespace of its own below ours: its numbers of devices are those of the image, which are others where ferry did not dump it. */
static int mounts_base_here(struct mounts_remade *m, const struct mounts_list *sources,
			    struct ferry_error *err)
{
	struct mounts_facts *facts = &m->maker.facts;
	for (size_t i = 0; i < m->here.n; i++)
		m->here.v[i].dev = UINT32_MAX;
	for (size_t i = 0; i < sources->n; i++) {
		struct mounts_one *here = mounts_find(&m->here, &sources->v[i], false);
		if (!here)
			return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOENT,
					 "'%.200s' (%s) was mounted around the tree and is not here",
					 sources->v[i].point, mounts_type_name(&sources->v[i]));
		here->dev = sources->v[i].dev;
	}
	facts->base = &m->here;
	facts->own_root = m->image.n && !m->image.v[0].known;
	return mounts_find_parents(&m->here, err);
}

static int mounts_drop_one(const char *point, struct ferry_error *err)
{
	if (umount2(point, MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "unmounting '%s'", point);
	return 0;
}

/* What the tree had unmounted of the mounts around it. */
static int mounts_drop(struct mounts_remade *m, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = m->maker.base ? m->gone.n : 0; i-- > 0 && r >= 0;)
		r = mounts_drop_one(m->gone.v[i].point, err);
	if (m->maker.base)
		return r;
	for (size_t i = m->here.n; i-- > 0;) {
		const struct mounts_one *here = &m->here.v[i];
		if (!mounts_find(&m->gone, here, false))
			continue;
		if (!strcmp(here->point, "/proc")) {
			m->drops_proc = true;
			continue;
		}
		r = mounts_drop_one(here->point, err);
		if (r < 0)
			return r;
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

/* Those of the tree's root, when that has a namespace of its own and this is another one. */
static struct mounts_remade *mounts_base(const struct opener *o, const struct plan_ns *ns)
{
	uint32_t id = o->plan->tasks[0].ns_id[PROC_NS_MNT];
	const struct plan_ns *root = id && id != ns->id ? plan_ns(o->plan, PROC_NS_MNT, id) : NULL;
	return root ? root->data : NULL;
}

/* A copy of the root's namespace has what the image has in both. */
static int mounts_compare_base(struct opener *o, struct mounts_remade *m, const struct mounts_remade *base,
			       struct ferry_error *err)
{
	struct mounts_facts *facts = &m->maker.facts;
	facts->base = &base->image;
	facts->own_root = m->image.n && !mounts_find(&base->image, &m->image.v[0], true);
	m->gone.v = arena_array(&o->plan->arena, struct mounts_one, base->image.n + 1);
	if (!m->gone.v)
		return error_memory(err);
	if (facts->own_root)
		return 0;
	for (size_t i = 0; i < m->image.n; i++)
		m->image.v[i].known = mounts_find(&base->image, &m->image.v[i], true) != NULL;
	for (size_t i = 0; i < base->image.n; i++)
		if (!mounts_find(&m->image, &base->image.v[i], true))
			m->gone.v[m->gone.n++] = base->image.v[i];
	return 0;
}

/* The image's mounts, and what of them is here. */
static int mounts_read_all(struct opener *o, struct plan_ns *ns, struct mounts_remade *m,
			   struct ferry_error *err)
{
	struct arena *a = &o->plan->arena;
	struct mounts_remade *base = mounts_base(o, ns);
	struct proc_mounts *mounts = arena_new(a, struct proc_mounts);
	_cleanup_close_ int self = fd_open(o->options->home_proc, "self", O_PATH | O_DIRECTORY, 0);
	if (!mounts)
		return error_memory(err);
	int r = self < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -self, "opening '/proc/self'")
			 : proc_read_mounts(self, mounts, err);
	if (r >= 0)
		r = mounts_from_proc(a, mounts, &m->here, err);
	if (r >= 0)
		r = mounts_read(o->dir, o->plan, o->options, ns->id, &m->image, err);
	m->maker.base = base ? &base->maker : NULL;
	if (r >= 0 && base)
		return mounts_compare_base(o, m, base, err);
	m->maker.facts.own_root = o->options->root != NULL && ns->id == o->plan->tasks[0].ns_id[PROC_NS_MNT];
	if (r < 0 || m->maker.facts.own_root)
		return r;
	struct mounts_told told = {0};
	r = mounts_read_own(o, ns, &m->image, &told, err);
	m->gone = told.gone;
	if (r == 0)
		m->maker.facts.own_root = mounts_guess(o->plan, &m->image, &m->here);
	if (r > 0 && ns->id != o->plan->tasks[0].ns_id[PROC_NS_MNT])
		r = mounts_base_here(m, &told.sources, err);
	return r;
}

static int mounts_plan_all(struct opener *o, const struct plan_ns *ns, struct mounts_remade *m,
			   struct ferry_error *err)
{
	struct mounts_maker *k = &m->maker;
	struct mounts_trouble trouble;
	k->o = o;
	k->l = &m->image;
	k->here = &m->here;
	const uint32_t *theirs = ns->member->ns_id, *roots = o->plan->tasks[0].ns_id;
	k->facts.own_pidns = plan_own_ns(o->plan, PROC_NS_PID) || theirs[PROC_NS_PID];
	k->facts.own_ipcns = theirs[PROC_NS_IPC] != roots[PROC_NS_IPC];
	k->facts.own_netns = theirs[PROC_NS_NET] != roots[PROC_NS_NET];
	k->task = ns->member;
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
		r = mounts_plan_all(o, ns, m, err);
	if (r >= 0)
		r = mounts_make_outside(&m->maker, err);
	if (r >= 0)
		r = mounts_part(&m->maker, err);
	if (r >= 0)
		r = mounts_drop(m, err);
	return r < 0 ? r : mounts_make_early(&m->maker, err);
}

int mounts_finish(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	struct mounts_remade *m = ns->data;
	int r = m->drops_proc ? mounts_drop_one("/proc", err) : 0;
	if (r >= 0)
		r = mounts_make_late(&m->maker, err);
	for (size_t i = 0; i < m->image.n; i++) {
		if (m->maker.groups[i] >= 0)
			close(m->maker.groups[i]);
		/* Files may be opened by them. */
		if (r >= 0 && m->maker.fds[i] >= 0 && plan_keep_source(o->plan, m->maker.fds[i]) < 0)
			r = error_memory(err);
	}
	return r;
}

/* ---------------------------------------------------------------------- files */

static bool mounts_is_late_path(const struct plan *p, const RegFileEntry *reg)
{
	return plan_own_ns(p, PROC_NS_MNT) && plan_own_ns(p, PROC_NS_PID) && mounts_below(reg->name, "/proc");
}

static bool mounts_is_hidden(const struct mounts_list *l, const struct mounts_one *m)
{
	for (size_t i = 0; i < l->n; i++)
		if (mounts_covers(l, &l->v[i], m))
			return true;
	return false;
}

/* Files on mounts that lie below others, or below the whole root's namespace. */
static int mounts_read_namespace(struct reader *r, const struct plan_ns *ns, struct ferry_error *err)
{
	struct plan *p = r->plan;
	struct mounts_list l;
	bool below = ns->id != p->tasks[0].ns_id[PROC_NS_MNT];
	int ret = mounts_read(r->dir, p, r->options, ns->id, &l, err);
	if (ret >= 0)
		ret = mounts_find_parents(&l, err);
	if (ret < 0)
		return ret;
	for (size_t k = 0; k < l.n; k++) {
		bool waits = below || (r->options->root && mounts_is_hidden(&l, &l.v[k]));
		for (size_t i = 0; i < p->n_files && waits; i++) {
			const RegFileEntry *reg = p->files[i].entry->reg;
			p->files[i].waits_for_mounts |=
				reg && reg->has_mnt_id && (uint32_t)reg->mnt_id == l.v[k].id;
		}
	}
	return 0;
}

int mounts_read_waiting(struct reader *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	int ret = 0;
	for (size_t i = 0; i < p->n_files; i++) {
		const RegFileEntry *reg = p->files[i].entry->reg;
		p->files[i].waits_for_mounts = reg && mounts_is_late_path(p, reg);
	}
	vec_foreach(ns, &p->namespaces)
		if (ns->type == PROC_NS_MNT && ret >= 0)
			ret = mounts_read_namespace(r, ns, err);
	return ret;
}

/* Where a file is mounted, and no folder, that is it; again, since a mount is held without rights to it. */
static int mounts_open_on(const struct opener *o, int mount, const char *below, int flags)
{
	const struct kern_open_how how = {
		.flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
		.resolve = KERN_RESOLVE_BENEATH | KERN_RESOLVE_NO_XDEV,
	};
	int fd = sys_openat2(mount, *below ? below : ".", &how);
	if (fd == -ENOTDIR && !*below) {
		char path[48];
		snprintf(path, sizeof(path), "self/fd/%d", mount);
		return fd_open(o->options->home_proc, path, flags, 0);
	}
	return fd == -EXDEV ? -ENOENT : fd;
}

int mounts_open_file(const struct opener *o, const struct plan_file *file, int flags)
{
	const RegFileEntry *reg = file->entry->reg;
	if (!file->waits_for_mounts || !reg->has_mnt_id)
		return -EXDEV;
	vec_foreach(ns, &o->plan->namespaces) {
		const struct mounts_remade *m = ns->type == PROC_NS_MNT ? ns->data : NULL;
		for (size_t i = 0; m && i < m->image.n; i++) {
			const struct mounts_one *on = &m->image.v[i];
			const char *below = mounts_below(reg->name, on->point);
			if (on->id == (uint32_t)reg->mnt_id && below && m->maker.fds[i] >= 0)
				return mounts_open_on(o, m->maker.fds[i], below, flags);
		}
	}
	return -EXDEV;
}
