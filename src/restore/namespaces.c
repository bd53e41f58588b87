/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the namespaces of a restored tree. Those of the root are made by the coordinator, which stays in them: so files are
 * opened where the tree sees them. A PID namespace begins with the task that is its first process; where the image
 * lacks that one, a small init of ours takes its place. Namespaces of single tasks are made by the coordinator too, which
 * leaves them again; the tasks enter by descriptor. A namespace that the caller gave is not made, and what it has stays as it is.
 *
 * Kernel interface: unshare(2), setns(2) with a pidfd (5.8), clone3(2) with an array of ids (5.5).
 */
#include "restore/namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "collect/namespaces.h"
#include "host/userns.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "kind/kinds.h"
#include "model/records.h"
#include "restore/read.h"

/*
 * Types that the coordinator makes, in this order: what is mounted belongs to the others. It stays in those of the root, unless that
 * would hide from it what it has to do with.
 */
static const struct ns_made {
	enum proc_ns type;
	bool stay;
} ns_made[] = {{PROC_NS_UTS, true},
	       {PROC_NS_IPC, true},
	       {PROC_NS_CGROUP, false},
	       {PROC_NS_NET, true},
	       {PROC_NS_MNT, true}};

enum { NS_USER_DEPTH = 32, NS_PATH_BYTES = 512 };

/* --------------------------------------------------------------------- read */

static uint32_t ns_id(const TaskKobjIdsEntry *ids, enum proc_ns type)
{
	switch (type) {
	case PROC_NS_PID: return ids->has_pid_ns_id ? ids->pid_ns_id : 0;
	case PROC_NS_NET: return ids->has_net_ns_id ? ids->net_ns_id : 0;
	case PROC_NS_IPC: return ids->has_ipc_ns_id ? ids->ipc_ns_id : 0;
	case PROC_NS_UTS: return ids->has_uts_ns_id ? ids->uts_ns_id : 0;
	case PROC_NS_TIME: return ids->has_time_ns_id ? ids->time_ns_id : 0;
	case PROC_NS_MNT: return ids->has_mnt_ns_id ? ids->mnt_ns_id : 0;
	case PROC_NS_USER: return ids->has_user_ns_id ? ids->user_ns_id : 0;
	case PROC_NS_CGROUP: return ids->has_cgroup_ns_id ? ids->cgroup_ns_id : 0;
	default: return 0;
	}
}

/* The task that a member inherits from; helpers pass on what they have. NULL: from the coordinator. */
static const struct plan_task *ns_maker(const struct plan *p, int member)
{
	const struct family *f = &p->family;
	for (int at = f->members.v[member].maker; at != FAMILY_NONE; at = f->members.v[at].maker)
		if (!f->members.v[at].ends)
			return f->members.v[at].context;
	return NULL;
}

/* It is entered by processes that have their memory for themselves, and is known to whom its maker has made. */
static bool ns_time_supported(const struct plan *p, struct image_dir *dir, const struct plan_task *t)
{
	const struct plan_ns *ns = plan_ns(p, PROC_NS_TIME, t->ns_id[PROC_NS_TIME]);
	const struct plan_task *above = ns_maker(p, t->member);
	while (ns->member && above && above != ns->member)
		above = ns_maker(p, above->member);
	return (above || !ns->member) && !t->vm_owner && !t->n_mates && p->clocks &&
	       image_dir_has(dir, IMAGE_TIMENS, ns->id);
}

/* One that is not the root's begins as a copy of that, and is entered when all of the tree's processes are there. */
static bool ns_mounts_supported(const struct plan *p, struct image_dir *dir, const struct plan_task *t)
{
	uint32_t root = p->tasks[0].ns_id[PROC_NS_MNT], id = t->ns_id[PROC_NS_MNT];
	return id == root || (id && image_dir_has(dir, IMAGE_MNTS, id) && !t->fs_owner && !t->vm_owner);
}

static bool ns_supported(const struct plan *p, struct image_dir *dir, enum proc_ns type,
			 const struct plan_task *t)
{
	switch (type) {
	case PROC_NS_PID:
	case PROC_NS_UTS:
	case PROC_NS_CGROUP:
	case PROC_NS_NET:
	case PROC_NS_IPC: return true;
	/* A task enters it last of all, alone (kind/creds.c). */
	case PROC_NS_USER:
		return image_dir_has(dir, IMAGE_FERRY_USERNS, t->ns_id[type]) && t->threads.n == 1 &&
		       !t->fs_owner;
	case PROC_NS_MNT: return ns_mounts_supported(p, dir, t);
	case PROC_NS_TIME: return ns_time_supported(p, dir, t);
	default: return false;
	}
}

static int ns_read_task(struct reader *r, struct plan_task *t, struct ferry_error *err)
{
	const TaskKobjIdsEntry *outside = r->plan->inventory->root_ids, *root = r->plan->tasks[0].ids;
	for (int type = 0; type < PROC_NS_COUNT && outside && t->ids; type++) {
		uint32_t id = ns_id(t->ids, (enum proc_ns)type);
		/* The root's clocks are told by a file of their own. */
		const TaskKobjIdsEntry *known = type == PROC_NS_TIME && root ? root : outside;
		if (!id || id == ns_id(known, (enum proc_ns)type))
			continue;
		t->ns_id[type] = id;
		if (plan_ns(r->plan, (enum proc_ns)type, id))
			continue;
		struct plan_ns *ns = vec_push(&r->plan->namespaces);
		if (!ns)
			return error_memory(err);
		*ns = (struct plan_ns){.type = (enum proc_ns)type, .id = id, .member = t, .fd = -1};
	}
	return 0;
}

/* Everybody's are known by then. */
static int ns_check_supported(struct reader *r, const struct plan_task *t, struct ferry_error *err)
{
	for (int type = 0; type < PROC_NS_COUNT; type++)
		if (t->ns_id[type] && !ns_supported(r->plan, r->dir, (enum proc_ns)type, t))
			return error_set(
				err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				"pid %d lives in a %s namespace of its own, which this ferry does not restore",
				t->pid, proc_ns_info((enum proc_ns)type)->word);
	return 0;
}

static int ns_bad_time(pid_t pid, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
			 "ferry-tree.img: pid %d cannot have made the time namespace of its children", pid);
}

static int ns_bad_user(uint32_t id, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
			 "ferry-userns-%u.img: namespaces above or below it that cannot be", id);
}

/* Record of a user namespace, and those above it. */
static int ns_read_user(struct reader *r, uint32_t id, int depth, struct ferry_error *err)
{
	struct plan_ns *ns = plan_ns(r->plan, PROC_NS_USER, id);
	if (ns && ns->data)
		return 0;
	if (depth == NS_USER_DEPTH)
		return ns_bad_user(id, err);
	FerryUsernsEntry *entry;
	int ret = records_one(r, IMAGE_FERRY_USERNS, id, &entry, err);
	if (ret >= 0 && entry->parent_id)
		ret = ns_read_user(r, entry->parent_id, depth + 1, err);
	if (ret < 0)
		return ret;
	ns = plan_ns(r->plan, PROC_NS_USER, id);
	if (!ns) {
		ns = vec_push(&r->plan->namespaces);
		if (!ns)
			return error_memory(err);
		*ns = (struct plan_ns){.type = PROC_NS_USER, .id = id, .fd = -1};
	}
	ns->data = entry;
	return 0;
}

static int ns_read_users(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->namespaces.n && ret >= 0; i++)
		if (r->plan->namespaces.v[i].type == PROC_NS_USER)
			ret = ns_read_user(r, r->plan->namespaces.v[i].id, 0, err);
	for (size_t i = 0; i < r->plan->namespaces.n && ret >= 0; i++) {
		const struct plan_ns *user = &r->plan->namespaces.v[i];
		const FerryUsernsEntry *entry = user->type == PROC_NS_USER ? user->data : NULL;
		vec_foreach(ns, &r->plan->namespaces)
			for (size_t k = 0; entry && k < entry->n_owns; k++)
				if (ns->type != PROC_NS_USER && ns->id == entry->owns[k])
					ns->owner = user->id;
	}
	vec_foreach(ns, &r->plan->namespaces)
		if (ret >= 0 && ns->owner && (ns->type == PROC_NS_PID || ns->type == PROC_NS_CGROUP))
			ret = ns_bad_user(ns->owner, err);
	return ret;
}

static int ns_take_nested(struct reader *r, struct image_reader *in unused, void *record,
			  void *context unused, struct ferry_error *err)
{
	const FerryNspidsEntry *entry = record;
	struct plan_task *t = plan_task(r->plan, (pid_t)entry->pid);
	struct plan_thread *found = NULL;
	for (size_t i = 0; t && i < t->threads.n; i++)
		if (t->threads.v[i].tid == (pid_t)entry->tid)
			found = &t->threads.v[i];
	if (!found || found->nested.n || entry->n_nested >= PROC_PID_DEPTH)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-nspids.img: thread %u of pid %u is not in the image, or there twice",
				 entry->tid, entry->pid);
	for (size_t i = 0; i < entry->n_nested; i++) {
		pid_t *slot = vec_push(&found->nested);
		if (!slot)
			return error_memory(err);
		*slot = (pid_t)entry->nested[i];
	}
	if (entry->has_children_ns_id)
		t->children_pid_ns = entry->children_ns_id;
	return 0;
}

static int ns_refuse_levels(pid_t pid, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			 "the pid namespaces that pid %d has numbers in cannot be made", pid);
}

/* A task lives in its maker's PID namespace, or in one right below it that it may have begun. */
static int ns_check_levels(const struct plan *p, const struct plan_task *t, struct ferry_error *err)
{
	const struct plan_task *maker = ns_maker(p, t->member);
	size_t depth = t->threads.v[0].nested.n;
	bool same = !maker || t->ns_id[PROC_NS_PID] == maker->ns_id[PROC_NS_PID];
	bool good = depth == (maker ? maker->threads.v[0].nested.n + !same : 0);
	vec_foreach(th, &t->threads)
		good &= th->nested.n == depth;
	const struct plan_ns *ns = plan_ns(p, PROC_NS_PID, t->ns_id[PROC_NS_PID]);
	if (good && !same)
		good = ns && (ns->member != t || t->threads.v[0].nested.v[depth - 1] == 1);
	const struct plan_ns *children = plan_ns(p, PROC_NS_PID, t->children_pid_ns);
	return good && (!t->children_pid_ns || children) ? 0 : ns_refuse_levels(t->pid, err);
}

/* Who ends before the others run has no numbers but the image's. */
static int ns_check_ended(const struct plan *p, struct ferry_error *err)
{
	for (size_t i = 0; i < p->family.members.n; i++) {
		const struct plan_task *maker = ns_maker(p, (int)i);
		if (p->family.members.v[i].ends && maker && maker->threads.v[0].nested.n)
			return ns_refuse_levels(p->family.members.v[i].pid, err);
	}
	return 0;
}

/* Who makes a time namespace for its children only is no member of it; the others are made by nobody of the tree. */
static int ns_read_times(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	vec_foreach(ns, &r->plan->namespaces)
		if (ns->type == PROC_NS_TIME)
			ns->member = NULL;
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		struct plan_ns *ns = plan_ns(r->plan, PROC_NS_TIME, t->children_time_ns);
		if (!t->children_time_ns || (ns && (ns->member || ns->id == t->ns_id[PROC_NS_TIME])))
			ret = ns ? ns_bad_time(t->pid, err) : 0;
		else if (ns || (ns = vec_push(&r->plan->namespaces)))
			*ns = (struct plan_ns){
				.type = PROC_NS_TIME, .id = t->children_time_ns, .member = t, .fd = -1};
		else
			ret = error_memory(err);
	}
	for (size_t i = 0; i < r->plan->namespaces.n && ret >= 0; i++) {
		struct plan_ns *ns = &r->plan->namespaces.v[i];
		if (ns->type == PROC_NS_TIME)
			ret = records_one(r, IMAGE_TIMENS, ns->id, &ns->data, err);
	}
	return ret;
}

/* ------------------------------------------------------------------- joined */

/* "TYPE:PID", "TYPE:FILE", and after a comma what is for namespaces of users. */
static int ns_joined_path(const char *word, enum proc_ns type, char ret_path[NS_PATH_BYTES])
{
	const char *file = proc_ns_info(type)->file;
	size_t n = strlen(file);
	if (strncmp(word, file, n) != 0 || word[n] != ':' || !word[n + 1])
		return 0;
	const char *where = word + n + 1;
	int bytes = where[strspn(where, "0123456789")]
			    ? snprintf(ret_path, NS_PATH_BYTES, "%s", where)
			    : snprintf(ret_path, NS_PATH_BYTES, "/proc/%s/ns/%s", where, file);
	return bytes < NS_PATH_BYTES ? 1 : -ENAMETOOLONG;
}

static bool ns_may_join(enum proc_ns type)
{
	return type == PROC_NS_UTS || type == PROC_NS_IPC || type == PROC_NS_NET || type == PROC_NS_CGROUP;
}

static int ns_check_joined(const char *word, struct ferry_error *err)
{
	char path[NS_PATH_BYTES];
	for (int type = 0; type < PROC_NS_COUNT; type++)
		if (ns_may_join((enum proc_ns)type) && ns_joined_path(word, (enum proc_ns)type, path) > 0)
			return 0;
	return error_set(err, FERRY_ERROR_USAGE, EINVAL,
			 "--join-ns '%s' is not TYPE:PID or TYPE:FILE with one of net, uts, ipc, cgroup",
			 word);
}

/* A namespace that the caller wants the tree to live in; -1: none. */
static int ns_open_joined(const struct kind_options *o, enum proc_ns type, struct ferry_error *err)
{
	char path[NS_PATH_BYTES];
	for (size_t i = 0; i < o->n_joined && ns_may_join(type); i++) {
		if (ns_joined_path(o->joined[i], type, path) <= 0)
			continue;
		int fd = fd_open(AT_FDCWD, path, O_RDONLY, 0);
		return fd < 0 ? error_errno(err, FERRY_ERROR_USAGE, -fd, "--join-ns '%s'", o->joined[i]) : fd;
	}
	return -1;
}

/* The root's are other ones than those of the image; who has none of the type in the image begins in them, with ferry. */
static int ns_join(struct reader *r, enum proc_ns type, struct ferry_error *err)
{
	struct ferry_error why = FERRY_ERROR_INIT;
	struct plan_ns *ns = plan_ns(r->plan, type, r->plan->tasks[0].ns_id[type]);
	_cleanup_close_ int fd = ns_open_joined(r->options, type, &why);
	if (fd < 0) {
		error_pass(err, &why);
		return error_is_set(&why) ? fd : 0;
	}
	if (ns) {
		ns->fd = take_fd(fd);
		ns->joined = true;
		return 0;
	}
	if (setns(fd, (int)proc_ns_info(type)->clone_flag) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "entering the %s namespace of --join-ns",
				   proc_ns_info(type)->word);
	return 0;
}

static int ns_read_joined(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->options->n_joined && ret >= 0; i++)
		ret = ns_check_joined(r->options->joined[i], err);
	for (int type = 0; type < PROC_NS_COUNT && ret >= 0; type++)
		ret = ns_join(r, (enum proc_ns)type, err);
	return ret;
}

/* -------------------------------------------------------- files of namespaces */

/* Whether a file belongs to a network namespace, and to which; 0: its record does not tell. */
static bool ns_of_file(const FileEntry *e, uint32_t *ret_id)
{
	*ret_id = 0;
	if (e->isk)
		*ret_id = e->isk->has_ns_id ? e->isk->ns_id : 0;
	else if (e->usk)
		*ret_id = e->usk->has_ns_id ? e->usk->ns_id : 0;
	else if (e->nlsk)
		*ret_id = e->nlsk->has_ns_id ? e->nlsk->ns_id : 0;
	else if (e->psk)
		*ret_id = e->psk->has_ns_id ? e->psk->ns_id : 0;
	else if (e->tunf)
		*ret_id = e->tunf->has_ns_id ? e->tunf->ns_id : 0;
	return e->isk || e->usk || e->nlsk || e->psk || e->tunf;
}

static void ns_place_files(struct plan *p)
{
	for (size_t i = 0; i < p->n_files; i++) {
		struct plan_file *file = &p->files[i];
		uint32_t id;
		file->is_of_net = ns_of_file(file->entry, &id);
		file->net = !id ? p->tasks[0].ns_id[PROC_NS_NET] : plan_ns(p, PROC_NS_NET, id) ? id : 0;
	}
}

int namespaces_read(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++)
		ret = ns_read_task(r, &r->plan->tasks[i], err);
	if (ret >= 0)
		ret = ns_read_times(r, err);
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++)
		ret = ns_check_supported(r, &r->plan->tasks[i], err);
	if (ret >= 0)
		ret = ns_read_users(r, err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_NSPIDS, 0, &ferry_nspids_entry__descriptor, ns_take_nested,
				   NULL, err);
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++)
		ret = ns_check_levels(r->plan, &r->plan->tasks[i], err);
	if (ret >= 0)
		ret = ns_read_joined(r, err);
	ns_place_files(r->plan);
	return ret < 0 ? ret : ns_check_ended(r->plan, err);
}

/* --------------------------------------------------------------------- make */

static const struct ns_ops *ns_ops_of(enum proc_ns type)
{
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->ns && kind_table[i]->ns->type == type)
			return kind_table[i]->ns;
	return NULL;
}

static int ns_take(struct restore *r, struct plan_ns *ns, const struct ns_ops *own, struct ferry_error *err)
{
	if (setns(ns->fd, (int)proc_ns_info(ns->type)->clone_flag) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "entering the %s namespace that was given",
				   proc_ns_info(ns->type)->word);
	ns->given = true;
	return own && own->taken ? own->taken(r->opener, ns, err) : 0;
}

static int ns_make(struct restore *r, struct plan_ns *ns, struct ferry_error *err)
{
	const struct proc_ns_info *info = proc_ns_info(ns->type);
	const struct ns_ops *own = ns_ops_of(ns->type);
	const struct plan_ns *owner = ns->owner ? plan_ns(r->plan, PROC_NS_USER, ns->owner) : NULL;
	int made = 0;
	fault_effect(r->fault, "restore", "namespace");
	int given = ns->joined ? 1 : own && own->find ? own->find(r->opener, ns, err) : 0;
	if (given)
		return given < 0 ? given : ns_take(r, ns, own, err);
	if (own && own->make)
		return own->make(r->opener, ns, err);
	if (owner)
		made = userns_make_owned(owner->fd, (int)info->clone_flag, info->file, &ns->fd, err);
	if (made < 0)
		return made;
	if (owner ? setns(ns->fd, (int)info->clone_flag) < 0 : unshare((int)info->clone_flag) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a %s namespace", info->word);
	for (size_t i = 0; i < KIND_COUNT; i++) {
		const struct ns_ops *ops = kind_table[i]->ns;
		int ret = ops && ops->type == ns->type && ops->restore ? ops->restore(r->opener, ns, err) : 0;
		if (ret < 0) {
			error_context(err, "restore", kind_table[i]->name, 0);
			return ret;
		}
	}
	if (owner)
		return 0;
	char name[32];
	snprintf(name, sizeof(name), "/proc/self/ns/%s", info->file);
	ns->fd = fd_open(AT_FDCWD, name, O_RDONLY, 0);
	return ns->fd < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -ns->fd, "opening '%s'", name) : 0;
}

/* Nobody of ours goes there: whoever enters one does not come back. */
static int ns_make_users(struct restore *r, struct ferry_error *err)
{
	/* Those above are made before those below, at the latest in as many rounds as there are levels. */
	for (int round = 0; round <= NS_USER_DEPTH; round++)
		for (size_t i = 0; i < r->plan->namespaces.n; i++) {
			struct plan_ns *ns = &r->plan->namespaces.v[i];
			if (ns->type != PROC_NS_USER || ns->fd >= 0)
				continue;
			const FerryUsernsEntry *entry = ns->data;
			const struct plan_ns *above =
				entry->parent_id ? plan_ns(r->plan, PROC_NS_USER, entry->parent_id) : NULL;
			if (above && above->fd < 0)
				continue;
			fault_effect(r->fault, "restore", "user namespace");
			int ret = kind_userns.ns->make(r->opener, ns, err);
			if (ret < 0) {
				error_context(err, "restore", kind_userns.name, 0);
				return ret;
			}
		}
	return 0;
}

static int ns_make_type(struct restore *r, const struct ns_made *made, struct ferry_error *err)
{
	enum proc_ns type = made->type;
	const struct proc_ns_info *info = proc_ns_info(type);
	uint32_t root = made->stay ? r->plan->tasks[0].ns_id[type] : 0;
	int ret = 0;
	if (!plan_has_ns(r->plan, type))
		return 0;
	char name[32];
	snprintf(name, sizeof(name), "/proc/self/ns/%s", info->file);
	r->home[type] = plan_keep_source(r->plan, fd_open(AT_FDCWD, name, O_RDONLY, 0));
	if (r->home[type] < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r->home[type], "opening '%s'", name);
	for (size_t i = 0; i < r->plan->namespaces.n && ret >= 0; i++) {
		struct plan_ns *ns = &r->plan->namespaces.v[i];
		bool below = type == PROC_NS_MNT && ns->id != root;
		if (ns->type == type && !below)
			ret = ns_make(r, ns, err);
	}
	const struct ns_ops *ops = ns_ops_of(type);
	if (ret >= 0 && ops && ops->fill)
		ret = ops->fill(r->opener, err);
	const struct plan_ns *stay = root ? plan_ns(r->plan, type, root) : NULL;
	int fd = stay ? stay->fd : r->home[type];
	/* A mount namespace that we stand in already need not be entered; entering would lose nothing but the directory. */
	if (ret >= 0 && setns(fd, (int)info->clone_flag) < 0)
		ret = error_errno(err, FERRY_ERROR_SYSTEM, errno, "entering the root's %s namespace",
				  info->word);
	return ret;
}

/* The tree's mount namespace has a /proc of the tree's numbers, and we work with ours. */
static bool ns_wants_own_view(const struct restore *r)
{
	return r->new_pidns && plan_own_ns(r->plan, PROC_NS_MNT);
}

int namespaces_make(struct restore *r, struct ferry_error *err)
{
	int ret = 0;
	r->proc = plan_keep_source(r->plan, fd_open(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY, 0));
	if (r->proc < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r->proc, "opening '/proc'");
	/* For namespaces_own_view(). Ordinary users may not copy it. Letting go of a copy waits for all processors. */
	r->proc_copy = -1;
	if (ns_wants_own_view(r))
		r->proc_copy = plan_keep_source(r->plan, sys_open_tree(AT_FDCWD, "/proc",
								       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
	ret = ns_make_users(r, err);
	for (size_t i = 0; i < ARRAY_SIZE(ns_made) && ret >= 0; i++)
		ret = ns_make_type(r, &ns_made[i], err);
	r->opener->net = r->plan->tasks[0].ns_id[PROC_NS_NET];
	return ret;
}

/* A mount namespace that the root does not live in: a copy of the root's as it is now, and what differs. */
static int ns_make_below(struct restore *r, struct plan_ns *ns, struct ferry_error *err)
{
	fault_effect(r->fault, "restore", "mount namespace");
	if (ns->owner)
		return ns_bad_user(ns->owner, err);
	if (unshare(CLONE_NEWNS) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a mount namespace");
	int ret = kind_mounts.ns->restore(r->opener, ns, err);
	if (ret >= 0)
		ret = kind_mounts.ns->finish(r->opener, ns, err);
	error_context(err, "restore", kind_mounts.name, 0);
	if (ret < 0)
		return ret;
	ns->fd = plan_keep_source(r->plan, fd_open(r->proc, "self/ns/mnt", O_RDONLY, 0));
	return ns->fd < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -ns->fd, "opening '/proc/self/ns/mnt'") : 0;
}

static int ns_enter_mounts(void *arguments unused, int *fds, size_t *n_fds)
{
	*n_fds = 0;
	return setns(fds[0], CLONE_NEWNS) < 0 ? -errno : 0;
}

static int ns_enter_below(struct restore *r, const struct plan_task *t, const struct plan_ns *ns,
			  struct ferry_error *err)
{
	struct opener_call call = {.run = ns_enter_mounts, .fds = {ns->fd}, .n_fds = 1};
	int ret = r->opener->in_task(r->opener, t, &call, err);
	if (ret < 0 && !error_is_set(err))
		error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret, "entering the mount namespace of pid %d",
			    t->pid);
	return ret;
}

static int ns_make_all_below(struct restore *r, struct ferry_error *err)
{
	uint32_t id = r->plan->tasks[0].ns_id[PROC_NS_MNT];
	const struct plan_ns *root = id ? plan_ns(r->plan, PROC_NS_MNT, id) : NULL;
	int ret = 0;
	for (size_t i = 0; i < r->plan->namespaces.n && ret >= 0; i++) {
		struct plan_ns *ns = &r->plan->namespaces.v[i];
		if (ns->type != PROC_NS_MNT || ns->id == id)
			continue;
		ret = ns_make_below(r, ns, err);
		if (setns(root ? root->fd : r->home[PROC_NS_MNT], CLONE_NEWNS) < 0 && ret >= 0)
			ret = error_errno(err, FERRY_ERROR_SYSTEM, errno,
					  "going back to the root's mount namespace");
	}
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		const struct plan_ns *ns = plan_ns(r->plan, PROC_NS_MNT, t->ns_id[PROC_NS_MNT]);
		ret = ns && ns->id != id ? ns_enter_below(r, t, ns, err) : 0;
	}
	return ret;
}

int namespaces_finish(struct restore *r, struct ferry_error *err)
{
	int ret = 0;
	vec_foreach(ns, &r->plan->namespaces)
		for (size_t i = 0; i < KIND_COUNT && ret >= 0; i++) {
			const struct ns_ops *ops = kind_table[i]->ns;
			bool root = r->plan->tasks[0].ns_id[ns->type] == ns->id;
			if (root && ops && ops->type == ns->type && ops->finish)
				ret = ops->finish(r->opener, ns, err);
			error_context(err, "restore", kind_table[i]->name, 0);
		}
	return ret < 0 ? ret : ns_make_all_below(r, err);
}

int namespaces_own_view(struct restore *r, struct ferry_error *err)
{
	if (!ns_wants_own_view(r))
		return 0;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "copying the tree's mount namespace");
	int ret = collect_own_proc(r->proc_copy);
	return ret < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -ret, "mounting a /proc of ferry's") : 0;
}

/* --------------------------------------------------------------- in a task */

pid_t namespaces_real_pid(const struct restore *r)
{
	char text[16];
	ssize_t n = readlinkat(r->proc, "self", text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	return (pid_t)strtol(text, NULL, 10);
}

static int ns_enter(struct restore *r, const struct plan_task *t, const struct plan_task *maker,
		    const struct ns_made *made, struct ferry_error *err)
{
	enum proc_ns type = made->type;
	uint32_t id = t->ns_id[type], born = made->stay ? id : 0;
	const struct plan_ns *ns = plan_ns(r->plan, type, id);
	const struct ns_ops *ops = ns_ops_of(type);
	if (maker)
		born = maker->ns_id[type];
	if (type == PROC_NS_MNT)
		born = id; /* it is entered at last */
	if (id != born && setns(ns ? ns->fd : r->home[type], (int)proc_ns_info(type)->clone_flag) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "entering the %s namespace of pid %d",
				   proc_ns_info(type)->word, t->pid);
	return ops && ops->entered ? ops->entered(r->plan, t, maker, err) : 0;
}

int namespaces_enter(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	const struct plan_task *maker = ns_maker(r->plan, t->member);
	int ret = clocks_enter(r, t, maker, err);
	if (ret < 0)
		return ret;
	for (size_t i = 0; i < ARRAY_SIZE(ns_made) && ret >= 0; i++)
		ret = ns_enter(r, t, maker, &ns_made[i], err);
	return ret;
}

static int ns_put_children(struct restore *r, const struct plan_task *t, uint32_t id, struct ferry_error *err)
{
	const struct plan_ns *ns = plan_ns(r->plan, PROC_NS_PID, id);
	_cleanup_close_ int own = id == t->ns_id[PROC_NS_PID] ? sys_pidfd_open(getpid(), 0) : -1;
	int fd = own >= 0 ? own : ns ? ns->fd : -1;
	if (setns(fd, CLONE_NEWPID) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno,
				   "entering the pid namespace for the children of pid %d", t->pid);
	return 0;
}

int namespaces_before_child(struct restore *r, int member, struct namespaces_clone *c,
			    struct ferry_error *err)
{
	const struct family_member *m = &r->plan->family.members.v[member];
	const struct plan_task *t = m->ends ? NULL : m->context, *maker = ns_maker(r->plan, member);
	*c = (struct namespaces_clone){.pidfd = -1};
	for (size_t i = t ? t->threads.v[0].nested.n : 0; i-- > 0;)
		c->tids[c->n_tids++] = t->threads.v[0].nested.v[i];
	c->tids[c->n_tids++] = m->pid;
	uint32_t id = t ? t->ns_id[PROC_NS_PID] : 0;
	if (!t || !maker || id == maker->ns_id[PROC_NS_PID])
		return 0;
	const struct plan_ns *ns = plan_ns(r->plan, PROC_NS_PID, id);
	if (ns->member == t) {
		c->flags = CLONE_NEWPID | CLONE_PIDFD;
		return 0;
	}
	c->restore = true;
	return ns_put_children(r, maker, id, err);
}

int namespaces_after_child(struct restore *r, int member, const struct namespaces_clone *c,
			   struct ferry_error *err)
{
	const struct plan_task *t = r->plan->family.members.v[member].context;
	const struct plan_task *maker = ns_maker(r->plan, member);
	if (c->flags & CLONE_NEWPID)
		plan_ns(r->plan, PROC_NS_PID, t->ns_id[PROC_NS_PID])->fd = c->pidfd;
	return c->restore ? ns_put_children(r, maker, maker->ns_id[PROC_NS_PID], err) : 0;
}

int namespaces_after_children(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	return t->children_pid_ns ? ns_put_children(r, t, t->children_pid_ns, err) : 0;
}

void namespaces_init_main(const struct restore *r, pid_t root)
{
	int status, result = 0;
	prctl(PR_SET_NAME, "ferry-init");
	fd_close_others(0, NULL, 0);
	/* It stays, and must not be one who has the tasks' shared memory. */
	if (r->plan->pool_bytes)
		munmap((void *)(uintptr_t)r->plan->pool, r->plan->pool_bytes);
	for (;;) {
		pid_t pid = wait(&status);
		if (pid < 0 && errno != EINTR)
			break; /* nobody is left */
		if (pid == root)
			result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	_exit(result);
}
