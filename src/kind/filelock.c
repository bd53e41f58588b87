/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns locks and leases on files: flock(2) locks and open file description locks, which belong to a description; record locks of
 * fcntl(2), which belong to a process; leases. fdinfo lists what belongs to a descriptor's description, or to its process and
 * the inode. They are taken again in the task, when the last temporary descriptor is closed: closing any descriptor of an
 * inode drops the process's record locks on it. A task that waited for a lock goes on waiting by its restarted call.
 *
 * Kernel interface: /proc/PID/fdinfo (lock:, 3.19 [CONFIG_FILE_LOCKING]), /proc/locks; flock(2), fcntl(2) F_SETLK, F_OFD_SETLK
 * (3.15), F_SETLEASE.
 * Does not handle: a lease that is being broken, refused, and so is one on a deleted file, which reading it would break; a write lease on a file that is also mapped: a mapping has a
 * description of its own after a restore, which the kernel counts as another reader.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/dir.h"
#include "image/proto/file-lock.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/ghost.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

/* file_lock_entry.flag */
enum { FILELOCK_POSIX = 1, FILELOCK_FLOCK = 2, FILELOCK_OFD = 4, FILELOCK_LEASE = 8 };

struct filelock_found {
	struct filelock_found *next;
	FileLockEntry *entry;
	pid_t owner;   /* who took it, as the kernel tells */
	uint32_t file; /* file id of the description */
	uint64_t dev, ino;
};

struct filelock_plan {
	struct filelock_plan *next;
	FileLockEntry *entry;
	const struct plan_file *file;
};

static const struct filelock_kind {
	uint32_t flag;
	enum proc_lock_type type;
	const char *word;
} filelock_kinds[] = {
	{FILELOCK_POSIX, PROC_LOCK_POSIX, "record lock"},
	{FILELOCK_FLOCK, PROC_LOCK_FLOCK, "flock lock"},
	{FILELOCK_OFD, PROC_LOCK_OFD, "open file description lock"},
	{FILELOCK_LEASE, PROC_LOCK_LEASE, "lease"},
};

static const struct filelock_kind *filelock_kind(uint32_t flag)
{
	for (size_t i = 0; i < ARRAY_SIZE(filelock_kinds); i++)
		if (filelock_kinds[i].flag == flag)
			return &filelock_kinds[i];
	return NULL;
}

static const char *filelock_word(uint32_t flag)
{
	const struct filelock_kind *kind = filelock_kind(flag);
	return kind ? kind->word : "lock";
}

static const struct filelock_kind *filelock_kind_of(const struct proc_lock *lock)
{
	for (size_t i = 0; i < ARRAY_SIZE(filelock_kinds); i++)
		if (filelock_kinds[i].type == lock->type)
			return &filelock_kinds[i];
	return NULL;
}

/* ------------------------------------------------------------------------- collect */

static int filelock_check(const struct fd_view *view, const struct kind_options *options,
			  struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	vec_foreach(lock, &view->info->locks) {
		const struct filelock_kind *kind = filelock_kind_of(lock);
		bool calm = lock->lease == PROC_LEASE_NONE || lock->lease == PROC_LEASE_ACTIVE;
		if (!kind)
			return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
					 "%s: '%s' carries a delegation or layout of a file server", who,
					 view->link);
		if (!calm) {
			error_set(err, FERRY_ERROR_UNSUPPORTED_FD, EBUSY,
				  "%s: the lease on '%s' is being broken by another process", who,
				  view->link);
			error_hint(
				err,
				"try again: it is over after /proc/sys/fs/lease-break-time seconds at the latest");
			return -EBUSY;
		}
		if (lock->type == PROC_LOCK_LEASE && !view->stat.st_nlink)
			return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
					 "%s: '%s' was deleted and has a lease, which reading it would break",
					 who, view->link);
		if (options->criu_compat && !options->file_locks) {
			error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' carries a %s", who,
				  view->link, kind->word);
			error_hint(err, "use --file-locks");
			return -ENOTSUP;
		}
	}
	return 0;
}

/* Locks of a process are seen through each descriptor of the inode, those of a description through each of its descriptors. */
static struct filelock_found *filelock_known(const struct collect *c, const struct filelock_found *new)
{
	struct filelock_found *f = c->kind_data[KIND_filelock];
	const FileLockEntry *e = new->entry;
	bool process = e->flag == FILELOCK_POSIX;
	for (; f; f = f->next) {
		bool same = f->entry->flag == e->flag && f->entry->type == e->type &&
			    f->entry->start == e->start && f->entry->len == e->len;
		bool one = process ? f->entry->pid == e->pid && f->dev == new->dev && f->ino == new->ino
				   : f->file == new->file;
		if (same && one)
			return f;
	}
	return NULL;
}

/* fcntl(2) wants a descriptor that is open for what a lock protects. */
static bool filelock_suits(const FileLockEntry *e, uint32_t flags)
{
	uint32_t mode = flags & O_ACCMODE;
	if (e->flag != FILELOCK_POSIX && e->flag != FILELOCK_OFD)
		return true;
	return mode == O_RDWR || mode == (e->type == F_WRLCK ? O_WRONLY : O_RDONLY);
}

static int filelock_collect_one(struct collect *c, const struct snap_task *t, const struct fd_view *view,
				const struct snap_file *file, const struct proc_lock *lock)
{
	struct arena *a = &c->snap->arena;
	FileLockEntry *e = record_new(a, FileLockEntry, file_lock_entry);
	struct filelock_found *f = arena_new(a, struct filelock_found);
	const struct filelock_kind *kind = filelock_kind_of(lock);
	if (!e || !f || !kind)
		return -ENOMEM;
	e->flag = kind->flag;
	e->type = lock->fl_type;
	e->pid = t->inner_pid;
	e->fd = view->fd;
	e->start = (int64_t)lock->start;
	e->len = lock->end == UINT64_MAX ? 0 : (int64_t)(lock->end - lock->start + 1);
	*f = (struct filelock_found){.entry = e,
				     .owner = lock->pid,
				     .file = file->entry->id,
				     .dev = view->stat.st_dev,
				     .ino = view->stat.st_ino};
	struct filelock_found *known = filelock_known(c, f);
	if (known) {
		/* Who took it is to be who has it, so that the kernel tells the same. */
		if (t->pid == known->owner) {
			known->entry->pid = e->pid;
			known->entry->fd = e->fd;
		}
		return 0;
	}
	if (!filelock_suits(e, view->info->flags))
		return 0; /* another descriptor does */
	f->next = c->kind_data[KIND_filelock];
	c->kind_data[KIND_filelock] = f;
	return 0;
}

static int filelock_collect(struct collect *c, const struct snap_task *t, const struct fd_view *view,
			    const struct snap_file *file, struct ferry_error *err)
{
	int r = view->info->locks.n ? filelock_check(view, c->options, err) : 0;
	if (r < 0)
		return r;
	vec_foreach(lock, &view->info->locks) {
		if (filelock_collect_one(c, t, view, file, lock) < 0)
			return error_memory(err);
	}
	return 0;
}

static int filelock_dump(struct dump *d, struct ferry_error *err)
{
	struct image_writer *w;
	int r = 0;
	for (const struct filelock_found *f = d->kind_data[KIND_filelock]; f && r >= 0; f = f->next) {
		r = fdcommon_writer(d, IMAGE_FILE_LOCKS, &w, err);
		if (r >= 0)
			r = image_put(w, &f->entry->base, err);
	}
	return r;
}

/* ------------------------------------------------------------------------- restore */

static const struct plan_file *filelock_file(const struct plan *p, const FileLockEntry *e)
{
	struct plan_task *t = plan_task(p, e->pid);
	for (size_t i = 0; t && i < t->fds.n; i++)
		if (t->fds.v[i].fd == e->fd)
			return t->fds.v[i].file;
	return NULL;
}

static int filelock_take(struct reader *r, struct image_reader *in unused, void *record, void *context unused,
			 struct ferry_error *err)
{
	FileLockEntry *e = record;
	struct filelock_plan *f = arena_new(&r->plan->arena, struct filelock_plan);
	if (!f)
		return error_memory(err);
	f->entry = e;
	f->file = filelock_file(r->plan, e);
	bool range = e->start >= 0 && e->len >= 0 && e->len <= INT64_MAX - e->start;
	if (!f->file || !filelock_kind(e->flag) || e->type > F_UNLCK || !range)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "filelocks.img: a lock of kind %u and type %u on fd %d of pid %d cannot be",
				 e->flag, e->type, e->fd, e->pid);
	f->next = r->plan->kind_data[KIND_filelock];
	r->plan->kind_data[KIND_filelock] = f;
	return 0;
}

static bool filelock_overlap(const FileLockEntry *e, const struct proc_lock *lock)
{
	uint64_t end = e->len ? (uint64_t)(e->start + e->len - 1) : UINT64_MAX;
	return lock->start <= end && (uint64_t)e->start <= lock->end;
}

/* Whether a lock of somebody stands against one that is to be taken. */
static bool filelock_conflict(const FileLockEntry *e, const struct proc_lock *lock)
{
	bool ranges = lock->type == PROC_LOCK_POSIX || lock->type == PROC_LOCK_OFD;
	bool same_sort = e->flag == FILELOCK_FLOCK   ? lock->type == PROC_LOCK_FLOCK
			 : e->flag == FILELOCK_LEASE ? lock->type == PROC_LOCK_LEASE
						     : ranges;
	bool exclusive = e->type == F_WRLCK || lock->fl_type == F_WRLCK;
	return !lock->waiting && same_sort && exclusive && filelock_overlap(e, lock);
}

static int filelock_compare(const struct filelock_plan *f, const struct proc_locks *locks,
			    struct ferry_error *err)
{
	struct stat st;
	const RegFileEntry *reg = f->file->entry->reg;
	if (!reg || lstat(reg->name, &st) < 0)
		return 0;
	vec_foreach(lock, &locks->v) {
		if (lock->ino != st.st_ino || lock->dev != st.st_dev || !filelock_conflict(f->entry, lock))
			continue;
		error_set(err, FERRY_ERROR_OUTSIDE_PEER, EAGAIN,
			  "the %s on '%s' that fd %d of pid %d had is taken: pid %d holds one",
			  filelock_word(f->entry->flag), reg->name, f->entry->fd, f->entry->pid, lock->pid);
		error_hint(err, "end the process that locks the file, or wait until it lets go");
		return -EAGAIN;
	}
	return 0;
}

/* Before anything is created: does somebody else hold what is to be locked? */
static int filelock_compare_all(struct reader *r, struct ferry_error *err)
{
	struct proc_locks locks = {0};
	const struct filelock_plan *f = r->plan->kind_data[KIND_filelock];
	int ret = f ? proc_read_locks(&locks, err) : 0;
	for (; f && ret >= 0; f = f->next)
		ret = ghost_is(r->plan, f->file) ? 0 : filelock_compare(f, &locks, err);
	proc_locks_release(&locks);
	return ret;
}

static int filelock_read(struct reader *r, struct ferry_error *err)
{
	int ret =
		records_each(r, IMAGE_FILE_LOCKS, 0, &file_lock_entry__descriptor, filelock_take, NULL, err);
	return ret < 0 ? ret : filelock_compare_all(r, err);
}

static const char *filelock_note(struct reader *r, const FileLockEntry *e)
{
	char text[128];
	snprintf(text, sizeof(text), "taking the %s on fd %d", filelock_word(e->flag), e->fd);
	const char *note = arena_string(&r->plan->arena, text);
	return note ? note : "taking a lock";
}

static void filelock_call(struct reader *r, struct script *s, const FileLockEntry *e)
{
	static const int flock_ops[] = {[F_RDLCK] = LOCK_SH, [F_WRLCK] = LOCK_EX, [F_UNLCK] = LOCK_UN};
	const char *note = filelock_note(r, e);
	struct flock lock = {
		.l_type = (short)e->type, .l_whence = SEEK_SET, .l_start = e->start, .l_len = e->len};
	if (e->flag == FILELOCK_FLOCK) {
		script_call(s, note, SYS_flock, (uint64_t)e->fd, (uint64_t)(flock_ops[e->type] | LOCK_NB));
	} else if (e->flag == FILELOCK_LEASE) {
		script_call(s, note, SYS_fcntl, (uint64_t)e->fd, F_SETLEASE, e->type);
	} else {
		uint64_t cmd = e->flag == FILELOCK_POSIX ? F_SETLK : F_OFD_SETLK;
		script_call(s, note, SYS_fcntl, (uint64_t)e->fd, cmd, script_put(s, &lock, sizeof(lock)))
			->data_mask = 1 << 2;
	}
}

static int filelock_restore_task(struct reader *r, struct plan_task *t, struct script *s,
				 struct ferry_error *err unused)
{
	for (const struct filelock_plan *f = r->plan->kind_data[KIND_filelock]; f; f = f->next)
		if (f->entry->pid == t->pid)
			filelock_call(r, s, f->entry);
	return 0;
}

const struct kind_ops kind_filelock = {
	.name = "filelock",
	.what = "flock, record and open file description locks, leases",
	.fd_type = -1,
	.image_file = IMAGE_FILE_LOCKS,
	.check_fd = filelock_check,
	.collect_fd = filelock_collect,
	.dump_end = filelock_dump,
	.read = filelock_read,
	.restore_task = filelock_restore_task,
};
