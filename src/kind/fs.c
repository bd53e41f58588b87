/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what threads of a task share with CLONE_FS: working directory, root directory, umask.
 *
 * Kernel interface: /proc/PID/cwd, /proc/PID/root, Umask of /proc/PID/status (4.7); fchdir(2), chroot(2), umask(2); kcmp(2)
 * and unshare(2) for threads that have their own.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "kind/regfile.h"
#include "model/record.h"
#include "proc/looker.h"
#include "proc/read.h"

static int fs_collect_task(struct collect *c, struct snap_task *t, int proc_dir,
			   const struct answers *a unused, struct ferry_error *err)
{
	FsEntry *fs = record_new(&c->snap->arena, FsEntry, fs_entry);
	if (!fs)
		return error_memory(err);
	int r = regfile_collect_link(c, t, proc_dir, "cwd", &fs->cwd_id, err);
	if (r >= 0)
		r = regfile_collect_link(c, t, proc_dir, "root", &fs->root_id, err);
	if (r < 0)
		return r;
	record_set(fs, umask, snapshot_look(t)->status.umask);
	t->fs = fs;
	return 0;
}

/* A thread that called unshare(CLONE_FS) has directories of its own; nobody else may share them with it. */
static int fs_collect_thread(struct collect *c, struct snap_task *t, struct snap_thread *th, int proc_dir,
			     const struct answers *a unused, struct ferry_error *err)
{
	const struct proc_thread_look *own = proc_looker_find(c->options->looker, t->pid, t->look);
	const struct proc_thread_look *look = proc_looker_find(c->options->looker, t->pid, th->tid);
	bool same = own && look && own->words.fs && own->words.fs == look->words.fs;
	if (same || th->tid == t->look || sys_kcmp(t->look, th->tid, KERN_KCMP_FS, 0, 0) == 0)
		return 0;
	for (const struct snap_thread *other = t->threads.v + 1; other < th; other++)
		if (sys_kcmp(other->tid, th->tid, KERN_KCMP_FS, 0, 0) == 0)
			return error_set(
				err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				"threads %d and %d of pid %d share a working directory that is not the process's",
				other->tid, th->tid, t->pid);
	FerryFsEntry *fs = record_new(&c->snap->arena, FerryFsEntry, ferry_fs_entry);
	if (!fs)
		return error_memory(err);
	_cleanup_close_ int dir = proc_open_task(proc_dir, th->tid, err);
	int r = dir < 0 ? dir : regfile_collect_link(c, t, dir, "cwd", &fs->cwd_id, err);
	if (r >= 0)
		r = regfile_collect_link(c, t, dir, "root", &fs->root_id, err);
	fs->umask = th->status.umask;
	th->extra->fs = fs;
	return r;
}

static int fs_directory(struct plan *p, struct plan_task *t, uint32_t id, const char *what,
			struct ferry_error *err)
{
	struct plan_file *file = plan_file(p, id);
	if (!file)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "the %s of pid %d, file id %u, is not in files.img", what, t->pid, id);
	int fd = plan_temp_file(t, file, -1);
	return fd < 0 ? error_memory(err) : fd;
}

static int fs_enter(struct reader *r, struct plan_task *t, uint32_t root_id, uint32_t cwd_id,
		    struct script *s, struct ferry_error *err)
{
	int root = fs_directory(r->plan, t, root_id, "root directory", err);
	int cwd = root < 0 ? root : fs_directory(r->plan, t, cwd_id, "working directory", err);
	if (cwd < 0)
		return cwd;
	if (!regfile_is_root(plan_file(r->plan, root_id))) {
		script_call(s, "entering the root directory", SYS_fchdir, (uint64_t)root);
		script_call(s, "changing the root directory", SYS_chroot, script_put(s, ".", 2))->data_mask =
			1 << 0;
	}
	script_call(s, "entering the working directory", SYS_fchdir, (uint64_t)cwd);
	return 0;
}

static int fs_restore_task(struct reader *r, struct plan_task *t, struct script *s, struct ferry_error *err)
{
	if (!t->fs || t->fs_owner)
		return 0;
	int ret = fs_enter(r, t, t->fs->root_id, t->fs->cwd_id, s, err);
	if (ret >= 0 && t->fs->has_umask)
		script_call(s, "setting the umask", SYS_umask, t->fs->umask);
	return ret;
}

static int fs_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th, struct script *s,
			     struct ferry_error *err)
{
	const FerryFsEntry *fs = th->extra ? th->extra->fs : NULL;
	if (!fs || th == t->threads.v)
		return 0;
	script_call(s, "parting from the process's directories", SYS_unshare, CLONE_FS);
	int ret = fs_enter(r, t, fs->root_id, fs->cwd_id, s, err);
	if (ret >= 0)
		script_call(s, "setting the umask", SYS_umask, fs->umask);
	return ret;
}

const struct kind_ops kind_fs = {
	.name = "fs",
	.what = "working directory, root directory, umask",
	.fd_type = -1,
	.image_file = -1,
	.collect_task = fs_collect_task,
	.collect_thread = fs_collect_thread,
	.restore_task = fs_restore_task,
	.restore_thread = fs_restore_thread,
};
