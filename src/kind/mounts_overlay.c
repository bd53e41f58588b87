/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns overlays that were mounted within the tree. Their options name their folders as who mounted them saw them; what those paths
 * lead to now is what a restore finds there, so it has to be what the overlay has: no later mount lies there, and the upper folder is
 * the one that the overlay writes to.
 *
 * Kernel interface: mount(2) of type overlay, whose options are longer than fsconfig(2) takes; name_to_handle_at(2) with
 * AT_HANDLE_FID (6.6 for overlays), which tells the upper folder; statx(2) STATX_MNT_ID_UNIQUE (6.8).
 * Does not handle: paths that begin at the directory of who mounted it, folders that were renamed and have others in their places
 * with the same names at the top; volatile ones, which the kernel mounts once.
 */
#include "kind/mounts_overlay.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "kind/mounts_apart.h"
#include "kind/overlay.h"
#include "kind/watched.h"
#include "proc/mountinfo.h"

/* -------------------------------------------------------------------- check */

enum { OVERLAY_WHY_BYTES = 300, OVERLAY_PATH_BYTES = MOUNTS_PATH_BYTES + sizeof("root") };

struct overlay_check {
	const struct mounts_one *overlay;
	int proc_dir, proc_root; /* of who has it, and of the tree's root, whose paths a restore goes by */
	const struct proc_handle *upper; /* of the folder that it writes to; NULL: the kernel does not tell */
	uint64_t age;                    /* of the mount; 0: the kernel does not tell */
	bool open;                       /* nothing hides it */
	char *why;                       /* out: of a folder that is another one, or none */
};

/* What a path leads to for a process; *ret_age grows from mount to mount. */
static bool overlay_see(int proc_dir, const char *path, struct stat *ret, uint64_t *ret_age)
{
	char real[OVERLAY_PATH_BYTES];
	if ((size_t)snprintf(real, sizeof(real), "root%s", path) >= sizeof(real) ||
	    fstatat(proc_dir, real, ret, 0) < 0)
		return false;
	*ret_age = sys_mount_unique_id(proc_dir, real, 0);
	return true;
}

static bool overlay_is_same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

static bool overlay_is_upper(const struct overlay_check *c, const char *path)
{
	struct proc_handle own;
	char real[OVERLAY_PATH_BYTES];
	snprintf(real, sizeof(real), "root%s", path);
	return !c->upper || watched_handle(c->proc_root, real, &own) < 0 ||
	       (own.type == c->upper->type && own.n == c->upper->n &&
		!memcmp(own.bytes, c->upper->bytes, own.n));
}

/* It is there, for both, and nothing was mounted over it since. */
static bool overlay_has_folder(const struct overlay_check *c, enum overlay_use use, const char *path)
{
	struct stat own, roots;
	uint64_t own_age, age;
	if (path[0] != '/' || !overlay_see(c->proc_dir, path, &own, &own_age) ||
	    !overlay_see(c->proc_root, path, &roots, &age) || !overlay_is_same(&own, &roots))
		return false;
	return S_ISDIR(own.st_mode) && (!c->age || own_age < c->age) &&
	       (use != OVERLAY_UPPER || overlay_is_upper(c, path));
}

static int overlay_check_folder(enum overlay_use use, const char *path, void *ctx)
{
	struct overlay_check *c = ctx;
	if (overlay_has_folder(c, use, path))
		return 0;
	snprintf(c->why, OVERLAY_WHY_BYTES,
		 "has the layer '%.200s', which the tree's root does not see there", path);
	return 1;
}

struct overlay_search {
	int proc_root;
	const char *name;
};

static int overlay_has_name(enum overlay_use use, const char *path, void *ctx)
{
	const struct overlay_search *s = ctx;
	struct stat st;
	char real[OVERLAY_PATH_BYTES + NAME_MAX];
	return use != OVERLAY_WORK &&
	       (size_t)snprintf(real, sizeof(real), "root%s/%s", path, s->name) < sizeof(real) &&
	       fstatat(s->proc_root, real, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A folder that is another one by now lacks what it has at its top; *ret_name is that. */
static bool overlay_has_all(const struct overlay_check *c, char ret_name[NAME_MAX + 1])
{
	char real[OVERLAY_PATH_BYTES];
	snprintf(real, sizeof(real), "root%s", c->overlay->point);
	int fd = fd_open(c->proc_dir, real, O_RDONLY | O_DIRECTORY, 0);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	bool all = true;
	for (struct dirent *e; dir && all && (e = readdir(dir)) != NULL;) {
		struct overlay_search s = {c->proc_root, e->d_name};
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		all = overlay_each(c->overlay->options, overlay_has_name, &s);
		snprintf(ret_name, NAME_MAX + 1, "%s", e->d_name);
	}
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
	return all;
}

/* At the overlay itself; *ret: the handle of the upper folder, which that of its root has within. */
static bool overlay_look(struct overlay_check *c, struct proc_handle *ret)
{
	const struct mounts_one *m = c->overlay;
	struct proc_handle outer;
	struct stat st;
	char real[OVERLAY_PATH_BYTES];
	snprintf(real, sizeof(real), "root%s", m->point);
	if (!overlay_see(c->proc_dir, m->point, &st, &c->age))
		return false;
	c->open = m->dev == kern_dev(st.st_dev);
	if (c->open)
		return watched_handle(c->proc_dir, real, &outer) >= 0 && overlay_inner_handle(&outer, ret);
	c->age = 0; /* that is what hides it */
	return false;
}

int mounts_check_overlay(const struct mounts_one *m, const struct mounts_facts *facts, int proc_dir,
			 int proc_root, struct arena *a, struct mounts_trouble *ret_trouble,
			 struct ferry_error *err)
{
	struct overlay_check c = {.overlay = m, .proc_dir = proc_dir, .proc_root = proc_root};
	struct proc_handle upper;
	if (m->from != MOUNTS_NEW || m->type != FSTYPE__OVERLAYFS)
		return 0;
	if (facts->base && facts->own_root) {
		*ret_trouble = mounts_refused(
			m, "was made of folders below another root, and is mounted in no other namespace",
			"mount it in the root's mount namespace, too");
		return 0;
	}
	/* The second word since 6.19 or so. */
	if (proc_mount_has_option(m->options, "volatile") ||
	    proc_mount_has_option(m->options, "fsync=volatile")) {
		*ret_trouble = mounts_refused(m, "is volatile, and the kernel mounts such a one but once",
					      "mount it without that option");
		return 0;
	}
	c.why = arena_alloc(a, OVERLAY_WHY_BYTES);
	if (!c.why)
		return error_memory(err);
	if (overlay_look(&c, &upper))
		c.upper = &upper;
	if (overlay_each(m->options, overlay_check_folder, &c))
		*ret_trouble = mounts_refused(
			m, c.why,
			"mount it by paths that begin with '/' and lead there in the root's mount namespace");
	char name[NAME_MAX + 1];
	if (ret_trouble->mount || !c.open || overlay_has_all(&c, name))
		return 0;
	snprintf(c.why, OVERLAY_WHY_BYTES, "has '%.200s', which none of its layers has any more", name);
	*ret_trouble = mounts_refused(m, c.why, "mount there again what its layers were then");
	return 0;
}

/* --------------------------------------------------------------------- make */

/* In a copy of the namespace, where it hides nothing from anybody. */
static int overlay_mount(void *ctx)
{
	static const char place[] = "/proc";
	const struct mounts_one *m = ctx;
	if (mount(m->source, place, "overlay", m->sb_flags, m->options) < 0)
		return -errno;
	return sys_open_tree(AT_FDCWD, place, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

int mounts_lay(const struct mounts_one *m)
{
	return mounts_apart(-1, overlay_mount, (void *)m);
}
