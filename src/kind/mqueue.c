/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns descriptors of POSIX message queues. A queue that has a name is like a file: it stays in its IPC namespace with what is in
 * it, and a restore opens it again, after it made sure that there are as many messages as there were. A queue whose name is
 * gone is made, opened and unlinked, and what was in it (mqueue_take.c) is sent to it again.
 *
 * Kernel interface: mq_overview(7), mqueue file system (messages and notification are shown by reading a queue's file).
 * Does not handle: a queue with a name on the way to another machine or over a reboot, where it is missing and the restore
 * says so; one in an IPC namespace of the tree's own, which goes with it, refused; messages in a queue without a name that ferry may
 * not open for both directions, refused; a notification that is asked for (mq_notify), refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/warden.h"
#include "image/dir.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/mqueue_take.h"
#include "kind/peers.h"
#include "model/record.h"
#include "model/records.h"

enum { MQUEUE_FILE_BYTES = 80, MQUEUE_MODE_BITS = 07777, MQUEUE_NAME_BYTES = 256 };

static const char mqueue_deleted[] = " (deleted)";

/* A description of our own for both directions, that does not wait; its end ends nothing of the queue. */
static int mqueue_open_again(int fd)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return fd_open(AT_FDCWD, path, O_RDWR | O_NONBLOCK, 0);
}

/* A name directly below the root that does not lead to the file: nothing else looks like it. */
static bool mqueue_owns(const struct fd_view *view)
{
	struct stat root, st;
	if (!S_ISREG(view->stat.st_mode) || view->stat.st_size != MQUEUE_FILE_BYTES || view->link[0] != '/' ||
	    strchr(view->link + 1, '/') || view->info->flags & O_PATH)
		return false;
	bool leads = stat(view->link, &st) == 0 && st.st_ino == view->stat.st_ino &&
		     st.st_dev == view->stat.st_dev;
	return !leads && stat("/", &root) == 0 && root.st_dev != view->stat.st_dev;
}

static bool mqueue_is_deleted(const struct fd_view *view)
{
	size_t n = strlen(view->link), tail = sizeof(mqueue_deleted) - 1;
	return n > tail && !strcmp(view->link + n - tail, mqueue_deleted) && !view->stat.st_nlink;
}

static bool mqueue_is_open_to_us(int fd)
{
	_cleanup_close_ int both = mqueue_open_again(fd);
	return both >= 0;
}

/* A queue goes with its namespace, and that with the last process of a tree that has one of its own. */
static bool mqueue_ends(const struct fd_view *view, const struct kind_options *options)
{
	char path[32];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%d/ns/ipc", view->pid);
	return stat(path, &st) == 0 && st.st_ino != options->own_namespaces.ino[PROC_NS_IPC];
}

static int mqueue_refuse(const struct fd_view *view, const struct kind_options *options, int fd,
			 const struct mqueue_look *look, struct ferry_error *err)
{
	const char *why = NULL;
	if (look->notify_pid)
		why = "asks for a notification (mq_notify), whose settings the kernel does not tell";
	else if (look->attr.mq_curmsgs && mqueue_is_deleted(view))
		why = mqueue_is_open_to_us(fd)
			      ? NULL
			      : "has no name any more and messages in it, which ferry may not take and send back";
	else if (look->attr.mq_curmsgs && options->moving)
		why = "has messages in it, which the kernel shows to nobody who does not take them";
	else if (!mqueue_is_deleted(view) && mqueue_ends(view, options))
		why = "lies in an IPC namespace of the tree's own, and goes with it";
	if (!why)
		return 0;
	char who[64];
	fd_view_name(view, who, sizeof(who));
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: the message queue '%s' %s", who, view->link,
		  why);
	error_hint(err, "let the program %s",
		   look->notify_pid        ? "drop the notification"
		   : look->attr.mq_curmsgs ? "take its messages first"
					   : "unlink the queue");
	return -ENOTSUP;
}

static int mqueue_check(const struct fd_view *view, const struct kind_options *options,
			struct ferry_error *err)
{
	struct fd_view copied = *view;
	struct mqueue_look look = {0};
	int r = fd_view_copy(&copied, err);
	if (r < 0)
		return r;
	r = mqueue_look(copied.copy, &look);
	if (r < 0)
		error_errno(err, FERRY_ERROR_SYSTEM, -r, "fd %d of pid %d: looking at the message queue '%s'",
			    view->fd, view->pid, view->link);
	else
		r = mqueue_refuse(view, options, copied.copy, &look, err);
	if (view->copy < 0)
		close(copied.copy);
	return r < 0 || !mqueue_is_deleted(view) ? r : peers_refuse(view, PEER_DELETED, err);
}

/* The messages of a queue without a name are with the first description of it. */
static bool mqueue_is_known(const struct snapshot *snap, const FerryMqueueEntry *entry)
{
	vec_foreach(file, &snap->files) {
		const FerryMqueueEntry *other = file->kind == &kind_mqueue ? file->data : NULL;
		if (other && other != entry && other->deleted && other->inode == entry->inode)
			return true;
	}
	return false;
}

static int mqueue_collect_messages(struct collect *c, int fd, FerryMqueueEntry *entry,
				   struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	_cleanup_close_ int both = mqueue_open_again(fd);
	struct mqueue_message *messages = NULL;
	struct mqueue_taken taken = {.queue = both,
				     .message_room = entry->message_bytes,
				     .arena = a,
				     .warden = c->warden,
				     .fault = c->fault};
	struct mqueue_look look;
	int r = both < 0 ? both : mqueue_look(both, &look);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "opening '%s' again", entry->name);
	taken.n = (uint32_t)look.attr.mq_curmsgs;
	taken.bytes = look.bytes;
	r = mqueue_take_all(&taken, &messages, err);
	if (r < 0)
		return r;
	entry->held = arena_array(a, FerryMqueueMessage *, taken.n + 1);
	for (uint32_t i = 0; entry->held && i < taken.n; i++) {
		FerryMqueueMessage *message = record_new(a, FerryMqueueMessage, ferry_mqueue_message);
		if (!message)
			return error_memory(err);
		message->priority = messages[i].priority;
		message->data = record_bytes(a, messages[i].data, messages[i].bytes);
		entry->held[entry->n_held++] = message;
	}
	return entry->held ? 0 : error_memory(err);
}

static int mqueue_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			  struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	FerryMqueueEntry *entry = record_new(a, FerryMqueueEntry, ferry_mqueue_entry);
	ExtFileEntry *ext = record_new(a, ExtFileEntry, ext_file_entry);
	struct mqueue_look look = {0};
	if (!entry || !ext)
		return error_memory(err);
	int r = mqueue_check(view, c->options, err);
	if (r >= 0)
		r = fdcommon_owner(c, view, &ext->fown, err);
	if (r >= 0)
		r = fd_view_copy(view, err);
	if (r < 0)
		return r;
	r = mqueue_look(view->copy, &look);
	entry->name = arena_string(a, view->link);
	if (r < 0 || !entry->name)
		return error_errno(err, FERRY_ERROR_SYSTEM, r < 0 ? -r : ENOMEM, "looking at '%s'",
				   view->link);
	entry->deleted = mqueue_is_deleted(view);
	if (entry->deleted)
		entry->name[strlen(entry->name) - (sizeof(mqueue_deleted) - 1)] = '\0';
	entry->id = ext->id = file->entry->id;
	entry->inode = view->stat.st_ino;
	entry->flags = fdcommon_flags(view);
	entry->messages = (uint32_t)look.attr.mq_curmsgs;
	entry->max_messages = (uint32_t)look.attr.mq_maxmsg;
	entry->message_bytes = (uint32_t)look.attr.mq_msgsize;
	entry->uid = view->stat.st_uid;
	entry->gid = view->stat.st_gid;
	entry->mode = view->stat.st_mode & MQUEUE_MODE_BITS;
	file->entry->type = FD_TYPES__EXT;
	file->entry->ext = ext;
	file->data = entry;
	bool whole = !entry->deleted || !entry->messages || mqueue_is_known(c->snap, entry);
	return whole ? 0 : mqueue_collect_messages(c, view->copy, entry, err);
}

static int mqueue_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	FerryMqueueEntry *entry = file->data;
	struct image_writer *w;
	int r = fdcommon_writer(d, IMAGE_FERRY_MQUEUE, &w, err);
	return r < 0 ? r : image_put(w, &entry->base, err);
}

/* -------------------------------------------------------------------------- restore */

static int mqueue_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
		       struct ferry_error *err)
{
	FerryMqueueEntry *entry = record;
	struct plan_file *file = plan_file(r->plan, entry->id);
	if (!file || !file->entry->ext || file->data || entry->name[0] != '/' || !entry->name[1] ||
	    strchr(entry->name + 1, '/') || strlen(entry->name) > MQUEUE_NAME_BYTES)
		return image_bad(in, err, "file id %u: the message queue makes no sense", entry->id);
	if (entry->n_held &&
	    (!entry->deleted || entry->n_held != entry->messages || entry->n_held > entry->max_messages))
		return image_bad(in, err, "file id %u: the message queue holds %zu messages, not %u",
				 entry->id, entry->n_held, entry->messages);
	file->data = entry;
	file->kind = &kind_mqueue;
	return 0;
}

static int mqueue_read(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_FERRY_MQUEUE, 0, &ferry_mqueue_entry__descriptor, mqueue_take, NULL,
			    err);
}

static int mqueue_flags(const FerryMqueueEntry *entry)
{
	return (int)entry->flags & (O_ACCMODE | O_NONBLOCK);
}

static int mqueue_open(const char *name, int flags, const FerryMqueueEntry *entry)
{
	struct mq_attr attr = {.mq_maxmsg = entry->max_messages, .mq_msgsize = entry->message_bytes};
	/* The system call wants the name without its slash. */
	long fd = syscall(SYS_mq_open, name + 1, flags | O_CLOEXEC, 0600, flags & O_CREAT ? &attr : NULL);
	return fd < 0 ? -errno : (int)fd;
}

/* A new one, as the old one was. */
static int mqueue_make(const FerryMqueueEntry *entry, const char *name, int flags, struct ferry_error *err)
{
	_cleanup_close_ int fd = mqueue_open(name, flags | O_CREAT | O_EXCL, entry);
	if (fd >= 0 && fchown(fd, entry->uid, entry->gid) == 0 &&
	    fchmod(fd, entry->mode & MQUEUE_MODE_BITS) == 0)
		return take_fd(fd);
	int code = fd < 0 ? -fd : errno;
	if (fd >= 0)
		syscall(SYS_mq_unlink, name + 1);
	error_errno(err, FERRY_ERROR_LIMIT, code, "making the message queue '%s'", entry->name);
	error_hint(err, "raise RLIMIT_MSGQUEUE and fs.mqueue.* (sysctl)");
	return -code;
}

/* Every description of a queue without a name, while it has one: open(2) of /proc/self/fd/N would add a flag. */
static int mqueue_open_all(struct plan *p, const FerryMqueueEntry *entry, struct ferry_error *err)
{
	for (size_t i = 0; i < p->n_files; i++) {
		struct plan_file *other = &p->files[i];
		const FerryMqueueEntry *its = other->kind == &kind_mqueue ? other->data : NULL;
		if (!its || other->fd >= 0 || !its->deleted || its->inode != entry->inode)
			continue;
		int fd = mqueue_open(entry->name, mqueue_flags(its), entry);
		if (fd < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd,
					   "opening the message queue '%s'", entry->name);
		other->fd = fd;
	}
	return 0;
}

/* There is room for them, so nobody waits. */
static int mqueue_send_all(const struct plan *p, const FerryMqueueEntry *of, int fd, struct ferry_error *err)
{
	const FerryMqueueEntry *entry = NULL;
	for (size_t i = 0; i < p->n_files && !(entry && entry->n_held); i++) {
		const struct plan_file *file = &p->files[i];
		const FerryMqueueEntry *its = file->kind == &kind_mqueue ? file->data : NULL;
		entry = its && its->deleted && its->inode == of->inode ? its : NULL;
	}
	for (size_t i = 0; entry && i < entry->n_held && i < of->max_messages; i++) {
		const FerryMqueueMessage *message = entry->held[i];
		if (syscall(SYS_mq_timedsend, fd, message->data.data, message->data.len, message->priority,
			    NULL) < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
					   "sending a message of %zu bytes to '%s'", message->data.len,
					   of->name);
	}
	return 0;
}

static int mqueue_restore_deleted(struct opener *o, const struct plan_file *file, struct ferry_error *err)
{
	const FerryMqueueEntry *entry = file->data;
	if (file->fd >= 0)
		return file->fd;
	_cleanup_close_ int there = mqueue_open(entry->name, O_RDONLY, entry);
	if (there >= 0)
		return error_set(
			err, FERRY_ERROR_FILES_CHANGED, EEXIST,
			"the message queue '%s', which had no name any more, would get that of another",
			entry->name);
	int armed = warden_arm(o->warden, WARDEN_QUEUE, 0, 0, entry->name + 1, strlen(entry->name));
	if (armed < 0)
		return error_errno(err, FERRY_ERROR_LIMIT, -armed, "entering '%s' into the undo log",
				   entry->name);
	_cleanup_close_ int first = mqueue_make(entry, entry->name, O_RDWR, err);
	int r = first < 0 ? first : mqueue_open_all(o->plan, entry, err);
	if (r >= 0)
		r = mqueue_send_all(o->plan, entry, first, err);
	if (first >= 0 && syscall(SYS_mq_unlink, entry->name + 1) < 0 && r >= 0)
		r = error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "unlinking '%s'", entry->name);
	warden_disarm(o->warden, armed);
	return r < 0 ? r : file->fd;
}

static int mqueue_restore_named(const FerryMqueueEntry *entry, int flags, struct ferry_error *err)
{
	struct mqueue_look look = {0};
	_cleanup_close_ int fd = mqueue_open(entry->name, flags, entry);
	if (fd < 0) {
		error_errno(err, FERRY_ERROR_FILES_CHANGED, -fd, "opening the message queue '%s'",
			    entry->name);
		error_hint(err, "it had %u messages when the dump was taken", entry->messages);
		return fd;
	}
	int r = mqueue_look(fd, &look);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "looking at the message queue '%s'",
				   entry->name);
	if (look.attr.mq_curmsgs == (long)entry->messages &&
	    look.attr.mq_maxmsg == (long)entry->max_messages &&
	    look.attr.mq_msgsize == (long)entry->message_bytes)
		return take_fd(fd);
	return error_set(err, FERRY_ERROR_FILES_CHANGED, ESTALE,
			 "the message queue '%s' had %u messages when the dump was taken and has %ld now",
			 entry->name, entry->messages, look.attr.mq_curmsgs);
}

static int mqueue_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const FerryMqueueEntry *entry = file->data;
	if (!entry)
		return fdcommon_no_record(file, err);
	int fd = entry->deleted ? mqueue_restore_deleted(o, file, err)
				: mqueue_restore_named(entry, mqueue_flags(entry), err);
	if (fd >= 0)
		*ret_fd = fd;
	return MIN(fd, 0);
}

static int mqueue_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const ExtFileEntry *ext = file->entry->ext;
	return ext && fdcommon_settle_once(s, file) ? fdcommon_settle(ext->fown, 0, fd, err) : 0;
}

const struct kind_ops kind_mqueue = {
	.name = "mqueue",
	.what = "POSIX message queues",
	.fd_type = -1,
	.image_file = IMAGE_FERRY_MQUEUE,
	.owns = mqueue_owns,
	.check = mqueue_check,
	.collect = mqueue_collect,
	.dump = mqueue_dump,
	.read = mqueue_read,
	.restore = mqueue_restore,
	.settle = mqueue_settle,
};
