/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns IPC namespaces: System V semaphores and message queues with their contents, POSIX message queues with theirs, and the
 * limits in /proc/sys. Each task may live in its own. Shared memory in them belongs to the kind of mappings.
 *
 * Kernel interface: semctl(2), msgctl(2) with IPC_INFO and *_STAT, msgrcv(2) with MSG_COPY (3.8), ids that are chosen through
 * /proc/sys/kernel/{sem,msg}_next_id (3.9); mqueue file systems, mq_open(3), SIOCINQ-free reading by taking and putting back.
 * Does not handle: who did the last operation and when (sempid, lspid, lrpid, otime, stime, rtime), SEM_UNDO of running
 * tasks, somebody who waits for a POSIX queue by mq_notify(3), shared memory segments of a namespace that is not the
 * root's: refused or, for the times, different after a restore.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/ipc-msg.pb-c.h"
#include "image/proto/ipc-sem.pb-c.h"
#include "image/proto/ipc-var.pb-c.h"
#include "kind/kinds.h"
#include "model/kind.h"
#include "model/record.h"

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

enum { IPC_PAD = 8, IPC_OBJECTS_MAX = 1 << 20, IPC_NAME_BYTES = 64 };

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
	struct seminfo *info;
};

struct ipc_sem {
	IpcSemEntry *entry;
	uint16_t *values;
};

struct ipc_message {
	IpcMsg *head;
	uint8_t *bytes;
};

struct ipc_queue {
	IpcMsgEntry *entry;
	struct ipc_message *messages; /* entry->qnum of them */
};

struct ipc_data {
	IpcVarEntry *limits;
	struct ipc_sem *sems;
	size_t n_sems;
	struct ipc_queue *queues;
	size_t n_queues;
};

/* Limits of /proc/sys that are one number each. */
#define IPC_SYSCTLS(f)                                                                                       \
	f(msg_ctlmax, "kernel/msgmax") f(msg_ctlmnb, "kernel/msgmnb") f(msg_ctlmni, "kernel/msgmni")         \
		f(shm_ctlmax, "kernel/shmmax") f(shm_ctlall, "kernel/shmall") f(shm_ctlmni, "kernel/shmmni") \
			f(shm_rmid_forced, "kernel/shm_rmid_forced")                                         \
				f(mq_queues_max, "fs/mqueue/queues_max") f(mq_msg_max, "fs/mqueue/msg_max")  \
					f(mq_msgsize_max, "fs/mqueue/msgsize_max")

/* Those whose record may lack them. */
#define IPC_SYSCTLS_OPTIONAL(f) \
	f(mq_msg_default, "fs/mqueue/msg_default") f(mq_msgsize_default, "fs/mqueue/msgsize_default")

static int ipc_read_number(const char *name, uint64_t *ret, struct ferry_error *err)
{
	char path[64];
	_cleanup_free_ char *text = NULL;
	size_t n;
	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	int r = fd_read_path(AT_FDCWD, path, 4096, &text, &n);
	if (r == -ENOENT) {
		*ret = 0; /* a kernel without POSIX message queues */
		return 0;
	}
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading '%s'", path);
	*ret = strtoull(text, NULL, 10);
	return 0;
}

/* What is as it should be is not written: a user namespace may not be allowed to. */
static int ipc_write_number(const char *name, uint64_t value, struct ferry_error *err)
{
	char path[64], text[32];
	uint64_t now;
	int r = ipc_read_number(name, &now, err);
	if (r < 0 || now == value)
		return r;
	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_WRONLY, 0);
	r = fd < 0 ? fd : fd_write_all(fd, text, (size_t)n);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "writing %s to '%s'", text, path) : 0;
}

/* ------------------------------------------------------------------ collect */

static int ipc_collect_limits(struct arena *a, struct ipc_data *data, struct ferry_error *err)
{
	IpcVarEntry *v = data->limits = record_new(a, IpcVarEntry, ipc_var_entry);
	_cleanup_free_ char *text = NULL;
	uint64_t number;
	size_t n;
	if (!v)
		return error_memory(err);
	int r = fd_read_path(AT_FDCWD, "/proc/sys/kernel/sem", 4096, &text, &n);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading '/proc/sys/kernel/sem'");
	v->sem_ctls = arena_array(a, uint32_t, 4);
	if (!v->sem_ctls)
		return error_memory(err);
	char *at = text;
	while (v->n_sem_ctls < 4)
		v->sem_ctls[v->n_sem_ctls++] = (uint32_t)strtoul(at, &at, 10);
#define IPC_READ(field, name)                    \
	r = ipc_read_number(name, &number, err); \
	if (r < 0)                               \
		return r;                        \
	v->field = (typeof(v->field))number;
	IPC_SYSCTLS(IPC_READ)
#undef IPC_READ
#define IPC_READ(field, name)                    \
	r = ipc_read_number(name, &number, err); \
	if (r < 0)                               \
		return r;                        \
	record_set(v, field, (uint32_t)number);
	IPC_SYSCTLS_OPTIONAL(IPC_READ)
#undef IPC_READ
	return 0;
}

static IpcDescEntry *ipc_desc(struct arena *a, const struct ipc_perm *p, int id)
{
	IpcDescEntry *d = record_new(a, IpcDescEntry, ipc_desc_entry);
	if (!d)
		return NULL;
	d->key = (uint32_t)p->__key;
	d->uid = p->uid;
	d->gid = p->gid;
	d->cuid = p->cuid;
	d->cgid = p->cgid;
	d->mode = p->mode & 0777;
	d->id = (uint32_t)id;
	return d;
}

static int ipc_collect_sem(struct arena *a, struct ipc_sem *sem, int id, const struct semid_ds *ds,
			   struct ferry_error *err)
{
	sem->entry = record_new(a, IpcSemEntry, ipc_sem_entry);
	sem->values = arena_array(a, uint16_t, ds->sem_nsems + IPC_PAD);
	if (!sem->entry || !sem->values)
		return error_memory(err);
	sem->entry->desc = ipc_desc(a, &ds->sem_perm, id);
	sem->entry->nsems = (uint32_t)ds->sem_nsems;
	if (!sem->entry->desc)
		return error_memory(err);
	if (semctl(id, 0, GETALL, (union semun){.array = sem->values}) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading semaphores %d", id);
	return 0;
}

static int ipc_collect_sems(struct arena *a, struct ipc_data *data, struct ferry_error *err)
{
	struct seminfo info;
	int highest = semctl(0, 0, SEM_INFO, (union semun){.info = &info});
	if (highest < 0 || !info.semusz)
		return highest < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "listing semaphores") : 0;
	data->sems = arena_array(a, struct ipc_sem, (size_t)highest + 1);
	if (!data->sems)
		return error_memory(err);
	for (int i = 0; i <= highest; i++) {
		struct semid_ds ds;
		int id = semctl(i, 0, SEM_STAT, (union semun){.buf = &ds});
		int r = id < 0 ? 0 : ipc_collect_sem(a, &data->sems[data->n_sems++], id, &ds, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int ipc_collect_message(struct arena *a, struct ipc_message *m, int id, size_t index, void *buffer,
			       size_t max, struct ferry_error *err)
{
	struct {
		long type;
		char bytes[];
	} *taken = buffer;
	ssize_t n = msgrcv(id, taken, max, (long)index, IPC_NOWAIT | MSG_COPY);
	if (n < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "copying message %zu of queue %d", index,
				   id);
	m->head = record_new(a, IpcMsg, ipc_msg);
	m->bytes = arena_alloc(a, (size_t)n + IPC_PAD);
	if (!m->head || !m->bytes)
		return error_memory(err);
	m->head->mtype = (uint64_t)taken->type;
	m->head->msize = (uint32_t)n;
	memcpy(m->bytes, taken->bytes, (size_t)n);
	return 0;
}

static int ipc_collect_queue(struct arena *a, struct ipc_queue *q, int id, const struct msqid_ds *ds,
			     struct ferry_error *err)
{
	size_t max = ds->__msg_cbytes;
	_cleanup_free_ void *buffer = malloc(sizeof(long) + max + 1);
	q->entry = record_new(a, IpcMsgEntry, ipc_msg_entry);
	q->messages = arena_array(a, struct ipc_message, ds->msg_qnum + 1);
	if (!buffer || !q->entry || !q->messages)
		return error_memory(err);
	q->entry->desc = ipc_desc(a, &ds->msg_perm, id);
	if (!q->entry->desc)
		return error_memory(err);
	q->entry->qbytes = (uint32_t)ds->msg_qbytes;
	q->entry->qnum = (uint32_t)ds->msg_qnum;
	for (size_t i = 0; i < ds->msg_qnum; i++) {
		int r = ipc_collect_message(a, &q->messages[i], id, i, buffer, max, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int ipc_collect_queues(struct arena *a, struct ipc_data *data, struct ferry_error *err)
{
	struct msginfo info;
	int highest = msgctl(0, MSG_INFO, (struct msqid_ds *)&info);
	if (highest < 0 || !info.msgpool)
		return highest < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "listing message queues")
				   : 0;
	data->queues = arena_array(a, struct ipc_queue, (size_t)highest + 1);
	if (!data->queues)
		return error_memory(err);
	for (int i = 0; i <= highest; i++) {
		struct msqid_ds ds;
		int id = msgctl(i, MSG_STAT, &ds);
		int r = id < 0 ? 0 : ipc_collect_queue(a, &data->queues[data->n_queues++], id, &ds, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The segments of the root's namespace are of a kind of their own. */
static int ipc_refuse_shared(const struct collect *c, const struct snap_ns *ns, struct ferry_error *err)
{
	struct shm_info info;
	const TaskKobjIdsEntry *root = c->snap->tasks.v[0].ids;
	if ((root && root->has_ipc_ns_id && root->ipc_ns_id == ns->id) ||
	    shmctl(0, SHM_INFO, (struct shmid_ds *)&info) < 0 || !info.used_ids)
		return 0;
	error_set(
		err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
		"%d System V shared memory segments lie in an ipc namespace that the root of the tree does not live in",
		info.used_ids);
	error_hint(err, "dump the processes of that namespace by themselves");
	return -ENOTSUP;
}

static int ipc_collect(struct collect *c, struct snap_ns *ns, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	struct ipc_data *data = ns->data = arena_new(a, struct ipc_data);
	int r = data ? ipc_collect_limits(a, data, err) : error_memory(err);
	if (r >= 0)
		r = ipc_refuse_shared(c, ns, err);
	if (r >= 0)
		r = ipc_collect_sems(a, data, err);
	return r < 0 ? r : ipc_collect_queues(a, data, err);
}

/* --------------------------------------------------------------------- dump */

static int ipc_dump_sems(struct dump *d, const struct snap_ns *ns, const struct ipc_data *data,
			 struct ferry_error *err)
{
	struct image_writer *w;
	int r = data->n_sems ? image_create(d->dir, IMAGE_IPCNS_SEM, ns->id, &w, err) : 0;
	for (size_t i = 0; i < data->n_sems && r >= 0; i++) {
		const struct ipc_sem *sem = &data->sems[i];
		r = image_put(w, &sem->entry->base, err);
		if (r >= 0)
			r = image_put_raw(w, sem->values,
					  align_up(sem->entry->nsems * sizeof(uint16_t), IPC_PAD), err);
	}
	return r < 0 || !data->n_sems ? r : image_close(w, err);
}

static int ipc_dump_queues(struct dump *d, const struct snap_ns *ns, const struct ipc_data *data,
			   struct ferry_error *err)
{
	struct image_writer *w;
	int r = data->n_queues ? image_create(d->dir, IMAGE_IPCNS_MSG, ns->id, &w, err) : 0;
	for (size_t i = 0; i < data->n_queues && r >= 0; i++) {
		const struct ipc_queue *q = &data->queues[i];
		r = image_put(w, &q->entry->base, err);
		for (size_t n = 0; n < q->entry->qnum && r >= 0; n++) {
			const struct ipc_message *m = &q->messages[n];
			r = image_put(w, &m->head->base, err);
			if (r >= 0)
				r = image_put_raw(w, m->bytes, align_up(m->head->msize, IPC_PAD), err);
		}
	}
	return r < 0 || !data->n_queues ? r : image_close(w, err);
}

static int ipc_dump(struct dump *d, struct snap_ns *ns, struct ferry_error *err)
{
	const struct ipc_data *data = ns->data;
	int r = image_put_one(d->dir, IMAGE_IPC_VAR, ns->id, &data->limits->base, err);
	if (r >= 0)
		r = ipc_dump_sems(d, ns, data, err);
	return r < 0 ? r : ipc_dump_queues(d, ns, data, err);
}

/* ------------------------------------------------------------------ restore */

static int ipc_restore_limits(struct opener *o, const struct plan_ns *ns, struct ferry_error *err)
{
	_cleanup_message_ IpcVarEntry *v = NULL;
	int r = image_get_one(o->dir, IMAGE_IPC_VAR, ns->id, &v, err);
	if (r < 0)
		return r;
	if (v->n_sem_ctls != 4)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ipcns-var-%u.img has %zu limits of semaphores", ns->id, v->n_sem_ctls);
	char text[64];
	int n = snprintf(text, sizeof(text), "%u %u %u %u", v->sem_ctls[0], v->sem_ctls[1], v->sem_ctls[2],
			 v->sem_ctls[3]);
	_cleanup_free_ char *now = NULL;
	size_t now_n;
	r = fd_read_path(AT_FDCWD, "/proc/sys/kernel/sem", 4096, &now, &now_n);
	for (size_t i = 0; r >= 0 && i < now_n; i++)
		if (now[i] == '\t' || now[i] == '\n')
			now[i] = i + 1 == now_n ? '\0' : ' ';
	if (r >= 0 && strcmp(now, text) != 0) {
		_cleanup_close_ int fd = fd_open(AT_FDCWD, "/proc/sys/kernel/sem", O_WRONLY, 0);
		r = fd < 0 ? fd : fd_write_all(fd, text, (size_t)n);
	}
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "writing '%s' to /proc/sys/kernel/sem",
				   text);
#define IPC_WRITE(field, name)                     \
	r = ipc_write_number(name, v->field, err); \
	if (r < 0)                                 \
		return r;
	IPC_SYSCTLS(IPC_WRITE)
#undef IPC_WRITE
#define IPC_WRITE(field, name)                                          \
	r = v->has_##field ? ipc_write_number(name, v->field, err) : 0; \
	if (r < 0)                                                      \
		return r;
	IPC_SYSCTLS_OPTIONAL(IPC_WRITE)
#undef IPC_WRITE
	return 0;
}

/* The next object gets this id. */
static int ipc_next(const char *name, uint32_t id, struct ferry_error *err)
{
	char path[64], text[16];
	snprintf(path, sizeof(path), "/proc/sys/kernel/%s", name);
	int n = snprintf(text, sizeof(text), "%u", id);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_WRONLY, 0);
	int r = fd < 0 ? fd : fd_write_all(fd, text, (size_t)n);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "writing %s to '%s'", text, path) : 0;
}

static int ipc_restore_sem(struct image_reader *in, const IpcSemEntry *e, struct ferry_error *err)
{
	size_t bytes = align_up(e->nsems * sizeof(uint16_t), IPC_PAD);
	if (!e->nsems || e->nsems > UINT16_MAX)
		return image_bad(in, err, "a set of %u semaphores", e->nsems);
	_cleanup_free_ uint16_t *values = malloc(bytes);
	if (!values)
		return error_memory(err);
	int r = image_get_raw(in, values, bytes, err);
	if (r >= 0)
		r = ipc_next("sem_next_id", e->desc->id, err);
	if (r < 0)
		return r;
	int id = semget((key_t)e->desc->key, (int)e->nsems,
			(int)(e->desc->mode & 0777) | IPC_CREAT | IPC_EXCL);
	if (id < 0 || (uint32_t)id != e->desc->id)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, id < 0 ? errno : EEXIST,
				   "creating semaphores %u", e->desc->id);
	struct semid_ds ds;
	if (semctl(id, 0, SETALL, (union semun){.array = values}) < 0 ||
	    semctl(id, 0, IPC_STAT, (union semun){.buf = &ds}) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "setting semaphores %d", id);
	ds.sem_perm.uid = e->desc->uid;
	ds.sem_perm.gid = e->desc->gid;
	ds.sem_perm.mode = (unsigned short)(e->desc->mode & 0777);
	if (semctl(id, 0, IPC_SET, (union semun){.buf = &ds}) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
				   "giving semaphores %d to their owner", id);
	return 0;
}

static int ipc_restore_sems(struct opener *o, const struct plan_ns *ns, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	int r = image_open_optional(o->dir, IMAGE_IPCNS_SEM, ns->id, &in, err);
	for (int got = 1; in && r >= 0 && got;) {
		_cleanup_message_ IpcSemEntry *e = NULL;
		r = got = image_get(in, &ipc_sem_entry__descriptor, &e, err);
		if (got > 0)
			r = ipc_restore_sem(in, e, err);
	}
	return r;
}

static int ipc_restore_message(struct image_reader *in, int id, struct ferry_error *err)
{
	_cleanup_message_ IpcMsg *m = NULL;
	int r = image_need(in, &ipc_msg__descriptor, &m, err);
	if (r < 0)
		return r;
	if (m->msize > image_reader_left(in))
		return image_bad(in, err, "a message of %u bytes", m->msize);
	struct {
		long type;
		char bytes[];
	} * message;
	_cleanup_free_ void *buffer = message = malloc(sizeof(*message) + align_up(m->msize, IPC_PAD));
	if (!buffer)
		return error_memory(err);
	message->type = (long)m->mtype;
	r = image_get_raw(in, message->bytes, align_up(m->msize, IPC_PAD), err);
	if (r >= 0 && msgsnd(id, message, m->msize, IPC_NOWAIT) < 0)
		r = error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "putting a message into queue %d", id);
	return r;
}

static int ipc_restore_queue(struct image_reader *in, const IpcMsgEntry *e, struct ferry_error *err)
{
	int r = ipc_next("msg_next_id", e->desc->id, err);
	if (r < 0)
		return r;
	int id = msgget((key_t)e->desc->key, (int)(e->desc->mode & 0777) | IPC_CREAT | IPC_EXCL);
	if (id < 0 || (uint32_t)id != e->desc->id)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, id < 0 ? errno : EEXIST,
				   "creating message queue %u", e->desc->id);
	struct msqid_ds ds;
	if (msgctl(id, IPC_STAT, &ds) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at message queue %d", id);
	msglen_t room = ds.msg_qbytes;
	for (uint32_t i = 0; i < e->qnum && r >= 0; i++) {
		/* What is in the queue may be more than it takes by now. */
		ds.msg_qbytes = UINT32_MAX;
		if (!i && msgctl(id, IPC_SET, &ds) < 0)
			ds.msg_qbytes = room;
		r = ipc_restore_message(in, id, err);
	}
	ds.msg_qbytes = e->qbytes;
	ds.msg_perm.uid = e->desc->uid;
	ds.msg_perm.gid = e->desc->gid;
	ds.msg_perm.mode = (unsigned short)(e->desc->mode & 0777);
	if (r >= 0 && msgctl(id, IPC_SET, &ds) < 0)
		r = error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "giving message queue %d to its owner",
				id);
	return r;
}

static int ipc_restore_queues(struct opener *o, const struct plan_ns *ns, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	int r = image_open_optional(o->dir, IMAGE_IPCNS_MSG, ns->id, &in, err);
	for (int got = 1; in && r >= 0 && got;) {
		_cleanup_message_ IpcMsgEntry *e = NULL;
		r = got = image_get(in, &ipc_msg_entry__descriptor, &e, err);
		if (got > 0)
			r = ipc_restore_queue(in, e, err);
	}
	return r;
}

static int ipc_restore(struct opener *o, struct plan_ns *ns, struct ferry_error *err)
{
	int r = ipc_restore_limits(o, ns, err);
	if (r >= 0)
		r = ipc_restore_sems(o, ns, err);
	return r < 0 ? r : ipc_restore_queues(o, ns, err);
}

static const struct ns_ops ipc_ops = {
	.type = PROC_NS_IPC,
	.enter = true,
	.collect = ipc_collect,
	.dump = ipc_dump,
	.restore = ipc_restore,
};

const struct kind_ops kind_ipc = {
	.name = "ipc",
	.what = "IPC namespaces: semaphores, message queues, limits",
	.fd_type = -1,
	.image_file = -1,
	.ns = &ipc_ops,
};
