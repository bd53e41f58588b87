/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns cgroup namespaces of tasks, and the groups of the threads that live in them: where they are, and how much of that path is above
 * the root of the namespace (cgroup.img). A restore puts each process into its groups before it has memory of its own,
 * so that the right group pays; the groups have to be there.
 *
 * Kernel interface: cgroups(7), cgroup_namespaces(7) (4.6): /proc/PID/cgroup shows paths as the reader's namespace has them.
 * Does not handle: a namespace that belongs to a user namespace of the tree, and a thread in a group that is not below the
 * root of its namespace, both refused; groups that are gone or frozen when the image is restored, which the restore says;
 * groups of tasks that live in ferry's own cgroup namespace, which stay in those of the restore.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/cgroup.h"
#include "host/userns.h"
#include "image/dir.h"
#include "image/proto/cgroup.pb-c.h"
#include "kind/kinds.h"
#include "model/kind.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

enum { CGROUP_FIRST_SET = 2 }; /* 1 is what the dumper is in, which is not told */

/* What threads have that are in the same groups. */
struct cgroup_set {
	struct cgroup_set *next;
	CgSetEntry *entry;
};

/* Where a thread is, as ferry and as its own namespace see it. */
struct cgroup_look {
	struct proc_cgroups outer, inner;
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

static int cgroup_look(int proc_dir, pid_t tid, struct cgroup_look *ret, struct ferry_error *err)
{
	_cleanup_close_ int dir = proc_open_task(proc_dir, tid, err);
	int r = dir < 0 ? dir : proc_read_cgroups(dir, &ret->outer, err);
	if (r >= 0)
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
		r = cgroup_look(proc_dir, tids.v.v[i], &look, err);
		cgroup_look_release(&look);
	}
	proc_pid_list_release(&tids);
	return r;
}

/* ------------------------------------------------------------- collect and dump */

/* So many bytes of a path are above the root of the namespace. */
static uint32_t cgroup_prefix(const char *outer, const char *inner)
{
	size_t whole = strlen(outer), below = inner[1] ? strlen(inner) : 0;
	return outer[1] && whole >= below ? (uint32_t)(whole - below) : 0;
}

static CgSetEntry *cgroup_entry(struct arena *a, const struct cgroup_look *l, uint32_t id)
{
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
		uint32_t prefix = cgroup_prefix(group->path, l->inner.v.v[i].path);
		if (prefix)
			record_set(member, cgns_prefix, prefix);
		set->ctls[set->n_ctls++] = member;
	}
	return set->ctls ? set : NULL;
}

static bool cgroup_same_root(const CgSetEntry *a, const CgSetEntry *b)
{
	bool same = a->n_ctls == b->n_ctls;
	for (size_t i = 0; same && i < a->n_ctls; i++) {
		const CgMemberEntry *x = a->ctls[i], *y = b->ctls[i];
		same = !strcmp(x->name, y->name) && x->cgns_prefix == y->cgns_prefix &&
		       !strncmp(x->path, y->path, x->cgns_prefix);
	}
	return same;
}

static bool cgroup_same_set(const CgSetEntry *a, const CgSetEntry *b)
{
	bool same = cgroup_same_root(a, b);
	for (size_t i = 0; same && i < a->n_ctls; i++)
		same = !strcmp(a->ctls[i]->path, b->ctls[i]->path);
	return same;
}

/* The set with the same groups, which has the number before it was asked for; *ret_id: its number. */
static int cgroup_add_set(struct collect *c, const struct cgroup_look *look, uint32_t *ret_id,
			  struct ferry_error *err)
{
	struct cgroup_set *first = c->kind_data[KIND_cgroup];
	uint32_t id = first ? first->entry->id + 1 : CGROUP_FIRST_SET;
	CgSetEntry *entry = cgroup_entry(&c->snap->arena, look, id);
	struct cgroup_set *set = arena_new(&c->snap->arena, struct cgroup_set);
	if (!entry || !set)
		return error_memory(err);
	for (const struct cgroup_set *known = first; known; known = known->next)
		if (cgroup_same_set(known->entry, entry)) {
			*ret_id = known->entry->id;
			return 0;
		}
	*set = (struct cgroup_set){.next = first, .entry = entry};
	c->kind_data[KIND_cgroup] = set;
	*ret_id = id;
	return 0;
}

static int cgroup_collect_task(struct collect *c, struct snap_task *t, struct ferry_error *err)
{
	_cleanup_close_ int dir = proc_open_look(t->look, err);
	int r = MIN(dir, 0);
	for (size_t i = 0; i < t->threads.n && r >= 0; i++) {
		const struct snap_thread *th = &t->threads.v[i];
		struct cgroup_look look = {0};
		if (th->ended)
			continue;
		r = cgroup_look(dir, th->tid, &look, err);
		if (r >= 0)
			r = cgroup_add_set(c, &look, &th->core->thread_core->cg_set, err);
		cgroup_look_release(&look);
	}
	return r;
}

static int cgroup_collect(struct collect *c, struct snap_ns *ns, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < c->snap->tasks.n && r >= 0; i++)
		if (c->snap->tasks.v[i].ns_ino[PROC_NS_CGROUP] == ns->ino)
			r = cgroup_collect_task(c, &c->snap->tasks.v[i], err);
	return r;
}

/* A hierarchy; CRIU also has the settings of its groups there. */
static CgControllerEntry *cgroup_controller(struct arena *a, const CgMemberEntry *member)
{
	CgControllerEntry *c = record_new(a, CgControllerEntry, cg_controller_entry);
	char *names = arena_string(a, member->name), *save = NULL;
	if (!c || !names)
		return NULL;
	c->cnames = arena_array(a, char *, strlen(names) + 1);
	if (!c->cnames)
		return NULL;
	c->cnames[c->n_cnames++] = strtok_r(names, ",", &save) ?: names;
	for (char *name; (name = strtok_r(NULL, ",", &save));)
		c->cnames[c->n_cnames++] = name;
	record_set(c, is_threaded, *member->name != '\0');
	return c;
}

static int cgroup_controllers(struct arena *a, const CgSetEntry *set, CgroupEntry *entry)
{
	entry->controllers = arena_array(a, CgControllerEntry *, set->n_ctls + 1);
	for (size_t i = 0; entry->controllers && i < set->n_ctls; i++) {
		CgControllerEntry *controller = cgroup_controller(a, set->ctls[i]);
		if (!controller)
			return -ENOMEM;
		entry->controllers[entry->n_controllers++] = controller;
	}
	return entry->controllers ? 0 : -ENOMEM;
}

static int cgroup_dump_end(struct dump *d, struct ferry_error *err)
{
	CgroupEntry entry = CGROUP_ENTRY__INIT;
	struct cgroup_set *first = d->kind_data[KIND_cgroup];
	if (!first)
		return 0;
	entry.n_sets = first->entry->id - CGROUP_FIRST_SET + 1;
	entry.sets = arena_array(&d->snap->arena, CgSetEntry *, entry.n_sets);
	if (!entry.sets || cgroup_controllers(&d->snap->arena, first->entry, &entry) < 0)
		return error_memory(err);
	for (const struct cgroup_set *set = first; set; set = set->next)
		entry.sets[set->entry->id - CGROUP_FIRST_SET] = set->entry;
	return image_put_one(d->dir, IMAGE_CGROUP, 0, &entry.base, err);
}

/* --------------------------------------------------------------------- restore */

/* Groups that a thread goes to, or that are the root of a namespace: a descriptor of each hierarchy. */
struct cgroup_place {
	struct cgroup_place *next;
	const CgSetEntry *set;
	int *dirs;
	size_t n;
};

struct cgroup_mounted {
	struct cgroup_mounted *next;
	const char *name;
	int fd;
};

struct cgroup_plan {
	CgroupEntry *entry;
	struct cgroup_mounted *mounts;
	struct cgroup_place *places;
};

static int cgroup_bad(const char *why, uint32_t id, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "cgroup.img: %s %u", why, id);
}

static int cgroup_hierarchy(struct reader *r, struct cgroup_plan *p, const char *name,
			    struct ferry_error *err)
{
	for (const struct cgroup_mounted *m = p->mounts; m; m = m->next)
		if (!strcmp(m->name, name))
			return m->fd;
	struct cgroup_mounted *mounted = arena_new(&r->plan->arena, struct cgroup_mounted);
	if (!mounted)
		return error_memory(err);
	int fd = plan_keep_source(r->plan, cgroup_mount(name));
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_KERNEL_FEATURE, -fd, "reaching the cgroup hierarchy '%s'",
				   *name ? name : "v2");
	*mounted = (struct cgroup_mounted){.next = p->mounts, .name = name, .fd = fd};
	p->mounts = mounted;
	return fd;
}

/* A group by its path, of which the first bytes count; 0 = the root. */
static int cgroup_open(struct reader *r, struct cgroup_plan *p, const CgMemberEntry *member, size_t bytes,
		       struct ferry_error *err)
{
	int mount = cgroup_hierarchy(r, p, member->name, err);
	char *path = arena_string(&r->plan->arena, member->path);
	if (mount < 0 || !path)
		return mount < 0 ? mount : error_memory(err);
	path[bytes] = '\0';
	int fd = plan_keep_source(r->plan,
				  fd_open(mount, bytes > 1 ? path + 1 : ".", O_RDONLY | O_DIRECTORY, 0));
	if (fd < 0) {
		error_errno(err, FERRY_ERROR_FILES_CHANGED, -fd, "opening cgroup '%s' of hierarchy '%s'",
			    path, *member->name ? member->name : "v2");
		error_hint(err,
			   "the tree lived in it: make it again (mkdir), with its settings, then restore");
		return fd;
	}
	if (cgroup_is_frozen(fd)) {
		error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY, "cgroup '%s' is frozen", path);
		error_hint(err, "thaw it, then restore");
		return -EBUSY;
	}
	return fd;
}

static int cgroup_open_all(struct reader *r, const CgSetEntry *set, bool roots, struct cgroup_place **ret,
			   struct ferry_error *err)
{
	struct cgroup_plan *p = r->plan->kind_data[KIND_cgroup];
	struct cgroup_place *place = arena_new(&r->plan->arena, struct cgroup_place);
	if (!place)
		return error_memory(err);
	place->set = set;
	place->dirs = arena_array(&r->plan->arena, int, set->n_ctls + 1);
	if (!place->dirs)
		return error_memory(err);
	for (size_t i = 0; i < set->n_ctls; i++) {
		const CgMemberEntry *member = set->ctls[i];
		size_t whole = strlen(member->path);
		if (member->path[0] != '/' || member->cgns_prefix > whole || strstr(member->path, "/.."))
			return cgroup_bad("paths of set", set->id, err);
		int fd = cgroup_open(r, p, member, roots ? member->cgns_prefix : whole, err);
		if (fd < 0)
			return fd;
		place->dirs[place->n++] = fd;
	}
	*ret = place;
	return 0;
}

static struct cgroup_place *cgroup_place(const struct plan *p, uint32_t id)
{
	const struct cgroup_plan *own = p->kind_data[KIND_cgroup];
	struct cgroup_place *place = own ? own->places : NULL;
	while (place && place->set->id != id)
		place = place->next;
	return place;
}

static uint32_t cgroup_set_of(const struct plan_thread *th)
{
	const ThreadCoreEntry *core = th->core->thread_core;
	return core && core->has_cg_set ? core->cg_set : 0;
}

static int cgroup_read_thread(struct reader *r, const struct plan_task *t, const struct plan_thread *th,
			      struct ferry_error *err)
{
	struct cgroup_plan *p = r->plan->kind_data[KIND_cgroup];
	struct plan_ns *ns = plan_ns(r->plan, PROC_NS_CGROUP, t->ns_id[PROC_NS_CGROUP]);
	uint32_t id = cgroup_set_of(th);
	struct cgroup_place *place = cgroup_place(r->plan, id), *root = ns->data;
	const CgSetEntry *set = NULL;
	int ret = 0;
	for (size_t i = 0; i < p->entry->n_sets; i++)
		if (p->entry->sets[i]->id == id)
			set = p->entry->sets[i];
	if (!set || (root && !cgroup_same_root(root->set, set)))
		return cgroup_bad("a namespace lacks groups, or has several roots: set", id, err);
	if (!place) {
		ret = cgroup_open_all(r, set, false, &place, err);
		if (ret < 0)
			return ret;
		place->next = p->places;
		p->places = place;
	}
	if (!root)
		ret = cgroup_open_all(r, set, true, &root, err);
	ns->data = root;
	return ret;
}

static int cgroup_read(struct reader *r, struct ferry_error *err)
{
	if (!plan_has_ns(r->plan, PROC_NS_CGROUP))
		return 0;
	struct cgroup_plan *p = arena_new(&r->plan->arena, struct cgroup_plan);
	if (!p)
		return error_memory(err);
	r->plan->kind_data[KIND_cgroup] = p;
	int ret = records_one(r, IMAGE_CGROUP, 0, &p->entry, err);
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		for (size_t k = plan_first(t); k < t->threads.n && t->ns_id[PROC_NS_CGROUP] && ret >= 0; k++)
			ret = cgroup_read_thread(r, t, &t->threads.v[k], err);
	}
	return ret;
}

static int cgroup_make(struct opener *o unused, struct plan_ns *ns, struct ferry_error *err)
{
	const struct cgroup_place *root = ns->data;
	return cgroup_make_ns(root->dirs, root->n, &ns->fd, err);
}

static int cgroup_entered(const struct plan *p, const struct plan_task *t, struct ferry_error *err)
{
	const struct cgroup_place *place = cgroup_place(p, cgroup_set_of(&t->threads.v[plan_first(t)]));
	for (size_t i = 0; place && i < place->n; i++) {
		int r = cgroup_move(place->dirs[i], "cgroup.procs", 0);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
					   "moving pid %d into cgroup '%s'", t->pid,
					   place->set->ctls[i]->path);
	}
	return 0;
}

/* A thread that is somewhere else than its process as a whole moves by itself. */
static int cgroup_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th,
				 struct script *s, struct ferry_error *err)
{
	const struct cgroup_place *place = cgroup_place(r->plan, cgroup_set_of(th));
	const struct cgroup_place *first = cgroup_place(r->plan, cgroup_set_of(&t->threads.v[plan_first(t)]));
	for (size_t i = 0; t->ns_id[PROC_NS_CGROUP] && place && place != first && i < place->n; i++) {
		const CgMemberEntry *member = place->set->ctls[i];
		int fd = plan_keep_source(r->plan,
					  fd_open(place->dirs[i], *member->name ? "tasks" : "cgroup.threads",
						  O_WRONLY, 0));
		if (fd < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd,
					   "opening the threads of cgroup '%s'", member->path);
		int number = plan_temp_source(t, fd);
		if (number < 0)
			return error_memory(err);
		script_call(s, "moving the thread into its cgroup", SYS_write, (uint64_t)number,
			    script_put(s, "0", 1), 1)
			->data_mask = 1 << 1;
	}
	return 0;
}

static const struct ns_ops cgroup_ops = {
	.type = PROC_NS_CGROUP,
	.check = cgroup_check,
	.collect = cgroup_collect,
	.make = cgroup_make,
	.entered = cgroup_entered,
};

const struct kind_ops kind_cgroup = {
	.name = "cgroup",
	.what = "cgroup namespaces, and the groups of those who live in them",
	.fd_type = -1,
	.image_file = -1,
	.dump_end = cgroup_dump_end,
	.read = cgroup_read,
	.restore_thread = cgroup_restore_thread,
	.ns = &cgroup_ops,
};
