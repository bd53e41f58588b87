/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what a restore does with control groups: which of them the threads of the tree go to, which are made for that, and with which
 * settings. A process goes to its groups before it has memory of its own, so that the right group pays. Limits are set when everything
 * stands at the barrier, since they were not meant for who builds the tree.
 *
 * Kernel interface: cgroups(7), cgroup_namespaces(7) (4.6).
 * Everything that was made or set is entered in the undo log, and taken back when the restore fails.
 */
#include "kind/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "host/cgroup.h"
#include "host/warden.h"
#include "image/dir.h"
#include "kind/cgroup_groups.h"
#include "kind/cgroup_props.h"
#include "kind/kinds.h"
#include "model/records.h"
#include "proc/read.h"

enum { CGROUP_REMOVE_TRIES = 2000, CGROUP_REMOVE_NS = 1000000, CGROUP_MAKE_MODE = 0755 };

/* What --manage-cgroups asks for. */
struct cgroup_mode {
	const char *word;
	bool moves;    /* threads go to the groups of the image */
	bool makes;    /* those that are missing are made, with their settings */
	bool sets;     /* those that are there get the settings, too */
	bool is_first; /* none may be there already */
	bool is_home;  /* who has no namespace of its own goes back where it was, if that is still there */
};

static const struct cgroup_mode cgroup_modes[] = {
	{.word = "ignore"},
	{.word = "none", .moves = true},
	{.word = "props", .moves = true, .sets = true},
	{.word = "soft", .moves = true, .makes = true},
	{.word = "full", .moves = true, .makes = true, .sets = true},
	{.word = "strict", .moves = true, .makes = true, .is_first = true},
};

static const struct cgroup_mode cgroup_home = {.moves = true, .is_home = true};

struct cgroup_hierarchy {
	struct cgroup_hierarchy *next;
	const char *name; /* as /proc/PID/cgroup calls it */
	const CgControllerEntry *record;
	const char *root; /* what takes the place of base, --cgroup-root; NULL = nothing does */
	const char *base;
	const char *own; /* the group that ferry is in */
	int fd;          /* of a mount; -1 = nobody needs one */
};

/* Paths below the hierarchy's root, without a slash at the beginning; "" is that root. */
struct cgroup_spot {
	struct cgroup_hierarchy *hierarchy;
	const char *path;
	int dir; /* -1: the whole tree is where ferry is, in this hierarchy */
};

/* Groups that a thread goes to, or that are the root of a namespace. */
struct cgroup_place {
	struct cgroup_place *next;
	const CgSetEntry *set; /* NULL: those of ferry */
	struct cgroup_spot *spots;
	size_t n;
	bool is_lenient;
};

/* A group that the image describes. */
struct cgroup_group {
	struct cgroup_group *next;
	struct cgroup_hierarchy *hierarchy;
	const char *path;
	const CgroupDirEntry *record;
	int dir;
	bool made;
};

/* What was made, or what a setting was. */
struct cgroup_change {
	struct cgroup_change *next;
	int entry; /* in the undo log */
	int dir;   /* a hierarchy's, or the group's */
	const char *name;
	const char *was; /* NULL: a group with this path was made */
};

struct cgroup_plan {
	const struct cgroup_mode *mode;
	CgroupEntry *entry;
	struct proc_cgroups outside; /* those of ferry */
	struct cgroup_hierarchy *hierarchies;
	struct cgroup_place *places, *own;
	struct cgroup_group *groups, **last_group;
	struct cgroup_change *changes; /* latest first */
	bool is_own;                   /* ferry wrote the image, which has the tree's groups alone */
	const struct log_sink *log;
};

static const char *cgroup_name(const char *hierarchy)
{
	return *hierarchy ? hierarchy : "v2";
}

/* --------------------------------------------------------------------- options */

static const struct cgroup_mode *cgroup_mode_of(const struct kind_options *options)
{
	const char *word = options->cgroups.mode;
	if (!word && options->criu_compat)
		word = "soft";
	for (size_t i = 0; i < ARRAY_SIZE(cgroup_modes) && word; i++)
		if (!strcmp(cgroup_modes[i].word, word))
			return &cgroup_modes[i];
	return word ? NULL : &cgroup_home;
}

/* "PATH", "CONTROLLER:PATH", and ":PATH" for v2. */
static const char *cgroup_root_path(const char *word, size_t *ret_controller)
{
	const char *colon = *word == '/' ? NULL : strchr(word, ':');
	*ret_controller = colon ? (size_t)(colon - word) : 0;
	return colon ? colon + 1 : word;
}

static bool cgroup_is_path(const char *path)
{
	for (const char *at = path; at; at = strchr(at, '/')) {
		at += strspn(at, "/");
		if (!strncmp(at, "..", 2) && (!at[2] || at[2] == '/'))
			return false;
	}
	return true;
}

int cgroup_check_options(const struct kind_options *options, struct ferry_error *err)
{
	const struct cgroup_options *own = &options->cgroups;
	if (!cgroup_mode_of(options))
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "invalid argument for --manage-cgroups: %s",
				 own->mode);
	const struct cgroup_props_take nothing = {0};
	int r = own->props ? cgroup_props_parse(own->props, &nothing, err) : 0;
	if (r < 0)
		return r;
	for (size_t i = 0; i < own->n_roots; i++) {
		size_t n;
		if (!cgroup_is_path(cgroup_root_path(own->roots[i], &n)))
			return error_set(err, FERRY_ERROR_USAGE, EINVAL,
					 "invalid argument for --cgroup-root: %s", own->roots[i]);
	}
	return 0;
}

bool cgroup_is_controller(const char *hierarchy, const char *word, size_t n)
{
	if (!*hierarchy)
		return !n || (n == strlen("unified") && !strncmp(word, "unified", n));
	if (!n)
		return false;
	for (const char *at = hierarchy; at; at = strchr(at, ',')) {
		at += *at == ',';
		const char *bare = strncmp(at, "name=", 5) ? at : at + 5;
		if ((!strncmp(at, word, n) && (!at[n] || at[n] == ',')) ||
		    (!strncmp(bare, word, n) && !bare[n]))
			return true;
	}
	return false;
}

/* The last word that names the hierarchy, else the last that names none. */
static const char *cgroup_root_of(const struct cgroup_options *options, const char *hierarchy)
{
	const char *found = NULL;
	bool is_named = false;
	for (size_t i = 0; i < options->n_roots; i++) {
		size_t n;
		const char *word = options->roots[i], *path = cgroup_root_path(word, &n);
		bool all = path == word;
		if (!all && cgroup_is_controller(hierarchy, word, n)) {
			found = path;
			is_named = true;
		} else if (all && !is_named) {
			found = path;
		}
	}
	return found;
}

int cgroup_open_hierarchy(const struct cgroup_options *options, const struct proc_mounts *mounts, int root,
			  const char *name)
{
	if (!options->yard)
		return cgroup_reach(mounts, root, name);
	const char *bare = strncmp(name, "name=", 5) ? name : name + 5;
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", options->yard + strspn(options->yard, "/"),
		 *bare ? bare : "unified");
	return fd_open(*options->yard == '/' ? root : AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
}

/* ------------------------------------------------------------------------ read */

static int cgroup_bad(const char *why, uint32_t id, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "cgroup.img: %s %u", why, id);
}

static const CgSetEntry *cgroup_find_set(const struct cgroup_plan *p, uint32_t id)
{
	for (size_t i = 0; i < p->entry->n_sets; i++)
		if (p->entry->sets[i]->id == id)
			return p->entry->sets[i];
	return NULL;
}

static uint32_t cgroup_set_of(const struct plan_thread *th)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	return core && core->has_cg_set ? core->cg_set : 0;
}

static const CgMemberEntry *cgroup_member(const CgSetEntry *set, const char *name)
{
	for (size_t i = 0; set && i < set->n_ctls; i++)
		if (!strcmp(set->ctls[i]->name, name))
			return set->ctls[i];
	return NULL;
}

/* Names of a record's controllers, as a member has them. */
static bool cgroup_is_record_of(const CgControllerEntry *record, const char *name)
{
	const char *at = name;
	for (size_t i = 0; i < record->n_cnames; i++) {
		size_t n = strlen(record->cnames[i]);
		if (strncmp(at, record->cnames[i], n) != 0)
			return false;
		at += n;
		if (*at != (i + 1 < record->n_cnames ? ',' : '\0'))
			return false;
		at += *at == ',';
	}
	return record->n_cnames > 0;
}

/* So many bytes of two paths are the same groups. */
static size_t cgroup_common(const char *a, const char *b)
{
	size_t whole = 0, i = 0;
	for (; a[i] && a[i] == b[i]; i++)
		if (a[i] == '/')
			whole = i;
	return (!a[i] || a[i] == '/') && (!b[i] || b[i] == '/') ? i : whole;
}

static bool cgroup_is_below(const char *path, const char *base)
{
	size_t n = strlen(base);
	return !n || (!strncmp(path, base, n) && (!path[n] || path[n] == '/'));
}

/*
 * The group that another root takes the place of: that of the first task's namespace, else the lowest that has all groups of the tree
 * in it. If that is the hierarchy's root, it is the one that the first task is in.
 */
static const char *cgroup_base(struct reader *r, const struct cgroup_plan *p,
			       const struct cgroup_hierarchy *h)
{
	const struct plan_task *first = &r->plan->tasks[0];
	const CgSetEntry *set = cgroup_find_set(p, cgroup_set_of(&first->threads.v[plan_first(first)]));
	const CgMemberEntry *member = cgroup_member(set, h->name);
	char *base = member ? arena_string(&r->plan->arena, member->path + 1) : NULL;
	if (!base || member->cgns_prefix) {
		if (base)
			base[member->cgns_prefix - 1] = '\0';
		return base;
	}
	size_t common = strlen(base);
	for (size_t i = 0; i < p->entry->n_sets; i++) {
		const CgMemberEntry *other = cgroup_member(p->entry->sets[i], h->name);
		if (other)
			common = MIN(common, cgroup_common(base, other->path + 1));
	}
	for (size_t i = 0; h->record && i < h->record->n_dirs; i++)
		common = MIN(common, cgroup_common(base, h->record->dirs[i]->dir_name));
	if (common)
		base[common] = '\0';
	return base;
}

/* Where a group of the image goes; path: without a slash at the beginning. */
static const char *cgroup_move_path(struct arena *a, const struct cgroup_hierarchy *h, const char *path)
{
	if (!h->root)
		return arena_string(a, path);
	const char *rest = cgroup_is_below(path, h->base) ? path + strlen(h->base) : "";
	rest += *rest == '/';
	size_t n = strlen(h->root);
	char *joined = arena_alloc(a, n + strlen(rest) + 2);
	if (!joined)
		return NULL;
	char *end = stpcpy(joined, h->root);
	if (n && *rest)
		*end++ = '/';
	memcpy(end, rest, strlen(rest) + 1);
	return joined;
}

static const char *cgroup_trim(struct arena *a, const char *path)
{
	char *copy = arena_string(a, path + strspn(path, "/"));
	for (size_t n = copy ? strlen(copy) : 0; n && copy[n - 1] == '/';)
		copy[--n] = '\0';
	return copy;
}

static struct cgroup_hierarchy *cgroup_find_hierarchy(const struct cgroup_plan *p, const char *name)
{
	struct cgroup_hierarchy *h = p->hierarchies;
	while (h && strcmp(h->name, name) != 0)
		h = h->next;
	return h;
}

static int cgroup_add_hierarchy(struct reader *r, struct cgroup_plan *p, const char *name,
				struct ferry_error *err)
{
	struct arena *a = &r->plan->arena;
	struct cgroup_hierarchy *h = arena_new(a, struct cgroup_hierarchy);
	if (!h)
		return error_memory(err);
	*h = (struct cgroup_hierarchy){.next = p->hierarchies, .name = name, .own = "", .base = "", .fd = -1};
	p->hierarchies = h;
	for (size_t i = 0; i < p->entry->n_controllers; i++)
		if (cgroup_is_record_of(p->entry->controllers[i], name))
			h->record = p->entry->controllers[i];
	vec_foreach(c, &p->outside.v)
		if (!strcmp(c->controllers, name))
			h->own = cgroup_trim(a, c->path);
	const char *root = cgroup_root_of(&r->options->cgroups, name);
	if (root) {
		h->root = cgroup_trim(a, root);
		h->base = cgroup_base(r, p, h) ?: "";
	}
	return h->own && (!root || h->root) ? 0 : error_memory(err);
}

static int cgroup_check_set(const CgSetEntry *set, struct ferry_error *err)
{
	for (size_t i = 0; i < set->n_ctls; i++) {
		const CgMemberEntry *m = set->ctls[i];
		if (m->path[0] != '/' || m->cgns_prefix > strlen(m->path) || !cgroup_is_path(m->path))
			return cgroup_bad("paths of set", set->id, err);
	}
	return 0;
}

static int cgroup_read_hierarchies(struct reader *r, struct cgroup_plan *p, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < p->entry->n_sets && ret >= 0; i++)
		ret = cgroup_check_set(p->entry->sets[i], err);
	for (size_t i = 0; i < p->entry->n_sets; i++)
		for (size_t k = 0; k < p->entry->sets[i]->n_ctls && ret >= 0; k++)
			if (!cgroup_find_hierarchy(p, p->entry->sets[i]->ctls[k]->name))
				ret = cgroup_add_hierarchy(r, p, p->entry->sets[i]->ctls[k]->name, err);
	return ret;
}

static int cgroup_new_place(struct reader *r, struct cgroup_plan *p, const CgSetEntry *set, bool roots,
			    struct cgroup_place **ret, struct ferry_error *err)
{
	struct arena *a = &r->plan->arena;
	struct cgroup_place *place = arena_new(a, struct cgroup_place);
	if (!place)
		return error_memory(err);
	place->set = set;
	place->spots = arena_array(a, struct cgroup_spot, set->n_ctls + 1);
	if (!place->spots)
		return error_memory(err);
	for (size_t i = 0; i < set->n_ctls; i++) {
		const CgMemberEntry *member = set->ctls[i];
		struct cgroup_hierarchy *h = cgroup_find_hierarchy(p, member->name);
		char *path = arena_string(a, member->path);
		if (path && roots)
			path[member->cgns_prefix] = '\0';
		const char *moved = path ? cgroup_move_path(&r->plan->arena, h, path + (*path == '/')) : NULL;
		if (!moved)
			return error_memory(err);
		place->spots[place->n++] = (struct cgroup_spot){h, moved, -1};
	}
	*ret = place;
	return 0;
}

static struct cgroup_place *cgroup_place(const struct plan *plan, const struct plan_thread *th)
{
	const struct cgroup_plan *p = plan->kind_data[KIND_cgroup];
	uint32_t id = cgroup_set_of(th);
	struct cgroup_place *place = p->places;
	while (place && place->set->id != id)
		place = place->next;
	return place ?: p->own;
}

static int cgroup_read_thread(struct reader *r, const struct plan_task *t, const struct plan_thread *th,
			      struct ferry_error *err)
{
	struct cgroup_plan *p = r->plan->kind_data[KIND_cgroup];
	struct plan_ns *ns = plan_ns(r->plan, PROC_NS_CGROUP, t->ns_id[PROC_NS_CGROUP]);
	uint32_t id = cgroup_set_of(th);
	const CgSetEntry *set = cgroup_find_set(p, id);
	/* Such a set is not told: it is that of who wrote the image. */
	if (!set && !ns)
		return 0;
	struct cgroup_place *root = ns ? ns->data : NULL, *place = p->places;
	if (!set || (root && !cgroup_same_root(root->set, set)))
		return cgroup_bad("a namespace lacks groups, or has several roots: set", id, err);
	while (place && place->set != set)
		place = place->next;
	int ret = 0;
	if (!place) {
		ret = cgroup_new_place(r, p, set, false, &place, err);
		if (ret < 0)
			return ret;
		place->is_lenient = p->mode->is_home;
		place->next = p->places;
		p->places = place;
	}
	if (ns)
		place->is_lenient = false;
	if (ns && !root)
		ret = cgroup_new_place(r, p, set, true, &root, err);
	if (ns)
		ns->data = root;
	return ret;
}

/* CRIU's images may have groups of the machine that lie beside those of the tree; they are none of ours. */
static bool cgroup_concerns(const struct cgroup_plan *p, const struct cgroup_hierarchy *h, const char *path)
{
	bool concerns = p->is_own && *path;
	for (size_t i = 0; i < p->entry->n_sets && *path; i++) {
		const CgMemberEntry *m = cgroup_member(p->entry->sets[i], h->name);
		size_t above = m ? MAX(m->cgns_prefix, 1) : 1;
		concerns |= m && m->path[1] &&
			    (cgroup_is_below(path, m->path + 1) || cgroup_is_below(m->path + 1, path));
		/* All that a namespace has. */
		concerns |= m && above > 1 && strlen(path) >= above - 1 &&
			    !strncmp(path, m->path + 1, above - 1) &&
			    (!path[above - 1] || path[above - 1] == '/');
	}
	return concerns;
}

static bool cgroup_is_name(const char *name)
{
	return *name && *name != '.' && !strchr(name, '/');
}

static int cgroup_read_group_record(struct reader *r, struct cgroup_plan *p, struct cgroup_hierarchy *h,
				    const char *path, const CgroupDirEntry *record, int depth,
				    struct ferry_error *err)
{
	struct arena *a = &r->plan->arena;
	int ret = depth > 64 || !cgroup_is_path(path) ? -EBADMSG : 0;
	for (size_t i = 0; i < record->n_properties && ret >= 0; i++)
		ret = cgroup_is_name(record->properties[i]->name) ? 0 : -EBADMSG;
	if (ret < 0)
		return cgroup_bad("a group or a setting with a name that cannot be, at depth",
				  (uint32_t)depth, err);
	struct cgroup_group *g = cgroup_concerns(p, h, path) ? arena_new(a, struct cgroup_group) : NULL;
	if (g) {
		*g = (struct cgroup_group){.hierarchy = h, .record = record, .dir = -1};
		g->path = cgroup_move_path(&r->plan->arena, h, path);
		*p->last_group = g;
		p->last_group = &g->next;
	}
	if (g && !g->path)
		return error_memory(err);
	for (size_t i = 0; i < record->n_children && ret >= 0; i++) {
		const CgroupDirEntry *child = record->children[i];
		char *below = arena_alloc(a, strlen(path) + strlen(child->dir_name) + 2);
		if (!below)
			return error_memory(err);
		if (!cgroup_is_name(child->dir_name))
			return cgroup_bad("a group with a name that cannot be, at depth", (uint32_t)depth + 1,
					  err);
		stpcpy(stpcpy(stpcpy(below, path), *path ? "/" : ""), child->dir_name);
		ret = cgroup_read_group_record(r, p, h, below, child, depth + 1, err);
	}
	return ret;
}

static int cgroup_read_groups(struct reader *r, struct cgroup_plan *p, struct ferry_error *err)
{
	int ret = 0;
	for (struct cgroup_hierarchy *h = p->hierarchies; h; h = h->next)
		for (size_t i = 0; h->record && i < h->record->n_dirs && ret >= 0; i++) {
			const CgroupDirEntry *dir = h->record->dirs[i];
			const char *path = cgroup_trim(&r->plan->arena, dir->dir_name);
			ret = path ? cgroup_read_group_record(r, p, h, path, dir, 0, err) : error_memory(err);
		}
	return ret;
}

static int cgroup_read_own(struct reader *r, struct cgroup_plan *p, struct ferry_error *err)
{
	struct arena *a = &r->plan->arena;
	size_t n = 0;
	p->own = arena_new(a, struct cgroup_place);
	for (struct cgroup_hierarchy *h = p->hierarchies; h; h = h->next)
		n++;
	if (!p->own || !(p->own->spots = arena_array(a, struct cgroup_spot, n + 1)))
		return error_memory(err);
	for (struct cgroup_hierarchy *h = p->hierarchies; h; h = h->next)
		p->own->spots[p->own->n++] = (struct cgroup_spot){h, h->own, -1};
	return 0;
}

static int cgroup_read_places(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		for (size_t k = plan_first(t); k < t->threads.n && ret >= 0; k++)
			ret = cgroup_read_thread(r, t, &t->threads.v[k], err);
	}
	return ret;
}

static int cgroup_read_outside(struct cgroup_plan *p, struct ferry_error *err)
{
	_cleanup_close_ int self = proc_open(getpid(), err);
	return self < 0 ? self : proc_read_cgroups(self, &p->outside, err);
}

int cgroup_read(struct reader *r, struct ferry_error *err)
{
	const struct cgroup_mode *mode = cgroup_mode_of(r->options);
	if (!mode->moves || !(plan_has_ns(r->plan, PROC_NS_CGROUP) || image_dir_has(r->dir, IMAGE_CGROUP, 0)))
		return 0;
	struct cgroup_plan *p = arena_new(&r->plan->arena, struct cgroup_plan);
	if (!p)
		return error_memory(err);
	p->mode = mode;
	p->log = r->log;
	p->last_group = &p->groups;
	p->is_own = image_dir_has_manifest(r->dir);
	r->plan->kind_data[KIND_cgroup] = p;
	int ret = records_one(r, IMAGE_CGROUP, 0, &p->entry, err);
	if (ret >= 0)
		ret = cgroup_read_outside(p, err);
	if (ret >= 0)
		ret = cgroup_read_hierarchies(r, p, err);
	if (ret >= 0)
		ret = cgroup_read_own(r, p, err);
	if (ret >= 0)
		ret = cgroup_read_places(r, err);
	if (ret >= 0 && !mode->is_home)
		ret = cgroup_read_groups(r, p, err);
	proc_cgroups_release(&p->outside);
	return ret;
}

/* --------------------------------------------------------------------- prepare */

struct cgroup_maker {
	struct opener *o;
	struct cgroup_plan *p;
	struct proc_mounts mounts; /* while there is nothing else */
	int root;
};

static int cgroup_note(struct cgroup_maker *m, int dir, const char *name, const char *was,
		       struct ferry_error *err)
{
	struct arena *a = &m->o->plan->arena;
	struct cgroup_change *c = arena_new(a, struct cgroup_change);
	char data[WARDEN_DATA_BYTES];
	size_t n = strlen(name) + 1, more = was ? strlen(was) + 1 : 0;
	if (!c)
		return error_memory(err);
	*c = (struct cgroup_change){.next = m->p->changes, .dir = dir};
	c->name = arena_string(a, name);
	c->was = was ? arena_string(a, was) : NULL;
	if (!c->name || (was && !c->was))
		return error_memory(err);
	if (n + more <= sizeof(data)) {
		memcpy(data, name, n);
		if (more)
			memcpy(data + n, was, more);
	}
	c->entry = n + more > sizeof(data) ? -ENAMETOOLONG
					   : warden_arm(m->o->warden, was ? WARDEN_PUT : WARDEN_GROUP, dir, 0,
							data, n + more);
	if (c->entry < 0)
		return error_errno(err, FERRY_ERROR_LIMIT, -c->entry,
				   "entering '%s' of a cgroup into the undo log", name);
	m->p->changes = c;
	return 0;
}

static int cgroup_note_setting(void *context, int dir, const char *file, const char *was,
			       struct ferry_error *err)
{
	return cgroup_note(context, dir, file, was, err);
}

static int cgroup_missing(const struct cgroup_hierarchy *h, const char *path, int code,
			  struct ferry_error *err)
{
	error_errno(err, FERRY_ERROR_FILES_CHANGED, code, "opening cgroup '/%s' of hierarchy '%s'", path,
		    cgroup_name(h->name));
	error_hint(err,
		   "the tree lived in it: let --manage-cgroups=soft make it again, or give it another place "
		   "with --cgroup-root, or leave the tree in ferry's groups with --manage-cgroups=ignore");
	return -code;
}

/* A group that is missing, below one that is there. */
static int cgroup_make_one(struct cgroup_maker *m, const struct cgroup_hierarchy *h, int above,
			   const char *path, struct ferry_error *err)
{
	int r = cgroup_note(m, h->fd, path, NULL, err);
	if (r < 0)
		return r;
	fault_effect(m->o->fault, "restore", "make-cgroup");
	if (mkdirat(h->fd, path, CGROUP_MAKE_MODE) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
				   "making cgroup '/%s' of hierarchy '%s'", path, cgroup_name(h->name));
	int dir = plan_keep_source(m->o->plan, fd_open(h->fd, path, O_RDONLY | O_DIRECTORY, 0));
	if (dir < 0)
		return cgroup_missing(h, path, -dir, err);
	r = cgroup_inherit_cpuset(above, dir, err);
	return r < 0 ? r : dir;
}

/* A descriptor of the group, made with all above it if that is asked for; *ret_made: it was. */
static int cgroup_open_path(struct cgroup_maker *m, const struct cgroup_hierarchy *h, const char *path,
			    bool *ret_made, struct ferry_error *err)
{
	*ret_made = false;
	int dir = fd_open(h->fd, *path ? path : ".", O_RDONLY | O_DIRECTORY, 0);
	if (dir >= 0 || dir != -ENOENT || !m->p->mode->makes) {
		dir = plan_keep_source(m->o->plan, dir);
		return dir < 0 ? cgroup_missing(h, path, -dir, err) : dir;
	}
	char *part = arena_string(&m->o->plan->arena, path);
	if (!part)
		return error_memory(err);
	int above = h->fd;
	for (char *at = part; at; at = at ? at + 1 : NULL) {
		at = strchr(at, '/');
		if (at)
			*at = '\0';
		dir = plan_keep_source(m->o->plan, fd_open(h->fd, part, O_RDONLY | O_DIRECTORY, 0));
		if (dir == -ENOENT)
			dir = cgroup_make_one(m, h, above, part, err);
		if (dir < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -dir, "opening cgroup '/%s'", part);
		above = dir;
		if (at)
			*at = '/';
	}
	*ret_made = true;
	return dir;
}

static int cgroup_prepare_group(struct cgroup_maker *m, struct cgroup_group *g, struct ferry_error *err)
{
	const struct cgroup_mode *mode = m->p->mode;
	const struct cgroup_undo undo = {cgroup_note_setting, m};
	g->dir = cgroup_open_path(m, g->hierarchy, g->path, &g->made, err);
	if (g->dir < 0)
		return g->dir;
	/* That ferry is in one does not make it anybody's. */
	if (!g->made && mode->is_first && *g->path && !cgroup_is_below(g->hierarchy->own, g->path)) {
		error_set(err, FERRY_ERROR_FILES_CHANGED, EEXIST, "cgroup '/%s' of hierarchy '%s' exists",
			  g->path, cgroup_name(g->hierarchy->name));
		error_hint(err, "--manage-cgroups=strict is for groups that are made by the restore");
		return -EEXIST;
	}
	if (!g->made && (!mode->sets || !*g->path))
		return 0;
	return cgroup_write_group(g->dir, g->record, CGROUP_EARLY, g->made ? NULL : &undo, err);
}

/* Somebody goes elsewhere than ferry is. */
static bool cgroup_is_needed(const struct plan *plan, const struct cgroup_plan *p,
			     const struct cgroup_hierarchy *h)
{
	bool needed = false;
	for (const struct cgroup_place *place = p->places; place; place = place->next)
		for (size_t i = 0; i < place->n; i++)
			needed |= place->spots[i].hierarchy == h && strcmp(place->spots[i].path, h->own) != 0;
	for (size_t k = 0; k < plan->namespaces.n; k++) {
		const struct plan_ns *ns = &plan->namespaces.v[k];
		const struct cgroup_place *root = ns->type == PROC_NS_CGROUP ? ns->data : NULL;
		for (size_t i = 0; root && i < root->n; i++)
			needed |= root->spots[i].hierarchy == h && strcmp(root->spots[i].path, h->own) != 0;
	}
	for (const struct cgroup_group *g = p->groups; g && !needed; g = g->next)
		needed = g->hierarchy == h;
	return needed;
}

static bool cgroup_is_lenient(const struct plan *plan, const struct cgroup_plan *p)
{
	return p->mode->is_home && !plan_has_ns(plan, PROC_NS_CGROUP);
}

/* An ordinary user reaches none; its trees stay where they are restored. */
static int cgroup_reach_one(struct cgroup_maker *m, struct cgroup_hierarchy *h, struct ferry_error *err)
{
	const struct plan *plan = m->o->plan;
	if (!cgroup_is_needed(plan, m->p, h))
		return 0;
	h->fd = plan_keep_source(m->o->plan, cgroup_open_hierarchy(&m->o->options->cgroups, &m->mounts,
								   m->root, h->name));
	if (h->fd >= 0)
		return 0;
	if (!cgroup_is_lenient(plan, m->p))
		return error_errno(err, FERRY_ERROR_KERNEL_FEATURE, -h->fd,
				   "reaching the cgroup hierarchy '%s'", cgroup_name(h->name));
	log_write(m->p->log, h->fd == -EPERM ? LOG_INFO : LOG_WARN, "restore", "cgroup", 0,
		  "the cgroup hierarchy '%s' is out of reach: the tree stays in ferry's group, ignoring",
		  cgroup_name(h->name));
	return 0;
}

static int cgroup_open_spot(struct cgroup_maker *m, const struct cgroup_place *place, struct cgroup_spot *s,
			    struct ferry_error *err)
{
	bool made;
	struct ferry_error unseen = FERRY_ERROR_INIT;
	s->dir = cgroup_open_path(m, s->hierarchy, s->path, &made, place->is_lenient ? &unseen : err);
	if (s->dir < 0 && place->is_lenient) {
		log_write(m->p->log, LOG_WARN, "restore", "cgroup", 0,
			  "cgroup '/%s' of hierarchy '%s' is gone: the tree stays in ferry's group "
			  "(--manage-cgroups=soft makes it again), ignoring",
			  s->path, cgroup_name(s->hierarchy->name));
		s->path = s->hierarchy->own;
		s->dir = cgroup_open_path(m, s->hierarchy, s->path, &made, err);
	}
	if (s->dir < 0)
		return s->dir;
	if (!cgroup_is_frozen(s->dir))
		return 0;
	error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY, "cgroup '/%s' is frozen", s->path);
	error_hint(err, "thaw it, then restore");
	return -EBUSY;
}

static int cgroup_open_place(struct cgroup_maker *m, struct cgroup_place *place, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; place && i < place->n && r >= 0; i++)
		if (place->spots[i].hierarchy->fd >= 0)
			r = cgroup_open_spot(m, place, &place->spots[i], err);
	return r < 0 ? r : 0;
}

const char *cgroup_shown(const struct opener *o, int of, const char *named, const char *shown)
{
	const struct cgroup_plan *p = o->plan->kind_data[KIND_cgroup];
	struct cgroup_hierarchy *h = p ? p->hierarchies : NULL;
	struct arena *a = &o->plan->arena;
	struct stat st, other;
	if (fstat(of, &st) < 0)
		return NULL;
	while (h && (h->fd < 0 || fstat(h->fd, &other) < 0 || other.st_dev != st.st_dev))
		h = h->next;
	shown += strspn(shown, "/");
	if (!h || !*shown || (h->root && !cgroup_is_below(shown, h->base)))
		return NULL;
	const char *moved = cgroup_move_path(a, h, shown), *group = cgroup_trim(a, named);
	if (!moved || !group)
		return NULL;
	/* The caller may have put ferry into the tree's group already. */
	bool meant = !strcmp(h->own, group) || !strcmp(h->own, moved) || cgroup_is_below(moved, group);
	char *path = meant ? arena_alloc(a, strlen(moved) + 2) : NULL;
	if (path)
		stpcpy(stpcpy(path, "/"), moved);
	return path;
}

int cgroup_prepare(struct opener *o, struct ferry_error *err)
{
	struct cgroup_plan *p = o->plan->kind_data[KIND_cgroup];
	if (!p)
		return 0;
	struct cgroup_maker m = {.o = o, .p = p};
	_cleanup_close_ int self = proc_open(getpid(), err);
	_cleanup_close_ int root = fd_open(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0);
	int r = self < 0 ? self : proc_read_mounts(self, &m.mounts, err);
	m.root = root;
	for (struct cgroup_hierarchy *h = p->hierarchies; h && r >= 0; h = h->next)
		r = cgroup_reach_one(&m, h, err);
	proc_mounts_release(&m.mounts);
	for (struct cgroup_group *g = p->groups; g && r >= 0; g = g->next)
		r = cgroup_prepare_group(&m, g, err);
	for (struct cgroup_place *place = p->places; place && r >= 0; place = place->next)
		r = cgroup_open_place(&m, place, err);
	for (size_t i = 0; i < o->plan->namespaces.n && r >= 0; i++)
		if (o->plan->namespaces.v[i].type == PROC_NS_CGROUP)
			r = cgroup_open_place(&m, o->plan->namespaces.v[i].data, err);
	return r < 0 ? r : cgroup_open_place(&m, p->own, err);
}

/* ------------------------------------------------------------------- the tasks */

int cgroup_make(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	const struct cgroup_place *root = ns->data;
	size_t n = root ? root->n : 0;
	int *dirs = arena_array(&o->plan->arena, int, n + 1);
	if (!dirs)
		return error_memory(err);
	for (size_t i = 0; i < n; i++)
		dirs[i] = root->spots[i].dir;
	return cgroup_make_ns(dirs, n, &ns->fd, err);
}

static const char *cgroup_path_in(const struct cgroup_place *place, const struct cgroup_hierarchy *h)
{
	for (size_t i = 0; i < place->n; i++)
		if (place->spots[i].hierarchy == h)
			return place->spots[i].path;
	return h->own;
}

int cgroup_entered(const struct plan *plan, const struct plan_task *t, const struct plan_task *maker,
		   struct ferry_error *err)
{
	const struct cgroup_plan *p = plan->kind_data[KIND_cgroup];
	if (!p)
		return 0;
	const struct cgroup_place *place = cgroup_place(plan, &t->threads.v[plan_first(t)]);
	const struct cgroup_place *from =
		maker ? cgroup_place(plan, &maker->threads.v[plan_first(maker)]) : p->own;
	for (size_t i = 0; i < place->n && place != from; i++) {
		const struct cgroup_spot *s = &place->spots[i];
		if (s->dir < 0 || !strcmp(s->path, cgroup_path_in(from, s->hierarchy)))
			continue;
		int r = cgroup_move(s->dir, "cgroup.procs", 0);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
					   "moving pid %d into cgroup '/%s'", t->pid, s->path);
	}
	return 0;
}

/* A thread that is somewhere else than its process as a whole moves by itself. */
int cgroup_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th, struct script *s,
			  struct ferry_error *err)
{
	if (!r->plan->kind_data[KIND_cgroup])
		return 0;
	const struct cgroup_place *place = cgroup_place(r->plan, th);
	const struct cgroup_place *first = cgroup_place(r->plan, &t->threads.v[plan_first(t)]);
	for (size_t i = 0; place != first && i < place->n; i++) {
		const struct cgroup_spot *spot = &place->spots[i];
		if (spot->dir < 0 || !strcmp(spot->path, cgroup_path_in(first, spot->hierarchy)))
			continue;
		const char *file = *spot->hierarchy->name ? "tasks" : "cgroup.threads";
		int fd = plan_keep_source(r->plan, fd_open(spot->dir, file, O_WRONLY, 0));
		if (fd < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd,
					   "opening the threads of cgroup '/%s'", spot->path);
		int number = plan_temp_source(t, fd);
		if (number < 0)
			return error_memory(err);
		script_call(s, "moving the thread into its cgroup", SYS_write, (uint64_t)number,
			    script_put(s, "0", 1), 1)
			->data_mask = 1 << 1;
	}
	return 0;
}

/* --------------------------------------------------------------------- the end */

int cgroup_ready(struct opener *o, struct ferry_error *err)
{
	struct cgroup_plan *p = o->plan->kind_data[KIND_cgroup];
	struct cgroup_maker m = {.o = o, .p = p};
	const struct cgroup_undo undo = {cgroup_note_setting, &m};
	int r = 0;
	for (struct cgroup_group *g = p ? p->groups : NULL; g && r >= 0; g = g->next) {
		if (!g->made && (!p->mode->sets || !*g->path))
			continue;
		fault_effect(o->fault, "restore", "set-cgroup");
		r = cgroup_write_group(g->dir, g->record, CGROUP_LATE, g->made ? NULL : &undo, err);
	}
	return r;
}

static bool cgroup_is_inside(const struct cgroup_group *g, const struct cgroup_group *outer)
{
	return g != outer && g->hierarchy == outer->hierarchy && cgroup_is_below(g->path, outer->path);
}

/* What was frozen is again. Before, tasks could not have left us. */
void cgroup_left(struct opener *o)
{
	const struct cgroup_plan *p = o->plan->kind_data[KIND_cgroup];
	for (const struct cgroup_group *g = p ? p->groups : NULL; g; g = g->next) {
		bool wanted = (g->made || p->mode->sets) && cgroup_was_frozen(g->record);
		/* Some write it for all that are below a frozen one. */
		for (const struct cgroup_group *outer = p->groups; outer && wanted; outer = outer->next)
			wanted = !cgroup_is_inside(g, outer) || !cgroup_was_frozen(outer->record);
		int r = wanted ? cgroup_freeze(g->dir) : 0;
		if (r < 0)
			log_write(p->log, LOG_WARN, "restore", "cgroup", 0,
				  "cgroup '/%s' was frozen, and could not be frozen again (%s), ignoring",
				  g->path, strerror(-r));
	}
}

/* Who was in it is dead, but may not be gone. */
static int cgroup_remove(const struct cgroup_change *c)
{
	const struct timespec pause = {.tv_nsec = CGROUP_REMOVE_NS};
	for (int i = 0;; i++) {
		if (unlinkat(c->dir, c->name, AT_REMOVEDIR) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY || i == CGROUP_REMOVE_TRIES)
			return -errno;
		nanosleep(&pause, NULL);
	}
}

void cgroup_abandon(struct opener *o)
{
	struct cgroup_plan *p = o->plan->kind_data[KIND_cgroup];
	for (struct cgroup_change *c = p ? p->changes : NULL; c; c = c->next) {
		int r = c->was ? cgroup_put(c->dir, c->name, c->was) : cgroup_remove(c);
		if (r < 0)
			log_write(p->log, LOG_WARN, "restore", "cgroup", 0,
				  c->was ? "'%s' of a cgroup could not be set back (%s), ignoring"
					 : "cgroup '/%s' could not be removed (%s), ignoring",
				  c->name, strerror(-r));
		warden_disarm(o->warden, c->entry);
	}
	if (p)
		p->changes = NULL;
}
