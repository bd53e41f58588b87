/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns pidfds: of tasks of the tree, their flags and owner, and of processes that ended and were reaped, with how they
 * ended. The latter come back by a process that ends in the same way while its pidfds are open; those that referred to one
 * process do so again.
 *
 * Kernel interface: pidfd_open(2) (5.3), /proc/PID/fdinfo Pid (5.4), ioctl PIDFD_GET_INFO with PIDFD_INFO_EXIT (6.15).
 * A pidfd of a thread other than the first (PIDFD_THREAD, 6.9) is opened by the process itself once it has its threads. Until
 * then one of the process keeps its numbers.
 *
 * Does not handle: pidfds of processes outside the tree; of a thread of another process, or one that several processes hold, or
 * that an epoll watches, or that has an owner for signals: they are made too late for that. All are refused. The number of the
 * inode is another one.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/pidfd.pb-c.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

enum { PIDFD_DEAD = -1, PIDFD_EXIT_BITS = 0xffff, PIDFD_CORE_BIT = 0x80, PIDFD_SIGNAL_BITS = 0x7f };

static bool pidfd_owns(const struct fd_view *view)
{
	return !strcmp(view->link, "anon_inode:[pidfd]") || view->info->kind == PROC_FDINFO_PIDFD;
}

/* ------------------------------------------------------------------ check and collect */

static int pidfd_refuse(const struct fd_view *view, const char *what, pid_t pid, const char *comm,
			const char *hint, struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	error_set(err, pid ? FERRY_ERROR_OUTSIDE_PEER : FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
		  "%s: a pidfd of %s%s%s%s", who, what, comm[0] ? " (" : "", comm, comm[0] ? ")" : "");
	error_hint(err, "%s", hint);
	return -ENOTSUP;
}

static int pidfd_refuse_outside(const struct fd_view *view, pid_t pid, int dir, struct ferry_error *err)
{
	char comm[PROC_NAME_BYTES] = "", what[64];
	if (proc_read_comm(dir, comm, NULL) < 0)
		comm[0] = '\0';
	snprintf(what, sizeof(what), "pid %d, which is outside the tree", pid);
	return pidfd_refuse(view, what, pid, comm, "dump from a common ancestor on", err);
}

static int pidfd_check(const struct fd_view *view, const struct kind_options *options unused,
		       struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	pid_t pid = view->info->kind == PROC_FDINFO_PIDFD ? view->info->pidfd.pid : 0;
	if (pid == PIDFD_DEAD)
		return 0;
	if (!pid)
		return pidfd_refuse(view, "a process of another PID namespace", 0, "",
				    "dump from inside that namespace", err);
	_cleanup_close_ int dir = proc_open(pid, NULL);
	if (dir < 0 || proc_read_status(dir, &status, NULL) < 0)
		return 0; /* it ended meanwhile */
	if (status.tgid != pid && status.tgid != view->pid)
		return pidfd_refuse(
			view, "a single thread (PIDFD_THREAD) of another process", 0, status.name,
			"only that of a thread group leader, or of an own thread, can be brought back", err);
	if (status.tgid != pid)
		return 0;
	return peers_is_inside(view->peers, pid) ? 0 : pidfd_refuse_outside(view, pid, dir, err);
}

static int pidfd_collect_dead(struct collect *c, struct fd_view *view, struct snap_file *file,
			      struct ferry_error *err)
{
	struct kern_pidfd_info info = {.mask = PIDFD_INFO_EXIT};
	int r = fd_view_copy(view, err);
	if (r < 0)
		return r;
	/* Kernels before 6.15 do not keep it. */
	if (sys_pidfd_get_info(view->copy, &info) < 0 || !(info.mask & PIDFD_INFO_EXIT))
		return 0;
	FerryPidfdEntry *extra = record_new(&c->snap->arena, FerryPidfdEntry, ferry_pidfd_entry);
	if (!extra)
		return error_memory(err);
	extra->id = file->entry->id;
	extra->exit_code = (uint32_t)info.exit_code;
	file->data = extra;
	return 0;
}

static bool pidfd_is_thread(const struct snap_task *t, pid_t tid)
{
	for (size_t i = 1; t && i < t->threads.n; i++)
		if (t->threads.v[i].tid == tid)
			return true;
	return false;
}

static int pidfd_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			 struct ferry_error *err)
{
	pid_t pid = view->info->kind == PROC_FDINFO_PIDFD ? view->info->pidfd.pid : 0;
	PidfdEntry *pidfd = record_new(&c->snap->arena, PidfdEntry, pidfd_entry);
	if (!pidfd)
		return error_memory(err);
	int r = pidfd_check(view, c->options, err);
	const struct snap_task *own = snapshot_task(c->snap, view->pid);
	bool thread = r >= 0 && pidfd_is_thread(own, pid);
	if (r >= 0 && pid > 0 && !thread && !snapshot_task(c->snap, pid)) {
		_cleanup_close_ int dir = proc_open(pid, NULL);
		r = pidfd_refuse_outside(view, pid, dir, err);
	}
	if (r >= 0)
		r = fdcommon_owner(c, view, &pidfd->fown, err);
	if (r >= 0 && thread && pidfd->fown->pid)
		r = pidfd_refuse(view, "a single thread (PIDFD_THREAD), with an owner for signals", 0, "",
				 "no restore could set it", err);
	if (r >= 0 && pid == PIDFD_DEAD)
		r = pidfd_collect_dead(c, view, file, err);
	if (r < 0)
		return r;
	pidfd->id = file->entry->id;
	pidfd->ino = (uint32_t)view->stat.st_ino;
	/* What pidfd_open(2) takes; all else is the same for every pidfd. */
	pidfd->flags = fdcommon_flags(view) & (PIDFD_NONBLOCK | PIDFD_THREAD);
	pidfd->nspid = pid > 0 ? snapshot_inner_pid(c->snap, pid) : pid;
	file->entry->pidfd = pidfd;
	return 0;
}

static bool pidfd_of_thread(const struct snapshot *snap, const struct snap_file *file)
{
	const PidfdEntry *entry = file->kind == &kind_pidfd ? file->entry->pidfd : NULL;
	bool leads = false;
	vec_foreach(t, &snap->tasks)
		leads |= entry && t->inner_pid == entry->nspid;
	return entry && entry->nspid != PIDFD_DEAD && !leads;
}

static bool pidfd_is_watched(const struct snapshot *snap, int fd)
{
	vec_foreach(file, &snap->files) {
		const EventpollFileEntry *epoll = file->entry->epfd;
		for (size_t i = 0; epoll && i < epoll->n_tfd; i++)
			if ((int)epoll->tfd[i]->tfd == fd)
				return true;
	}
	return false;
}

/* Those of threads are made by the task that holds them, when all others have theirs. */
static int pidfd_collect_end(struct collect *c, struct ferry_error *err)
{
	vec_foreach(t, &c->snap->tasks)
		vec_foreach(fd, &t->fds) {
			const struct snap_file *file = &c->snap->files.v[fd->file];
			if (!pidfd_of_thread(c->snap, file))
				continue;
			bool watched = pidfd_is_watched(c->snap, fd->fd);
			if (t->pid == file->pid && !watched)
				continue;
			return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
					 "fd %d of pid %d: a pidfd of a single thread (PIDFD_THREAD) that %s",
					 fd->fd, t->pid,
					 watched ? "an epoll watches" : "another process has, too");
		}
	return 0;
}

static int pidfd_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	FerryPidfdEntry *extra = file->data;
	struct image_writer *w;
	int r = extra ? fdcommon_writer(d, IMAGE_FERRY_PIDFD, &w, err) : 0;
	return extra && r >= 0 ? image_put(w, &extra->base, err) : r;
}

/* -------------------------------------------------------------------------- restore */

static int pidfd_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
		      struct ferry_error *err)
{
	const FerryPidfdEntry *extra = record;
	struct plan_file *file = plan_file(r->plan, extra->id);
	int *code = arena_new(&r->plan->arena, int);
	if (!code)
		return error_memory(err);
	if (!file || file->kind != &kind_pidfd)
		return image_bad(in, err, "file id %u is no pidfd", extra->id);
	*code = (int)(extra->exit_code & PIDFD_EXIT_BITS);
	file->data = code;
	return 0;
}

static int pidfd_read(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_FERRY_PIDFD, 0, &ferry_pidfd_entry__descriptor, pidfd_take, NULL, err);
}

/* End as the process did that the pidfds referred to. */
static __attribute__((noreturn)) void pidfd_die(int code, int go)
{
	const struct rlimit none = {0};
	sigset_t all;
	int number = code & PIDFD_SIGNAL_BITS;
	char byte;
	setrlimit(RLIMIT_CORE, &none);
	while (read(go, &byte, 1) < 0 && errno == EINTR)
		continue;
	if (number) {
		signal(number, SIG_DFL);
		sigfillset(&all);
		sigprocmask(SIG_UNBLOCK, &all, NULL);
		raise(number);
	}
	_exit(code >> 8);
}

static int pidfd_open_flags(pid_t pid, const PidfdEntry *entry, struct ferry_error *err)
{
	int fd = sys_pidfd_open(pid, entry->flags & (PIDFD_NONBLOCK | PIDFD_THREAD));
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening a pidfd of pid %d", pid);
	return fd;
}

/* Every pidfd of the image that referred to the same dead process as this one. */
static int pidfd_open_all(struct plan *p, const struct plan_file *file, pid_t pid, struct ferry_error *err)
{
	for (size_t i = 0; i < p->n_files; i++) {
		struct plan_file *other = &p->files[i];
		const PidfdEntry *entry = other->kind == &kind_pidfd ? other->entry->pidfd : NULL;
		if (!entry || entry->nspid != PIDFD_DEAD || entry->ino != file->entry->pidfd->ino ||
		    other->fd >= 0)
			continue;
		other->fd = pidfd_open_flags(pid, entry, err);
		if (other->fd < 0)
			return -EIO;
	}
	return 0;
}

/* One that ends, and all that refer to it. */
struct pidfd_death {
	struct opener *o;
	const struct plan_file *file;
	struct ferry_error *err;
};

static int pidfd_make_dead(void *context)
{
	const struct pidfd_death *d = context;
	struct ferry_error *err = d->err;
	int ends[2], code = d->file->data ? *(int *)d->file->data : 0, status;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	pid_t pid = fork();
	int failed = errno;
	if (!pid) {
		close(ends[1]);
		pidfd_die(code, ends[0]);
	}
	close(ends[0]);
	int r = pid < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, failed, "creating a process to end")
			: pidfd_open_all(d->o->plan, d->file, pid, err);
	close(ends[1]);
	while (pid > 0 && waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		continue;
	return r;
}

static int pidfd_restore_dead(struct opener *o, const struct plan_file *file, struct ferry_error *err)
{
	struct pidfd_death death = {.o = o, .file = file, .err = err};
	return fdcommon_with_children_there(o, pidfd_make_dead, &death, err);
}

/* Whose thread it is of; NULL: of none, or it is of a whole process. */
static const struct plan_task *pidfd_thread_task(const struct plan *p, const PidfdEntry *entry)
{
	for (size_t i = 0; i < p->n_tasks && entry->flags & PIDFD_THREAD; i++)
		for (size_t n = 1; n < p->tasks[i].threads.n; n++)
			if (p->tasks[i].threads.v[n].tid == entry->nspid)
				return &p->tasks[i];
	return NULL;
}

/* All numbers of one description, from the first on. */
static void pidfd_script(const struct plan_task *t, size_t first, struct script *s)
{
	const struct plan_file *file = t->fds.v[first].file;
	const PidfdEntry *entry = file->entry->pidfd;
	uint64_t word = script_put(s, NULL, sizeof(uint64_t));
	script_call(s, "opening a pidfd of a thread", SYS_pidfd_open, (uint64_t)entry->nspid,
		    entry->flags & (PIDFD_NONBLOCK | PIDFD_THREAD));
	script_detail(s, (uint64_t)entry->nspid);
	script_call(s, "keeping a descriptor", BLOB_OP_KEEP, word)->data_mask = 1 << 0;
	for (size_t i = first; i < t->fds.n; i++) {
		const struct plan_fd *fd = &t->fds.v[i];
		if (fd->file != file)
			continue;
		struct blob_call *call = script_call(s, "numbering a pidfd of a thread", SYS_dup3, word,
						     (uint64_t)fd->fd, fd->cloexec ? O_CLOEXEC : 0);
		call->data_mask = call->load_mask = 1 << 0;
	}
	struct blob_call *call = script_call(s, "closing a descriptor", SYS_close, word);
	call->data_mask = call->load_mask = 1 << 0;
}

static int pidfd_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th,
				struct script *s, struct ferry_error *err)
{
	/* The first thread's calls are made when all others exist. */
	for (size_t i = 0; th == t->threads.v && i < t->fds.n; i++) {
		const struct plan_file *file = t->fds.v[i].file;
		const PidfdEntry *entry = file->kind == &kind_pidfd ? file->entry->pidfd : NULL;
		const struct plan_task *of = entry ? pidfd_thread_task(r->plan, entry) : NULL;
		bool first = of != NULL;
		for (size_t k = 0; k < i; k++)
			first = first && t->fds.v[k].file != file;
		if (of && of != t)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "file id %u: a pidfd of a thread of another process", entry->id);
		if (first)
			pidfd_script(t, i, s);
	}
	return 0;
}

static int pidfd_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const PidfdEntry *entry = file->entry->pidfd;
	if (!entry)
		return fdcommon_no_record(file, err);
	if (entry->nspid == PIDFD_DEAD) {
		int r = file->fd < 0 ? pidfd_restore_dead(o, file, err) : 0;
		if (r >= 0)
			*ret_fd = file->fd;
		return r;
	}
	const struct plan_task *t = plan_task(o->plan, entry->nspid);
	if (!t)
		t = pidfd_thread_task(o->plan, entry);
	if (!t)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "file id %u: a pidfd of pid %d, which the image lacks", entry->id,
				 entry->nspid);
	/* Of a thread: for the time being. */
	PidfdEntry whole = *entry;
	if (t->pid != entry->nspid)
		whole.flags &= ~(uint32_t)PIDFD_THREAD;
	int fd = pidfd_open_flags(o->pid_of(o, t), &whole, err);
	if (fd >= 0)
		*ret_fd = fd;
	return MIN(fd, 0);
}

static bool pidfd_is_late(const struct plan_file *file)
{
	return file->entry->pidfd;
}

static int pidfd_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const PidfdEntry *entry = file->entry->pidfd;
	return fdcommon_settle_once(s, file) ? fdcommon_settle(entry->fown, entry->flags, fd, err) : 0;
}

const struct kind_ops kind_pidfd = {
	.name = "pidfd",
	.what = "pidfds of tasks of the tree and of processes that ended",
	.fd_type = FD_TYPES__PIDFD,
	.image_file = IMAGE_FERRY_PIDFD,
	.is_late = pidfd_is_late,
	.owns = pidfd_owns,
	.check = pidfd_check,
	.collect = pidfd_collect,
	.collect_end = pidfd_collect_end,
	.dump = pidfd_dump,
	.read = pidfd_read,
	.restore = pidfd_restore,
	.restore_thread = pidfd_restore_thread,
	.settle = pidfd_settle,
};
