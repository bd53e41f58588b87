/* SPDX-License-Identifier: Apache-2.0 */
/* Owns reading an image into a plan: tasks, threads, files, descriptors, clocks, and how they refer to each other. */
#include "restore/read.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "image/dir.h"
#include "image/proto/pstree.pb-c.h"
#include "image/proto/timens.pb-c.h"
#include "kernel/caps.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/records.h"
#include "restore/namespaces.h"

enum {
	READ_IMG_VERSION = 2,
	READ_STATE_ALIVE = 1,
	READ_STATE_DEAD = 2,
	READ_STATE_STOPPED = 3,
	READ_TASKS_MAX = 1 << 20,
	READ_FD_MAX = 1 << 30,
	READ_EXIT_STATUS = 0xff00,
};

struct read_tree {
	VEC(PstreeEntry *) entries;
};

static int read_take_task(struct reader *r unused, struct image_reader *in unused, void *message,
			  void *context, struct ferry_error *err)
{
	struct read_tree *tree = context;
	PstreeEntry **slot = vec_push(&tree->entries);
	if (!slot)
		return error_memory(err);
	*slot = message;
	return 0;
}

/* core: its record, if that was read before; NULL = it was not */
static int read_thread(struct reader *r, struct plan_task *t, pid_t tid, CoreEntry *core,
		       struct ferry_error *err)
{
	struct plan_thread *th = vec_push(&t->threads);
	if (!th)
		return error_memory(err);
	th->tid = tid;
	th->core = core;
	int ret = core ? 0 : records_one(r, IMAGE_CORE, (uint64_t)tid, &th->core, err);
	if (ret < 0)
		return ret;
	if (th->core->mtype != CORE_ENTRY__MARCH__X86_64)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				 "core-%d.img is of another processor architecture", tid);
	if (!th->core->thread_info || !th->core->thread_core || (tid == t->pid && !th->core->tc))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "core-%d.img lacks the state of its thread", tid);
	return 0;
}

static int read_take_extra(struct reader *r unused, struct image_reader *in unused, void *message,
			   void *context, struct ferry_error *err)
{
	struct plan_task *t = context;
	FerryTaskEntry *extra = message;
	vec_foreach(th, &t->threads) {
		if (th->tid != (pid_t)extra->tid)
			continue;
		th->extra = extra;
		return 0;
	}
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
			 "ferry-task-%d.img names thread %u, which the task lacks", t->pid, extra->tid);
}

/* Only a leader can have ended without being gone, and only by itself: a signal ends the whole process. */
static int read_ended(struct plan_task *t, struct ferry_error *err)
{
	vec_foreach(th, &t->threads) {
		if (!th->extra || !th->extra->has_ended)
			continue;
		if (th != t->threads.v || t->threads.n < 2 || th->extra->ended & ~READ_EXIT_STATUS)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "ferry-task-%d.img: thread %d cannot have ended with status %#x",
					 t->pid, th->tid, th->extra->ended);
		th->ended = true;
	}
	return 0;
}

static int read_take_fd(struct reader *r, struct image_reader *in unused, void *message, void *context,
			struct ferry_error *err)
{
	struct plan_task *t = context;
	const FdinfoEntry *entry = message;
	struct plan_file *file = plan_file(r->plan, entry->id);
	if (!file || file->entry->type != entry->type)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "fd %u of pid %d refers to file id %u, which files.img %s", entry->fd,
				 t->pid, entry->id, file ? "has with another type" : "lacks");
	if (entry->fd >= READ_FD_MAX)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "pid %d has a descriptor number %u",
				 t->pid, entry->fd);
	struct plan_fd *fd = vec_push(&t->fds);
	if (!fd)
		return error_memory(err);
	*fd = (struct plan_fd){.fd = (int)entry->fd, .cloexec = entry->flags & FD_CLOEXEC, .file = file};
	if (!file->owner)
		file->owner = t;
	return 0;
}

static int read_compare_fds(const void *a, const void *b)
{
	const struct plan_fd *x = a, *y = b;
	return x->fd < y->fd ? -1 : x->fd > y->fd;
}

static int read_fds(struct reader *r, struct plan_task *t, struct ferry_error *err)
{
	int ret = records_need(r, IMAGE_FDINFO, t->ids->files_id, &fdinfo_entry__descriptor, read_take_fd, t,
			       err);
	if (ret < 0)
		return ret;
	if (t->fds.n)
		qsort(t->fds.v, t->fds.n, sizeof(*t->fds.v), read_compare_fds);
	for (size_t i = 1; i < t->fds.n; i++)
		if (t->fds.v[i].fd == t->fds.v[i - 1].fd)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "fd %d of pid %d is in the image twice", t->fds.v[i].fd, t->pid);
	return 0;
}

/* Equal ids are the same object. */
static int read_shared(struct plan *p, struct plan_task *t, struct ferry_error *err)
{
	for (struct plan_task *other = p->tasks; other < t; other++) {
		if (other->ids->vm_id == t->ids->vm_id && !other->vm_owner)
			t->vm_owner = other;
		if (other->ids->sighand_id == t->ids->sighand_id && !other->sighand_owner)
			t->sighand_owner = other;
		if (other->ids->files_id == t->ids->files_id && !other->files_owner) {
			t->files_owner = other;
			other->n_table_mates++;
		}
		if (other->ids->fs_id == t->ids->fs_id && !other->fs_owner)
			t->fs_owner = other;
	}
	if (t->sighand_owner &&
	    (!t->vm_owner || (t->sighand_owner != t->vm_owner && t->sighand_owner->vm_owner != t->vm_owner)))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pid %d shares signal actions with pid %d, and not its memory", t->pid,
				 t->sighand_owner->pid);
	if (t->vm_owner)
		t->vm_owner->n_mates++;
	return 0;
}

/* Who has the memory of another has its values, and its mappings are the owner's. */
static int read_mm(struct reader *r, struct plan_task *t, struct ferry_error *err)
{
	if (!t->vm_owner)
		return records_one(r, IMAGE_MM, (uint64_t)t->pid, &t->mm, err);
	t->mm = arena_copy(&r->plan->arena, t->vm_owner->mm, sizeof(*t->mm));
	if (!t->mm)
		return error_memory(err);
	t->mm->n_vmas = t->mm->n_aios = 0;
	return 0;
}

static int read_task(struct reader *r, struct plan_task *t, const PstreeEntry *entry, CoreEntry *leader,
		     struct ferry_error *err)
{
	t->pid = (pid_t)entry->pid;
	t->ppid = (pid_t)entry->ppid;
	t->pgid = (pid_t)entry->pgid;
	t->sid = (pid_t)entry->sid;
	if (t->pid <= 0 || !entry->n_threads || entry->threads[0] != entry->pid)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pstree.img has a task without a leading thread");
	for (size_t i = 0; i < entry->n_threads; i++) {
		int ret = read_thread(r, t, (pid_t)entry->threads[i], i ? NULL : leader, err);
		if (ret < 0)
			return ret;
	}
	int ret = records_each(r, IMAGE_FERRY_TASK, entry->pid, &ferry_task_entry__descriptor,
			       read_take_extra, t, err);
	if (ret >= 0)
		ret = read_ended(t, err);
	if (ret >= 0)
		ret = records_one(r, IMAGE_IDS, entry->pid, &t->ids, err);
	if (ret >= 0)
		ret = read_shared(r->plan, t, err);
	if (ret >= 0)
		ret = read_mm(r, t, err);
	if (ret >= 0 && image_dir_has(r->dir, IMAGE_FERRY_MM, entry->pid))
		ret = records_one(r, IMAGE_FERRY_MM, entry->pid, &t->mm_extra, err);
	if (ret >= 0)
		ret = records_one(r, IMAGE_FS, entry->pid, &t->fs, err);
	return ret < 0 || t->files_owner ? ret : read_fds(r, t, err);
}

/* Signals that end a process by default, so that it can have ended by them. */
static bool read_is_deadly(int number)
{
	static const uint64_t harmless = 1ull << SIGCHLD | 1ull << SIGCONT | 1ull << SIGSTOP |
					 1ull << SIGTSTP | 1ull << SIGTTIN | 1ull << SIGTTOU |
					 1ull << SIGURG | 1ull << SIGWINCH;
	return number > 0 && number < 65 && !(number < 64 && harmless >> number & 1);
}

static int read_zombie(struct plan_zombie *z, pid_t pid, CoreEntry *core, struct ferry_error *err)
{
	uint32_t status = core->tc->exit_code;
	if (status > 0xffff ||
	    (status & 0x7f ? status >> 8 || !read_is_deadly(status & 0x7f) : status & 0x80))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "core-%d.img: nobody ends with status %#x", pid, status);
	z->pid = pid;
	z->core = core;
	return 0;
}

static int read_stop_signal(struct plan_task *t, struct ferry_error *err)
{
	const TaskCoreEntry *tc = t->threads.v[0].core->tc;
	int number = tc->has_stop_signo ? (int)tc->stop_signo : SIGSTOP;
	if (tc->task_state == READ_STATE_ALIVE)
		return 0;
	if (tc->task_state != READ_STATE_STOPPED)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				 "pid %d was neither running nor stopped when it was dumped (state %u)",
				 t->pid, tc->task_state);
	if (number != SIGSTOP && number != SIGTSTP && number != SIGTTIN && number != SIGTTOU)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "core-%d.img: no signal %d stops anybody", t->pid, number);
	t->stop_signal = number;
	return 0;
}

/* Parents come before children in the file. */
static int read_member(struct reader *r, const PstreeEntry *entry, struct ferry_error *err)
{
	struct plan *p = r->plan;
	struct family_member m = {
		.pid = (pid_t)entry->pid,
		.ppid = (pid_t)entry->ppid,
		.pgid = (pid_t)entry->pgid,
		.sid = (pid_t)entry->sid,
		.exit_signal = SIGCHLD,
	};
	CoreEntry *core;
	if (m.pid <= 0 || m.pgid < 0 || m.sid < 0)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pstree.img has a task with id %d of group %d and session %d", m.pid, m.pgid,
				 m.sid);
	int ret = records_one(r, IMAGE_CORE, entry->pid, &core, err);
	if (ret >= 0 && !core->tc)
		ret = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				"core-%d.img lacks the state of its task", m.pid);
	if (ret < 0)
		return ret;
	if (core->tc->task_state == READ_STATE_DEAD) {
		struct plan_zombie *z = &p->zombies[p->n_zombies++];
		m.ends = true;
		m.context = z;
		ret = read_zombie(z, m.pid, core, err);
	} else {
		struct plan_task *t = &p->tasks[p->n_tasks];
		t->index = p->n_tasks++;
		t->member = (int)p->family.members.n;
		m.context = t;
		ret = read_task(r, t, entry, core, err);
		if (ret >= 0)
			ret = read_stop_signal(t, err);
		m.shares[SHARING_VM] = t->vm_owner ? t->vm_owner->pid : 0;
		m.shares[SHARING_SIGHAND] = t->sighand_owner ? t->sighand_owner->pid : 0;
		m.shares[SHARING_FILES] = t->files_owner ? t->files_owner->pid : 0;
		m.shares[SHARING_FS] = t->fs_owner ? t->fs_owner->pid : 0;
	}
	return ret < 0 ? ret : family_add(&p->family, &m, err);
}

static int read_tree_task(struct plan_task *t, const FerryTreeEntry *tree, struct ferry_error *err)
{
	bool stopped = tree->untold == PLAN_UNTOLD_STOPPED;
	if (tree->untold > PLAN_UNTOLD_CONTINUED || (tree->untold && stopped != (t->stop_signal != 0)))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-tree.img: nobody can wait for %u of pid %d", tree->untold, t->pid);
	t->untold = tree->untold;
	t->children_time_ns = tree->children_time_ns_id;
	return 0;
}

static int read_take_tree(struct reader *r, struct image_reader *in unused, void *message,
			  void *context unused, struct ferry_error *err)
{
	const FerryTreeEntry *tree = message;
	int at = family_find(&r->plan->family, (pid_t)tree->pid);
	if (at == FAMILY_NONE || (tree->has_exit_signal && tree->exit_signal > 64))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-tree.img: pid %u is not in the image or has exit signal %u",
				 tree->pid, tree->exit_signal);
	struct family_member *m = &r->plan->family.members.v[at];
	if (tree->has_exit_signal)
		m->exit_signal = (int)tree->exit_signal;
	if (m->ends) {
		struct plan_zombie *z = m->context;
		z->uid = tree->uid;
		z->gid = tree->gid;
		return 0;
	}
	return read_tree_task(m->context, tree, err);
}

static int read_tree(struct reader *r, struct ferry_error *err)
{
	struct read_tree tree = {0};
	struct plan *p = r->plan;
	int ret = records_need(r, IMAGE_PSTREE, 0, &pstree_entry__descriptor, read_take_task, &tree, err);
	if (ret >= 0 && (!tree.entries.n || tree.entries.n > READ_TASKS_MAX))
		ret = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "pstree.img holds %zu tasks",
				tree.entries.n);
	if (ret >= 0) {
		p->tasks = arena_array(&p->arena, struct plan_task, tree.entries.n);
		p->zombies = arena_array(&p->arena, struct plan_zombie, tree.entries.n);
		ret = p->tasks && p->zombies ? 0 : error_memory(err);
	}
	for (size_t i = 0; i < tree.entries.n && ret >= 0; i++) {
		ret = read_member(r, tree.entries.v[i], err);
		if (ret >= 0 && !p->n_tasks)
			ret = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					"pstree.img begins with a zombie");
	}
	vec_release(&tree.entries);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_TREE, 0, &ferry_tree_entry__descriptor, read_take_tree,
				   NULL, err);
	p->family.spare = (pid_t)kern_limit(r->caps, KERN_LIMIT_PID_MAX);
	return ret < 0 ? ret : family_plan(&p->family, err);
}

static int read_compare_files(const void *a, const void *b)
{
	const struct plan_file *x = a, *y = b;
	return x->entry->id < y->entry->id ? -1 : x->entry->id > y->entry->id;
}

struct read_files {
	VEC(struct plan_file) v;
};

static int read_take_file(struct reader *r unused, struct image_reader *in unused, void *message,
			  void *context, struct ferry_error *err)
{
	struct read_files *files = context;
	struct plan_file *file = vec_push(&files->v);
	if (!file)
		return error_memory(err);
	*file = (struct plan_file){
		.entry = message, .kind = kind_of_type((int)((FileEntry *)message)->type), .fd = -1};
	return 0;
}

static int read_files(struct reader *r, struct ferry_error *err)
{
	struct read_files files = {0};
	struct plan *p = r->plan;
	int ret = records_need(r, IMAGE_FILES, 0, &file_entry__descriptor, read_take_file, &files, err);
	if (ret >= 0 && files.v.n) {
		qsort(files.v.v, files.v.n, sizeof(*files.v.v), read_compare_files);
		p->files = arena_copy(&p->arena, files.v.v, files.v.n * sizeof(*files.v.v));
		p->n_files = p->files ? files.v.n : 0;
		ret = p->files ? 0 : error_memory(err);
	}
	for (size_t i = 0; i < p->n_files && ret >= 0; i++) {
		const FileEntry *entry = p->files[i].entry;
		if (i && entry->id == p->files[i - 1].entry->id)
			ret = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					"file id %u is in files.img twice", entry->id);
		else if (!p->files[i].kind)
			ret = error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
					"file id %u is of type %d, which this ferry does not restore",
					entry->id, entry->type);
	}
	vec_release(&files.v);
	return ret;
}

/* Our own record of the clocks, else the time namespace's, which any image has. */
static int read_clocks(struct reader *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	if (image_dir_has(r->dir, IMAGE_FERRY_CLOCKS, 0))
		return records_one(r, IMAGE_FERRY_CLOCKS, 0, &p->clocks, err);
	uint32_t id = p->tasks[0].ids->has_time_ns_id ? p->tasks[0].ids->time_ns_id : 0;
	if (!image_dir_has(r->dir, IMAGE_TIMENS, id))
		id = 0;
	if (!image_dir_has(r->dir, IMAGE_TIMENS, id))
		return 0;
	TimensEntry *timens;
	int ret = records_one(r, IMAGE_TIMENS, id, &timens, err);
	if (ret < 0)
		return ret;
	p->clocks = record_new(&p->arena, FerryClocksEntry, ferry_clocks_entry);
	if (!p->clocks)
		return error_memory(err);
	p->clocks->monotonic_ns = timens->monotonic->tv_sec * 1000000000u + timens->monotonic->tv_nsec;
	p->clocks->boottime_ns = timens->boottime->tv_sec * 1000000000u + timens->boottime->tv_nsec;
	return 0;
}

static int read_take_guard(struct reader *r, struct image_reader *in unused, void *message,
			   void *context unused, struct ferry_error *err)
{
	FerryFileGuardEntry **slot = vec_push(&r->plan->guards);
	if (!slot)
		return error_memory(err);
	*slot = message;
	return 0;
}

int plan_read(struct reader *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	if (fault_hit(r->fault, FAULT_IMAGE_READ))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "reading the image: fault injected");
	p->kind_data = arena_array(&p->arena, void *, KIND_COUNT);
	int ret = p->kind_data ? records_one(r, IMAGE_INVENTORY, 0, &p->inventory, err) : error_memory(err);
	if (ret >= 0 && p->inventory->img_version != READ_IMG_VERSION)
		ret = error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP, "the image has version %u",
				p->inventory->img_version);
	if (ret >= 0)
		ret = read_files(r, err);
	if (ret >= 0)
		ret = read_tree(r, err);
	if (ret >= 0)
		ret = read_clocks(r, err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_FILE_GUARD, 0, &ferry_file_guard_entry__descriptor,
				   read_take_guard, NULL, err);
	if (ret >= 0)
		ret = namespaces_read(r, err);
	for (size_t i = 0; i < KIND_COUNT && ret >= 0; i++) {
		ret = kind_table[i]->read ? kind_table[i]->read(r, err) : 0;
		error_context(err, "plan", kind_table[i]->name, 0);
	}
	return ret;
}

static int plan_task_scripts(struct reader *r, struct plan_task *t, struct ferry_error *err)
{
	struct script *leader = &t->threads.v[0].script;
	for (size_t i = 0; i < KIND_COUNT; i++) {
		const struct kind_ops *kind = kind_table[i];
		int ret = kind->restore_task ? kind->restore_task(r, t, leader, err) : 0;
		for (size_t n = 0; n < t->threads.n && ret >= 0; n++) {
			struct plan_thread *th = &t->threads.v[n];
			ret = kind->restore_thread ? kind->restore_thread(r, t, th, &th->script, err) : 0;
		}
		if (ret < 0) {
			error_context(err, "plan", kind->name, t->pid);
			return ret;
		}
		/*
		 * The last kinds give up rights; temporary descriptors are not needed by them any more, but for the one of a
		 * user namespace that is entered with them.
		 */
		if (kind == (t->ns_id[PROC_NS_USER] ? &kind_creds : &kind_fs))
			script_call(leader, "closing temporary descriptors", SYS_close_range,
				    (uint64_t)t->first_temp, plan_last_temp(t), 0);
	}
	vec_foreach(th, &t->threads) {
		if (th->script.failed)
			return error_memory(err);
		script_trim(&th->script);
	}
	script_trim(&t->memory);
	return 0;
}

int plan_scripts(struct reader *r, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		int ret = plan_task_scripts(r, &r->plan->tasks[i], err);
		if (ret < 0)
			return ret;
	}
	return 0;
}
