/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns mount namespaces of jobs: what a tree has mounted beside the mounts of whoever started it. Mounts that the dumper has at
 * the same place are taken from the restorer; others are made: proc of the tree's PID namespace, tmpfs with its contents,
 * sysfs, mqueue, devpts, and further sights (bind mounts) of what the restorer has mounted. What the tree has unmounted is unmounted.
 *
 * Kernel interface: /proc/PID/mountinfo, mount(2), umount2(2), unshare(2) with CLONE_NEWNS. Contents of a tmpfs are a tar
 * archive, made and read by tar(1).
 * Does not handle: file systems of other types that the dumper has not mounted, mounts that receive from a group of peers
 * (slaves) and are not the dumper's, who was in one group with whom, tmpfs under another mount, roots that are not the
 * namespace's, more than one mount namespace in a tree.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/mnt.pb-c.h"
#include "kind/kinds.h"
#include "model/kind.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

enum { MOUNTS_MAX = 4096, MOUNTS_LATE_MAX = 8, MOUNTS_PATH_BYTES = 512, MOUNTS_TAR_BLOCK = 1 << 16 };

static const struct {
	const char *name;
	Fstype type;
} mounts_types[] = {
	{"proc", FSTYPE__PROC},
	{"sysfs", FSTYPE__SYSFS},
	{"devtmpfs", FSTYPE__DEVTMPFS},
	{"binfmt_misc", FSTYPE__BINFMT_MISC},
	{"tmpfs", FSTYPE__TMPFS},
	{"devpts", FSTYPE__DEVPTS},
	{"simfs", FSTYPE__SIMFS},
	{"pstore", FSTYPE__PSTORE},
	{"securityfs", FSTYPE__SECURITYFS},
	{"fusectl", FSTYPE__FUSECTL},
	{"debugfs", FSTYPE__DEBUGFS},
	{"cgroup", FSTYPE__CGROUP},
	{"aufs", FSTYPE__AUFS},
	{"mqueue", FSTYPE__MQUEUE},
	{"fuse", FSTYPE__FUSE},
	{"overlay", FSTYPE__OVERLAYFS},
	{"autofs", FSTYPE__AUTOFS},
	{"tracefs", FSTYPE__TRACEFS},
	{"cgroup2", FSTYPE__CGROUP2},
};

static const struct {
	const char *word;
	unsigned flag;
} mounts_flags[] = {
	{"ro", MS_RDONLY},         {"nosuid", MS_NOSUID},    {"nodev", MS_NODEV},
	{"noexec", MS_NOEXEC},     {"noatime", MS_NOATIME},  {"nodiratime", MS_NODIRATIME},
	{"relatime", MS_RELATIME}, {"sync", MS_SYNCHRONOUS}, {"dirsync", MS_DIRSYNC},
};

/* One mount, of an image or of mountinfo, in the order in which mounts can be made. */
struct mounts_one {
	uint32_t id, parent;
	Fstype type;
	const char *root, *point;
	uint32_t dev; /* kernel's encoding */
	uint32_t shared, master;
	size_t level; /* how many lie below it at the same place */
	bool known;   /* has its counterpart on the other side */
	bool placed;  /* is in the order */
	const struct proc_mount *of_proc;
	const MntEntry *of_image;
};

struct mounts_list {
	struct mounts_one *v;
	size_t n;
};

static Fstype mounts_type(const char *name)
{
	size_t n = strcspn(name, "."); /* "fuse.sshfs" */
	for (size_t i = 0; i < ARRAY_SIZE(mounts_types); i++)
		if (strlen(mounts_types[i].name) == n && !memcmp(mounts_types[i].name, name, n))
			return mounts_types[i].type;
	return FSTYPE__UNSUPPORTED;
}

static const char *mounts_type_name(Fstype type)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts_types); i++)
		if (mounts_types[i].type == type)
			return mounts_types[i].name;
	return "unknown";
}

static unsigned mounts_flags_of(const char *options)
{
	unsigned flags = 0;
	for (size_t i = 0; i < ARRAY_SIZE(mounts_flags); i++)
		if (proc_mount_has_option(options, mounts_flags[i].word))
			flags |= mounts_flags[i].flag;
	return flags;
}

static uint32_t mounts_dev(uint64_t dev)
{
	return (uint32_t)(major(dev) << 20 | minor(dev));
}

/* Parents first; what lies on its parent's very place comes after its siblings, which it hides. */
static int mounts_order(struct arena *a, struct mounts_list *l, struct ferry_error *err)
{
	struct mounts_one *ordered = arena_array(a, struct mounts_one, l->n + 1);
	size_t n = 0;
	if (!ordered)
		return error_memory(err);
	/* Roots are those whose parent is not in the list. */
	for (size_t i = 0; i < l->n; i++) {
		bool has_parent = false;
		for (size_t k = 0; k < l->n; k++)
			has_parent |= k != i && l->v[k].id == l->v[i].parent;
		if (!has_parent) {
			l->v[i].placed = true;
			ordered[n++] = l->v[i];
		}
	}
	for (size_t at = 0; at < n; at++)
		for (int on_top = 0; on_top < 2; on_top++)
			for (size_t i = 0; i < l->n; i++) {
				struct mounts_one *m = &l->v[i];
				bool top = !strcmp(m->point, ordered[at].point);
				if (m->placed || m->parent != ordered[at].id || top != (on_top == 1))
					continue;
				m->placed = true;
				ordered[n++] = *m;
			}
	if (n != l->n)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "mounts that hang on each other in a circle");
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < i; k++)
			ordered[i].level += !strcmp(ordered[k].point, ordered[i].point);
	l->v = ordered;
	return 0;
}

static int mounts_from_proc(struct arena *a, const struct proc_mounts *mounts, struct mounts_list *ret,
			    struct ferry_error *err)
{
	struct mounts_list l = {.v = arena_array(a, struct mounts_one, mounts->v.n + 1)};
	if (!l.v)
		return error_memory(err);
	if (mounts->v.n > MOUNTS_MAX)
		return error_set(err, FERRY_ERROR_LIMIT, E2BIG, "%zu mounts", mounts->v.n);
	vec_foreach(m, &mounts->v)
		l.v[l.n++] = (struct mounts_one){
			.id = (uint32_t)m->id,
			.parent = (uint32_t)m->parent_id,
			.type = mounts_type(m->fstype),
			.root = m->root,
			.point = m->point,
			.dev = mounts_dev(m->dev),
			.shared = m->shared,
			.master = m->master,
			.of_proc = m,
		};
	int r = mounts_order(a, &l, err);
	*ret = l;
	return r;
}

static struct mounts_one *mounts_find(const struct mounts_list *l, const struct mounts_one *m, bool same_dev)
{
	for (size_t i = 0; i < l->n; i++) {
		struct mounts_one *other = &l->v[i];
		if (other->level == m->level && other->type == m->type && !strcmp(other->point, m->point) &&
		    !strcmp(other->root, m->root) && (!same_dev || other->dev == m->dev))
			return other;
	}
	return NULL;
}

/* Where else what m shows can be reached: a mount of the same file system and the path below it. */
static bool mounts_bind_source(const struct mounts_list *l, const struct mounts_one *m, char *ret_path,
			       size_t n)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct mounts_one *other = &l->v[i];
		size_t root = strcmp(other->root, "/") ? strlen(other->root) : 0;
		if (other == m || other->dev != m->dev || strncmp(m->root, other->root, root) != 0 ||
		    (m->root[root] && m->root[root] != '/'))
			continue;
		const char *point = strcmp(other->point, "/") ? other->point : "";
		if ((size_t)snprintf(ret_path, n, "%s%s", point, m->root + root) < n)
			return true;
	}
	return false;
}

/* -------------------------------------------------------------------- check */

struct mounts_data {
	struct arena arena; /* of a check; a collect has the snapshot's */
	struct proc_mounts theirs;
	struct mounts_list tree, outside;
};

static void mounts_data_release(struct mounts_data *d)
{
	proc_mounts_release(&d->theirs);
	arena_release(&d->arena);
}

static int mounts_refuse(pid_t pid, const struct mounts_one *m, const char *why, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP, "pid %d: '%.200s' (%s) %s", pid, m->point,
		  m->of_proc->fstype, why);
	error_hint(err,
		   "unmount it in the tree's mount namespace, or mount it outside before the tree starts");
	return -ENOTSUP;
}

/* Whether an earlier mount shows the whole file system. */
static bool mounts_shown_before(const struct mounts_list *l, const struct mounts_one *m)
{
	for (const struct mounts_one *other = l->v; other < m; other++)
		if (other->dev == m->dev && !strcmp(other->root, "/"))
			return true;
	return false;
}

/* A part, of which only a later one shows all: /dev/ptmx of a devpts that lies on top of another. */
static bool mounts_shown_later(const struct mounts_list *l, const struct mounts_one *m)
{
	bool later = false;
	for (const struct mounts_one *other = m + 1; other < l->v + l->n; other++)
		later |= other->dev == m->dev && !strcmp(other->root, "/");
	return later && strcmp(m->root, "/") != 0 && !mounts_shown_before(l, m);
}

static int mounts_check_one(pid_t pid, const struct mounts_list *tree, const struct mounts_list *outside,
			    const struct mounts_one *m, bool own_pidns, struct ferry_error *err)
{
	char path[MOUNTS_PATH_BYTES];
	struct statfs fs;
	if (m->master)
		return mounts_refuse(pid, m, "receives mounts from a group of peers", err);
	if (strlen(m->point) >= MOUNTS_PATH_BYTES)
		return mounts_refuse(pid, m, "has a path that is too long", err);
	if (mounts_bind_source(outside, m, path, sizeof(path)))
		return 0;
	switch (m->type) {
	case FSTYPE__PROC:
		return own_pidns ? 0 : mounts_refuse(pid, m, "was mounted for another pid namespace", err);
	case FSTYPE__SYSFS:
	case FSTYPE__MQUEUE: return 0;
	case FSTYPE__TMPFS: break;
	case FSTYPE__DEVPTS:
		if (!strcmp(m->root, "/") || mounts_shown_before(tree, m) || mounts_shown_later(tree, m))
			return 0;
		return mounts_refuse(pid, m, "shows a part of a file system that is mounted nowhere", err);
	default: return mounts_refuse(pid, m, "is mounted for the tree alone", err);
	}
	/* A second sight of a tmpfs that is stored by its first. */
	if (mounts_shown_before(tree, m))
		return 0;
	struct stat st;
	if (stat(m->point, &st) < 0 || mounts_dev(st.st_dev) != m->dev || statfs(m->point, &fs) < 0)
		return mounts_refuse(pid, m, "lies under another mount", err);
	if (access("/bin/tar", X_OK) < 0 && access("/usr/bin/tar", X_OK) < 0)
		return mounts_refuse(pid, m, "has contents, and there is no tar(1) to store them", err);
	return 0;
}

/* The tree's mounts against those of ferry's own namespace. */
static int mounts_compare(pid_t pid, int proc_dir, const struct kind_options *options, struct arena *a,
			  struct mounts_data *d, struct ferry_error *err)
{
	struct proc_namespaces ns;
	int r = proc_read_mounts(proc_dir, &d->theirs, err);
	if (r >= 0)
		r = proc_read_namespaces(proc_dir, &ns, err);
	if (r >= 0)
		r = mounts_from_proc(a, &d->theirs, &d->tree, err);
	if (r >= 0)
		r = mounts_from_proc(a, options->outside_mounts, &d->outside, err);
	if (r < 0)
		return r;
	bool own_pidns = ns.ino[PROC_NS_PID] != options->own_namespaces.ino[PROC_NS_PID], has_root = false;
	for (size_t i = 0; i < d->tree.n && r >= 0; i++) {
		struct mounts_one *m = &d->tree.v[i], *other = mounts_find(&d->outside, m, true);
		has_root |= !strcmp(m->point, "/");
		m->known = other != NULL;
		if (other)
			other->known = true;
		if (!other)
			r = mounts_check_one(pid, &d->tree, &d->outside, m, own_pidns, err);
	}
	if (r >= 0 && !has_root)
		r = error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			      "pid %d has a root directory that is not its mount namespace's", pid);
	return r;
}

static int mounts_check(pid_t pid, int proc_dir, const struct kind_options *options, struct ferry_error *err)
{
	struct mounts_data d = {0};
	int r = options->outside_mounts ? mounts_compare(pid, proc_dir, options, &d.arena, &d, err) : 0;
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
	return dir < 0 ? dir : mounts_compare(ns->pid, dir, c->options, &c->snap->arena, d, err);
}

/* Super block options without what is in the flags. */
static char *mounts_options(struct arena *a, const char *options)
{
	if (!strncmp(options, "rw", 2) || !strncmp(options, "ro", 2))
		options += options[2] == ',' ? 3 : options[2] ? 0 : 2;
	return arena_string(a, options);
}

static int mounts_put(struct arena *a, struct image_writer *w, const struct mounts_one *m,
		      struct ferry_error *err)
{
	const struct proc_mount *p = m->of_proc;
	MntEntry e = MNT_ENTRY__INIT;
	e.fstype = m->type;
	e.mnt_id = m->id;
	e.parent_mnt_id = m->parent;
	e.root_dev = m->dev;
	e.flags = mounts_flags_of(p->options);
	e.root = (char *)p->root;
	e.mountpoint = (char *)p->point;
	e.source = (char *)p->source;
	e.options = mounts_options(a, p->super_options);
	record_set(&e, shared_id, m->shared);
	record_set(&e, master_id, m->master);
	record_set(&e, sb_flags,
		   mounts_flags_of(p->super_options) & (MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC));
	return e.options ? image_put(w, &e.base, err) : error_memory(err);
}

static int mounts_tar_start(const char *const argv[], int end, int other, int where, pid_t *ret_pid)
{
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		if (dup2(end, where) < 0 || close(other) < 0)
			_exit(126);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	*ret_pid = pid;
	return 0;
}

static int mounts_tar_end(pid_t pid, const char *point, const char *what, struct ferry_error *err)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for tar");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return error_set(err, FERRY_ERROR_RESTORE_STEP, EIO, "tar fails at %s what is in '%s' (%s %d)", what,
			 point, WIFEXITED(status) ? "status" : "signal",
			 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static int mounts_copy_out(int from, struct image_writer *w, struct ferry_error *err)
{
	_cleanup_free_ char *block = malloc(MOUNTS_TAR_BLOCK);
	if (!block)
		return error_memory(err);
	for (;;) {
		ssize_t n = read(from, block, MOUNTS_TAR_BLOCK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading from tar") : 0;
		int r = image_put_raw(w, block, (size_t)n, err);
		if (r < 0)
			return r;
	}
}

static int mounts_dump_contents(struct dump *d, const struct mounts_one *m, struct ferry_error *err)
{
	const char *const argv[] = {"tar",
				    "--create",
				    "--gzip",
				    "--one-file-system",
				    "--numeric-owner",
				    "--sparse",
				    "--xattrs",
				    "--xattrs-include=*",
				    "--warning=no-file-ignored",
				    "--directory",
				    m->point,
				    ".",
				    NULL};
	struct image_writer *w;
	int ends[2];
	pid_t pid = 0;
	int r = image_create(d->dir, IMAGE_TMPFS_DEV, m->dev, &w, err);
	if (r < 0)
		return r;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	r = mounts_tar_start(argv, ends[1], ends[0], STDOUT_FILENO, &pid);
	close(ends[1]);
	if (r < 0) {
		close(ends[0]);
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "starting tar");
	}
	r = mounts_copy_out(ends[0], w, err);
	close(ends[0]);
	int end = mounts_tar_end(pid, m->point, "storing", r < 0 ? NULL : err);
	return r < 0 ? r : end < 0 ? end : image_close(w, err);
}

/* The first sight of a tmpfs that shows all of it. */
static bool mounts_has_contents(const struct mounts_list *l, const struct mounts_one *m)
{
	return m->type == FSTYPE__TMPFS && !strcmp(m->root, "/") && !mounts_shown_before(l, m);
}

static int mounts_dump(struct dump *d, struct snap_ns *ns, struct ferry_error *err)
{
	struct mounts_data *data = ns->data;
	struct image_writer *w;
	int r = image_create(d->dir, IMAGE_MNTS, ns->id, &w, err);
	for (size_t i = data->tree.n; i-- > 0 && r >= 0;)
		r = mounts_put(&d->snap->arena, w, &data->tree.v[i], err);
	if (r >= 0)
		r = image_close(w, err);
	if (r >= 0)
		r = image_create(d->dir, IMAGE_FERRY_MOUNTS, ns->id, &w, err);
	for (size_t i = 0; i < data->tree.n && r >= 0; i++) {
		FerryMountEntry e = FERRY_MOUNT_ENTRY__INIT;
		record_set(&e, mnt_id, data->tree.v[i].id);
		if (!data->tree.v[i].known)
			r = image_put(w, &e.base, err);
	}
	for (size_t i = 0; i < data->outside.n && r >= 0; i++) {
		const struct mounts_one *m = &data->outside.v[i];
		FerryMountEntry e = FERRY_MOUNT_ENTRY__INIT;
		e.gone_point = (char *)m->point;
		e.gone_root = (char *)m->root;
		record_set(&e, gone_fstype, m->type);
		record_set(&e, gone_level, (uint32_t)m->level);
		if (!m->known)
			r = image_put(w, &e.base, err);
	}
	if (r >= 0)
		r = image_close(w, err);
	for (size_t i = 0; i < data->tree.n && r >= 0; i++) {
		const struct mounts_one *m = &data->tree.v[i];
		if (!m->known && mounts_has_contents(&data->tree, m))
			r = mounts_dump_contents(d, m, err);
	}
	proc_mounts_release(&data->theirs);
	data->theirs = (struct proc_mounts){0};
	return r;
}

/* ------------------------------------------------------------------ restore */

/* What is left for a process of the tree's PID namespace; copied into it. */
struct mounts_late {
	uint32_t n;
	struct {
		char point[MOUNTS_PATH_BYTES];
		uint32_t flags;
		bool gone; /* unmount what is there */
	} v[MOUNTS_LATE_MAX];
};
_Static_assert(sizeof(struct mounts_late) <= OPENER_CALL_BYTES, "fits into a call");

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
		if (l.n == MOUNTS_MAX || e->mountpoint[0] != '/' || e->root[0] != '/' ||
		    strlen(e->mountpoint) >= MOUNTS_PATH_BYTES)
			return image_bad(in, err, "mount %u is one too many, or has a bad path", e->mnt_id);
		l.v[l.n++] = (struct mounts_one){
			.id = e->mnt_id,
			.parent = e->parent_mnt_id,
			.type = (Fstype)e->fstype,
			.root = e->root,
			.point = e->mountpoint,
			.dev = e->root_dev,
			.shared = e->has_shared_id ? e->shared_id : 0,
			.master = e->has_master_id ? e->master_id : 0,
			.of_image = e,
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

static int mounts_make_contents(struct opener *o, const struct mounts_one *m, struct ferry_error *err)
{
	const char *const argv[] = {"tar",
				    "--extract",
				    "--gzip",
				    "--preserve-permissions",
				    "--numeric-owner",
				    "--same-owner",
				    "--xattrs",
				    "--xattrs-include=*",
				    "--directory",
				    m->point,
				    NULL};
	_cleanup_reader_ struct image_reader *in = NULL;
	int r = image_open_optional(o->dir, IMAGE_TMPFS_DEV, m->dev, &in, err);
	if (r <= 0 || !in)
		return r;
	pid_t pid = 0;
	_cleanup_close_ int dup_fd = fd_dup(image_reader_fd(in), 3), spare = fd_dup(image_reader_fd(in), 3);
	if (dup_fd < 0 || spare < 0 || lseek(dup_fd, 0, SEEK_SET) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the contents of '%s'", m->point);
	r = mounts_tar_start(argv, dup_fd, spare, STDIN_FILENO, &pid);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "starting tar")
		     : mounts_tar_end(pid, m->point, "restoring", err);
}

static int mounts_failed(const struct mounts_one *m, int code, struct ferry_error *err)
{
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, code, "mounting '%s' (%s)", m->point,
			   mounts_type_name(m->type));
}

static int mounts_make_bind(const struct mounts_list *image, const struct mounts_one *m,
			    struct ferry_error *err)
{
	char path[MOUNTS_PATH_BYTES];
	/* Another mount of the image that shows the same and is there already; its dev is the image's. */
	size_t there = mounts_shown_later(image, m) ? image->n : (size_t)(m - image->v);
	if (!mounts_bind_source(&(struct mounts_list){image->v, there}, m, path, sizeof(path)))
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				 "what the image has mounted at '%s' is mounted nowhere here", m->point);
	if (mount(path, m->point, NULL, MS_BIND, NULL) < 0)
		return mounts_failed(m, errno, err);
	unsigned flags = m->of_image->flags;
	return mount(NULL, m->point, NULL, MS_REMOUNT | MS_BIND | flags, NULL) < 0
		       ? mounts_failed(m, errno, err)
		       : 0;
}

static int mounts_make(struct opener *o, const struct mounts_list *image, const struct mounts_one *m,
		       struct mounts_late *late, struct ferry_error *err)
{
	const MntEntry *e = m->of_image;
	bool whole = !strcmp(m->root, "/"), contents = image_dir_has(o->dir, IMAGE_TMPFS_DEV, m->dev);
	whole &= m->type == FSTYPE__PROC || !mounts_shown_before(image, m);
	if (whole && m->type == FSTYPE__PROC) {
		if (late->n == MOUNTS_LATE_MAX)
			return mounts_failed(m, E2BIG, err);
		snprintf(late->v[late->n].point, MOUNTS_PATH_BYTES, "%s", m->point);
		late->v[late->n++].flags = e->flags;
		return 0;
	}
	if (!whole || (m->type == FSTYPE__TMPFS && !contents) ||
	    (m->type != FSTYPE__TMPFS && m->type != FSTYPE__SYSFS && m->type != FSTYPE__MQUEUE &&
	     m->type != FSTYPE__DEVPTS))
		return mounts_make_bind(image, m, err);
	const char *type = mounts_type_name(m->type);
	bool has_options = m->type == FSTYPE__TMPFS || m->type == FSTYPE__DEVPTS;
	const char *options = has_options && e->options[0] ? e->options : NULL;
	if (mount(e->source, m->point, type, e->flags & ~(unsigned)MS_RDONLY, options) < 0)
		return mounts_failed(m, errno, err);
	int r = contents ? mounts_make_contents(o, m, err) : 0;
	bool sealed = e->has_sb_flags && e->sb_flags & MS_RDONLY;
	if (r >= 0 && sealed && mount(NULL, m->point, NULL, MS_REMOUNT | MS_RDONLY | e->flags, options) < 0)
		r = mounts_failed(m, errno, err);
	if (r >= 0 && (sealed || e->flags & MS_RDONLY) &&
	    mount(NULL, m->point, NULL, MS_REMOUNT | MS_BIND | e->flags, NULL) < 0)
		r = mounts_failed(m, errno, err);
	return r;
}

static int mounts_propagate(const struct mounts_one *m, struct ferry_error *err)
{
	if (m->shared && mount(NULL, m->point, NULL, MS_SHARED, NULL) < 0)
		return mounts_failed(m, errno, err);
	return 0;
}

/* What the tree had unmounted of the mounts around it. */
static int mounts_drop(const struct mounts_list *here, const struct mounts_list *gone,
		       struct mounts_late *late, struct ferry_error *err)
{
	for (size_t i = here->n; i-- > 0;) {
		const struct mounts_one *m = &here->v[i];
		if (!mounts_find(gone, m, false))
			continue;
		if (!strcmp(m->point, "/proc")) {
			/* We need it until the tree has its own. */
			if (late->n == MOUNTS_LATE_MAX)
				return mounts_failed(m, E2BIG, err);
			snprintf(late->v[late->n].point, MOUNTS_PATH_BYTES, "%s", m->point);
			late->v[late->n++].gone = true;
			continue;
		}
		if (umount2(m->point, MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "unmounting '%s'", m->point);
	}
	return 0;
}

/* An image that does not tell: what is not here was the tree's, and so was the /proc of its PID namespace. */
static void mounts_guess(const struct plan *p, struct mounts_list *image, const struct mounts_list *here)
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
}

static int mounts_restore(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	struct mounts_list image = {0}, here = {0}, gone = {0};
	struct arena *a = &o->plan->arena;
	struct proc_mounts *mounts = arena_new(a, struct proc_mounts);
	struct mounts_late *late = ns->data = arena_new(a, struct mounts_late);
	_cleanup_close_ int self = proc_open(getpid(), err);
	if (!mounts || !late)
		return error_memory(err);
	int r = self < 0 ? self : proc_read_mounts(self, mounts, err);
	if (r >= 0)
		r = mounts_from_proc(a, mounts, &here, err);
	if (r >= 0)
		r = mounts_read(o, ns, &image, err);
	if (r >= 0)
		r = mounts_read_own(o, ns, &image, &gone, err);
	if (r == 0)
		mounts_guess(o->plan, &image, &here);
	if (r >= 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		r = error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "making the mounts private");
	if (r >= 0)
		r = mounts_drop(&here, &gone, late, err);
	for (size_t i = 0; i < 2 * image.n && r >= 0; i++) {
		const struct mounts_one *m = &image.v[i % image.n];
		if (mounts_shown_later(&image, m) != (i >= image.n))
			continue;
		bool there = m->known && mounts_find(&here, m, false);
		r = m->known ? 0 : mounts_make(o, &image, m, late, err);
		if (m->known && !there)
			log_write(o->log, LOG_WARN, "restore", "mounts", 0,
				  "'%s' (%s) was mounted around the tree and is not here, going on", m->point,
				  mounts_type_name(m->type));
		else if (r >= 0)
			r = mounts_propagate(m, err);
	}
	proc_mounts_release(mounts);
	return r;
}

static int mounts_late_run(void *arguments, int *fds unused, size_t *n_fds)
{
	const struct mounts_late *late = arguments;
	*n_fds = 0;
	for (uint32_t i = 0; i < late->n && i < MOUNTS_LATE_MAX; i++) {
		const char *point = late->v[i].point;
		int r = late->v[i].gone ? umount2(point, MNT_DETACH)
					: mount("proc", point, "proc", late->v[i].flags, NULL);
		if (r < 0)
			return -errno;
	}
	return 0;
}

static int mounts_finish(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	struct mounts_late *late = ns->data;
	struct opener_call call = {.run = mounts_late_run, .arguments = late, .bytes = sizeof(*late)};
	int r = late->n ? o->in_task(o, o->plan->tasks, &call, err) : 0;
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "mounting a proc file system for the tree")
		     : 0;
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
	.what = "mount namespaces: proc, tmpfs, devpts, bind mounts of a job",
	.fd_type = -1,
	.image_file = -1,
	.ns = &mounts_ops,
};
