/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the way of descriptors: every file description of the image is opened once in the coordinator by its
 * kind, and copies ride over each task's channel (SCM_RIGHTS) in ascending order of their final numbers. What a task
 * receives lands on the lowest free numbers, so placing a batch from its end never overwrites one that still has
 * to move.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "kind/kinds.h"
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
	int fd = -1, ret = file->kind->restore(r->opener, file, &fd, err);
	if (ret < 0) {
		error_context(err, "restore", file->kind->name, 0);
		return ret;
	}
	if (file->fd < 0)
		file->fd = fd;
	return 0;
}

static enum files_when files_when(const struct plan_file *file)
{
	const struct kind_ops *kind = file->kind;
	if (kind && kind->is_last && kind->is_last(file))
		return FILES_LAST;
	return kind && (kind->late || (kind->is_late && kind->is_late(file))) ? FILES_LATE : FILES_FIRST;
}

int files_open(struct restore *r, enum files_when when, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_files; i++) {
		if (files_when(&r->plan->files[i]) != when)
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

static int files_flush(struct restore *r, const struct plan_task *t, struct files_message *m, int *fds,
		       bool last, struct ferry_error *err)
{
	m->last = last;
	if (fault_hit(r->fault, FAULT_SEND_FD))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "sending descriptors to pid %d: fault injected",
				 t->pid);
	int ret = fd_send(r->channels[t->index][0], m, sizeof(*m), fds, m->n);
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret, "sending descriptors to pid %d",
				   t->pid);
	m->n = 0;
	return 0;
}

static int files_add(struct restore *r, const struct plan_task *t, struct files_message *m, int *fds, int fd,
		     int number, bool cloexec, struct ferry_error *err)
{
	if (m->n == FILES_BATCH) {
		int ret = files_flush(r, t, m, fds, false, err);
		if (ret < 0)
			return ret;
	}
	fds[m->n] = fd;
	m->fds[m->n].number = number;
	m->fds[m->n].cloexec = cloexec;
	m->n++;
	return 0;
}

static int files_send_task(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	struct files_message m = {.type = FILES_DESCRIPTORS};
	int fds[FILES_BATCH], ret = 0;
	vec_foreach(fd, &t->fds) {
		ret = files_add(r, t, &m, fds, fd->file->fd, fd->fd, fd->cloexec, err);
		if (ret < 0)
			return ret;
	}
	vec_foreach(temp, &t->temps) {
		int fd = files_temp(r, temp, err);
		ret = fd < 0 ? fd : files_add(r, t, &m, fds, fd, temp->number, true, err);
		if (ret < 0)
			return ret;
	}
	return files_flush(r, t, &m, fds, true, err);
}

int files_send(struct restore *r, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		int ret = files_send_task(r, &r->plan->tasks[i], err);
		if (ret < 0)
			return ret;
		close(r->channels[i][0]);
		r->channels[i][0] = -1;
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
	int channel = r->channels[t->index][0];
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
