/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns io_uring instances: rings with all that lies in them, positions, how they were made (uring_look.c), tables of
 * files and buffers, an eventfd, a polling thread, numbers of registered rings, mappings in each task. An instance is
 * made in the task that holds it first (uring_make.c), because it takes that task's memory and credentials; other tasks
 * take it from there, as the kernel does not let it pass through a socket.
 *
 * The kernel's own positions begin at 0 in a new instance and count requests and completions, so requests that do nothing
 * bring them to where they were. Completions that nobody has taken are posted the same way and get their contents from the
 * image.
 *
 * A dump waits until every request that was taken has completed. One that waits for an event would wait for ever; it is
 * refused before anything stops.
 *
 * Kernel interface: io_uring_setup(2), io_uring_enter(2), io_uring_register(2) (5.1 to 6.18), /proc/PID/fdinfo,
 * pidfd_getfd(2), mmap(2), which takes no address for rings since 6.6.
 * Does not handle: requests that wait for an event (poll, accept, receive, time-outs): what is in flight is shown by opcode
 * alone at best (PollList of fdinfo), they are refused; provided buffers, personalities, restrictions, registered regions,
 * NAPI, rings in the program's own memory, instances of a thread other than the first (IORING_SETUP_SINGLE_ISSUER), files and
 * eventfds that cannot be told from others of their name: refused; how long a polling thread polls (it polls for 10 ms)
 * and on which processor, IORING_SETUP_COOP_TASKRUN, which only saves interrupts, affinity of workers, tags of
 * registered resources: the kernel tells none of them (io_uring/fdinfo.c, looked at in 6.18).
 */
#include "kind/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/records.h"
#include "model/vma-status.h"
#include "proc/read.h"
#include "proc/uring.h"

enum {
	URING_CHECK_TRIES = 20, /* for requests that end soon */
	URING_CHECK_NS = 5000000,
	URING_WAIT_NS = 500000,
	URING_NUMBERS = 16, /* IO_RINGFD_REG_MAX */
	URING_NUMBERS_MAX = 4096,
	URING_EVENT_NS = 500000000,
	URING_POLLING_NS = 50000000, /* a polling thread that has not taken what waits sleeps */
	URING_ENTRIES_MAX = 1 << 17,
};

static const char uring_link[] = "anon_inode:[io_uring]";

static bool uring_owns(const struct fd_view *view)
{
	return !strcmp(view->link, uring_link);
}

/* -------------------------------------------------------------------------- check */

static int uring_refuse_polls(const struct proc_uring *u, pid_t pid, int fd, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
		  "fd %d of pid %d: %zu requests of the io_uring wait for events, the first has opcode %u",
		  fd, pid, u->polls.n, u->polls.v[0]);
	error_hint(err, "the kernel shows no more of a request in flight than its opcode (Linux 6.18)");
	return -ENOTSUP;
}

static int uring_check_replay(const struct proc_uring *u, pid_t pid, int fd, uint64_t max,
			      struct ferry_error *err)
{
	if (u->cached_sq_head <= max)
		return 0;
	error_set(
		err, FERRY_ERROR_LIMIT, E2BIG,
		"fd %d of pid %d: the io_uring has taken %u requests, bringing a new one there takes as many",
		fd, pid, u->cached_sq_head);
	error_hint(err, "allow it with --io-uring-max-replay %u; a million takes about 0.05 s",
		   u->cached_sq_head);
	return -E2BIG;
}

static int uring_check(const struct fd_view *view, const struct kind_options *options,
		       struct ferry_error *err)
{
	const struct timespec pause = {.tv_nsec = URING_CHECK_NS};
	_cleanup_close_ int dir = proc_open(view->look, err);
	int r = dir < 0 ? dir : 0;
	/* While the tree is frozen, collect_end waits. */
	for (int i = 0; r >= 0; i++) {
		_cleanup_proc_uring_ struct proc_uring u = {0};
		r = proc_read_uring(dir, view->fd, &u, err);
		if (r >= 0 && u.polls.n && i < URING_CHECK_TRIES && !view->frozen) {
			nanosleep(&pause, NULL);
			continue;
		}
		if (r >= 0 && u.polls.n && !view->frozen)
			return uring_refuse_polls(&u, view->pid, view->fd, err);
		return r < 0 ? r
			     : uring_check_replay(&u, view->pid, view->fd, options->io_uring_max_replay, err);
	}
	return r;
}

/* -------------------------------------------------------------------------- collect */

static int uring_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			 struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	struct uring_snap *snap = arena_new(a, struct uring_snap);
	FerryUringEntry *entry = record_new(a, FerryUringEntry, ferry_uring_entry);
	ExtFileEntry *ext = record_new(a, ExtFileEntry, ext_file_entry);
	if (!snap || !entry || !ext)
		return error_memory(err);
	*snap = (struct uring_snap){.entry = entry, .sq_thread = -1};
	entry->id = ext->id = file->entry->id;
	entry->flags = fdcommon_flags(view);
	ext->fown = fdcommon_no_owner(a);
	entry->numbers = arena_array(a, FerryUringNumber *, URING_NUMBERS_MAX);
	int r = ext->fown && entry->numbers ? fd_view_copy(view, err) : error_memory(err);
	if (r < 0)
		return r;
	file->entry->ext = ext;
	file->data = snap;
	file->copy = take_fd(view->copy);
	return 0;
}

int uring_numbers(const struct snap_task *t, int **ret, size_t *ret_n)
{
	bool any = t->memory->maps_uring;
	int *numbers = calloc(t->fds.n + 1, sizeof(*numbers));
	if (!numbers)
		return -ENOMEM;
	size_t n = 0;
	for (size_t i = 0; any && i < t->fds.n; i++) {
		char path[64], link[sizeof(uring_link)];
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", t->look, t->fds.v[i].fd);
		ssize_t bytes = readlink(path, link, sizeof(link));
		if (bytes == sizeof(uring_link) - 1 && !memcmp(link, uring_link, sizeof(uring_link) - 1))
			numbers[n++] = t->fds.v[i].fd;
	}
	*ret = numbers;
	*ret_n = n;
	return 0;
}

/* For each instance the calls of enum uring_ask, then which numbers of registered rings the thread has. */
static void uring_ask_thread(const struct snap_task *t, const struct snap_thread *th unused, struct script *s)
{
	_cleanup_free_ int *numbers = NULL;
	size_t n = 0;
	if (uring_numbers(t, &numbers, &n) < 0) {
		s->failed = true;
		return;
	}
	for (size_t i = 0; i < n; i++)
		for (int ask = 0; ask < URING_ASKS; ask++) {
			bool workers = ask == URING_ASK_WORKERS;
			uint64_t arg =
				workers ? script_put(s, NULL, 2 * sizeof(uint32_t)) : URING_BAD_ADDRESS;
			struct blob_call *call =
				script_call(s, "asking an io_uring", SYS_io_uring_register,
					    (uint64_t)numbers[i], uring_ask_ops[ask], arg, workers ? 2 : 1);
			call->check = BLOB_CHECK_NONE;
			call->data_mask = workers ? 1 << 2 : 0;
		}
	for (uint64_t i = 0; i < URING_NUMBERS && n; i++)
		script_call(s, "asking for a registered ring", SYS_io_uring_enter, i, 0, 0,
			    IORING_ENTER_REGISTERED_RING, 0, 0)
			->check = BLOB_CHECK_NONE;
}

static void uring_take_answers(struct uring_answers *a, pid_t tid, const struct blob_call *calls,
			       const char *data)
{
	uint32_t workers[2];
	memcpy(workers, data, sizeof(workers));
	if (calls[URING_ASK_WORKERS].ret >= 0 && workers[0] && !a->workers[0])
		memcpy(a->workers, workers, sizeof(workers));
	/* Of an instance that one thread owns, only that thread's count. */
	if (calls[URING_ASK_PROBE].ret == -EEXIST || a->tid)
		return;
	a->tid = tid;
	a->probe = (int)calls[URING_ASK_PROBE].ret;
	a->napi = (int)calls[URING_ASK_NAPI].ret;
	a->resize = (int)calls[URING_ASK_RESIZE].ret;
	a->eventfd = (int)calls[URING_ASK_EVENTFD].ret;
	a->region = (int)calls[URING_ASK_REGION].ret;
	a->restrictions = (int)calls[URING_ASK_RESTRICTIONS].ret;
}

static int uring_take_number(struct collect *c, const struct snap_thread *th, struct uring_snap *only,
			     uint32_t number, struct ferry_error *err)
{
	if (!only) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			  "thread %d has registered a ring, and its process has more than one io_uring",
			  th->tid);
		error_hint(err, "the kernel does not tell which one it is (Linux 6.18)");
		return -ENOTSUP;
	}
	FerryUringNumber *record = record_new(&c->snap->arena, FerryUringNumber, ferry_uring_number);
	if (!record)
		return error_memory(err);
	record->tid = (uint32_t)th->inner_tid;
	record->number = number;
	if (only->entry->n_numbers == URING_NUMBERS_MAX)
		return error_set(err, FERRY_ERROR_LIMIT, E2BIG, "too many threads have registered a ring");
	only->entry->numbers[only->entry->n_numbers++] = record;
	return 0;
}

static struct uring_snap *uring_of(struct collect *c, const struct snap_task *t, int number)
{
	vec_foreach(fd, &t->fds) {
		const struct snap_file *file = &c->snap->files.v[fd->file];
		if (fd->fd == number)
			return file->kind == &kind_uring ? file->data : NULL;
	}
	return NULL;
}

static int uring_collect_thread(struct collect *c, struct snap_task *t, struct snap_thread *th,
				int proc_dir unused, const struct answers *a, struct ferry_error *err)
{
	_cleanup_free_ int *numbers = NULL;
	size_t n = 0, instances = 0;
	int r = uring_numbers(t, &numbers, &n);
	if (r < 0)
		return error_memory(err);
	struct uring_snap *only = NULL;
	for (size_t i = 0; i < n; i++) {
		struct uring_snap *snap = uring_of(c, t, numbers[i]);
		if (!snap)
			return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "fd %d of pid %d is no io_uring",
					 numbers[i], t->pid);
		instances += snap != only;
		only = snap;
		uring_take_answers(&snap->told, th->tid, a->calls + i * URING_ASKS, a->data + i * 64);
	}
	for (uint32_t i = 0; i < URING_NUMBERS && n && r >= 0; i++)
		if (a->calls[n * URING_ASKS + i].ret >= 0)
			r = uring_take_number(c, th, instances == 1 ? only : NULL, i, err);
	return r;
}

/* Requests that were taken and have not completed, as far as the numbers tell. */
static int64_t uring_in_flight(const struct proc_uring *u)
{
	return (int32_t)(u->cached_sq_head - u->cached_cq_tail - (uint32_t)u->overflow.n);
}

static int uring_refuse_busy(const struct snap_file *file, const struct proc_uring *u,
			     struct ferry_error *err)
{
	if (u->polls.n)
		return uring_refuse_polls(u, file->pid, file->fd, err);
	error_set(
		err, FERRY_ERROR_TIMEOUT, ETIMEDOUT,
		"fd %d of pid %d: the io_uring has taken %u requests and posted %u completions, which differs",
		file->fd, file->pid, u->cached_sq_head, u->cached_cq_tail + (uint32_t)u->overflow.n);
	error_hint(
		err,
		"requests in flight do not end within --timeout, or had no completion, or more than one; the "
		"kernel does not tell (Linux 6.18)");
	return -ETIMEDOUT;
}

/* Taken requests end, and a polling thread that is awake takes what waits. */
static int uring_wait(struct collect *c, const struct snap_file *file, struct proc_uring *ret,
		      struct ferry_error *err)
{
	const struct timespec pause = {.tv_nsec = URING_WAIT_NS};
	uint64_t deadline = time_now_ns() + (uint64_t)c->options->timeout_ms * 1000000, since = time_now_ns();
	_cleanup_close_ int dir = proc_open(file->look, err);
	int r = dir < 0 ? dir : 0;
	while (r >= 0) {
		_cleanup_proc_uring_ struct proc_uring u = {0};
		r = proc_read_uring(dir, file->fd, &u, err);
		if (r < 0)
			break;
		bool waits = u.sq_thread >= 0 && u.sq_tail != u.cached_sq_head &&
			     time_now_ns() - since < URING_POLLING_NS;
		if (!u.polls.n && !uring_in_flight(&u) && !waits) {
			*ret = u;
			u = (struct proc_uring){0};
			return 0;
		}
		/* Only somebody outside of the tree can bring an event about now. */
		if (time_now_ns() > deadline || (u.polls.n && time_now_ns() - since > URING_EVENT_NS))
			return uring_refuse_busy(file, &u, err);
		nanosleep(&pause, NULL);
	}
	return r;
}

/* A mapping's instance, which its task must have open, too. */
static int uring_link_vmas(struct collect *c, struct snap_task *t, struct ferry_error *err)
{
	vec_foreach(vma, &t->vmas) {
		if (!(vma->entry->status & VMA_STATUS_URING))
			continue;
		for (size_t i = 0; i < t->fds.n && vma->file == SNAP_NO_FILE; i++) {
			const struct snap_file *file = &c->snap->files.v[t->fds.v[i].file];
			if (file->kind == &kind_uring && file->ino == vma->inode)
				vma->file = t->fds.v[i].file;
		}
		if (vma->file == SNAP_NO_FILE) {
			error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP,
				  "pid %d maps at %llx an io_uring that it has no descriptor of", t->pid,
				  (unsigned long long)vma->entry->start);
			error_hint(err, "/proc/PID/map_files cannot open it (Linux 6.18)");
			return -ENOTSUP;
		}
		vma->entry->shmid = c->snap->files.v[vma->file].entry->id;
	}
	return 0;
}

static int uring_collect_end(struct collect *c, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < c->snap->tasks.n && r >= 0; i++)
		r = uring_link_vmas(c, &c->snap->tasks.v[i], err);
	for (size_t i = 0; i < c->snap->files.n && r >= 0; i++) {
		const struct snap_file *file = &c->snap->files.v[i];
		_cleanup_proc_uring_ struct proc_uring u = {0};
		if (file->kind != &kind_uring)
			continue;
		r = uring_wait(c, file, &u, err);
		if (r >= 0)
			r = uring_look(c, file, &u, err);
	}
	return r;
}

static int uring_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const struct uring_snap *snap = file->data;
	struct image_writer *w;
	int r = fdcommon_writer(d, IMAGE_FERRY_URING, &w, err);
	return r < 0 ? r : image_put(w, &snap->entry->base, err);
}

static bool uring_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_ANON_INODE && !strcmp(view->name, uring_link);
}

static int uring_collect_vma(struct collect *c unused, struct snap_task *t, const struct vma_view *view,
			     struct snap_vma *vma, struct ferry_error *err)
{
	uint64_t offset = view->vma->offset;
	if (offset != IORING_OFF_SQ_RING && offset != IORING_OFF_CQ_RING && offset != IORING_OFF_SQES) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP,
			  "pid %d maps at %llx a part of an io_uring (offset %llx) that is no ring", t->pid,
			  (unsigned long long)vma->entry->start, (unsigned long long)offset);
		error_hint(err, "the kernel does not tell how provided buffers were registered (Linux 6.18)");
		return -ENOTSUP;
	}
	vma->entry->status = VMA_STATUS_URING;
	t->maps_uring = true;
	vma->entry->flags |= MAP_SHARED;
	vma->file = SNAP_NO_FILE;
	return 0;
}

/* -------------------------------------------------------------------------- restore */

static bool uring_entry_good(const FerryUringEntry *e, const struct plan *p)
{
	bool good = e->sq_entries && e->sq_entries <= URING_ENTRIES_MAX &&
		    !(e->sq_entries & (e->sq_entries - 1)) && e->cq_entries >= e->sq_entries &&
		    e->cq_entries <= 2 * URING_ENTRIES_MAX && !(e->cq_entries & (e->cq_entries - 1)) &&
		    e->cq_tail - e->cq_head <= e->cq_entries &&
		    e->sq_head == e->cq_tail + (uint32_t)e->n_overflow &&
		    e->rings.len == uring_rings_bytes(e) && e->sqes.len == uring_sqes_bytes(e) &&
		    (!e->n_overflow || e->cq_tail - e->cq_head == e->cq_entries);
	for (size_t i = 0; i < e->n_files && good; i++)
		good = e->has_file_slots && e->files[i]->slot < e->file_slots &&
		       plan_file(p, e->files[i]->file_id);
	for (size_t i = 0; i < e->n_buffers && good; i++)
		good = e->has_buffer_slots && e->buffers[i]->slot < e->buffer_slots;
	good = good && (!e->has_eventfd_id || plan_file(p, e->eventfd_id));
	return good && (!e->has_file_slots || e->file_slots <= URING_ENTRIES_MAX) &&
	       (!e->has_buffer_slots || e->buffer_slots <= URING_ENTRIES_MAX);
}

static int uring_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
		      struct ferry_error *err)
{
	FerryUringEntry *entry = record;
	struct plan_file *file = plan_file(r->plan, entry->id);
	if (!file || !file->entry->ext || file->data || !uring_entry_good(entry, r->plan))
		return image_bad(in, err, "file id %u: the io_uring makes no sense", entry->id);
	if (entry->sq_head > r->options->io_uring_max_replay)
		return error_set(err, FERRY_ERROR_LIMIT, E2BIG,
				 "file id %u: the io_uring has taken %u requests, more than "
				 "--io-uring-max-replay allows",
				 entry->id, entry->sq_head);
	file->data = entry;
	file->kind = &kind_uring;
	return 0;
}

static int uring_read(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_FERRY_URING, 0, &ferry_uring_entry__descriptor, uring_take, NULL, err);
}

/* Where the coordinator has nothing; the task that holds it first makes it. */
static int uring_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const FerryUringEntry *e = file->data;
	if (!e) {
		error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			  "file id %u is external, and nothing in the image says what it is",
			  file->entry->id);
		return -ENOTSUP;
	}
	struct plan_task *owner = file->owner ? plan_task(o->plan, file->owner->pid) : NULL;
	for (size_t i = 0; owner && i < e->n_files; i++)
		if (plan_temp_file(owner, plan_file(o->plan, e->files[i]->file_id), -1) < 0)
			return error_memory(err);
	if (owner && e->has_eventfd_id && plan_temp_file(owner, plan_file(o->plan, e->eventfd_id), -1) < 0)
		return error_memory(err);
	int fd = fd_open(AT_FDCWD, "/dev/null", O_RDWR, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening /dev/null");
	*ret_fd = fd;
	return 0;
}

static int uring_settle_new(struct settle *s, const FerryUringEntry *e, int fd, struct ferry_error *err)
{
	int wq = e->has_wq_id ? fdcommon_number(s->task, e->wq_id) : -1;
	int r = uring_make(s, e, wq, fd, err);
	if (r >= 0)
		r = fdcommon_set_flags(fd, e->flags, err);
	return r < 0 ? r : uring_give_files(s, e, fd, err);
}

static int uring_settle_fd(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	return uring_settle_new(s, file->data, fd, err);
}

static int uring_settle_task(struct settle *s, struct ferry_error *err)
{
	return fdcommon_settle_made(s, &kind_uring, uring_link, uring_settle_fd, err);
}

static bool uring_owns_record(const VmaEntry *entry)
{
	return entry->status & VMA_STATUS_URING;
}

static int uring_map(struct reader *r, struct plan_task *t, const VmaEntry *vma, struct vma_map *m,
		     struct ferry_error *err)
{
	const struct plan_file *file = plan_file(r->plan, (uint32_t)vma->shmid);
	m->fd = file && file->kind == &kind_uring ? fdcommon_number(t, file->entry->id) : -1;
	if (m->fd < 0)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pid %d maps io_uring %llu, which it does not have", t->pid,
				 (unsigned long long)vma->shmid);
	return 0;
}

/* Memory has its contents now: buffers can be pinned. */
static void uring_restore_buffers(const FerryUringEntry *e, int fd, struct script *s)
{
	if (!e->has_buffer_slots)
		return;
	struct io_uring_rsrc_register table = {.nr = e->buffer_slots, .flags = IORING_RSRC_REGISTER_SPARSE};
	script_call(s, "making the table of an io_uring's buffers", SYS_io_uring_register, (uint64_t)fd,
		    IORING_REGISTER_BUFFERS2, script_put(s, &table, sizeof(table)), sizeof(table))
		->data_mask = 1 << 2;
	script_detail(s, (uint64_t)fd);
	for (size_t i = 0; i < e->n_buffers; i++) {
		struct iovec iov = {(void *)(uintptr_t)e->buffers[i]->address, e->buffers[i]->bytes};
		struct io_uring_rsrc_update2 update = {.offset = e->buffers[i]->slot, .nr = 1};
		uint64_t iov_at = script_put(s, &iov, sizeof(iov)),
			 at = script_put(s, &update, sizeof(update));
		script_call(s, "naming a buffer", BLOB_OP_STORE,
			    at + offsetof(struct io_uring_rsrc_update2, data), iov_at)
			->data_mask = 1 << 0 | 1 << 1;
		struct blob_call *call =
			script_call(s, "registering a buffer of an io_uring", SYS_io_uring_register,
				    (uint64_t)fd, IORING_REGISTER_BUFFERS_UPDATE, at, sizeof(update));
		call->data_mask = 1 << 2;
		call->check = BLOB_CHECK_EQUAL;
		call->expect = 1;
		script_detail(s, e->buffers[i]->address);
	}
}

static void uring_restore_workers(const FerryUringEntry *e, int fd, struct script *s)
{
	uint32_t workers[2] = {e->bounded_workers, e->unbounded_workers};
	if (!e->has_bounded_workers || !e->has_unbounded_workers)
		return;
	script_call(s, "limiting the workers of an io_uring", SYS_io_uring_register, (uint64_t)fd,
		    IORING_REGISTER_IOWQ_MAX_WORKERS, script_put(s, workers, sizeof(workers)), 2)
		->data_mask = 1 << 2;
	script_detail(s, (uint64_t)fd);
}

static int uring_restore_task(struct reader *r unused, struct plan_task *t, struct script *s,
			      struct ferry_error *err unused)
{
	vec_foreach(fd, &t->fds) {
		const struct plan_file *file = fd->file;
		if (file->kind != &kind_uring || file->owner != t || !file->data ||
		    fdcommon_number(t, file->entry->id) != fd->fd)
			continue;
		uring_restore_buffers(file->data, fd->fd, s);
		uring_restore_workers(file->data, fd->fd, s);
	}
	return 0;
}

static int uring_restore_thread(struct reader *r unused, struct plan_task *t, struct plan_thread *th,
				struct script *s, struct ferry_error *err unused)
{
	vec_foreach(fd, &t->fds) {
		const FerryUringEntry *e = fd->file->kind == &kind_uring ? fd->file->data : NULL;
		if (!e || fdcommon_number(t, e->id) != fd->fd)
			continue;
		for (size_t i = 0; i < e->n_numbers; i++) {
			struct io_uring_rsrc_update one = {.offset = e->numbers[i]->number,
							   .data = (uint64_t)fd->fd};
			if (e->numbers[i]->tid != (uint32_t)th->tid)
				continue;
			struct blob_call *call =
				script_call(s, "registering a ring", SYS_io_uring_register, (uint64_t)fd->fd,
					    IORING_REGISTER_RING_FDS, script_put(s, &one, sizeof(one)), 1);
			call->data_mask = 1 << 2;
			call->check = BLOB_CHECK_EQUAL;
			call->expect = 1;
		}
	}
	return 0;
}

const struct kind_ops kind_uring = {
	.name = "uring",
	.what = "io_uring instances with their rings, files, buffers and polling threads",
	.fd_type = FD_TYPES__EXT,
	.image_file = IMAGE_FERRY_URING,
	.owns = uring_owns,
	.check = uring_check,
	.collect = uring_collect,
	.collect_end = uring_collect_end,
	.dump = uring_dump,
	.read = uring_read,
	.restore = uring_restore,
	.settle_task = uring_settle_task,
	.owns_vma = uring_owns_vma,
	.collect_vma = uring_collect_vma,
	.owns_record = uring_owns_record,
	.map = uring_map,
	.map_anywhere = true,
	.ask_thread = uring_ask_thread,
	.collect_thread = uring_collect_thread,
	.restore_task = uring_restore_task,
	.restore_thread = uring_restore_thread,
};
