/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what descriptor kinds share. Kernel interface: pidfd_getfd(2) (5.6), fcntl(2) F_GETOWN_EX, F_GETSIG,
 * F_GETOWNER_UIDS (CONFIG_CHECKPOINT_RESTORE), setresuid(2).
 * Does not handle: an owner that is a thread other than the leader (F_OWNER_TID); it does not exist yet.
 */
#include "kind/fdcommon.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/file.h"
#include "kernel/syscalls.h"
#include "model/record.h"
#include "model/vma-status.h"
#include "proc/fdinfo.h"
#include "proc/maps.h"
#include "proc/read.h"

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

/* How long one task waits for another. */
enum { FDCOMMON_TAKE_TRIES = 30000, FDCOMMON_TAKE_NS = 1000000 };

/* Flags that F_SETFL changes. */
enum { FDCOMMON_SETFL = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME };

void fd_view_name(const struct fd_view *view, char *ret_text, size_t n)
{
	snprintf(ret_text, n, "fd %d of pid %d (%s)", view->fd, view->pid, view->comm);
}

int fd_view_copy(struct fd_view *view, struct ferry_error *err)
{
	if (view->copy >= 0)
		return 0;
	int fd = sys_pidfd_getfd(view->pidfd, view->fd);
	if (fd < 0) {
		char who[64];
		fd_view_name(view, who, sizeof(who));
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "%s: taking a copy", who);
	}
	view->copy = fd;
	return 0;
}

int fd_view_lend(const struct fd_view *view, struct fd_loan *ret, struct ferry_error *err)
{
	struct fd_view own = *view;
	int r = fd_view_copy(&own, err);
	if (r >= 0)
		*ret = (struct fd_loan){.fd = own.copy, .ours = own.copy != view->copy};
	return r;
}

void fd_loan_end(struct fd_loan *loan)
{
	if (loan->ours)
		close(loan->fd);
}

FownEntry *fdcommon_no_owner(struct arena *a)
{
	return record_new(a, FownEntry, fown_entry);
}

int fdcommon_owner(struct collect *c, struct fd_view *view, FownEntry **ret, struct ferry_error *err)
{
	FownEntry *fown = fdcommon_no_owner(&c->snap->arena);
	if (!fown)
		return error_memory(err);
	*ret = fown;
	if (view->info->flags & O_PATH)
		return 0;
	int r = fd_view_copy(view, err);
	if (r < 0)
		return r;
	struct f_owner_ex owner = {0};
	if (fcntl(view->copy, F_GETOWN_EX, &owner) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "fd %d of pid %d: reading its owner",
				   view->fd, view->pid);
	int signum = fcntl(view->copy, F_GETSIG);
	fown->signum = signum > 0 ? (uint32_t)signum : 0;
	if (!owner.pid)
		return 0;
	if (owner.type == F_OWNER_TID && !snapshot_task(c->snap, owner.pid)) {
		char who[64];
		fd_view_name(view, who, sizeof(who));
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "%s: its signals go to thread %d alone (F_OWNER_TID)", who, owner.pid);
	}
	uid_t uids[2] = {0, 0};
	if (fcntl(view->copy, F_GETOWNER_UIDS, uids) >= 0) {
		fown->uid = uids[0];
		fown->euid = uids[1];
	}
	fown->pid_type = (uint32_t)owner.type;
	fown->pid = (uint32_t)snapshot_inner_pid(c->snap, owner.pid);
	return 0;
}

bool fdcommon_settle_once(struct settle *s, struct plan_file *file)
{
	/* Each task has a copy of the plan of its own, so the mark is seen by this one alone. */
	if (file->settled || (file->owner && file->owner != s->task))
		return false;
	file->settled = true;
	return true;
}

/* What F_SETOWN keeps of the caller's identity decides later which processes it may signal. */
static int fdcommon_identity(uid_t uid, uid_t euid)
{
	return syscall(SYS_setresuid, uid, euid, -1) < 0 ? -errno : 0;
}

int fdcommon_settle(const FownEntry *fown, uint32_t flags, int fd, struct ferry_error *err)
{
	uid_t uid = getuid(), euid = geteuid();
	bool other = fown && fown->pid && (fown->uid != uid || fown->euid != euid);
	int r = other ? fdcommon_identity(fown->uid, fown->euid) : 0;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_PERMISSION, -r,
				   "acting as user %u to set the owner of fd %d", fown->uid, fd);
	r = fdcommon_settle_owner(fown, fd, err);
	int back = other ? fdcommon_identity(uid, euid) : 0;
	if (r >= 0 && back < 0)
		r = error_errno(err, FERRY_ERROR_SYSTEM, -back, "acting as user %u again", uid);
	if (r < 0 || !(flags & O_ASYNC))
		return r;
	int now = fcntl(fd, F_GETFL);
	if (now < 0 || fcntl(fd, F_SETFL, now | O_ASYNC) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "setting O_ASYNC of fd %d", fd);
	return 0;
}

int fdcommon_writer(struct dump *d, enum image_kind kind, struct image_writer **ret, struct ferry_error *err)
{
	int r = d->writers[kind] ? 0 : image_create(d->dir, kind, 0, &d->writers[kind], err);
	if (r >= 0)
		*ret = d->writers[kind];
	return r;
}

int fdcommon_no_record(const struct plan_file *file, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "file id %u has no record of its own",
			 file->entry->id);
}

int fdcommon_settle_owner(const FownEntry *fown, int fd, struct ferry_error *err)
{
	if (!fown)
		return 0;
	struct f_owner_ex owner = {.type = (int)fown->pid_type, .pid = (pid_t)fown->pid};
	if (fown->pid && fcntl(fd, F_SETOWN_EX, &owner) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "giving fd %d its owner %u", fd,
				   fown->pid);
	if (fown->signum && fcntl(fd, F_SETSIG, fown->signum) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "giving fd %d its signal %u", fd,
				   fown->signum);
	return 0;
}

int fdcommon_set_flags(int fd, uint32_t flags, struct ferry_error *err)
{
	int now = fcntl(fd, F_GETFL);
	int wanted = (now & ~FDCOMMON_SETFL) | ((int)flags & FDCOMMON_SETFL);
	if (now < 0 || (now != wanted && fcntl(fd, F_SETFL, wanted) < 0))
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "setting flags 0x%x of a descriptor",
				   flags);
	return 0;
}

/* A shared mapping that may become writable was made from a description that was open for writing. */
uint32_t fdcommon_mapped_flags(const struct vma_view *view)
{
	return view->vma->shared && view->vma->vm_flags & PROC_VM(MAYWRITE) ? O_RDWR : O_RDONLY;
}

void fdcommon_mapped(const struct collect *c, const struct vma_view *view, struct snap_vma *vma)
{
	VmaEntry *entry = vma->entry;
	entry->shmid = c->snap->files.v[vma->file].entry->id;
	entry->status |= view->vma->shared ? VMA_STATUS_FILE_SHARED : VMA_STATUS_FILE_PRIVATE;
	entry->flags |= view->vma->shared ? MAP_SHARED : MAP_PRIVATE;
	record_set(entry, fdflags, fdcommon_mapped_flags(view));
}

int fdcommon_map(struct reader *r, struct plan_task *t, const VmaEntry *entry, struct vma_map *m,
		 struct ferry_error *err)
{
	struct plan_file *file = plan_file(r->plan, (uint32_t)entry->shmid);
	if (!file)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pid %d maps file id %llu, which files.img lacks", t->pid,
				 (unsigned long long)entry->shmid);
	int flags = entry->has_fdflags ? (int)entry->fdflags & O_ACCMODE : O_RDONLY;
	if (entry->status & VMA_STATUS_FILE_SHARED && entry->prot & PROT_WRITE)
		flags = O_RDWR;
	m->fd = plan_temp_file(t, file, flags);
	return m->fd < 0 ? error_memory(err) : 0;
}

int fdcommon_number(const struct plan_task *t, uint32_t id)
{
	vec_foreach(fd, &t->fds) {
		if (fd->file->entry->id == id)
			return fd->fd;
	}
	return -1;
}

int fdcommon_take(const struct plan_file *file, const char *link, int fd, struct ferry_error *err)
{
	const struct timespec pause = {.tv_nsec = FDCOMMON_TAKE_NS};
	pid_t pid = file->owner->pid;
	int number = fdcommon_number(file->owner, file->entry->id);
	for (int i = 0; i < FDCOMMON_TAKE_TRIES; i++) {
		char path[64], there[64];
		pid_t look = proc_look(pid);
		_cleanup_close_ int pidfd = proc_look_pidfd(pid, look);
		if (pidfd == -ESRCH)
			break;
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", look, number);
		ssize_t n = readlink(path, there, sizeof(there));
		if (n == (ssize_t)strlen(link) && !memcmp(there, link, (size_t)n)) {
			_cleanup_close_ int taken = sys_pidfd_getfd(pidfd, number);
			if (taken >= 0 && dup3(taken, fd, O_CLOEXEC) >= 0)
				return 0;
			break;
		}
		nanosleep(&pause, NULL);
	}
	return error_set(err, FERRY_ERROR_RESTORE_STEP, ETIMEDOUT, "fd %d: taking fd %d of pid %d (%s)", fd,
			 number, pid, link);
}

int fdcommon_settle_made(struct settle *s, const struct kind_ops *kind, const char *link,
			 int (*make)(struct settle *s, struct plan_file *file, int fd,
				     struct ferry_error *err),
			 struct ferry_error *err)
{
	vec_foreach(slot, &s->task->fds) {
		struct plan_file *file = slot->file;
		if (file->kind != kind)
			continue;
		int fd = slot->fd, cloexec = fcntl(fd, F_GETFD), r = 0;
		int first = fdcommon_number(s->task, file->entry->id);
		if (fdcommon_settle_once(s, file))
			r = make(s, file, fd, err);
		else if (file->owner != s->task)
			r = fdcommon_take(file, link, fd, err);
		else if (dup3(first, fd, O_CLOEXEC) < 0)
			r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "duplicating fd %d", first);
		if (r >= 0 && fcntl(fd, F_SETFD, cloexec) < 0)
			r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "setting the flags of fd %d", fd);
		if (r < 0)
			return r;
	}
	return 0;
}

/* What the process in common works with. */
struct fdcommon_there {
	int (*run)(void *context);
	void *context;
	int pidfd, result;
	bool entered;
};

static int fdcommon_there_main(void *context)
{
	struct fdcommon_there *t = context;
	t->entered = setns(t->pidfd, CLONE_NEWPID) == 0;
	t->result = t->entered ? t->run(t->context) : -errno;
	return 0;
}

int fdcommon_with_children_there(const struct opener *o, int (*run)(void *context), void *context,
				 struct ferry_error *err)
{
	enum { STACK_BYTES = 256 << 10 };
	pid_t root = o->pid_of(o, o->plan->tasks);
	/* Only where the tree has other numbers. */
	if (root == o->plan->tasks[0].pid)
		return run(context);
	_cleanup_close_ int pidfd = sys_pidfd_open(root, 0);
	struct fdcommon_there there = {
		.run = run, .context = context, .pidfd = pidfd, .result = pidfd < 0 ? pidfd : -EPIPE};
	char *stack = pidfd < 0 ? NULL : malloc(STACK_BYTES);
	pid_t pid = !stack ? -1
			   : clone(fdcommon_there_main, stack + STACK_BYTES,
				   CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, &there);
	if (pid < 0 && stack)
		there.result = -errno;
	while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		continue;
	free(stack);
	return there.entered ? there.result
			     : error_errno(err, FERRY_ERROR_SYSTEM, -there.result,
					   "having children in the pid namespace of pid %d", root);
}

static bool fdcommon_is_mapped(const struct vma_view *view, const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && st.st_ino == view->vma->ino && st.st_dev == view->vma->dev;
}

bool fdcommon_reach_mapped(const struct vma_view *view, char ret_path[FDCOMMON_REACH_BYTES])
{
	char path[FDCOMMON_REACH_BYTES];
	snprintf(path, sizeof(path), "/proc/%d/exe", view->look);
	bool found = fdcommon_is_mapped(view, path);
	snprintf(path, sizeof(path), found ? "/proc/%d/exe" : "/proc/%d/fd", view->look);
	_cleanup_closedir_ DIR *dir = found ? NULL : opendir(path);
	struct dirent *entry;
	while (!found && dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%.16s", view->look, entry->d_name);
		found = entry->d_name[0] != '.' && fdcommon_is_mapped(view, path);
	}
	if (found)
		memcpy(ret_path, path, sizeof(path));
	return found;
}

int fdcommon_check_map_files(const struct vma_view *view, struct ferry_error *err)
{
	char path[FDCOMMON_REACH_BYTES];
	struct stat st;
	snprintf(path, sizeof(path), "map_files/%llx-%llx", (unsigned long long)view->vma->start,
		 (unsigned long long)view->vma->end);
	/* ENOENT: it was unmapped, or became larger, meanwhile. */
	if (fstatat(view->proc_dir, path, &st, 0) == 0 || errno != EPERM || fdcommon_reach_mapped(view, path))
		return 0;
	error_set(err, FERRY_ERROR_PERMISSION, EPERM,
		  "memory of pid %d at %llx ('%s') has no file that can be opened, which needs root",
		  view->pid, (unsigned long long)view->vma->start, view->name);
	error_hint(
		err,
		"/proc/PID/map_files takes CAP_CHECKPOINT_RESTORE outside of user namespaces (Linux 6.18)");
	return -EPERM;
}
