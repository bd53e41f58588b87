/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the groups of threads, and cgroup namespaces: where everybody is, how much of that path is above the root of the namespace, and
 * what the groups are like (cgroup.img). Threads that are where ferry is are not told, and follow whoever restores them.
 *
 * Kernel interface: cgroups(7), cgroup_namespaces(7) (4.6): /proc/PID/cgroup shows paths as the reader's namespace has them.
 * Does not handle: a namespace that belongs to a user namespace of the tree, and a thread in a group that is not below the
 * root of its namespace, both refused; groups that are gone or frozen when the image is restored, which the restore says; a
 * group outside of ferry's cgroup namespace, which a restore of a tree without its own leaves out.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "host/cgroup.h"
#include "host/userns.h"
#include "image/dir.h"
#include "kind/cgroup.h"
#include "kind/cgroup_groups.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/lex.h"
#include "proc/looker.h"
#include "proc/read.h"

enum { CGROUP_OWN_SET = 1, CGROUP_FIRST_SET = 2, CGROUP_TOP_DEPTH = 64, CGROUP_PROCS_MAX = 1 << 24 };

/* What threads have that are in the same groups. */
struct cgroup_set {
	struct cgroup_set *next;
	CgSetEntry *entry; /* NULL: ferry's own, which is not written */
	const char *key;   /* all of it, as a text */
};

/* Where a thread is, as ferry and as its own namespace see it. */
struct cgroup_look {
	struct proc_cgroups outer, inner; /* inner: empty when that is ferry's */
};

static void cgroup_look_release(struct cgroup_look *l)
{
	proc_cgroups_release(&l->outer);
	proc_cgroups_release(&l->inner);
}

/* ------------------------------------------------------------------------ look */

static int cgroup_read_inside(int proc_dir, int thread_dir, struct proc_cgroups *ret, struct ferry_error *err)
{
	_cleanup_close_ int home = fd_open(AT_FDCWD, "/proc/self/ns/cgroup", O_RDONLY, 0);
	_cleanup_close_ int there = proc_open_namespace(proc_dir, PROC_NS_CGROUP, err);
	if (home < 0 || there < 0)
		return home < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -home,
					      "opening ferry's cgroup namespace")
				: there;
	if (setns(there, CLONE_NEWCGROUP) < 0)
		return error_errno(err, FERRY_ERROR_PERMISSION, errno, "entering a cgroup namespace");
	int r = proc_read_cgroups(thread_dir, ret, err);
	if (setns(home, CLONE_NEWCGROUP) < 0 && r >= 0)
		r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "going back to ferry's cgroup namespace");
	return r;
}

static int cgroup_refuse(pid_t tid, const char *path, const char *where, const char *hint,
			 struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP, "thread %d is in cgroup '%s', %s", tid,
		  path, where);
	error_hint(err, "%s", hint);
	return -ENOTSUP;
}

static int cgroup_check_look(pid_t tid, const struct cgroup_look *l, struct ferry_error *err)
{
	if (l->outer.v.n != l->inner.v.n)
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, EAGAIN, "the cgroups of thread %d change",
				 tid);
	for (size_t i = 0; i < l->outer.v.n; i++) {
		const char *path = l->outer.v.v[i].path;
		if (!strncmp(path, "/..", 3))
			return cgroup_refuse(tid, path, "outside of ferry's cgroup namespace",
					     "start ferry in the cgroup namespace of the host", err);
		if (!strncmp(l->inner.v.v[i].path, "/..", 3))
			return cgroup_refuse(tid, path, "which is not below the root of its cgroup namespace",
					     "move it back, into a group below that root", err);
	}
	return 0;
}

static int cgroup_look(int proc_dir, pid_t tid, bool own_ns, struct cgroup_look *ret, struct ferry_error *err)
{
	_cleanup_close_ int dir = proc_open_task(proc_dir, tid, err);
	int r = dir < 0 ? dir : proc_read_cgroups(dir, &ret->outer, err);
	if (r < 0 || !own_ns)
		return r;
	r = cgroup_read_inside(proc_dir, dir, &ret->inner, err);
	return r < 0 ? r : cgroup_check_look(tid, ret, err);
}

static int cgroup_check(pid_t pid, int proc_dir, const struct kind_options *options unused,
			struct ferry_error *err)
{
	struct proc_pid_list tids = {0};
	_cleanup_close_ int ns = proc_open_namespace(proc_dir, PROC_NS_CGROUP, err);
	if (ns < 0)
		return ns;
	if (!userns_owns(ns))
		return error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
				 "pid %d lives in a cgroup namespace that belongs to another user namespace "
				 "than ferry's",
				 pid);
	int r = proc_read_tasks(proc_dir, &tids, err);
	for (size_t i = 0; i < tids.v.n && r >= 0; i++) {
		struct cgroup_look look = {0};
		r = cgroup_look(proc_dir, tids.v.v[i], true, &look, err);
		cgroup_look_release(&look);
	}
	proc_pid_list_release(&tids);
	return r;
}

/* --------------------------------------------------------------------- collect */

/* So many bytes of a path are above the root of the namespace. */
static uint32_t cgroup_prefix(const char *outer, const char *inner)
{
	size_t whole = strlen(outer), below = inner[1] ? strlen(inner) : 0;
	return outer[1] && whole >= below ? (uint32_t)(whole - below) : 0;
}

static uint32_t cgroup_prefix_of(const struct cgroup_look *l, size_t i)
{
	return l->inner.v.n ? cgroup_prefix(l->outer.v.v[i].path, l->inner.v.v[i].path) : 0;
}

/* What was removed has no name any more, and what is outside of our own namespace none that a restore could use. */
static bool cgroup_has_path(const struct proc_cgroup *group)
{
	return !group->deleted && strncmp(group->path, "/..", 3) != 0;
}

static int cgroup_by_name(const void *a, const void *b)
{
	return strcmp((*(CgMemberEntry *const *)a)->name, (*(CgMemberEntry *const *)b)->name);
}

static bool cgroup_is_wanted(const struct cgroup_options *options, const char *name)
{
	bool wanted = !options->n_controllers;
	for (size_t i = 0; i < options->n_controllers && !wanted; i++)
		wanted = cgroup_is_controller(name, options->controllers[i], strlen(options->controllers[i]));
	return wanted;
}

static CgSetEntry *cgroup_entry(struct collect *c, const struct cgroup_look *l, uint32_t id)
{
	struct arena *a = &c->snap->arena;
	CgSetEntry *set = record_new(a, CgSetEntry, cg_set_entry);
	if (!set)
		return NULL;
	set->id = id;
	set->ctls = arena_array(a, CgMemberEntry *, l->outer.v.n + 1);
	for (size_t i = 0; set->ctls && i < l->outer.v.n; i++) {
		const struct proc_cgroup *group = &l->outer.v.v[i];
		CgMemberEntry *member = record_new(a, CgMemberEntry, cg_member_entry);
		if (!member)
			return NULL;
		member->name = arena_string(a, group->controllers);
		member->path = arena_string(a, group->path);
		if (!member->name || !member->path)
			return NULL;
		uint32_t prefix = cgroup_prefix_of(l, i);
		if (prefix)
			record_set(member, cgns_prefix, prefix);
		if (cgroup_has_path(group) && cgroup_is_wanted(&c->options->cgroups, group->controllers))
			set->ctls[set->n_ctls++] = member;
	}
	if (set->ctls && set->n_ctls)
		qsort(set->ctls, set->n_ctls, sizeof(*set->ctls), cgroup_by_name);
	return set->ctls ? set : NULL;
}

bool cgroup_same_root(const CgSetEntry *a, const CgSetEntry *b)
{
	bool same = a->n_ctls == b->n_ctls;
	for (size_t i = 0; same && i < a->n_ctls; i++) {
		const CgMemberEntry *x = a->ctls[i], *y = b->ctls[i];
		same = !strcmp(x->name, y->name) && x->cgns_prefix == y->cgns_prefix &&
		       !strncmp(x->path, y->path, x->cgns_prefix);
	}
	return same;
}

static const char *cgroup_key(struct arena *a, const struct cgroup_look *l, bool own_ns)
{
	_cleanup_strbuf_ struct strbuf key = {0};
	strbuf_adds(&key, own_ns ? "own" : "");
	for (size_t i = 0; i < l->outer.v.n; i++) {
		const struct proc_cgroup *group = &l->outer.v.v[i];
		strbuf_addf(&key, "\n%s:%u:%s", group->controllers, cgroup_prefix_of(l, i), group->path);
	}
	return key.failed ? NULL : arena_string(a, strbuf_str(&key));
}

/* The groups of ferry are a set that has a number and is not written. */
static int cgroup_begin(struct collect *c, struct ferry_error *err)
{
	struct cgroup_look look = {0};
	_cleanup_close_ int self = proc_open(getpid(), err);
	int r = self < 0 ? self : proc_read_cgroups(self, &look.outer, err);
	struct cgroup_set *own = r < 0 ? NULL : arena_new(&c->snap->arena, struct cgroup_set);
	if (own)
		own->key = cgroup_key(&c->snap->arena, &look, false);
	cgroup_look_release(&look);
	if (r < 0)
		return r;
	if (!own || !own->key)
		return error_memory(err);
	c->kind_data[KIND_cgroup] = own;
	return 0;
}

/* The set with the same groups, which has the number before it was asked for; *ret_id: its number. */
static int cgroup_add_set(struct collect *c, const struct cgroup_look *look, bool own_ns, uint32_t *ret_id,
			  struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	struct cgroup_set *first = c->kind_data[KIND_cgroup];
	const char *key = cgroup_key(a, look, own_ns);
	if (!key)
		return error_memory(err);
	for (const struct cgroup_set *known = first; known; known = known->next)
		if (!strcmp(known->key, key)) {
			*ret_id = known->entry ? known->entry->id : CGROUP_OWN_SET;
			return 0;
		}
	uint32_t id = first->entry ? first->entry->id + 1 : CGROUP_FIRST_SET;
	struct cgroup_set *set = arena_new(a, struct cgroup_set);
	CgSetEntry *entry = cgroup_entry(c, look, id);
	if (!entry || !set)
		return error_memory(err);
	*set = (struct cgroup_set){.next = first, .entry = entry, .key = key};
	c->kind_data[KIND_cgroup] = set;
	*ret_id = id;
	return 0;
}

/* Threads of one object of the kernel are in the same groups of all hierarchies. */
static bool cgroup_is_as_first(const struct collect *c, const struct snap_task *t,
			       const struct snap_thread *th)
{
	const struct proc_looker *looker = c->options->looker;
	const struct proc_thread_look *first = proc_looker_find(looker, t->pid, t->look);
	const struct proc_thread_look *look = first ? proc_looker_find(looker, t->pid, th->tid) : NULL;
	return look && th->tid != t->look && first->words.cgroups &&
	       first->words.cgroups == look->words.cgroups;
}

static int cgroup_collect_thread(struct collect *c, struct snap_task *t, struct snap_thread *th, int proc_dir,
				 const struct answers *answers unused, struct ferry_error *err)
{
	uint32_t *id = &th->core->thread_core->cg_set;
	const struct snap_thread *first = snapshot_look(t);
	bool own_ns = t->ns_ino[PROC_NS_CGROUP] != c->options->own_namespaces.ino[PROC_NS_CGROUP];
	struct cgroup_look look = {0};
	if (cgroup_is_as_first(c, t, th)) {
		*id = first->core->thread_core->cg_set;
		return 0;
	}
	int r = c->kind_data[KIND_cgroup] ? 0 : cgroup_begin(c, err);
	if (r >= 0)
		r = cgroup_look(proc_dir, th->tid, own_ns, &look, err);
	if (r >= 0)
		r = cgroup_add_set(c, &look, own_ns, id, err);
	cgroup_look_release(&look);
	return r;
}

/* ------------------------------------------------------------------------ dump */

static CgControllerEntry *cgroup_controller(struct arena *a, const char *name)
{
	CgControllerEntry *c = record_new(a, CgControllerEntry, cg_controller_entry);
	char *names = arena_string(a, name), *save = NULL;
	if (!c || !names)
		return NULL;
	c->cnames = arena_array(a, char *, strlen(names) + 1);
	if (!c->cnames)
		return NULL;
	c->cnames[c->n_cnames++] = strtok_r(names, ",", &save) ?: names;
	for (char *word; (word = strtok_r(NULL, ",", &save));)
		c->cnames[c->n_cnames++] = word;
	return c;
}

static int cgroup_by_path(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool cgroup_is_under(const char *path, const char *above)
{
	size_t n = strlen(above);
	return !strncmp(path, above, n) && (!path[n] || path[n] == '/');
}

/*
 * The groups of a hierarchy that have all those of the tree's tasks below them: where somebody is, or the root of somebody's namespace. Nobody
 * made the root of the hierarchy, so it has nothing below it that would be the tree's. Without the slash at the beginning.
 */
static const char **cgroup_tops(struct arena *a, const struct cgroup_set *first, const char *name,
				size_t *ret_n)
{
	size_t n = 0, kept = 0;
	for (const struct cgroup_set *set = first; set && set->entry; set = set->next)
		n++;
	const char **tops = arena_array(a, const char *, n + 1);
	n = 0;
	for (const struct cgroup_set *set = first; set && set->entry && tops; set = set->next)
		for (size_t i = 0; i < set->entry->n_ctls; i++) {
			const CgMemberEntry *m = set->entry->ctls[i];
			char *path = strcmp(m->name, name) != 0 ? NULL : arena_string(a, m->path);
			if (path && m->cgns_prefix)
				path[m->cgns_prefix] = '\0';
			if (path)
				tops[n++] = path + 1;
		}
	if (!tops)
		return NULL;
	qsort(tops, n, sizeof(*tops), cgroup_by_path);
	for (size_t i = 0; i < n; i++) {
		bool below = false;
		for (size_t k = 0; k < kept && !below; k++)
			below = !strcmp(tops[k], tops[i]) || (*tops[k] && cgroup_is_under(tops[i], tops[k]));
		if (!below)
			tops[kept++] = tops[i];
	}
	*ret_n = kept;
	return tops;
}

struct cgroup_writer {
	struct dump *d;
	const struct cgroup_set *first;
	struct proc_mounts own; /* of our mount namespace, where nobody has read them */
	const struct proc_mounts *mounts;
	int root;    /* of that namespace */
	pid_t *pids; /* of the tree, ascending */
	size_t n_pids;
};

static int cgroup_by_pid(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
	return x < y ? -1 : x > y;
}

/* Everybody, for bsearch(3): a tree may have many, and each hierarchy lists them. */
static int cgroup_list_pids(struct cgroup_writer *w)
{
	const struct snapshot *s = w->d->snap;
	w->pids = arena_array(&w->d->snap->arena, pid_t, s->tasks.n + s->zombies.n + 1);
	if (!w->pids)
		return -ENOMEM;
	vec_foreach(t, &s->tasks)
		w->pids[w->n_pids++] = t->pid;
	vec_foreach(z, &s->zombies)
		w->pids[w->n_pids++] = z->pid;
	qsort(w->pids, w->n_pids, sizeof(*w->pids), cgroup_by_pid);
	return 0;
}

/* Whether nobody else lives in a group, or below it. */
static bool cgroup_is_ours(const struct cgroup_writer *w, int dir, int depth)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	if (depth > CGROUP_TOP_DEPTH || fd_read_path(dir, "cgroup.procs", CGROUP_PROCS_MAX, &text, &n) < 0)
		return false;
	for (struct lex l = lex_new(text, n); !lex_done(&l);) {
		pid_t pid;
		if (!lex_i32(&l, &pid) || !lex_char(&l, '\n') ||
		    !bsearch(&pid, w->pids, w->n_pids, sizeof(*w->pids), cgroup_by_pid))
			return false;
	}
	int own = fd_open(dir, ".", O_RDONLY | O_DIRECTORY, 0);
	_cleanup_closedir_ DIR *d = own < 0 ? NULL : fdopendir(own);
	bool ours = d != NULL;
	for (struct dirent *entry; ours && (entry = readdir(d));) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		_cleanup_close_ int child = fd_open(dir, entry->d_name, O_RDONLY | O_DIRECTORY, 0);
		ours = child >= 0 && cgroup_is_ours(w, child, depth + 1);
	}
	if (!d && own >= 0)
		close(own);
	return ours;
}

/*
 * A group that is above all of the tree's, and in which nobody else is, is the tree's as well: a container's, whose first process has made
 * groups for all others. So what it made besides, and gave those in between, is kept.
 */
static int cgroup_join_tops(const struct cgroup_writer *w, int mount, const char **tops, size_t *n)
{
	if (*n < 2)
		return 0;
	char *common = arena_string(&w->d->snap->arena, tops[0]);
	if (!common)
		return -ENOMEM;
	for (size_t i = 1; i < *n; i++)
		while (*common && !cgroup_is_under(tops[i], common)) {
			char *slash = strrchr(common, '/');
			*(slash ?: common) = '\0';
		}
	_cleanup_close_ int dir = *common ? fd_open(mount, common, O_RDONLY | O_DIRECTORY, 0) : -1;
	if (dir < 0 || !cgroup_is_ours(w, dir, 0))
		return 0;
	tops[0] = common;
	*n = 1;
	return 0;
}

/* Whether somebody's group of the hierarchy is one of threads (v2); in v1 each thread has its own. */
static bool cgroup_moves_threads(const struct cgroup_set *first, const char *name, int mount)
{
	bool threaded = *name != '\0';
	for (const struct cgroup_set *set = first; set && set->entry && !threaded; set = set->next)
		for (size_t i = 0; i < set->entry->n_ctls && !threaded; i++) {
			const CgMemberEntry *m = set->entry->ctls[i];
			if (strcmp(m->name, name) != 0 || !m->path[1])
				continue;
			_cleanup_close_ int dir = fd_open(mount, m->path + 1, O_RDONLY | O_DIRECTORY, 0);
			threaded = dir >= 0 && cgroup_is_threaded(dir);
		}
	return threaded;
}

static int cgroup_dump_hierarchy(const struct cgroup_writer *w, const char *name, CgControllerEntry *entry,
				 struct ferry_error *err)
{
	const struct cgroup_options *options = &w->d->options->cgroups;
	struct arena *a = &w->d->snap->arena;
	struct cgroup_reading reading = {.arena = a, .pause = options->pause};
	size_t n;
	const char **tops = cgroup_tops(a, w->first, name, &n);
	entry->dirs = tops ? arena_array(a, CgroupDirEntry *, n + 1) : NULL;
	if (!entry->dirs)
		return error_memory(err);
	int r = cgroup_names_of(a, name, options->props, &reading.names, err);
	if (r < 0)
		return r;
	_cleanup_close_ int mount = cgroup_open_hierarchy(options, w->mounts, w->root, name);
	/* An ordinary user has no way to it. Where everybody is is known anyway. */
	if (mount < 0)
		return 0;
	record_set(entry, is_threaded, cgroup_moves_threads(w->first, name, mount));
	if (cgroup_join_tops(w, mount, tops, &n) < 0)
		return error_memory(err);
	for (size_t i = 0; i < n && r >= 0; i++) {
		_cleanup_close_ int dir = fd_open(mount, *tops[i] ? tops[i] : ".", O_RDONLY | O_DIRECTORY, 0);
		if (dir < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -dir, "opening cgroup '/%s'", tops[i]);
		CgroupDirEntry **slot = &entry->dirs[entry->n_dirs++];
		r = *tops[i] ? cgroup_read_group(&reading, dir, tops[i], slot, err)
			     : cgroup_read_root(a, dir, slot, err);
	}
	return r;
}

/* Every set has the same hierarchies, but for groups that have no path. */
static int cgroup_dump_hierarchies(const struct cgroup_writer *w, CgroupEntry *entry, struct ferry_error *err)
{
	const char *mode = w->d->options->cgroups.mode;
	struct arena *a = &w->d->snap->arena;
	size_t n = 0;
	int r = 0;
	for (const struct cgroup_set *set = w->first; set && set->entry; set = set->next)
		n += set->entry->n_ctls;
	const char **names = arena_array(a, const char *, n + 1);
	entry->controllers = arena_array(a, CgControllerEntry *, n + 1);
	if (!names || !entry->controllers)
		return error_memory(err);
	for (const struct cgroup_set *set = w->first; set && set->entry && r >= 0; set = set->next)
		for (size_t i = 0; i < set->entry->n_ctls && r >= 0; i++) {
			const char *name = set->entry->ctls[i]->name;
			bool known = false;
			for (size_t k = 0; k < entry->n_controllers && !known; k++)
				known = !strcmp(names[k], name);
			if (known)
				continue;
			CgControllerEntry *controller = cgroup_controller(a, name);
			if (!controller)
				return error_memory(err);
			names[entry->n_controllers] = name;
			entry->controllers[entry->n_controllers++] = controller;
			if (!mode || strcmp(mode, "ignore") != 0)
				r = cgroup_dump_hierarchy(w, name, controller, err);
		}
	return r;
}

/* The tree may have another mount namespace, in which we stand by now. */
static int cgroup_dump_groups(struct dump *d, CgroupEntry *entry, struct ferry_error *err)
{
	struct cgroup_writer w = {.d = d, .first = d->kind_data[KIND_cgroup]};
	_cleanup_close_ int here =
		d->options->home_root < 0 ? fd_open(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0) : -1;
	int r = 0;
	if (cgroup_list_pids(&w) < 0)
		return error_memory(err);
	w.root = here < 0 ? d->options->home_root : here;
	w.mounts = d->options->outside_mounts;
	if (!w.mounts) {
		_cleanup_close_ int self = proc_open(getpid(), err);
		r = self < 0 ? self : proc_read_mounts(self, &w.own, err);
		w.mounts = &w.own;
	}
	if (r >= 0)
		r = cgroup_dump_hierarchies(&w, entry, err);
	proc_mounts_release(&w.own);
	return r;
}

static int cgroup_dump_end(struct dump *d, struct ferry_error *err)
{
	CgroupEntry entry = CGROUP_ENTRY__INIT;
	struct cgroup_set *first = d->kind_data[KIND_cgroup];
	if (!first || !first->entry)
		return 0;
	entry.n_sets = first->entry->id - CGROUP_FIRST_SET + 1;
	entry.sets = arena_array(&d->snap->arena, CgSetEntry *, entry.n_sets);
	if (!entry.sets)
		return error_memory(err);
	int r = cgroup_dump_groups(d, &entry, err);
	for (const struct cgroup_set *set = first; set && set->entry; set = set->next)
		entry.sets[set->entry->id - CGROUP_FIRST_SET] = set->entry;
	return r < 0 ? r : image_put_one(d->dir, IMAGE_CGROUP, 0, &entry.base, err);
}

static const struct ns_ops cgroup_ops = {
	.type = PROC_NS_CGROUP,
	.check = cgroup_check,
	.make = cgroup_make,
	.entered = cgroup_entered,
};

const struct kind_ops kind_cgroup = {
	.name = "cgroup",
	.what = "control groups: who is in which, their settings, and cgroup namespaces",
	.fd_type = -1,
	.image_file = -1,
	.collect_thread = cgroup_collect_thread,
	.dump_end = cgroup_dump_end,
	.read = cgroup_read,
	.prepare = cgroup_prepare,
	.restore_thread = cgroup_restore_thread,
	.ready = cgroup_ready,
	.left = cgroup_left,
	.abandon = cgroup_abandon,
	.ns = &cgroup_ops,
};
