/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns looking at a tree from outside, before anything stops: every obstacle to a dump, each with its object. A live
 * tree changes, so collect asks the same predicates again once it is frozen.
 */
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/lanes.h"
#include "base/log.h"
#include "collect/collect.h"
#include "collect/namespaces.h"
#include "host/pause.h"
#include "kernel/syscalls.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "kind/peers.h"
#include "proc/looker.h"
#include "proc/read.h"

enum {
	CHECK_TASKS_MAX = 1 << 20,
	CHECK_LANES_TASKS = 16, /* of one generation, that threads are worth */
	CHECK_STAT_BLOCK = 512,
	CHECK_BY_SIGNAL = 0x7f,
	CHECK_LARGE_BYTES = 1 << 20,
};

/* A process to look at, and its parent as it was found. */
struct check_pid {
	pid_t pid;
	struct sharing_process parent;
};

typedef VEC(struct check_pid) check_pids;

struct check_file {
	dev_t dev;
	ino_t ino;
};

struct check {
	const struct kern_caps *caps;
	const struct kind_options *options;
	struct obstacles *obstacles;
	struct peers *peers;
	check_pids found; /* to be looked at next */
	size_t n_seen;
	pid_t root, parent;
	struct proc_namespaces of_root;
	VEC(struct check_file) deleted; /* files without a name that were counted */
	struct arena arena;             /* of what kinds keep */
	void *kind_data[KIND_COUNT];
	struct family family;
	struct sharing sharing;
	uint64_t vfork_until_ns; /* CLOCK_MONOTONIC: so long are vforks waited for */
};

/* What is read of a process before its turn. */
struct check_seen {
	pid_t pid;
	int dir, living; /* /proc/PID, and that of the thread that it is looked at through */
	struct proc_stat st;
	struct sharing_process process, parent;
	struct obstacles obstacles; /* that it is itself */
	int worst;
	struct check_memory memory;
	uint64_t bytes;
	struct proc_namespaces namespaces;
	struct proc_maps maps;
	struct ferry_error maps_err;
};

static void check_add(const struct check *k, struct obstacles *to, struct ferry_error *e, pid_t pid)
{
	/* A child that ended meanwhile is no obstacle. */
	if (e->id == FERRY_ERROR_NO_SUCH_TASK && pid != k->root)
		return;
	error_context(e, "check", NULL, pid);
	struct ferry_error *slot = vec_push(&to->v);
	if (slot)
		*slot = *e;
	else
		to->failed = true;
}

static bool check_has_ended(const struct proc_stat *st)
{
	return proc_stat_ended(st) && st->num_threads <= 1;
}

static int check_state(pid_t pid, const struct proc_status *st, bool is_root,
		       const struct kind_options *options, struct ferry_error *err)
{
	/* A frozen one does not stop. */
	if (is_root && st->state == 'D' && !pause_is_on(options->cgroups.pause) && pause_refuse(pid, err) < 0)
		return -EBUSY;
	switch (st->state) {
	case 'Z':
	case 'X':
		/* Any other one has ended a moment ago, and zombies are dumped. */
		return error_set(err, is_root ? FERRY_ERROR_UNSUPPORTED_TASK : FERRY_ERROR_NO_SUCH_TASK,
				 ENOTSUP, "pid %d (%s) is a zombie", pid, st->name);
	default: break;
	}
	if (st->kthread)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP, "pid %d (%s) is a kernel thread",
				 pid, st->name);
	return 0;
}

/* A thread's process. */
static pid_t check_process_of(pid_t tid)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	_cleanup_close_ int dir = proc_open(tid, NULL);
	return dir >= 0 && proc_read_status(dir, &status, NULL) >= 0 ? status.tgid : tid;
}

/* A task and its ancestors: whether the root is one of them. */
bool collect_is_below(pid_t pid, pid_t root)
{
	struct proc_stat st;
	while (pid > 0 && pid != root) {
		_cleanup_close_ int dir = proc_open(pid, NULL);
		if (dir < 0 || proc_read_stat(dir, &st, NULL) < 0)
			return false;
		pid = st.ppid;
	}
	return pid == root;
}

static int check_tracer(pid_t pid, const struct proc_status *st, pid_t root, struct ferry_error *err)
{
	char comm[PROC_NAME_BYTES] = "";
	if (!st->tracer_pid || st->tracer_pid == getpid() ||
	    collect_is_below(check_process_of(st->tracer_pid), root))
		return 0;
	_cleanup_close_ int dir = proc_open(st->tracer_pid, NULL);
	if (dir >= 0 && proc_read_comm(dir, comm, NULL) < 0)
		comm[0] = '\0';
	error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY,
		  "pid %d (%s) is traced by pid %d (%s), which is outside the tree", pid, st->name,
		  st->tracer_pid, comm);
	error_hint(err, "end the debugger or tracer, let it detach, or dump from a common ancestor on");
	return -EBUSY;
}

static bool check_same_files(const struct proc_looker *looker, pid_t pid, pid_t a, pid_t b)
{
	const struct proc_thread_look *x = proc_looker_find(looker, pid, a);
	const struct proc_thread_look *y = proc_looker_find(looker, pid, b);
	return x && y && x->words.files && x->words.files == y->words.files;
}

/* A thread that has called unshare(CLONE_FILES): its numbers are in no list of the process, and no image has a place for them. */
static int check_threads(const struct proc_looker *looker, pid_t pid, pid_t look, int proc_dir,
			 struct ferry_error *err)
{
	struct proc_pid_list tids = {0};
	int r = proc_read_tasks(proc_dir, &tids, err);
	vec_foreach(tid, &tids.v)
		/* A leader that has ended has none. */
		if (r >= 0 && *tid != pid && !check_same_files(looker, pid, look, *tid) &&
		    sys_kcmp(look, *tid, KERN_KCMP_FILES, 0, 0) > 0)
			r = error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				      "thread %d of pid %d has a descriptor table of its own (unshare)", *tid,
				      pid);
	proc_pid_list_release(&tids);
	return r;
}

static int check_refuse_session(pid_t pid, const char *name, pid_t session, struct ferry_error *err)
{
	char leader[PROC_NAME_BYTES + 8] = "", comm[PROC_NAME_BYTES];
	_cleanup_close_ int dir = proc_open(session, NULL);
	if (dir >= 0 && proc_read_comm(dir, comm, NULL) >= 0)
		snprintf(leader, sizeof(leader), " (%s)", comm);
	error_set(err, FERRY_ERROR_OUTSIDE_SESSION, ENOTSUP,
		  "pid %d (%s) is not a session leader: session %d%s is outside the tree", pid, name, session,
		  leader);
	error_hint(err,
		   "start it with ferry run or setsid, dump from the session leader on, or use --shell-job");
	return -ENOTSUP;
}

static int check_task_state(const struct check_task *t, struct ferry_error *err)
{
	return check_state(t->pid, &t->status, t->pid == t->root, t->options, err);
}

/* A tracer of the tree would have to attach while the leader is there, and it is gone before anybody can be attached to. */
static int check_leader_traced(const struct check_task *t, struct ferry_error *err)
{
	struct proc_pid_list tids = {0};
	int r = proc_read_tasks(t->proc_dir, &tids, err);
	for (size_t i = 0; i < tids.v.n && r >= 0; i++) {
		_cleanup_proc_status_ struct proc_status status = {0};
		_cleanup_close_ int dir = proc_open_task(t->proc_dir, tids.v.v[i], NULL);
		if (dir >= 0 && proc_read_status(dir, &status, NULL) >= 0 && status.tracer_pid &&
		    status.tracer_pid != getpid())
			r = error_set(
				err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				"thread %d of pid %d (%s) is traced by pid %d, and the first one has ended",
				tids.v.v[i], t->pid, t->status.name, status.tracer_pid);
	}
	proc_pid_list_release(&tids);
	return r;
}

/* What is left of a leader that has ended while others run, and whether the others can be looked at. */
static int check_task_leader(const struct check_task *t, struct ferry_error *err)
{
	struct proc_stat st;
	if (t->look == t->pid)
		return 0;
	_cleanup_close_ int dir = proc_open_task(t->proc_dir, t->pid, err);
	_cleanup_close_ int pidfd = proc_look_pidfd(t->pid, t->look);
	int r = dir < 0 ? dir : proc_read_stat(dir, &st, err);
	if (r >= 0)
		r = collect_check_zombie(t->pid, err);
	if (r < 0)
		return r;
	if (pidfd == -EINVAL) {
		error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP,
			  "the first thread of pid %d (%s) has ended, and others run", t->pid, st.comm);
		error_hint(err, "Linux 6.9 can look at such a process (PIDFD_THREAD)");
		return -ENOTSUP;
	}
	if (st.exit_code & CHECK_BY_SIGNAL)
		return error_set(
			err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			"the first thread of pid %d (%s) was ended by its seccomp filter, and others run",
			t->pid, st.comm);
	return check_leader_traced(t, err);
}

static int check_task_tracer(const struct check_task *t, struct ferry_error *err)
{
	return check_tracer(t->pid, &t->status, t->root, err);
}

static int check_task_namespaces(const struct check_task *t, struct ferry_error *err)
{
	return collect_check_namespaces(t, err);
}

static int check_task_threads(const struct check_task *t, struct ferry_error *err)
{
	return t->status.threads > 1 ? check_threads(t->options->looker, t->pid, t->look, t->proc_dir, err)
				     : 0;
}

static int check_task_session(const struct check_task *t, struct ferry_error *err)
{
	if (t->pid != t->root || t->stat.session == t->pid || t->options->shell_job)
		return 0;
	return check_refuse_session(t->pid, t->status.name, t->stat.session, err);
}

static int (*const check_task_steps[])(const struct check_task *t, struct ferry_error *err) = {
	check_task_state,      check_task_tracer,  check_task_leader,
	check_task_namespaces, check_task_threads, check_task_session};

/* After these come the kinds. 1: there is no such step. */
static int check_task_step(const struct check_task *t, size_t step, struct ferry_error *err)
{
	if (step < ARRAY_SIZE(check_task_steps))
		return check_task_steps[step](t, err);
	step -= ARRAY_SIZE(check_task_steps);
	if (step == KIND_COUNT)
		return 1;
	return kind_table[step]->check_task
		       ? kind_table[step]->check_task(t->pid, t->proc_dir, &t->status, t->options, err)
		       : 0;
}

int check_task_read(struct check_task *t, struct ferry_error *err)
{
	int r = proc_read_status(t->proc_dir, &t->status, err);
	if (r >= 0 && !t->stat.pid)
		r = proc_read_stat(t->proc_dir, &t->stat, err);
	bool known = t->namespaces.ino[PROC_NS_PID];
	return r < 0 || known ? r : proc_read_namespaces(t->proc_dir, &t->namespaces, err);
}

int collect_check_task(const struct check_task *t, struct ferry_error *err)
{
	int r = 0;
	for (size_t step = 0; r == 0; step++)
		r = check_task_step(t, step, err);
	return MIN(r, 0);
}

/* Files without a name go into the image; one that several descriptors have, once. */
static void check_count_deleted(struct check *k, const struct stat *st)
{
	if (!S_ISREG(st->st_mode) || st->st_nlink)
		return;
	vec_foreach(known, &k->deleted)
		if (known->ino == st->st_ino && known->dev == st->st_dev)
			return;
	struct check_file *slot = vec_push(&k->deleted);
	if (slot)
		*slot = (struct check_file){.dev = st->st_dev, .ino = st->st_ino};
	else
		k->obstacles->failed = true;
	k->obstacles->image_bytes += MIN((uint64_t)st->st_size, (uint64_t)st->st_blocks * CHECK_STAT_BLOCK);
}

static void check_fds(struct check *k, pid_t pid, pid_t look, int proc_dir, const char *comm)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct proc_fds fds = {0};
	_cleanup_close_ int pidfd = proc_look_pidfd(pid, look);
	if (proc_read_fds(proc_dir, &fds, &err) < 0) {
		check_add(k, k->obstacles, &err, pid);
		return;
	}
	vec_foreach(fd, &fds.v) {
		_cleanup_proc_fdinfo_ struct proc_fdinfo info = {0};
		error_clear(&err);
		if (proc_read_fdinfo(proc_dir, fd->fd, &info, &err) < 0)
			continue; /* closed meanwhile */
		struct fd_view view = {
			.pid = pid,
			.look = look,
			.fd = fd->fd,
			.comm = comm,
			.link = proc_fd_link(&fds, fd),
			.info = &info,
			.copy = -1,
			.pidfd = pidfd,
			.peers = k->peers,
			.arena = &k->arena,
			.kind_data = k->kind_data,
		};
		const struct kind_ops *kind;
		bool seen = proc_fd_stat(proc_dir, fd, &view.stat) == 0;
		if (seen)
			check_count_deleted(k, &view.stat);
		if (seen && collect_check_fd(&view, k->options, &kind, &err) < 0)
			check_add(k, k->obstacles, &err, pid);
		if (view.copy >= 0)
			close(view.copy);
	}
	proc_fds_release(&fds);
}

static void check_vmas(struct check *k, struct check_seen *s)
{
	struct ferry_error err = s->maps_err;
	if (error_is_set(&err))
		check_add(k, k->obstacles, &err, s->pid);
	k->obstacles->n_vmas += s->maps.vmas.n;
	vec_foreach(vma, &s->maps.vmas) {
		error_clear(&err);
		const struct vma_view view = {
			.pid = s->pid,
			.look = s->process.look,
			.proc_dir = s->living,
			.vma = vma,
			.name = proc_vma_name(&s->maps, vma),
			.options = k->options,
			.peers = k->peers,
			.arena = &k->arena,
			.kind_data = k->kind_data,
		};
		if (collect_check_vma(&view, &err) < 0)
			check_add(k, k->obstacles, &err, s->pid);
	}
}

/* A process that makes threads meanwhile is looked at again when it stands. */
static int check_read_children(const struct check *k, int proc_dir, const struct proc_stat *st,
			       struct proc_pid_list *ret)
{
	struct proc_pid_list tids = {0};
	if (st->num_threads <= 1)
		return proc_read_children_of(proc_dir, &st->pid, 1, ret, NULL);
	int r = proc_read_tasks(proc_dir, &tids, NULL);
	if (r < 0)
		return r;
	proc_looker_keep_parents(k->options->looker, st->pid, &tids);
	r = proc_read_children_of(proc_dir, tids.v.v, tids.v.n, ret, NULL);
	proc_pid_list_release(&tids);
	return r;
}

static int check_children(struct check *k, int proc_dir, const struct proc_stat *st,
			  struct sharing_process parent)
{
	struct proc_pid_list children = {0};
	int r = check_read_children(k, proc_dir, st, &children);
	if (r < 0)
		return 0;
	vec_foreach(pid, &children.v) {
		struct check_pid *slot =
			k->n_seen + k->found.n < CHECK_TASKS_MAX ? vec_push(&k->found) : NULL;
		if (slot)
			*slot = (struct check_pid){*pid, parent};
		else
			r = -ENOMEM;
	}
	proc_pid_list_release(&children);
	return r;
}

/* What is looked at of a process that ended: how it hangs together with the others. */
static int check_relations(struct check *k, const struct proc_stat *st, struct ferry_error *err)
{
	bool is_root = st->pid == k->root;
	const struct family_member m = {
		.pid = st->pid,
		.ppid = is_root ? 0 : st->ppid,
		.pgid = st->pgrp,
		.sid = st->session,
		.exit_signal = MAX(st->exit_signal, 0),
		.ends = check_has_ended(st),
	};
	/* A live tree: it may have lost its parent since that was looked at. */
	if (!is_root && family_find(&k->family, st->ppid) == FAMILY_NONE)
		return -ESRCH;
	int r = family_add(&k->family, &m, NULL);
	return r == -ENOMEM ? error_memory(err) : r;
}

/* That is over, as a rule, in a moment. */
static void check_await_vfork(const struct check *k, struct sharing_process process,
			      struct sharing_process parent)
{
	const struct timespec tick = {.tv_nsec = 1000 * 1000};
	while (collect_in_vfork(process, parent) && time_now_ns() < k->vfork_until_ns)
		nanosleep(&tick, NULL);
}

/* *ret_owns: whether the memory is nobody else's of the tree. */
static int check_shared(struct check *k, const struct proc_stat *st, pid_t look,
			struct sharing_process parent, bool *ret_owns, struct ferry_error *err)
{
	pid_t owners[SHARING_TYPES];
	bool is_root = st->pid == k->root;
	const struct sharing_process process = {st->pid, look};
	int r = collect_sharing(&k->sharing, process, parent, is_root, owners, err);
	int at = family_find(&k->family, st->pid);
	if (r >= 0)
		*ret_owns = owners[SHARING_VM] == st->pid;
	if (r >= 0 && owners[SHARING_VM] != st->pid)
		r = collect_check_sharer(st->pid, owners[SHARING_VM], err);
	if (r < 0 || at == FAMILY_NONE)
		return r;
	struct family_member *m = &k->family.members.v[at];
	for (int type = 0; type < SHARING_TYPES; type++)
		m->shares[type] = owners[type] == st->pid ? 0 : owners[type];
	return 0;
}

static bool check_is_gone(int proc_dir)
{
	struct proc_stat st;
	return proc_read_stat(proc_dir, &st, NULL) < 0 || check_has_ended(&st);
}

/* What a process that has ended meanwhile does not show any more is no obstacle. */
static void check_add_live(const struct check *k, struct obstacles *to, int proc_dir, struct ferry_error *e,
			   pid_t pid)
{
	if (pid == k->root || !check_is_gone(proc_dir))
		check_add(k, to, e, pid);
}

/* Each obstacle that the task itself is, not only the first. */
static void check_task_all(const struct check *k, const struct kind_options *options, struct check_seen *s)
{
	pid_t pid = s->pid;
	bool is_root = pid == k->root;
	struct check_task t = {
		.pid = pid,
		.look = s->process.look,
		.root = k->root,
		.proc_dir = s->living,
		.of_root = is_root ? NULL : &k->of_root,
		.options = options,
		.stat = s->process.look == pid ? s->st : (struct proc_stat){0},
	};
	struct ferry_error obstacle = FERRY_ERROR_INIT;
	int r = check_task_read(&t, &obstacle);
	s->worst = MIN(r, 0);
	if (r < 0)
		check_add_live(k, &s->obstacles, s->living, &obstacle, pid);
	for (size_t step = 0; r >= 0 || step; step++) {
		error_clear(&obstacle);
		r = check_task_step(&t, step, &obstacle);
		if (r > 0)
			break;
		if (r < 0)
			check_add_live(k, &s->obstacles, s->living, &obstacle, pid);
		s->worst = MIN(s->worst, r);
		/* A kernel thread or a zombie has nothing else to look at. */
		if (r < 0 && !step)
			break;
	}
	s->namespaces = t.namespaces;
	s->bytes = t.status.vm_rss_bytes + t.status.vm_swap_bytes;
	s->memory = (struct check_memory){
		.pid = pid,
		.look = s->process.look,
		.anonymous = t.status.rss_anon_bytes + t.status.vm_swap_bytes,
		.shmem = t.status.rss_shmem_bytes,
	};
	proc_status_release(&t.status);
}

static int check_note_large(struct check *k, const struct check_memory *memory)
{
	if (memory->anonymous < CHECK_LARGE_BYTES)
		return 0;
	struct check_memory *slot = vec_push(&k->obstacles->large);
	if (!slot)
		return -ENOMEM;
	*slot = *memory;
	return 0;
}

static void check_seen_release(struct check_seen *s)
{
	if (s->living >= 0 && s->living != s->dir)
		close(s->living);
	if (s->dir >= 0)
		close(s->dir);
	obstacles_release(&s->obstacles);
	proc_maps_release(&s->maps);
}

/* What many threads make is looked at by one process at a time (proc_looker_read()). */
static bool check_is_alone(const struct check_seen *s)
{
	return s->st.num_threads <= 1;
}

static void check_look_at_task(const struct check *k, const struct kind_options *options,
			       struct check_seen *s)
{
	check_task_all(k, options, s);
	/* An error is the whole answer. */
	if (proc_read_maps(s->living, k->caps, &s->maps, &s->maps_err) >= 0)
		error_clear(&s->maps_err);
}

/*
 * Look at a process, as far as that can be done while others are looked at. 0: it is not there, which is no obstacle in a child.
 * Returns 1 otherwise.
 */
static int check_look(const struct check *k, const struct check_pid *checked, struct check_seen *s,
		      struct ferry_error *err)
{
	pid_t pid = checked->pid;
	bool is_root = pid == k->root;
	struct ferry_error obstacle = FERRY_ERROR_INIT;
	*s = (struct check_seen){.pid = pid, .living = -1, .maps_err = FERRY_ERROR_INIT};
	s->dir = proc_open(pid, is_root ? err : NULL);
	if (s->dir < 0)
		return is_root ? s->dir : 0;
	if (proc_read_stat(s->dir, &s->st, NULL) < 0)
		return 0;
	bool ended = !is_root && check_has_ended(&s->st);
	if (ended && collect_check_zombie(pid, &obstacle) < 0)
		check_add(k, &s->obstacles, &obstacle, pid);
	if (ended)
		return 1;
	s->process = (struct sharing_process){pid, proc_look_from(s->dir, &s->st)};
	pid_t ppid = s->st.ppid;
	s->parent = is_root ? (struct sharing_process){ppid, ppid ? proc_look(ppid) : 0} : checked->parent;
	if (!is_root)
		check_await_vfork(k, s->process, s->parent);
	s->living = s->process.look == pid ? s->dir : proc_open(s->process.look, NULL);
	struct kind_options aside = *k->options;
	aside.looker = NULL;
	if (check_is_alone(s))
		check_look_at_task(k, &aside, s);
	return 1;
}

/* What is to be known of all others before. */
static int check_take(struct check *k, struct check_seen *s, struct ferry_error *err)
{
	struct ferry_error obstacle = FERRY_ERROR_INIT;
	bool is_root = s->pid == k->root, owns = true;
	int r = check_relations(k, &s->st, err);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	bool ended = !is_root && check_has_ended(&s->st);
	if (!ended && !check_is_alone(s))
		check_look_at_task(k, k->options, s);
	vec_foreach(e, &s->obstacles.v)
		check_add(k, k->obstacles, e, s->pid);
	k->obstacles->failed |= s->obstacles.failed;
	if (ended)
		return 0;
	if (is_root) {
		k->of_root = s->namespaces;
		k->parent = s->parent.pid;
	}
	if (s->worst >= 0 && check_shared(k, &s->st, s->process.look, s->parent, &owns, &obstacle) < 0)
		check_add_live(k, k->obstacles, s->dir, &obstacle, s->pid);
	k->obstacles->image_bytes += owns ? s->bytes : 0;
	/* What a process that has ended meanwhile does not show any more is no obstacle. */
	if (check_is_gone(s->dir))
		return 0;
	check_fds(k, s->pid, s->process.look, s->living, s->st.comm);
	check_vmas(k, s);
	s->memory.n_vmas = s->maps.vmas.n;
	s->memory.parent = is_root ? 0 : s->parent.pid;
	if (owns && check_note_large(k, &s->memory) < 0)
		return error_memory(err);
	return check_children(k, s->dir, &s->st, s->process) < 0 ? error_memory(err) : 0;
}

/* Processes whose parents are known. */
struct check_level {
	struct check *k;
	const struct check_pid *pids;
	struct ferry_error errs[LANES_MAX];
};

static int check_piece(void *context, struct lanes *l, unsigned lane, uint64_t number)
{
	struct check_level *level = context;
	struct check_seen seen;
	int r = check_look(level->k, &level->pids[number], &seen, &level->errs[lane]);
	int turn = r > 0 ? lanes_turn(l, number) : 0;
	if (r > 0)
		r = turn < 0 ? turn : check_take(level->k, &seen, &level->errs[lane]);
	check_seen_release(&seen);
	return r;
}

/* The children of those are found meanwhile. */
static int check_level(struct check *k, check_pids *pids, struct ferry_error *err)
{
	struct check_level level = {.k = k, .pids = pids->v};
	for (size_t i = 0; i < LANES_MAX; i++)
		level.errs[i] = (struct ferry_error)FERRY_ERROR_INIT;
	int r = lanes_run(pids->n < CHECK_LANES_TASKS ? 1 : lanes_wanted(), pids->n, check_piece, &level);
	for (size_t i = 0; i < LANES_MAX && r < 0; i++)
		error_pass(err, &level.errs[i]);
	return r;
}

/* What shows only when every descriptor of the tree is known. */
static void check_ends(struct check *k)
{
	for (size_t i = 0; i < KIND_COUNT; i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		size_t at = 0;
		while (kind_table[i]->check_end && kind_table[i]->check_end(k->kind_data, &at, &err) < 0) {
			error_context(&err, NULL, kind_table[i]->name, 0);
			check_add(k, k->obstacles, &err, 0);
			if (err.code == ENOMEM)
				break;
			error_clear(&err);
		}
	}
}

void obstacles_release(struct obstacles *o)
{
	vec_release(&o->v);
	vec_release(&o->large);
	*o = (struct obstacles){0};
}

int check_tree(pid_t root, const struct kern_caps *caps, const struct kind_options *options,
	       struct peers *peers, struct obstacles *ret, struct ferry_error *err)
{
	struct check k = {.caps = caps,
			  .options = options,
			  .obstacles = ret,
			  .peers = peers,
			  .root = root,
			  .vfork_until_ns = time_now_ns() + (uint64_t)options->timeout_ms * 1000000};
	struct check_pid *first = vec_push(&k.found);
	int r = first ? 0 : error_memory(err);
	if (first)
		*first = (struct check_pid){.pid = root};
	while (k.found.n && r >= 0) {
		check_pids level = k.found;
		k.found = (check_pids){0};
		r = check_level(&k, &level, err);
		k.n_seen += level.n;
		vec_release(&level);
	}
	if (r >= 0)
		check_ends(&k);
	struct ferry_error obstacle = FERRY_ERROR_INIT;
	/* A root in a session that is not its own is an obstacle already. */
	bool joined = options->shell_job || (k.family.members.n && k.family.members.v[0].sid != root);
	if (r >= 0 && collect_check_family(&k.family, caps, joined, &obstacle) < 0)
		check_add(&k, ret, &obstacle, 0);
	error_clear(&obstacle);
	if (r >= 0 && collect_check_outside(&k.sharing, &k.family, k.parent, &obstacle) < 0)
		check_add(&k, ret, &obstacle, 0);
	net_go_home(options);
	family_release(&k.family);
	sharing_release(&k.sharing);
	vec_release(&k.found);
	vec_release(&k.deleted);
	arena_release(&k.arena);
	if (r >= 0 && ret->failed)
		r = error_memory(err);
	return r < 0 ? r : (int)ret->v.n;
}
