/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns lists of mounts: types, flags and options of the image format, and the order in which mounts can be made.
 * Kernel interface: the texts of /proc/PID/mountinfo.
 */
#include "kind/mounts_list.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>

#include "base/error.h"
#include "kernel/syscalls.h"
#include "proc/lex.h"
#include "proc/mountinfo.h"

static const struct {
	const char *name;
	Fstype type;
	bool made; /* what it shows comes with mounting it, or ferry brings it back */
} mounts_types[] = {
	{"proc", FSTYPE__PROC, true},
	{"sysfs", FSTYPE__SYSFS, true},
	{"devtmpfs", FSTYPE__DEVTMPFS, true},
	{"binfmt_misc", FSTYPE__BINFMT_MISC, true},
	{"tmpfs", FSTYPE__TMPFS, true},
	{"devpts", FSTYPE__DEVPTS, true},
	{"simfs", FSTYPE__SIMFS, false},
	{"pstore", FSTYPE__PSTORE, true},
	{"securityfs", FSTYPE__SECURITYFS, true},
	{"fusectl", FSTYPE__FUSECTL, true},
	{"debugfs", FSTYPE__DEBUGFS, true},
	{"cgroup", FSTYPE__CGROUP, true},
	{"aufs", FSTYPE__AUFS, false},
	{"mqueue", FSTYPE__MQUEUE, true},
	{"fuse", FSTYPE__FUSE, false},
	{"overlay", FSTYPE__OVERLAYFS, true},
	{"autofs", FSTYPE__AUTOFS, false},
	{"tracefs", FSTYPE__TRACEFS, true},
	{"cgroup2", FSTYPE__CGROUP2, true},
};

static const struct {
	const char *word;
	unsigned flag;
} mounts_flags[] = {
	{"ro", MS_RDONLY},         {"nosuid", MS_NOSUID},     {"nodev", MS_NODEV},
	{"noexec", MS_NOEXEC},     {"noatime", MS_NOATIME},   {"nodiratime", MS_NODIRATIME},
	{"relatime", MS_RELATIME}, {"sync", MS_SYNCHRONOUS},  {"dirsync", MS_DIRSYNC},
	{"mand", MS_MANDLOCK},     {"lazytime", MS_LAZYTIME},
};

enum { MOUNTS_SB_FLAGS = MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC | MS_MANDLOCK | MS_LAZYTIME };

Fstype mounts_type(const char *name)
{
	size_t n = strcspn(name, "."); /* "fuse.sshfs" */
	for (size_t i = 0; i < ARRAY_SIZE(mounts_types); i++)
		if (strlen(mounts_types[i].name) == n && !memcmp(mounts_types[i].name, name, n))
			return mounts_types[i].type;
	return FSTYPE__UNSUPPORTED;
}

const char *mounts_type_name(const struct mounts_one *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts_types) && m->type != FSTYPE__AUTO; i++)
		if (mounts_types[i].type == m->type)
			return mounts_types[i].name;
	return m->fstype ? m->fstype : "unknown";
}

bool mounts_can_be_made(const struct mounts_one *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts_types); i++)
		if (mounts_types[i].type == m->type)
			return mounts_types[i].made;
	return m->type == FSTYPE__AUTO;
}

bool mounts_is_nsfs(const struct mounts_one *m, enum proc_ns *ret_type, uint64_t *ret_number)
{
	static const enum proc_ns types[] = {PROC_NS_NET, PROC_NS_UTS, PROC_NS_IPC, PROC_NS_CGROUP};
	if (!m->fstype || strcmp(m->fstype, MOUNTS_NSFS_TYPE) != 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct lex l = lex_new(m->root, strlen(m->root));
		*ret_type = types[i];
		if (lex_str(&l, proc_ns_info(types[i])->word) && lex_str(&l, ":[") &&
		    lex_u64(&l, ret_number) && lex_str(&l, "]") && lex_done(&l))
			return true;
	}
	return false;
}

static unsigned mounts_flags_of(const char *options)
{
	unsigned flags = 0;
	for (size_t i = 0; i < ARRAY_SIZE(mounts_flags); i++)
		if (proc_mount_has_option(options, mounts_flags[i].word))
			flags |= mounts_flags[i].flag;
	return flags;
}

/* How times of access are kept is always told by one of three. */
static unsigned mounts_flags_of_mount(const char *options)
{
	unsigned flags = mounts_flags_of(options);
	return flags & (MS_RELATIME | MS_NOATIME) ? flags : flags | MS_STRICTATIME;
}

static bool mounts_is_flag(const char *word, size_t n)
{
	if (n == 2 && !memcmp(word, "rw", n))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(mounts_flags); i++)
		if (strlen(mounts_flags[i].word) == n && !memcmp(mounts_flags[i].word, word, n))
			return true;
	return false;
}

/* Options of the file system without what is in the flags. */
static const char *mounts_options(struct arena *a, const char *options)
{
	char *kept = arena_alloc(a, strlen(options) + 1), *end = kept;
	while (kept && *options) {
		size_t n = strcspn(options, ",");
		if (!mounts_is_flag(options, n)) {
			if (end > kept)
				*end++ = ',';
			end = mempcpy(end, options, n);
		}
		options += n + (options[n] == ',');
	}
	return kept;
}

/* Parents first; what lies on its parent's very place comes after its siblings, which it hides. */
int mounts_order(struct arena *a, struct mounts_list *l, struct ferry_error *err)
{
	struct mounts_one *ordered = arena_array(a, struct mounts_one, l->n + 1);
	size_t n = 0;
	if (!ordered)
		return error_memory(err);
	/* Roots are those whose parent is not in the list. */
	for (size_t i = 0; i < l->n; i++) {
		bool has_parent = false;
		for (size_t k = 0; k < l->n; k++)
			has_parent |= k != i && l->v[k].id == l->v[i].parent_id;
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
				if (m->placed || m->parent_id != ordered[at].id || top != (on_top == 1))
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

int mounts_from_proc(struct arena *a, const struct proc_mounts *mounts, struct mounts_list *ret,
		     struct ferry_error *err)
{
	struct mounts_list l = {.v = arena_array(a, struct mounts_one, mounts->v.n + 1)};
	if (!l.v)
		return error_memory(err);
	if (mounts->v.n > MOUNTS_MAX)
		return error_set(err, FERRY_ERROR_LIMIT, E2BIG, "%zu mounts", mounts->v.n);
	vec_foreach(m, &mounts->v) {
		const char *options = mounts_options(a, m->super_options);
		if (!options)
			return error_memory(err);
		l.v[l.n++] = (struct mounts_one){
			.id = (uint32_t)m->id,
			.parent_id = (uint32_t)m->parent_id,
			.type = mounts_type(m->fstype),
			.fstype = m->fstype,
			.root = m->root,
			.point = m->point,
			.source = m->source,
			.options = options,
			.dev = kern_dev(m->dev),
			.flags = mounts_flags_of_mount(m->options),
			.sb_flags = mounts_flags_of(m->super_options) & MOUNTS_SB_FLAGS,
			.shared = m->shared,
			.master = m->master,
			.unbindable = m->unbindable,
			.idmapped = proc_mount_has_option(m->options, "idmapped"),
		};
	}
	int r = mounts_order(a, &l, err);
	*ret = l;
	return r;
}

struct mounts_one *mounts_find(const struct mounts_list *l, const struct mounts_one *m, bool same_dev)
{
	for (size_t i = 0; i < l->n; i++) {
		struct mounts_one *other = &l->v[i];
		if (other->level == m->level && other->type == m->type && !strcmp(other->point, m->point) &&
		    !strcmp(other->root, m->root) && (!same_dev || other->dev == m->dev))
			return other;
	}
	return NULL;
}

const char *mounts_below(const char *path, const char *folder)
{
	size_t n = strcmp(folder, "/") ? strlen(folder) : 0;
	if (strncmp(path, folder, n) != 0 || (path[n] && path[n] != '/'))
		return NULL;
	return path + n + strspn(path + n, "/");
}

static bool mounts_hangs_on(const struct mounts_list *l, const struct mounts_one *m,
			    const struct mounts_one *on)
{
	for (const struct mounts_one *at = m; at; at = at->parent == MOUNTS_NONE ? NULL : &l->v[at->parent])
		if (at == on)
			return true;
	return false;
}

bool mounts_covers(const struct mounts_list *l, const struct mounts_one *above, const struct mounts_one *m)
{
	return mounts_below(m->point, above->point) && !mounts_hangs_on(l, m, above);
}

const struct mounts_one *mounts_at(const struct mounts_list *l, const char *path)
{
	const struct mounts_one *found = NULL;
	for (size_t i = 0; i < l->n; i++) {
		const struct mounts_one *m = &l->v[i];
		if (mounts_below(path, m->point) &&
		    (!found || mounts_hangs_on(l, m, found) || mounts_covers(l, m, found)))
			found = m;
	}
	return found;
}
