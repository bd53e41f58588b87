/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the way of descriptors: every file description of the image is opened once in the coordinator by its
 * kind, and copies ride over each task's channel (SCM_RIGHTS) in ascending order of their final numbers. What a task
 * receives lands on the lowest free numbers, so placing a batch from its end never overwrites one that still has
 * to move.
 *
 * A tree may have more descriptions than the coordinator's table has numbers. Those that are nobody else's concern are then
 * opened when their first task is about to get them, and closed here when the last one has.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "restore/mates.h"
#include "restore/restore.h"

static int files_open_one(struct restore *r, struct plan_file *file, struct ferry_error *err)
{
	if (file->fd >= 0)
		return 0;
	if (!file->kind || !file->kind->restore)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				 "file id %u is of type %d, which this ferry does not restore",
				 file->entry->id, file->entry->type);
	if (fault_hit(r->fault, FAULT_OPEN_FILE))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "opening file id %u: fault injected",
				 file->entry->id);
	int fd = -1, ret = net_stand_for(r->opener, file, err);
	if (ret >= 0)
		ret = file->kind->restore(r->opener, file, &fd, err);
	if (ret < 0) {
		error_context(err, "restore", file->kind->name, 0);
		return ret;
	}
	if (file->fd < 0)
		file->fd = fd;
	return 0;
}

static bool files_are_many(const struct restore *r)
{
	struct rlimit nofile;
	return getrlimit(RLIMIT_NOFILE, &nofile) == 0 && r->plan->n_files > nofile.rlim_cur / 2;
}

bool files_is_alone(const struct plan_file *file)
{
	return file->kind && file->kind->is_alone && !file->enclosed;
}

static enum files_when files_when(const struct plan_file *file, bool many)
{
	const struct kind_ops *kind = file->kind;
	if (kind && kind->is_last && kind->is_last(file))
		return FILES_LAST;
	if (many && files_is_alone(file))
		return FILES_SENT;
	/* What belongs to a network that the caller sets up, when the tasks exist. */
	bool late = file->is_of_net && file->net;
	return kind && (late || kind->late || (kind->is_late && kind->is_late(file))) ? FILES_LATE
										      : FILES_FIRST;
}

int files_open(struct restore *r, enum files_when when, struct ferry_error *err)
{
	bool many = files_are_many(r);
	for (size_t i = 0; i < r->plan->n_files; i++) {
		if (files_when(&r->plan->files[i], many) != when)
			continue;
		int ret = files_open_one(r, &r->plan->files[i], err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int files_opened(struct restore *r, struct ferry_error *err)
{
	for (size_t i = 0; i < KIND_COUNT; i++) {
		int ret = kind_table[i]->opened ? kind_table[i]->opened(r->opener, err) : 0;
		if (ret < 0) {
			error_context(err, "restore", kind_table[i]->name, 0);
			return ret;
		}
	}
	return 0;
}

/* What rides along with the next message. */
struct files_out {
	struct files_message message;
	int fds[FILES_BATCH];
	struct plan_file *files[FILES_BATCH]; /* NULL: it is no file of the image */
	bool many;                            /* those that are alone are closed when they were sent */
};

/* How many times each will be sent. */
static void files_count(struct plan *p)
{
	for (size_t i = 0; i < p->n_tasks; i++) {
		vec_foreach(fd, &p->tasks[i].fds)
			fd->file->unsent++;
		vec_foreach(temp, &p->tasks[i].temps)
			if (temp->file)
				temp->file->unsent++;
	}
}

static void files_sent(struct files_out *out)
{
	for (uint32_t i = 0; i < out->message.n; i++) {
		struct plan_file *file = out->files[i];
		if (!file || --file->unsent || files_when(file, out->many) != FILES_SENT)
			continue;
		close(file->fd);
		file->fd = -1;
	}
	out->message.n = 0;
}

/* A descriptor for a temporary use of a file: its own, or a reopened one when the use needs another access mode. */
static int files_temp(struct restore *r, const struct plan_temp *temp, struct ferry_error *err)
{
	if (!temp->file)
		return temp->source;
	int own = fcntl(temp->file->fd, F_GETFL);
	if (temp->flags < 0 || (own >= 0 && (own & (O_ACCMODE | O_PATH)) == temp->flags) ||
	    (own >= 0 && (own & O_ACCMODE) == O_RDWR && !(own & O_PATH)))
		return temp->file->fd;
	char path[64];
	snprintf(path, sizeof(path), "self/fd/%d", temp->file->fd);
	int fd = plan_keep_source(r->plan, fd_open(r->proc, path, temp->flags, 0));
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "reopening file id %u for mapping",
				   temp->file->entry->id);
	return fd;
}

static int files_flush(struct restore *r, const struct plan_task *t, struct files_out *out, bool last,
		       struct ferry_error *err)
{
	struct files_message *m = &out->message;
	m->last = last;
	if (fault_hit(r->fault, FAULT_SEND_FD))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "sending descriptors to pid %d: fault injected",
				 t->pid);
	int ret = fd_send(r->channels[t->index], m, sizeof(*m), out->fds, m->n);
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret, "sending descriptors to pid %d",
				   t->pid);
	files_sent(out);
	return 0;
}

/* Room for one more; its file is open. */
static int files_room(struct restore *r, const struct plan_task *t, struct files_out *out,
		      struct plan_file *file, struct ferry_error *err)
{
	int ret = out->message.n == FILES_BATCH ? files_flush(r, t, out, false, err) : 0;
	return ret < 0 || !file ? ret : files_open_one(r, file, err);
}

static void files_add(struct files_out *out, int fd, int number, bool cloexec, struct plan_file *file)
{
	struct files_message *m = &out->message;
	out->fds[m->n] = fd;
	out->files[m->n] = file;
	m->fds[m->n].number = number;
	m->fds[m->n].cloexec = cloexec;
	m->n++;
}

static int files_send_task(struct restore *r, const struct plan_task *t, bool many, struct ferry_error *err)
{
	struct files_out out = {.message.type = FILES_DESCRIPTORS, .many = many};
	vec_foreach(fd, &t->fds) {
		int ret = files_room(r, t, &out, fd->file, err);
		if (ret < 0)
			return ret;
		files_add(&out, fd->file->fd, fd->fd, fd->cloexec, fd->file);
	}
	vec_foreach(temp, &t->temps) {
		int ret = files_room(r, t, &out, temp->file, err);
		int fd = ret < 0 ? ret : files_temp(r, temp, err);
		if (fd < 0)
			return fd;
		files_add(&out, fd, temp->number, true, temp->file);
	}
	return files_flush(r, t, &out, true, err);
}

int files_send(struct restore *r, struct ferry_error *err)
{
	bool many = files_are_many(r);
	files_count(r->plan);
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		int ret = files_send_task(r, &r->plan->tasks[i], many, err);
		if (ret < 0)
			return ret;
		close(r->channels[i]);
		r->channels[i] = -1;
	}
	return 0;
}

static int files_place(const struct files_message *m, const int *fds)
{
	for (uint32_t i = m->n; i-- > 0;) {
		int number = m->fds[i].number;
		if (fds[i] != number) {
			if (dup3(fds[i], number, m->fds[i].cloexec ? O_CLOEXEC : 0) < 0)
				return -errno;
			close(fds[i]);
		} else if (fcntl(number, F_SETFD, m->fds[i].cloexec ? FD_CLOEXEC : 0) < 0) {
			return -errno;
		}
	}
	return 0;
}

union files_any {
	uint32_t type;
	struct files_message message;
	struct files_call call;
};

pid_t files_pid_of(const struct opener *o, const struct plan_task *t)
{
	const struct restore *r = o->in_task_context;
	return (pid_t)r->shared->members[t->member].created;
}

int files_call(struct opener *o, const struct plan_task *t, struct opener_call *call, struct ferry_error *err)
{
	struct restore *r = o->in_task_context;
	struct files_call m = {.type = FILES_CALL, .run = call->run};
	int channel = r->channels[t->index];
	memcpy(m.arguments, call->arguments, call->bytes);
	int ret = fd_send(channel, &m, sizeof(m), call->fds, call->n_fds);
	ssize_t got =
		ret < 0 ? ret
			: fd_recv(channel, &m, sizeof(m), call->fds, ARRAY_SIZE(call->fds), &call->n_fds);
	if (got != (ssize_t)sizeof(m))
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, got < 0 ? (int)-got : ECHILD,
				   "asking pid %d to make a socket", t->pid);
	memcpy(call->arguments, m.arguments, call->bytes);
	call->pid = files_pid_of(o, t);
	return m.result;
}

static int files_serve(int channel, struct files_call *m, int *fds, size_t n)
{
	int given[FILES_BATCH], lent = (int)n;
	memcpy(given, fds, n * sizeof(*fds));
	m->result = m->run(m->arguments, fds, &n);
	int ret = fd_send(channel, m, sizeof(*m), fds, n);
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
	for (int i = 0; i < lent; i++)
		close(given[i]);
	return ret;
}

int files_receive(struct restore *r, struct plan_task *t, int channel, struct ferry_error *err)
{
	union files_any any = {0};
	for (;;) {
		int fds[FILES_BATCH], ret;
		size_t n = 0;
		mates_poll(r, channel);
		ssize_t got = fd_recv(channel, &any, sizeof(any), fds, FILES_BATCH, &n);
		if (got == (ssize_t)sizeof(any.call) && any.type == FILES_CALL) {
			ret = files_serve(channel, &any.call, fds, n);
			if (ret < 0)
				return error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret,
						   "answering from pid %d", t->pid);
			continue;
		}
		if (got != (ssize_t)sizeof(any.message) || any.type != FILES_DESCRIPTORS ||
		    n != any.message.n)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, got < 0 ? (int)-got : EPROTO,
					   "receiving the descriptors of pid %d", t->pid);
		ret = files_place(&any.message, fds);
		if (ret < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret,
					   "placing the descriptors of pid %d", t->pid);
		if (any.message.last)
			return 0;
	}
}
