/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns making the mounts of a namespace. Each is a descriptor first: a copy of what is elsewhere, or a file system that was made;
 * then it is put in its place, which is looked up below the root of its parent: no path of an image leads out of the tree's
 * root, through no link either. Last come the groups of peers, for what is mounted in them before would be passed on.
 *
 * Kernel interface: open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2), fspick(2) (5.2), openat2(2) (5.6),
 * mount_setattr(2) (5.12; mount(2) with MS_REMOUNT does before), MOVE_MOUNT_SET_GROUP (5.15), pivot_root(2).
 */
#include "kind/mounts_make.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
#include "host/terminal.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "kind/cgroup.h"
#include "kind/external.h"
#include "kind/kinds.h"
#include "kind/mounts_ids.h"
#include "kind/mounts_overlay.h"
#include "kind/mounts_tar.h"

enum { MOUNTS_TOLD_BYTES = 512, MOUNTS_OPTION_BYTES = 4096 };

static int mounts_failed(const struct mounts_one *m, int code, struct ferry_error *err)
{
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, code, "mounting '%.200s' (%s)", m->point,
			   mounts_type_name(m));
}

/* ---------------------------------------------------------------------- paths */

/* What lies below dir on the same mount, "" = itself; O_PATH. */
static int mounts_open_below(int dir, const char *path, uint64_t resolve)
{
	const struct kern_open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW, .resolve = resolve};
	return sys_openat2(dir, *path ? path : ".", &how);
}

enum { MOUNTS_STRICTLY = KERN_RESOLVE_BENEATH | KERN_RESOLVE_NO_SYMLINKS | KERN_RESOLVE_NO_XDEV };

static int mounts_open_part(int dir, const char *path)
{
	return *path ? mounts_open_below(dir, path, MOUNTS_STRICTLY) : fd_dup(dir, 3);
}

/* A path among the mounts of whoever restores, which he trusts. */
static int mounts_open_here(const char *path)
{
	return fd_open(AT_FDCWD, path, O_PATH, 0);
}

/* --------------------------------------------------------------------- copies */

static int mounts_clone(const struct mounts_one *m, int of, struct ferry_error *err)
{
	int fd = of < 0 ? of : sys_open_tree(of, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	return fd < 0 ? mounts_failed(m, -fd, err) : fd;
}

/* Of what is in its place. */
static int mounts_copy(const struct mounts_one *m, int of, struct ferry_error *err)
{
	_cleanup_close_ int fd = mounts_clone(m, of, err);
	int r = fd < 0 ? fd : mounts_map_ids(m, fd, of, err);
	return r < 0 ? r : take_fd(fd);
}

/* Of one of the image's, which shows ids by then as it is to. */
static int mounts_copy_one(const struct mounts_one *m, const struct mounts_one *other, int of,
			   struct ferry_error *err)
{
	return mounts_same_ids(m, other) ? mounts_clone(m, of, err) : mounts_copy(m, of, err);
}

static int mounts_copy_path(const struct mounts_one *m, const char *path, struct ferry_error *err)
{
	_cleanup_close_ int of = mounts_open_here(path);
	if (of < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -of,
				   "'%.200s', which is to be mounted at '%.200s'", path, m->point);
	return mounts_copy(m, of, err);
}

/* --------------------------------------------------------------- file systems */

/* One option of a comma-separated list, or a flag; -errno. */
static int mounts_set_option(int fs, char *option)
{
	char *value = strchr(option, '=');
	if (!value)
		return sys_fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0);
	*value++ = '\0';
	return sys_fsconfig(fs, FSCONFIG_SET_STRING, option, value, 0);
}

static int mounts_set_options(int fs, const char *options)
{
	_cleanup_free_ char *copy = strdup(options);
	int r = copy ? 0 : -ENOMEM;
	char *rest = copy;
	for (char *option; r >= 0 && (option = strsep(&rest, ",")) != NULL;)
		if (*option)
			r = mounts_set_option(fs, option);
	return r;
}

static int mounts_set_sb_flags(int fs, unsigned flags)
{
	static const struct {
		unsigned flag;
		const char *word;
	} words[] = {
		{MS_RDONLY, "ro"},
		{MS_SYNCHRONOUS, "sync"},
		{MS_DIRSYNC, "dirsync"},
		{MS_LAZYTIME, "lazytime"},
	};
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(words) && r >= 0; i++)
		if (flags & words[i].flag)
			r = sys_fsconfig(fs, FSCONFIG_SET_FLAG, words[i].word, NULL, 0);
	return r;
}

/* What a new file system is made of; also sent into a task, so it holds everything itself. */
struct mounts_recipe {
	char type[64];
	char source[256];
	char options[MOUNTS_OPTION_BYTES];
	unsigned sb_flags;
	char told[MOUNTS_TOLD_BYTES]; /* out: what the kernel says of a failure */
};
_Static_assert(sizeof(struct mounts_recipe) <= OPENER_CALL_BYTES, "fits into a call");

static int mounts_cook(struct mounts_recipe *recipe)
{
	_cleanup_close_ int fs = sys_fsopen(recipe->type, FSOPEN_CLOEXEC);
	int r = fs;
	if (r >= 0 && recipe->source[0])
		r = sys_fsconfig(fs, FSCONFIG_SET_STRING, "source", recipe->source, 0);
	if (r >= 0)
		r = mounts_set_options(fs, recipe->options);
	if (r >= 0)
		r = mounts_set_sb_flags(fs, recipe->sb_flags);
	if (r >= 0)
		r = sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	if (r >= 0)
		r = sys_fsmount(fs, FSMOUNT_CLOEXEC, 0);
	ssize_t n = r < 0 && fs >= 0 ? read(fs, recipe->told, sizeof(recipe->told) - 1) : 0;
	recipe->told[n > 0 ? n : 0] = '\0';
	return r;
}

static int mounts_cook_there(void *arguments, int *fds, size_t *n_fds)
{
	int fd = mounts_cook(arguments);
	*n_fds = fd >= 0;
	fds[0] = fd;
	return MIN(fd, 0);
}

static int mounts_write_recipe(const struct mounts_one *m, struct mounts_recipe *r, struct ferry_error *err)
{
	*r = (struct mounts_recipe){.sb_flags = m->sb_flags};
	if (m->type == FSTYPE__TMPFS)
		r->sb_flags &= ~(unsigned)MS_RDONLY; /* it is filled before */
	size_t type = strlen(mounts_type_name(m)), options = strlen(m->options);
	if (type >= sizeof(r->type) || strlen(m->source) >= sizeof(r->source) ||
	    options >= sizeof(r->options))
		return mounts_failed(m, ENAMETOOLONG, err);
	memcpy(r->type, mounts_type_name(m), type);
	snprintf(r->source, sizeof(r->source), "%s", m->source);
	memcpy(r->options, m->options, options);
	return 0;
}

/* What shows namespaces shows those of whoever mounts it. */
static int mounts_make_in_task(struct mounts_maker *k, struct mounts_recipe *recipe)
{
	struct opener_call call = {.run = mounts_cook_there, .arguments = recipe, .bytes = sizeof(*recipe)};
	struct ferry_error told = FERRY_ERROR_INIT;
	int r = k->o->in_task(k->o, k->task, &call, &told);
	return r < 0 ? r : call.fds[0];
}

/* Of any type, and from any source that the image names: only if whoever restores says so. */
static int mounts_check_enabled(const struct kind_options *o, const struct mounts_one *m,
				struct ferry_error *err)
{
	bool enabled = m->type != FSTYPE__AUTO;
	for (size_t i = 0; i < o->n_enable_fs && m->fstype && !enabled; i++)
		enabled = !strcmp(o->enable_fs[i], m->fstype) || !strcmp(o->enable_fs[i], "all");
	if (enabled)
		return 0;
	error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
		  "'%.200s' was a file system of type %.60s, dumped without its contents", m->point,
		  mounts_type_name(m));
	error_hint(err, "--enable-fs %.60s mounts one there again", mounts_type_name(m));
	return -ENOTSUP;
}

static int mounts_make_new(struct mounts_maker *k, const struct mounts_one *m, struct ferry_error *err)
{
	struct mounts_recipe recipe;
	int r = mounts_check_enabled(k->o->options, m, err);
	if (r >= 0)
		r = mounts_write_recipe(m, &recipe, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = mounts_is_of_task(m, &k->facts) ? mounts_make_in_task(k, &recipe)
				 : m->type == FSTYPE__OVERLAYFS  ? mounts_lay(m)
								 : mounts_cook(&recipe);
	if (fd < 0) {
		mounts_failed(m, -fd, err);
		if (recipe.told[0])
			error_hint(err, "the kernel says: %s", recipe.told);
		return fd;
	}
	if (m->type == FSTYPE__TMPFS)
		r = mounts_tar_unpack(k->o, fd, m->dev, m->point, err);
	if (r < 0 || !m->root[1])
		return r < 0 ? r : take_fd(fd);
	_cleanup_close_ int part = mounts_open_part(fd, m->root + 1);
	return mounts_copy(m, part, err);
}

/* Read-only, after it was filled. */
static int mounts_seal(const struct mounts_one *m, int fd, struct ferry_error *err)
{
	if (m->from != MOUNTS_NEW || m->type != FSTYPE__TMPFS || !(m->sb_flags & MS_RDONLY))
		return 0;
	_cleanup_close_ int fs = sys_fspick(fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
	int r = fs < 0 ? fs : sys_fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0);
	if (r >= 0)
		r = sys_fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0);
	return r < 0 ? mounts_failed(m, -r, err) : 0;
}

/* ----------------------------------------------------------------- from outside */

static int mounts_make_root(struct mounts_maker *k, const struct mounts_one *m, struct ferry_error *err)
{
	const char *root = k->o->options->root;
	if (root)
		return mounts_copy_path(m, root, err);
	error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
		  "the image's processes had a root file system of their own (%.200s of %.100s)", m->root,
		  m->source);
	error_hint(err, "name the folder that has its files: --root DIR");
	return -ENOTSUP;
}

/* Engines name the cgroup that they run in themselves, where the tree's own is to be seen, as before. */
static int mounts_open_cgroup(struct mounts_maker *k, const struct mounts_one *m, const char *path, int of)
{
	struct kern_statx st;
	const struct mounts_one *on = NULL;
	_cleanup_free_ char *real = realpath(path, NULL);
	char whole[MOUNTS_PATH_BYTES];
	if (!real || sys_statx(of, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0)
		return -ENOENT;
	for (size_t i = 0; i < k->here->n; i++)
		if (k->here->v[i].id == st.mnt_id)
			on = &k->here->v[i];
	const char *in = on ? mounts_below(real, on->point) : NULL;
	if (!in || (size_t)snprintf(whole, sizeof(whole), "%s/%s", on->root, in) >= sizeof(whole))
		return -ENOENT;
	const char *shown = cgroup_shown(k->o, of, whole, m->root);
	const char *below = shown ? mounts_below(shown, on->root) : NULL;
	if (!below || (size_t)snprintf(whole, sizeof(whole), "%s/%s", on->point, below) >= sizeof(whole))
		return -ENOENT;
	return mounts_open_here(whole);
}

static bool mounts_is_cgroup(const struct mounts_one *m)
{
	return m->type == FSTYPE__CGROUP || m->type == FSTYPE__CGROUP2;
}

static int mounts_copy_external(struct mounts_maker *k, const struct mounts_one *m, const char *path,
				struct ferry_error *err)
{
	_cleanup_close_ int of = mounts_open_here(path);
	_cleanup_close_ int narrow = of >= 0 && mounts_is_cgroup(m) ? mounts_open_cgroup(k, m, path, of) : -1;
	return narrow >= 0 ? mounts_copy(m, narrow, err) : mounts_copy_path(m, path, err);
}

static int mounts_make_external(struct mounts_maker *k, const struct mounts_one *m, struct ferry_error *err)
{
	const char *path = external_mount(k->o->options, m->key);
	bool found = !strcmp(m->key, MOUNTS_KEY_SOURCE);
	if (!path && found && external_all_mounts(k->o->options))
		path = m->source;
	if (path)
		return mounts_copy_external(k, m, path, err);
	error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
		  "'%.200s' was mounted from outside of the tree, under the name '%.200s'", m->point, m->key);
	if (found)
		error_hint(err, "--external 'mnt[]' takes '%.200s'", m->source);
	else
		error_hint(err, "say what takes its place: --external 'mnt[%.200s]:PATH'", m->key);
	return -ENOTSUP;
}

/* A terminal, which has its name once it has a master. */
static int mounts_make_terminal(struct mounts_maker *k, const struct mounts_one *m, int devpts)
{
	int unlocked = 0;
	char *end;
	unsigned long number = strtoul(m->below, &end, 10);
	uint32_t index = (uint32_t)number;
	struct stat st;
	if (end == m->below || *end || number > INT_MAX)
		return -ENOENT;
	int fd = terminal_open_master(devpts, "ptmx", O_RDWR, index);
	if (fd < 0)
		return fd;
	if (ioctl(fd, TIOCSPTLCK, &unlocked) < 0 || fstat(fd, &st) < 0) {
		int code = errno;
		close(fd);
		return -code;
	}
	int r = plan_keep_terminal(k->o->plan, st.st_dev, index, fd);
	return r < 0 ? r : mounts_open_part(devpts, m->below);
}

static int mounts_make_bind(struct mounts_maker *k, const struct mounts_one *m, struct ferry_error *err)
{
	const struct mounts_one *other = &k->l->v[m->of];
	char path[MOUNTS_PATH_BYTES];
	_cleanup_close_ int of = -1;
	if (other->from != MOUNTS_HERE)
		of = mounts_open_part(k->fds[m->of], m->below);
	if (of == -ENOENT && other->from == MOUNTS_NEW && other->type == FSTYPE__DEVPTS)
		of = mounts_make_terminal(k, m, k->fds[m->of]);
	if (other->from != MOUNTS_HERE)
		return mounts_copy_one(m, other, of, err);
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", other->point, m->below) < sizeof(path))
		of = mounts_open_here(path);
	return mounts_copy(m, of, err);
}

/* Where the copy of that namespace has it; nothing hides it there. */
static int mounts_make_of_base(struct mounts_maker *k, const struct mounts_one *m, struct ferry_error *err)
{
	const struct mounts_one *other = &k->facts.base->v[m->of];
	_cleanup_close_ int base = mounts_open_here(other->point);
	_cleanup_close_ int of = base < 0 ? base : mounts_open_part(base, m->below);
	return mounts_copy_one(m, other, of, err);
}

static int mounts_make_nsfs(struct mounts_maker *k, const struct mounts_one *m, struct ferry_error *err)
{
	const struct plan_ns *ns = plan_ns(k->o->plan, m->ns_type, m->ns_id);
	return mounts_copy(m, ns ? ns->fd : -ENOENT, err);
}

/* Another lies on it, at the same place. */
static bool mounts_is_covered(const struct mounts_list *l, const struct mounts_one *m)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].level > m->level && !strcmp(l->v[i].point, m->point))
			return true;
	return false;
}

/* Nothing hangs on having it. */
static int mounts_find_here(struct mounts_maker *k, const struct mounts_one *m)
{
	if (k->base)
		return mounts_is_covered(k->l, m) ? -1 : mounts_open_here(m->point);
	if (mounts_find(k->here, m, false))
		return mounts_open_here(m->point);
	log_write(k->o->log, LOG_WARN, "restore", "mounts", 0,
		  "'%s' (%s) was mounted around the tree and is not here, going on", m->point,
		  mounts_type_name(m));
	return -1;
}

static int mounts_make(struct mounts_maker *k, size_t i, struct ferry_error *err)
{
	const struct mounts_one *m = &k->l->v[i];
	int fd = -1;
	if (k->fds[i] >= 0)
		return 0; /* from outside */
	switch (m->from) {
	case MOUNTS_HERE: k->fds[i] = mounts_find_here(k, m); return 0;
	case MOUNTS_ROOT: fd = mounts_make_root(k, m, err); break;
	case MOUNTS_EXTERNAL: fd = mounts_make_external(k, m, err); break;
	case MOUNTS_NEW: fd = mounts_make_new(k, m, err); break;
	case MOUNTS_BIND: fd = mounts_make_bind(k, m, err); break;
	case MOUNTS_BASE: fd = mounts_make_of_base(k, m, err); break;
	case MOUNTS_NSFS: fd = mounts_make_nsfs(k, m, err); break;
	case MOUNTS_UNKNOWN: break;
	}
	k->fds[i] = fd;
	return MIN(fd, 0);
}

/* --------------------------------------------------------------------- places */

static const struct {
	unsigned flag;
	uint64_t attribute;
} mounts_attributes[] = {
	{MS_RDONLY, MOUNT_ATTR_RDONLY},         {MS_NOSUID, MOUNT_ATTR_NOSUID},
	{MS_NODEV, MOUNT_ATTR_NODEV},           {MS_NOEXEC, MOUNT_ATTR_NOEXEC},
	{MS_NODIRATIME, MOUNT_ATTR_NODIRATIME}, {MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW},
	{MS_NOATIME, MOUNT_ATTR_NOATIME},       {MS_STRICTATIME, MOUNT_ATTR_STRICTATIME},
};

static int mounts_set_flags(const struct mounts_one *m, int fd, struct ferry_error *err)
{
	struct mount_attr attr = {.attr_clr = MOUNT_ATTR__ATIME};
	char path[32];
	for (size_t i = 0; i < ARRAY_SIZE(mounts_attributes); i++) {
		bool time = mounts_attributes[i].attribute & MOUNT_ATTR__ATIME;
		if (m->flags & mounts_attributes[i].flag)
			attr.attr_set |= mounts_attributes[i].attribute;
		else if (!time)
			attr.attr_clr |= mounts_attributes[i].attribute;
	}
	int r = sys_mount_setattr(fd, "", AT_EMPTY_PATH, &attr);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (r == -ENOSYS)
		r = mount(NULL, path, NULL,
			  MS_REMOUNT | MS_BIND |
				  (m->flags & ~(unsigned)(MS_SHARED | MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE)),
			  NULL) < 0
			    ? -errno
			    : 0;
	return r < 0 ? mounts_failed(m, -r, err) : 0;
}

static int mounts_open_place(struct mounts_maker *k, const struct mounts_one *m)
{
	if (m->parent == MOUNTS_NONE)
		return mounts_open_here(k->facts.base ? "/" : k->o->options->root);
	if (k->l->v[m->parent].from == MOUNTS_HERE)
		return mounts_open_here(m->point);
	return mounts_open_part(k->fds[m->parent], m->place);
}

static int mounts_put(struct mounts_maker *k, size_t i, struct ferry_error *err)
{
	const struct mounts_one *m = &k->l->v[i];
	if (m->from == MOUNTS_HERE)
		return 0;
	_cleanup_close_ int place = mounts_open_place(k, m);
	int r = place < 0 ? place
			  : sys_move_mount(k->fds[i], "", place, "",
					   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	if (r < 0)
		return mounts_failed(m, -r, err);
	r = mounts_seal(m, k->fds[i], err);
	return r < 0 ? r : mounts_set_flags(m, k->fds[i], err);
}

static int mounts_run(struct mounts_maker *k, size_t from, size_t to, struct ferry_error *err)
{
	int r = 0;
	for (size_t at = from; at < to && r >= 0; at++) {
		const struct mounts_step *step = &k->plan.v[at];
		fault_effect(k->o->fault, "restore", "mount");
		r = step->what == MOUNTS_MAKE ? mounts_make(k, step->mount, err)
					      : mounts_put(k, step->mount, err);
	}
	return r;
}

/* --------------------------------------------------------------------- groups */

static int mounts_set_propagation(int fd, uint64_t kind)
{
	const struct mount_attr attr = {.propagation = kind};
	char path[32];
	int r = sys_mount_setattr(fd, "", AT_EMPTY_PATH, &attr);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (r == -ENOSYS)
		r = mount(NULL, path, NULL, kind, NULL) < 0 ? -errno : 0;
	return r;
}

/* The first mount of a group of peers; NULL: it is not of this namespace. */
static const struct mounts_one *mounts_first_of(const struct mounts_maker *k, uint32_t group)
{
	for (size_t i = 0; i < k->l->n && group; i++)
		if (k->l->v[i].shared == group && k->fds[i] >= 0)
			return &k->l->v[i];
	return NULL;
}

/* A mount of the root's namespace that is in the group; -1 = none is. */
static int mounts_fd_of_base(const struct mounts_maker *k, uint32_t group)
{
	const struct mounts_one *first = k->base ? mounts_first_of(k->base, group) : NULL;
	return first ? k->base->fds[first - k->base->l->v] : -1;
}

static int mounts_join_fd(const struct mounts_maker *k, const struct mounts_one *m, int group)
{
	return sys_move_mount(group, "", k->fds[m - k->l->v], "",
			      MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int mounts_join(const struct mounts_maker *k, const struct mounts_one *m,
		       const struct mounts_one *first)
{
	return mounts_join_fd(k, m, k->fds[first - k->l->v]);
}

/* The first of a group: it becomes one, and receives from where the group does. */
static int mounts_found_group(const struct mounts_maker *k, const struct mounts_one *m)
{
	const struct mounts_one *master = mounts_first_of(k, m->master);
	int fd = k->fds[m - k->l->v], r = 0, peer = mounts_fd_of_base(k, m->shared);
	int above = master ? -1 : mounts_fd_of_base(k, m->master);
	if (peer >= 0)
		return mounts_join_fd(k, m, peer);
	if (master && master != m)
		r = mounts_join(k, m, master);
	else if (above >= 0)
		r = mounts_join_fd(k, m, above);
	if (r >= 0 && ((master && master != m) || above >= 0))
		r = mounts_set_propagation(fd, MS_SLAVE);
	int outer = k->groups[m - k->l->v];
	if (r >= 0 && outer >= 0)
		r = sys_move_mount(outer, "", fd, "",
				   MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	if (outer >= 0 && r == -EINVAL)
		r = 0; /* there is no group */
	if (r >= 0 && m->shared)
		r = mounts_set_propagation(fd, MS_SHARED);
	if (r >= 0 && m->unbindable)
		r = mounts_set_propagation(fd, MS_UNBINDABLE);
	return r;
}

/* Groups that receive from others come after those; a circle of them cannot be. */
static int mounts_make_group(const struct mounts_maker *k, const struct mounts_one *m, bool *done,
			     size_t depth)
{
	size_t i = (size_t)(m - k->l->v);
	const struct mounts_one *first = mounts_first_of(k, m->shared),
				*master = mounts_first_of(k, m->master);
	int r = 0;
	if (done[i] || k->fds[i] < 0)
		return 0;
	if (depth > k->l->n)
		return -ELOOP;
	if (first && first != m)
		r = mounts_make_group(k, first, done, depth + 1);
	else if (master && master != m)
		r = mounts_make_group(k, master, done, depth + 1);
	done[i] = true;
	if (r < 0)
		return r;
	return first && first != m ? mounts_join(k, m, first) : mounts_found_group(k, m);
}

static int mounts_make_groups(const struct mounts_maker *k, struct ferry_error *err)
{
	_cleanup_free_ bool *done = calloc(k->l->n + 1, sizeof(*done));
	if (!done)
		return error_memory(err);
	for (size_t i = 0; i < k->l->n; i++) {
		int r = mounts_make_group(k, &k->l->v[i], done, 0);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
					   "putting the mount at '%.200s' into its group of peers",
					   k->l->v[i].point);
	}
	return 0;
}

/* --------------------------------------------------------------- before all others */

static bool mounts_receives(const struct mounts_maker *k, const struct mounts_one *m)
{
	bool inside = k->base && mounts_first_of(k->base, m->master);
	for (size_t i = 0; i < k->l->n; i++)
		inside |= k->l->v[i].shared == m->master;
	return m->master && !inside;
}

int mounts_make_outside(struct mounts_maker *k, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < k->l->n && r >= 0; i++) {
		const struct mounts_one *m = &k->l->v[i];
		if (m->from != MOUNTS_ROOT && m->from != MOUNTS_EXTERNAL && m->from != MOUNTS_BASE)
			continue;
		r = mounts_make(k, i, err);
		if (r >= 0 && m->outer)
			r = k->groups[i] = mounts_clone(m, k->fds[i], err);
		if (r >= 0)
			r = mounts_set_propagation(k->fds[i], mounts_receives(k, m) ? MS_SLAVE : MS_PRIVATE);
		if (r < 0 && !error_is_set(err))
			mounts_failed(m, -r, err);
	}
	return r;
}

/* Those that whoever restores has: all are slaves, and then those that are not to be. */
static int mounts_part_here(struct mounts_maker *k)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return -errno;
	for (size_t i = 0; i < k->here->n; i++) {
		const struct mounts_one *here = &k->here->v[i], *m = mounts_find(k->l, here, false);
		if (m && m->from == MOUNTS_HERE && mounts_receives(k, m))
			continue;
		if (mount(NULL, here->point, NULL, MS_PRIVATE, NULL) < 0 && errno != EINVAL &&
		    errno != ENOENT)
			return -errno;
	}
	return 0;
}

int mounts_part(struct mounts_maker *k, struct ferry_error *err)
{
	bool receive = false;
	for (size_t i = 0; i < k->l->n; i++)
		receive |= k->l->v[i].from == MOUNTS_HERE && mounts_receives(k, &k->l->v[i]);
	int r = receive                                                 ? mounts_part_here(k)
		: mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ? -errno
									: 0;
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "making the mounts private") : 0;
}

/* ----------------------------------------------------------------------- root */

static int mounts_enter(int root, struct ferry_error *err)
{
	if (fchdir(root) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
	    chdir("/") < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
				   "changing the root of the mount namespace");
	return 0;
}

/* Ferry's own numbers of processes, until the tree's /proc comes. */
static int mounts_put_view(struct mounts_maker *k, int proc, struct ferry_error *err)
{
	char text[16] = "";
	if (readlink("/proc/self", text, sizeof(text) - 1) > 0 && strtol(text, NULL, 10) == getpid())
		return 0;
	_cleanup_close_ int place = mounts_open_below(k->fds[0], "proc", MOUNTS_STRICTLY);
	int r = place < 0 ? place
			  : sys_move_mount(proc, "", place, "",
					   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	if (r < 0) {
		error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
			    "mounting a /proc of ferry's in the tree's root");
		error_hint(err, "the root file system needs a directory /proc");
		return r;
	}
	k->has_view = true;
	return 0;
}

int mounts_make_early(struct mounts_maker *k, struct ferry_error *err)
{
	bool own_root = k->facts.own_root, view = own_root && !k->facts.base;
	_cleanup_close_ int proc =
		view ? sys_open_tree(AT_FDCWD, "/proc", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC) : -1;
	if (view && proc < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -proc, "copying the mount of /proc");
	int r = mounts_run(k, 0, k->plan.n_outside, err);
	if (r >= 0 && own_root)
		r = mounts_enter(k->fds[0], err);
	if (r >= 0 && view)
		r = mounts_put_view(k, proc, err);
	return r < 0 ? r : mounts_run(k, k->plan.n_outside, k->plan.n_early, err);
}

int mounts_make_late(struct mounts_maker *k, struct ferry_error *err)
{
	if (k->has_view && umount2("/proc", MNT_DETACH) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "unmounting ferry's /proc");
	int r = mounts_run(k, k->plan.n_early, k->plan.n, err);
	return r < 0 ? r : mounts_make_groups(k, err);
}
