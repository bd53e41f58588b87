/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns mount namespaces: looking at them, and writing what they have. Whoever lives in the root of the dumper takes his mounts from
 * the restorer, where he has them at the same place (ferry run); the others are made: proc of the tree's PID namespace, tmpfs with its
 * contents, sysfs, mqueue, devpts, cgroup, and further sights (bind mounts) of what is there. What the tree has unmounted is unmounted. A
 * tree with a root of its own (a container) gets all of its mounts anew, below the folder that --root names, and what came from outside
 * of it by --external. A namespace that the root does not live in begins as a copy of the root's.
 *
 * Kernel interface: /proc/PID/mountinfo, umount2(2); see mounts_apart.c and mounts_make.c.
 * Does not handle: file systems with contents of their own that are neither the root nor external, roots that are not the
 * namespace's, file systems of the tree's own that show other ids than they have; in a namespace that is not the tree's root's: files
 * without a name or with another, sockets with a name that is there alone, file systems that several such have.
 */
#include "kind/ns_mounts.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/mnt.pb-c.h"
#include "kernel/caps.h"
#include "kernel/syscalls.h"
#include "kind/external.h"
#include "kind/kinds.h"
#include "kind/mounts_apart.h"
#include "kind/mounts_ids.h"
#include "kind/mounts_overlay.h"
#include "kind/mounts_plan.h"
#include "kind/mounts_restore.h"
#include "kind/mounts_tar.h"
#include "model/kind.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

enum { MOUNTS_TARS = 8 };

/* -------------------------------------------------------------------- check */

struct mounts_data {
	struct arena arena; /* of a check; a collect has the snapshot's */
	struct proc_mounts theirs, of_root;
	bool below; /* another namespace than that of the tree's root: what is outside of it is that */
	struct mounts_list tree, outside;
	struct mounts_facts facts;
};

static void mounts_data_release(struct mounts_data *d)
{
	proc_mounts_release(&d->theirs);
	proc_mounts_release(&d->of_root);
	arena_release(&d->arena);
}

static int mounts_refuse(pid_t pid, const struct mounts_trouble *t, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP, "pid %d: '%.200s' (%s) %s", pid,
		  t->mount->point, mounts_type_name(t->mount), t->why);
	error_hint(err, "%s", t->hint);
	return -ENOTSUP;
}

static bool mounts_has_group(const struct mounts_list *l, uint32_t group)
{
	for (size_t i = 0; i < l->n && group; i++)
		if (l->v[i].shared == group)
			return true;
	return false;
}

static bool mounts_has_contents(const struct mounts_one *m)
{
	return m->from == MOUNTS_NEW && m->type == FSTYPE__TMPFS;
}

/* One that lies open shows ferry among the processes only if it is of ferry's PID namespace, which the tree may have. */
static bool mounts_is_foreign_proc(const struct mounts_one *m, const struct mounts_facts *facts)
{
	struct stat st;
	char text[16] = "";
	_cleanup_close_ int dir = fd_open(AT_FDCWD, m->point, O_PATH | O_DIRECTORY, 0);
	if (dir < 0 || fstat(dir, &st) < 0 || kern_dev(st.st_dev) != m->dev)
		return false;
	bool seen = readlinkat(dir, "self", text, sizeof(text) - 1) > 0 && strtol(text, NULL, 10) == getpid();
	return seen == facts->own_pidns;
}

static bool mounts_ids_follow(const struct mounts_one *m, const struct mounts_one *source)
{
	if (!source)
		return !m->idmapped;
	return mounts_same_ids(m, source) || (m->ids && !source->idmapped);
}

static struct mounts_trouble mounts_check_one(const struct mounts_data *d, const struct mounts_one *m,
					      const struct kind_options *options)
{
	const struct mounts_list *tree = &d->tree, *outside = &d->outside;
	static const char unmount[] =
		"unmount it in the tree's mount namespace, or mount it outside before the tree starts";
	bool from_outside = m->from == MOUNTS_HERE || m->from == MOUNTS_ROOT || m->from == MOUNTS_EXTERNAL;
	bool of_base = d->below && mounts_has_group(outside, m->master);
	if (!from_outside && m->master && !of_base && !mounts_has_group(tree, m->master))
		return mounts_refused(m, "receives mounts from a group of peers outside of the tree",
				      unmount);
	if (m->from == MOUNTS_EXTERNAL && mounts_has_group(outside, m->shared) && !options->ext_sharing)
		return mounts_refused(m, "shares what is mounted in it with mounts outside of the tree",
				      "make it private or a slave: mount --make-rslave");
	if (m->from == MOUNTS_NEW && m->type == FSTYPE__PROC && mounts_is_foreign_proc(m, &d->facts))
		return mounts_refused(m, "was mounted for another pid namespace", unmount);
	const struct mounts_one *source = m->from == MOUNTS_BIND   ? &tree->v[m->of]
					  : m->from == MOUNTS_BASE ? &outside->v[m->of]
								   : NULL;
	/* A copy shows what its source does, and one that shows ids as they are can be told otherwise. */
	if (!from_outside && !mounts_ids_follow(m, source))
		return mounts_refused(m, "maps the ids of its files in a way of its own", unmount);
	if (mounts_has_contents(m) && !mounts_tar_exists(options))
		return mounts_refused(m, "has contents, and there is no tar(1) to store them", "install tar");
	return (struct mounts_trouble){0};
}

/* Whether anybody lives in a namespace; whether of the tree, shows when that stands. */
static bool mounts_is_lived_in(enum proc_ns type, uint64_t ino)
{
	DIR *proc = opendir("/proc");
	bool found = false;
	for (struct dirent *e; proc && !found && (e = readdir(proc)) != NULL;) {
		char path[NAME_MAX + 32];
		struct stat st;
		snprintf(path, sizeof(path), "/proc/%s/ns/%s", e->d_name, proc_ns_info(type)->file);
		found = isdigit((unsigned char)e->d_name[0]) && stat(path, &st) == 0 && st.st_ino == ino;
	}
	if (proc)
		closedir(proc);
	return found;
}

/* Which namespaces are mounted, as the image calls them. s: NULL in a check. */
static void mounts_name_namespaces(struct mounts_list *l, const struct snapshot *s)
{
	for (size_t i = 0; i < l->n; i++) {
		struct mounts_one *m = &l->v[i];
		uint64_t ino;
		if (!mounts_is_nsfs(m, &m->ns_type, &ino))
			continue;
		const struct snap_ns *ns = s ? snapshot_ns(s, m->ns_type, ino) : NULL;
		m->ns_id = s ? ns ? ns->id : 0 : mounts_is_lived_in(m->ns_type, ino);
	}
}

static bool mounts_is_listed(const char *const *list, size_t n, const char *word)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(list[i], word))
			return true;
	return false;
}

static bool mounts_has_id(const struct mounts_list *l, uint32_t id)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].id == id)
			return true;
	return false;
}

/* --skip-mnt: neither they nor what hangs on them. */
static void mounts_skip(struct mounts_list *l, const struct kind_options *options)
{
	struct mounts_list kept = {.v = l->v};
	for (size_t i = 0; i < l->n; i++) {
		const struct mounts_one *m = &l->v[i];
		bool skipped = mounts_is_listed(options->skip_mnt, options->n_skip_mnt, m->point);
		if (!i || (!skipped && mounts_has_id(&kept, m->parent_id)))
			kept.v[kept.n++] = *m;
	}
	l->n = kept.n;
}

/* Where in ferry's own namespace one of the tree's can be had that has no other source. */
static const char *mounts_find_outside(struct arena *a, const struct mounts_data *d,
				       const struct mounts_one *m)
{
	for (size_t i = 0; i < d->outside.n; i++) {
		const struct mounts_one *other = &d->outside.v[i];
		const char *below = other->dev == m->dev ? mounts_below(m->root, other->root) : NULL;
		char path[MOUNTS_PATH_BYTES];
		if (below && (size_t)snprintf(path, sizeof(path), "%s%s%s",
					      strcmp(other->point, "/") ? other->point : "",
					      *below ? "/" : "", below) < sizeof(path))
			return arena_string(a, *path ? path : "/");
	}
	return NULL;
}

/* --external mnt[]: those that have no other source come from outside, from where ferry has the same. */
static int mounts_find_sources(struct mounts_data *d, const struct kind_options *options, struct arena *a,
			       struct mounts_trouble *ret, struct ferry_error *err)
{
	for (;;) {
		int r = mounts_sources(&d->tree, &d->facts, ret, err);
		const char *path = ret->mount && !d->below && external_all_mounts(options) && !ret->mount->key
					   ? mounts_find_outside(a, d, ret->mount)
					   : NULL;
		if (!path)
			return r;
		struct mounts_one *m = &d->tree.v[ret->mount - d->tree.v];
		m->key = MOUNTS_KEY_SOURCE;
		m->source = path;
	}
}

/* What is ferry's own, and what somebody says comes from outside. */
static void mounts_mark(struct mounts_data *d, const struct kind_options *options)
{
	for (size_t i = 0; i < d->tree.n; i++) {
		struct mounts_one *m = &d->tree.v[i], *other = NULL;
		if (!d->facts.own_root)
			other = mounts_find(&d->outside, m, true);
		m->known = other != NULL;
		if (other)
			other->known = true;
		/* What has places of its own has the names of the root's for something else. */
		m->key = i && !(d->below && d->facts.own_root) ? external_mount(options, m->point) : NULL;
		bool enabled = mounts_is_listed(options->enable_fs, options->n_enable_fs, m->fstype) ||
			       mounts_is_listed(options->enable_fs, options->n_enable_fs, "all");
		if (m->type == FSTYPE__UNSUPPORTED && i && enabled)
			m->type = FSTYPE__AUTO;
	}
}

/* Mounts that the namespace's can be compared with: ferry's own, or for one below that of the root. */
static int mounts_read_outside(const struct kind_options *options, struct arena *a, struct mounts_data *d,
			       int proc_root, struct ferry_error *err)
{
	if (!d->below)
		return mounts_from_proc(a, options->outside_mounts, &d->outside, err);
	int r = proc_read_mounts(proc_root, &d->of_root, err);
	if (r >= 0)
		r = mounts_from_proc(a, &d->of_root, &d->outside, err);
	if (r >= 0)
		mounts_skip(&d->outside, options);
	return r;
}

/* What is asked of a namespace that not the tree's root lives in. */
static int mounts_check_below(pid_t pid, int proc_dir, const struct kind_options *options,
			      struct mounts_data *d, struct ferry_error *err)
{
	struct stat owner_st;
	_cleanup_close_ int fd = proc_open_namespace(proc_dir, PROC_NS_MNT, err);
	_cleanup_close_ int owner = fd < 0 ? fd : ioctl(fd, NS_GET_USERNS);
	if (fd < 0)
		return fd;
	if (owner >= 0 && fstat(owner, &owner_st) == 0 &&
	    owner_st.st_ino != options->own_namespaces.ino[PROC_NS_USER])
		return error_set(
			err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			"pid %d lives in a mount namespace that is not the root's and belongs to a user "
			"namespace of its own",
			pid);
	d->facts.base = &d->outside;
	return mounts_find_parents(&d->outside, err);
}

/* The tree's mounts against those of ferry's own namespace. */
static int mounts_compare(pid_t pid, int proc_dir, const struct kind_options *options,
			  const struct snapshot *s, struct arena *a, struct mounts_data *d,
			  struct ferry_error *err)
{
	struct proc_namespaces ns = {0};
	struct mounts_trouble trouble = {0};
	struct mounts_plan plan;
	int r = proc_read_mounts(proc_dir, &d->theirs, err);
	if (r >= 0)
		r = proc_read_namespaces(proc_dir, &ns, err);
	if (r >= 0)
		r = mounts_from_proc(a, &d->theirs, &d->tree, err);
	d->below = r >= 0 && ns.ino[PROC_NS_MNT] != options->view_ns;
	_cleanup_close_ int look = d->below ? proc_open_look(options->view_pid, err) : -1;
	if (d->below && look < 0)
		return look;
	int proc_root = d->below ? look : proc_dir;
	if (r >= 0)
		r = mounts_read_outside(options, a, d, proc_root, err);
	if (r < 0)
		return r;
	if (!d->tree.n || strcmp(d->tree.v[0].point, "/") != 0)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
				 "pid %d has a root directory that is not its mount namespace's", pid);
	d->facts = (struct mounts_facts){
		.own_root = !mounts_find(&d->outside, &d->tree.v[0], true),
		.own_pidns = ns.ino[PROC_NS_PID] != options->own_namespaces.ino[PROC_NS_PID],
		.own_ipcns = d->below && ns.ino[PROC_NS_IPC] != options->own_namespaces.ino[PROC_NS_IPC],
		.own_netns = d->below && ns.ino[PROC_NS_NET] != options->own_namespaces.ino[PROC_NS_NET],
		.detached = true,
	};
	r = d->below ? mounts_check_below(pid, proc_dir, options, d, err) : 0;
	if (r < 0)
		return r;
	mounts_skip(&d->tree, options);
	mounts_mark(d, options);
	mounts_name_namespaces(&d->tree, s);
	r = mounts_look_ids(&d->tree, proc_dir, a, err);
	if (r >= 0 && d->below)
		r = mounts_look_ids(&d->outside, proc_root, a, err);
	if (r >= 0)
		r = mounts_find_sources(d, options, a, &trouble, err);
	for (size_t i = 0; i < d->tree.n && r >= 0 && !trouble.mount; i++)
		trouble = mounts_check_one(d, &d->tree.v[i], options);
	for (size_t i = 0; i < d->tree.n && r >= 0 && !trouble.mount; i++)
		r = mounts_check_overlay(&d->tree.v[i], &d->facts, proc_dir, proc_root, a, &trouble, err);
	if (trouble.mount)
		return mounts_refuse(pid, &trouble, err);
	return r < 0 ? r : mounts_plan(a, &d->tree, &d->facts, &plan, err);
}

static int mounts_check(pid_t pid, int proc_dir, const struct kind_options *options, struct ferry_error *err)
{
	struct mounts_data d = {0};
	int r = mounts_compare(pid, proc_dir, options, NULL, &d.arena, &d, err);
	mounts_data_release(&d);
	return r;
}

/* ----------------------------------------------------------- collect and dump */

static int mounts_collect(struct collect *c, struct snap_ns *ns, struct ferry_error *err)
{
	struct mounts_data *d = ns->data = arena_new(&c->snap->arena, struct mounts_data);
	_cleanup_close_ int dir = d ? proc_open_look(ns->pid, err) : -1;
	if (!d)
		return error_memory(err);
	return dir < 0 ? dir : mounts_compare(ns->pid, dir, c->options, c->snap, &c->snap->arena, d, err);
}

static int mounts_put_record(struct arena *a, struct image_writer *w, const struct mounts_one *m,
			     bool internal, struct ferry_error *err)
{
	MntEntry e = MNT_ENTRY__INIT;
	char *options = (char *)m->options;
	if (m->type == FSTYPE__DEVPTS) { /* for those who ask, each mount of it is an instance of its own */
		size_t n = strlen(m->options) + sizeof(",newinstance");
		options = arena_alloc(a, n);
		if (!options)
			return error_memory(err);
		snprintf(options, n, "%s%snewinstance", m->options, *m->options ? "," : "");
	}
	e.fstype = m->type;
	e.mnt_id = m->id;
	e.parent_mnt_id = m->parent_id;
	e.root_dev = m->dev;
	e.flags = m->flags | (m->shared ? MS_SHARED : 0) | (m->master ? MS_SLAVE : 0) |
		  (m->unbindable ? MS_UNBINDABLE : 0);
	char root[32];
	snprintf(root, sizeof(root), "%s:[%u]", proc_ns_info(m->ns_type)->word, m->ns_id);
	e.root = m->ns_id ? root : (char *)m->root;
	e.mountpoint = (char *)m->point;
	e.source = (char *)m->source;
	e.options = options;
	e.ext_key = (char *)m->key;
	if (m->type == FSTYPE__AUTO || m->ns_id)
		e.fsname = (char *)m->fstype;
	if (m->key && m->shared && internal)
		record_set(&e, internal_sharing, true);
	record_set(&e, shared_id, m->shared);
	record_set(&e, master_id, m->master);
	record_set(&e, sb_flags, m->sb_flags);
	return image_put(w, &e.base, err);
}

/* Ferry works with a /proc of its own, which lies on the tree's. */
static int mounts_uncover_proc(const struct mounts_list *l)
{
	enum { LAYERS = 4 };
	const struct mounts_one *at = NULL;
	for (size_t i = 0; i < l->n; i++)
		if (mounts_below("/proc", l->v[i].point))
			at = &l->v[i];
	for (int i = 0; at && i < LAYERS; i++) {
		struct stat st;
		if (stat("/proc", &st) < 0 || kern_dev(st.st_dev) == at->dev)
			return 0;
		if (umount2("/proc", MNT_DETACH) < 0)
			return -errno;
	}
	return 0;
}

/* What lies below its root, and on itself. */
static int mounts_open_visible(const char *point, const char *below)
{
	const struct kern_open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW,
					  .resolve = KERN_RESOLVE_BENEATH | KERN_RESOLVE_NO_SYMLINKS |
						     KERN_RESOLVE_NO_XDEV};
	_cleanup_close_ int root = fd_open(AT_FDCWD, point, O_PATH, 0);
	return root < 0 || !*below ? take_fd(root) : sys_openat2(root, below, &how);
}

struct mounts_uncover {
	const struct mounts_list *l;
	const struct mounts_one *m;
	const char *below;
};

/*
 * In a copy of the namespace: take away what hides a mount, and copy it without what is mounted in it; or open what lies below its
 * root.
 */
static int mounts_uncover(void *ctx)
{
	const struct mounts_uncover *u = ctx;
	struct stat st;
	int r = mounts_uncover_proc(u->l);
	if (r < 0)
		return r;
	for (size_t i = u->l->n; i-- > 0;)
		if (mounts_covers(u->l, &u->l->v[i], u->m) && umount2(u->l->v[i].point, MNT_DETACH) < 0)
			return -errno;
	int fd = u->below ? mounts_open_visible(u->m->point, u->below)
			  : sys_open_tree(AT_FDCWD, u->m->point, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	bool same = fd >= 0 && fstat(fd, &st) == 0 && kern_dev(st.st_dev) == u->m->dev;
	return fd < 0 ? fd : same ? fd : -ESTALE;
}

/* ns: a namespace of the tree, -1 = the one that ferry sees. */
static int mounts_open_uncovered(int ns, const struct mounts_list *l, const struct mounts_one *m,
				 const char *below)
{
	struct mounts_uncover u = {l, m, below};
	return mounts_apart(ns, mounts_uncover, &u);
}

/* The root of a mount with nothing on it. As a rule nothing hides it. */
static int mounts_open_bare(int ns, const struct mounts_list *l, const struct mounts_one *m,
			    struct ferry_error *err)
{
	bool covered = ns >= 0 || mounts_below(m->point, "/proc"); /* ferry's lies there */
	for (size_t i = 0; i < l->n; i++)
		covered |= mounts_covers(l, &l->v[i], m);
	int fd = covered ? mounts_open_uncovered(ns, l, m, NULL)
			 : sys_open_tree(AT_FDCWD, m->point, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	return fd < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -fd, "looking into '%.200s'", m->point) : fd;
}

static bool mounts_makes(const struct mounts_data *d, uint32_t dev)
{
	for (size_t i = 0; d && i < d->tree.n; i++)
		if (d->tree.v[i].dev == dev && d->tree.v[i].from == MOUNTS_NEW)
			return true;
	return false;
}

static int mounts_start_contents(struct dump *d, const struct snap_ns *ns, const struct mounts_one *m,
				 struct mounts_tar *ret, struct ferry_error *err)
{
	const struct mounts_data *data = ns->data;
	_cleanup_close_ int dir = data->below ? proc_open_look(ns->pid, err) : -1;
	_cleanup_close_ int theirs = dir < 0 ? -1 : proc_open_namespace(dir, PROC_NS_MNT, err);
	if (data->below && theirs < 0)
		return dir < 0 ? dir : theirs;
	/* A file system that several namespaces have would come back as several. */
	vec_foreach(other, &d->snap->namespaces)
		if (other != ns && other->type == PROC_NS_MNT && mounts_makes(other->data, m->dev))
			return error_set(
				err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
				"'%.200s' (%s) is mounted in several mount namespaces, and not in the root's",
				m->point, mounts_type_name(m));
	_cleanup_close_ int fd = mounts_open_bare(theirs, &data->tree, m, err);
	return fd < 0 ? fd : mounts_tar_start(d->options, fd, ret, err);
}

/* Starting a program takes longer than reading the few files that a container has in memory: several at a time. */
struct mounts_tars {
	struct mounts_tar v[MOUNTS_TARS];
	const struct mounts_one *of[MOUNTS_TARS];
	size_t n;
};

static int mounts_store_contents(struct dump *d, struct mounts_tars *tars, int r, struct ferry_error *err)
{
	for (size_t i = 0; i < tars->n; i++) {
		if (r >= 0)
			r = mounts_tar_store(d, &tars->v[i], tars->of[i]->dev, tars->of[i]->point, err);
		else
			mounts_tar_abandon(&tars->v[i]);
	}
	tars->n = 0;
	return r;
}

static int mounts_dump_contents(struct dump *d, const struct snap_ns *ns, struct ferry_error *err)
{
	const struct mounts_data *data = ns->data;
	struct mounts_tars tars = {.n = 0};
	int r = 0;
	for (size_t i = 0; i < data->tree.n && r >= 0; i++) {
		const struct mounts_one *m = &data->tree.v[i];
		if (!mounts_has_contents(m))
			continue;
		r = mounts_start_contents(d, ns, m, &tars.v[tars.n], err);
		if (r >= 0)
			tars.of[tars.n++] = m;
		if (tars.n == MOUNTS_TARS)
			r = mounts_store_contents(d, &tars, r, err);
	}
	return mounts_store_contents(d, &tars, r, err);
}

static bool mounts_is_source(const struct mounts_data *data, size_t i)
{
	for (size_t k = 0; k < data->tree.n; k++)
		if (data->tree.v[k].from == MOUNTS_BASE && data->tree.v[k].of == (int)i)
			return true;
	return false;
}

/* One that ferry has: the tree has it not, which is a matter of course with a root of its own, or has parts of it elsewhere. */
static int mounts_put_here(struct image_writer *w, const struct mounts_data *data, size_t i,
			   struct ferry_error *err)
{
	const struct mounts_one *m = &data->outside.v[i];
	FerryMountEntry e = FERRY_MOUNT_ENTRY__INIT;
	e.here_point = (char *)m->point;
	e.here_root = (char *)m->root;
	record_set(&e, here_fstype, m->type);
	record_set(&e, here_level, (uint32_t)m->level);
	int r = m->known || data->facts.own_root ? 0 : image_put(w, &e.base, err);
	record_set(&e, here_dev, m->dev);
	return r < 0 || !mounts_is_source(data, i) ? r : image_put(w, &e.base, err);
}

/* Where a tree differs from what ferry has, and a restore has. */
static int mounts_dump_differences(struct dump *d, uint32_t id, const struct mounts_data *data,
				   struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(d->dir, IMAGE_FERRY_MOUNTS, id, &w, err);
	for (size_t i = 0; i < data->tree.n && r >= 0; i++) {
		FerryMountEntry e = FERRY_MOUNT_ENTRY__INIT;
		record_set(&e, mnt_id, data->tree.v[i].id);
		if (!data->tree.v[i].known)
			r = image_put(w, &e.base, err);
	}
	for (size_t i = 0; i < data->outside.n && r >= 0; i++)
		r = mounts_put_here(w, data, i, err);
	return r < 0 ? r : image_close(w, err);
}

static int mounts_dump(struct dump *d, struct snap_ns *ns, struct ferry_error *err)
{
	struct mounts_data *data = ns->data;
	struct image_writer *w;
	int r = image_create(d->dir, IMAGE_MNTS, ns->id, &w, err);
	for (size_t i = data->tree.n; i-- > 0 && r >= 0;)
		r = mounts_put_record(&d->snap->arena, w, &data->tree.v[i],
				      !mounts_has_group(&data->outside, data->tree.v[i].shared), err);
	if (r >= 0)
		r = image_close(w, err);
	/* One below the root's is compared with that, which the image has, too. */
	bool of_image = data->below && d->options->outside_mounts;
	if (r >= 0 && (data->below || !data->facts.own_root) && !of_image)
		r = mounts_dump_differences(d, ns->id, data, err);
	if (r >= 0)
		r = mounts_store_ids(d, ns->id, &data->tree, err);
	if (r >= 0)
		r = mounts_dump_contents(d, ns, err);
	proc_mounts_release(&data->theirs);
	proc_mounts_release(&data->of_root);
	data->theirs = data->of_root = (struct proc_mounts){0};
	return r;
}

/* ------------------------------------------------------------------ hidden files */

static const struct mounts_one *mounts_by_id(const struct mounts_list *l, uint64_t id)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].id == id)
			return &l->v[i];
	return NULL;
}

static bool mounts_leads_to(const struct mounts_list *l, uint64_t id, const char *path, const struct stat *st)
{
	const struct mounts_one *m = mounts_by_id(l, id);
	const char *below = m ? mounts_below(path, m->point) : NULL;
	_cleanup_close_ int fd = below ? mounts_open_uncovered(-1, l, m, below) : -1;
	struct stat found;
	return fd >= 0 && fstat(fd, &found) == 0 && found.st_ino == st->st_ino && found.st_dev == st->st_dev;
}

bool mounts_hide(pid_t look, const char *source, const char *path, const struct stat *st,
		 const struct kind_options *options)
{
	struct mounts_data d = {0};
	struct kern_statx stx;
	_cleanup_close_ int dir = options->outside_mounts ? proc_open(look, NULL) : -1;
	bool good = dir >= 0 && sys_statx(AT_FDCWD, source, 0, STATX_MNT_ID, &stx) >= 0 &&
		    proc_read_mounts(dir, &d.theirs, NULL) >= 0 &&
		    mounts_from_proc(&d.arena, &d.theirs, &d.tree, NULL) >= 0 &&
		    mounts_from_proc(&d.arena, options->outside_mounts, &d.outside, NULL) >= 0 && d.tree.n &&
		    !mounts_find(&d.outside, &d.tree.v[0], true);
	good = good && mounts_find_parents(&d.tree, NULL) >= 0 &&
	       mounts_leads_to(&d.tree, stx.mnt_id, path, st);
	mounts_data_release(&d);
	return good;
}

static const struct ns_ops mounts_ops = {
	.type = PROC_NS_MNT,
	.check = mounts_check,
	.collect = mounts_collect,
	.dump = mounts_dump,
	.restore = mounts_restore,
	.finish = mounts_finish,
};

const struct kind_ops kind_mounts = {
	.name = "mounts",
	.what = "mount namespaces: a root of its own, proc, tmpfs, devpts, bind mounts, what comes from outside",
	.fd_type = -1,
	.image_file = -1,
	.ns = &mounts_ops,
	.read = mounts_read_waiting,
};
