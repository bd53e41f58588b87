/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding out how an io_uring instance was made, and copying its rings. The kernel does not show the flags of
 * io_uring_setup(2), so each is told from what differs with it: which calls are refused and how, the size of the
 * rings, and what fdinfo prints.
 *
 * Whether there is an array of indices, and how wide a request is, shows when one is printed that waits to be taken.
 * Moving the ring's own copy of the head, which the kernel only writes, back by one makes it print one; an instance
 * that were left like this would correct it with its next call.
 *
 * Kernel interface: io_uring_register(2) with arguments that fail, mmap(2) of the rings, process_vm_readv(2) to see
 * where they end, /proc/PID/fdinfo.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/uring.h"
#include "model/record.h"
#include "proc/read.h"
#include "proc/uring.h"

enum { PAGE = 4096, BGIDS_USUAL = 256, BGIDS_ALL = 65536, WIDE = 2 };

const uint32_t uring_ask_ops[URING_ASKS] = {
	[URING_ASK_PROBE] = IORING_REGISTER_PROBE,
	[URING_ASK_NAPI] = KERN_IORING_REGISTER_NAPI,
	[URING_ASK_RESIZE] = KERN_IORING_REGISTER_RESIZE_RINGS,
	[URING_ASK_EVENTFD] = IORING_REGISTER_EVENTFD,
	[URING_ASK_REGION] = KERN_IORING_REGISTER_MEM_REGION,
	[URING_ASK_RESTRICTIONS] = IORING_REGISTER_RESTRICTIONS,
	[URING_ASK_WORKERS] = IORING_REGISTER_IOWQ_MAX_WORKERS,
};

/* What is being looked at. */
struct look {
	struct collect *c;
	const struct snap_file *file;
	const struct proc_uring *u;
	struct uring_snap *snap;
	FerryUringEntry *e;
	int fd; /* our copy */
	char *rings, *sqes;
	uint64_t rings_mapped, sqes_mapped; /* bytes of ours, at least what there is */
	uint64_t rings_bytes, sqes_bytes;   /* that there are */
	struct ferry_error *err;
};

/* How it may have been made, and what the kernel makes then. */
struct look_shape {
	bool wide_cqe, array;
	struct io_uring_params p;
	uint64_t bytes;
};

static int look_refuse(const struct look *l, const char *what, const char *missing)
{
	error_set(l->err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "fd %d of pid %d: the io_uring %s",
		  l->file->fd, l->file->pid, what);
	error_hint(l->err, "%s", missing);
	return -ENOTSUP;
}

static int look_register(const struct look *l, uint32_t op, void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, l->fd, op, arg, n) < 0 ? -errno : 0;
}

/* Bytes of a mapping of ours that are there: behind the end of the rings it is empty. */
static uint64_t look_measure(const char *at, uint64_t bytes)
{
	uint64_t there = 0;
	char byte;
	for (; there < bytes; there += PAGE) {
		struct iovec ours = {&byte, 1}, theirs = {(void *)(at + there), 1};
		if (sys_process_vm_readv(getpid(), &ours, 1, &theirs, 1) != 1)
			break;
	}
	return there;
}

static int look_map(struct look *l)
{
	uint64_t sq = l->e->sq_entries, cq = l->e->cq_entries;
	l->rings_mapped =
		align_up(PAGE + cq * sizeof(struct io_uring_cqe) * WIDE + sq * sizeof(uint32_t), PAGE);
	l->sqes_mapped = align_up(sq * sizeof(struct io_uring_sqe) * WIDE + PAGE, PAGE);
	l->rings = mmap(NULL, l->rings_mapped, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, IORING_OFF_SQ_RING);
	if (l->rings == MAP_FAILED) {
		l->rings = NULL;
		return look_refuse(l, "has its rings in memory of the program's (IORING_SETUP_NO_MMAP)",
				   "the kernel does not tell where (io_uring/fdinfo.c, Linux 6.18)");
	}
	l->sqes = mmap(NULL, l->sqes_mapped, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, IORING_OFF_SQES);
	if (l->sqes == MAP_FAILED) {
		l->sqes = NULL;
		return error_errno(l->err, FERRY_ERROR_SYSTEM, errno,
				   "mapping the io_uring of fd %d of pid %d", l->file->fd, l->file->pid);
	}
	l->rings_bytes = look_measure(l->rings, l->rings_mapped);
	l->sqes_bytes = look_measure(l->sqes, l->sqes_mapped);
	return 0;
}

static void look_release(struct look *l)
{
	if (l->rings)
		munmap(l->rings, l->rings_mapped);
	if (l->sqes)
		munmap(l->sqes, l->sqes_mapped);
}

/* What the kernel makes of such flags: an instance of our own tells the offsets. */
static int look_shape_try(struct look *l, struct look_shape *shape)
{
	shape->p = (struct io_uring_params){
		.flags = IORING_SETUP_CQSIZE | (shape->wide_cqe ? IORING_SETUP_CQE32 : 0) |
			 (shape->array ? 0 : IORING_SETUP_NO_SQARRAY),
		.cq_entries = l->e->cq_entries,
	};
	_cleanup_close_ int fd = (int)syscall(SYS_io_uring_setup, l->e->sq_entries, &shape->p);
	if (fd < 0 && errno == EINVAL)
		return 0; /* an older kernel without that flag */
	if (fd < 0)
		return error_errno(l->err, FERRY_ERROR_SYSTEM, errno, "making an io_uring to compare");
	uint64_t cqe = sizeof(struct io_uring_cqe) * (shape->wide_cqe ? WIDE : 1);
	uint64_t end = shape->array ? shape->p.sq_off.array + l->e->sq_entries * sizeof(uint32_t)
				    : shape->p.cq_off.cqes + l->e->cq_entries * cqe;
	shape->bytes = align_up(end, PAGE);
	return 1;
}

static uint32_t *look_word(const struct look *l, uint32_t offset)
{
	return (uint32_t *)(l->rings + offset);
}

/* Let the kernel print a request that was taken already. */
static int look_print(struct look *l, uint32_t head_offset, struct proc_uring *ret)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/%d", l->file->look);
	_cleanup_close_ int dir = proc_open(l->file->look, l->err);
	if (dir < 0)
		return dir;
	uint32_t *head = look_word(l, head_offset), was = __atomic_load_n(head, __ATOMIC_SEQ_CST);
	__atomic_store_n(head, was - 1, __ATOMIC_SEQ_CST);
	int r = proc_read_uring(dir, l->file->fd, ret, l->err);
	/* A polling thread may have taken requests meanwhile. */
	uint32_t moved = was - 1;
	__atomic_compare_exchange_n(head, &moved, was, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return r;
}

static bool look_zero(const char *at, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (at[i])
			return false;
	return true;
}

/*
 * Of the widths of a completion that the size allows, the one that the memory speaks for: the array of indices lies behind
 * the completions, and of plain completions each second half of 32 bytes is one, too. A ring that was never used is taken for a
 * plain one.
 */
static bool look_wide_cqe(const struct look *l, const struct look_shape *plain, const struct look_shape *wide)
{
	if (l->u->wide_cqe)
		return true;
	if (plain->bytes != l->rings_bytes || wide->bytes != l->rings_bytes)
		return wide->bytes == l->rings_bytes;
	uint32_t indices = l->e->sq_entries * (uint32_t)sizeof(uint32_t);
	if (plain->array && !look_zero(l->rings + plain->p.sq_off.array, indices) &&
	    l->e->cq_tail <= l->e->cq_entries / 2)
		return false;
	for (uint32_t i = 0; i < MIN(l->e->cq_tail, l->e->cq_entries); i++)
		if (!look_zero(l->rings + plain->p.cq_off.cqes + (i * WIDE + 1) * sizeof(struct io_uring_cqe),
			       sizeof(struct io_uring_cqe)))
			return false;
	return l->e->cq_tail > 1;
}

static int look_shapes(struct look *l)
{
	_cleanup_proc_uring_ struct proc_uring printed = {0};
	struct look_shape plain = {.array = true}, wide = {.array = true, .wide_cqe = true};
	int r = look_shape_try(l, &plain);
	if (r > 0)
		r = look_print(l, plain.p.sq_off.head, &printed);
	if (r < 0)
		return r;
	/* Nothing is printed without an array; a request that waits anyway is printed as well. */
	plain.array = wide.array = printed.sqes_shown > 0;
	r = look_shape_try(l, &plain);
	if (r >= 0)
		r = look_shape_try(l, &wide);
	if (r < 0)
		return r;
	bool is_wide = look_wide_cqe(l, &plain, &wide);
	const struct look_shape *shape = is_wide ? &wide : &plain;
	uint64_t sqes = l->e->sq_entries * sizeof(struct io_uring_sqe);
	bool wide_sqe = printed.wide_sqe || l->sqes_bytes != align_up(sqes, PAGE);
	if (shape->bytes != l->rings_bytes ||
	    l->sqes_bytes != align_up(wide_sqe ? sqes * WIDE : sqes, PAGE) ||
	    *look_word(l, shape->p.sq_off.ring_mask) != l->u->sq_mask ||
	    *look_word(l, shape->p.cq_off.ring_mask) != l->u->cq_mask)
		return look_refuse(l, "has rings of a size that no known flags make",
				   "this ferry may be too old for this kernel");
	l->e->setup |= (is_wide ? IORING_SETUP_CQE32 : 0) | (wide_sqe ? IORING_SETUP_SQE128 : 0) |
		       (shape->array ? 0 : IORING_SETUP_NO_SQARRAY);
	l->e->sq_array = shape->array ? shape->p.sq_off.array : 0;
	l->e->cqes = shape->p.cq_off.cqes;
	if (*look_word(l, shape->p.sq_off.dropped) || *look_word(l, shape->p.cq_off.overflow))
		return look_refuse(l, "has lost requests or completions",
				   "the kernel has no way to count them anew");
	return 0;
}

/* What the calls with bad arguments say; ours, or those of the thread that alone may make them. */
static int look_calls(struct look *l)
{
	struct uring_answers *a = &l->snap->told;
	void *bad = (void *)(uintptr_t)URING_BAD_ADDRESS;
	bool disabled = syscall(SYS_io_uring_enter, l->fd, 0, 0, 0, NULL, 0) < 0 && errno == EBADFD;
	bool single = look_register(l, IORING_REGISTER_PROBE, bad, 1) == -EEXIST;
	if (single && !a->tid)
		return look_refuse(l, "belongs to a thread that is not there any more",
				   "IORING_SETUP_SINGLE_ISSUER: nobody can use it");
	if (single && a->tid != l->file->pid)
		return look_refuse(l, "belongs to a thread other than the first (IORING_SETUP_SINGLE_ISSUER)",
				   "make it in the first thread, or without that flag");
	if (!single) {
		int *results[] = {&a->probe, &a->napi, &a->resize, &a->eventfd, &a->region, &a->restrictions};
		for (size_t i = 0; i < ARRAY_SIZE(results); i++)
			*results[i] = look_register(l, uring_ask_ops[i], bad, 1);
	}
	if (a->probe == -EACCES || a->napi == -EACCES || a->eventfd == -EACCES || a->region == -EACCES ||
	    a->restrictions == -EBUSY)
		return look_refuse(l, "has restrictions",
				   "the kernel does not tell which requests they allow (Linux 6.18)");
	if (a->region == -EBUSY)
		return look_refuse(l, "has a registered region of memory (IORING_REGISTER_MEM_REGION)",
				   "the kernel does not tell where (Linux 6.18)");
	if (single || disabled)
		l->e->setup |= single ? IORING_SETUP_SINGLE_ISSUER : 0;
	l->e->setup |= disabled ? IORING_SETUP_R_DISABLED : 0;
	l->e->setup |= l->u->sq_thread >= 0 ? IORING_SETUP_SQPOLL : 0;
	/* Neither can be told. Both only help: more is submitted, and more is announced. */
	l->e->setup |= IORING_SETUP_SUBMIT_ALL;
	if (single && a->resize == -EFAULT)
		l->e->setup |= IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
	if (a->napi == -EINVAL && a->probe == -EFAULT)
		l->e->setup |= IORING_SETUP_IOPOLL;
	if (a->workers[0] && a->workers[1]) {
		record_set(l->e, bounded_workers, a->workers[0]);
		record_set(l->e, unbounded_workers, a->workers[1]);
	}
	return 0;
}

/* Whether a request in the ring, taken or not, wants what the kernel does not show. */
static bool look_sqe_flag(const struct look *l, uint8_t flag)
{
	uint64_t width = sizeof(struct io_uring_sqe) * (l->e->setup & IORING_SETUP_SQE128 ? WIDE : 1);
	for (uint32_t i = 0; i < l->e->sq_entries; i++)
		if (((const struct io_uring_sqe *)(l->sqes + i * width))->flags & flag)
			return true;
	return false;
}

static bool look_sqe_personality(const struct look *l)
{
	uint64_t width = sizeof(struct io_uring_sqe) * (l->e->setup & IORING_SETUP_SQE128 ? WIDE : 1);
	for (uint32_t i = 0; i < l->e->sq_entries; i++)
		if (((const struct io_uring_sqe *)(l->sqes + i * width))->personality)
			return true;
	return false;
}

static int look_provided(struct look *l)
{
	struct {
		uint32_t bgid, head, resv[8];
	} status = {0};
	int none = l->e->setup & IORING_SETUP_SINGLE_ISSUER ? 0 : BGIDS_USUAL;
	if (none && look_sqe_flag(l, IOSQE_BUFFER_SELECT))
		none = BGIDS_ALL;
	for (int i = 0; i < none; i++) {
		status.bgid = (uint32_t)i;
		int r = look_register(l, KERN_IORING_REGISTER_PBUF_STATUS, &status, 1);
		if (r == -ENOENT || r == -EACCES)
			continue;
		/* A kernel without that call: its SQEs have to do. */
		if (r == -EINVAL && !i)
			break;
		return look_refuse(l, "has provided buffers",
				   "the kernel does not tell where they lie (Linux 6.18)");
	}
	if (look_sqe_flag(l, IOSQE_BUFFER_SELECT))
		return look_refuse(l, "has provided buffers",
				   "the kernel does not tell where they lie (Linux 6.18)");
	if (look_sqe_personality(l) || l->u->personalities)
		return look_refuse(l, "has personalities",
				   "the kernel does not tell their credentials (Linux 6.18)");
	return 0;
}

/* -------------------------------------------------------------------------- tables */

/* The one description of the tree that has this name; the kernel shows nothing else of a registered file. */
static int look_find(struct look *l, const char *name, uint32_t *ret_id)
{
	char link[4200], path[64];
	unsigned found = 0;
	vec_foreach(file, &l->c->snap->files) {
		if (file->fd < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", file->look, file->fd);
		ssize_t n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		if (strcmp(link, name) != 0)
			continue;
		*ret_id = file->entry->id;
		found++;
	}
	return (int)MIN(found, 2u);
}

/* A path is printed with \ooo for blanks and the like. */
static void look_unescape(char *s)
{
	char *to = s;
	for (const char *p = s; *p; p++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' && p[3] >= '0' &&
		    p[3] <= '7') {
			*to++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
			p += 3;
		} else {
			*to++ = *p;
		}
	}
	*to = '\0';
}

static int look_file(struct look *l, const struct proc_uring_file *f)
{
	char *name = arena_string(&l->c->snap->arena, proc_names_get(&l->u->names, f->name));
	FerryUringFile *record = record_new(&l->c->snap->arena, FerryUringFile, ferry_uring_file);
	if (!name || !record)
		return error_memory(l->err);
	look_unescape(name);
	record->slot = f->slot;
	int found = look_find(l, name, &record->file_id);
	if (found == 1) {
		l->e->files[l->e->n_files++] = record;
		return 0;
	}
	error_set(l->err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
		  "fd %d of pid %d: '%s' is file %u of the io_uring, and %s descriptor of the tree has it",
		  l->file->fd, l->file->pid, name, f->slot, found ? "more than one" : "no");
	error_hint(l->err, "the kernel shows a registered file by its name alone (Linux 6.18)");
	return -ENOTSUP;
}

static int look_tables(struct look *l)
{
	struct arena *a = &l->c->snap->arena;
	l->e->files = arena_array(a, FerryUringFile *, l->u->files.n + 1);
	l->e->buffers = arena_array(a, FerryUringBuffer *, l->u->buffers.n + 1);
	if (!l->e->files || !l->e->buffers)
		return error_memory(l->err);
	if (l->u->n_files)
		record_set(l->e, file_slots, l->u->n_files);
	if (l->u->n_buffers)
		record_set(l->e, buffer_slots, l->u->n_buffers);
	int r = 0;
	for (size_t i = 0; i < l->u->files.n && r >= 0; i++)
		r = look_file(l, &l->u->files.v[i]);
	for (size_t i = 0; i < l->u->buffers.n && r >= 0; i++) {
		FerryUringBuffer *b = record_new(a, FerryUringBuffer, ferry_uring_buffer);
		if (!b)
			return error_memory(l->err);
		b->slot = l->u->buffers.v[i].slot;
		b->address = l->u->buffers.v[i].address;
		b->bytes = l->u->buffers.v[i].bytes;
		l->e->buffers[l->e->n_buffers++] = b;
	}
	return r;
}

/* Which eventfd it signals is not shown: the only one there is. */
static int look_eventfd(struct look *l)
{
	unsigned found = 0;
	if (l->snap->told.eventfd != -EBUSY)
		return 0;
	vec_foreach(file, &l->c->snap->files) {
		if (file->kind != &kind_eventfd)
			continue;
		record_set(l->e, eventfd_id, file->entry->id);
		found++;
	}
	return found == 1 ? 0
			  : look_refuse(l, "signals an eventfd, and the tree has not exactly one",
					"the kernel does not tell which (io_uring/fdinfo.c, Linux 6.18)");
}

static int look_overflow(struct look *l)
{
	struct arena *a = &l->c->snap->arena;
	l->e->overflow = arena_array(a, FerryUringOverflow *, l->u->overflow.n + 1);
	if (!l->e->overflow)
		return error_memory(l->err);
	vec_foreach(cqe, &l->u->overflow) {
		FerryUringOverflow *o = record_new(a, FerryUringOverflow, ferry_uring_overflow);
		if (!o)
			return error_memory(l->err);
		if (cqe->flags)
			return look_refuse(l, "has a completion with flags that found no room",
					   "the kernel has no way to post it anew");
		o->user_data = cqe->user_data;
		o->res = cqe->res;
		l->e->overflow[l->e->n_overflow++] = o;
	}
	return 0;
}

/* The first instance that shares the polling thread. */
static void look_wq(struct look *l)
{
	vec_foreach(other, &l->c->snap->files) {
		if (other->entry->id == l->file->entry->id)
			return;
		const struct uring_snap *snap = other->kind == &kind_uring ? other->data : NULL;
		if (!snap || l->u->sq_thread < 0 || snap->sq_thread != l->u->sq_thread)
			continue;
		record_set(l->e, wq_id, other->entry->id);
		return;
	}
}

static int look_copy(struct look *l)
{
	struct arena *a = &l->c->snap->arena;
	l->e->rings = record_bytes(a, l->rings, l->rings_bytes);
	l->e->sqes = record_bytes(a, l->sqes, l->sqes_bytes);
	return l->e->rings.data && l->e->sqes.data ? 0 : error_memory(l->err);
}

int uring_look(struct collect *c, const struct snap_file *file, const struct proc_uring *u,
	       struct ferry_error *err)
{
	struct uring_snap *snap = file->data;
	struct look l = {
		.c = c, .file = file, .u = u, .snap = snap, .e = snap->entry, .fd = file->copy, .err = err};
	l.e->sq_entries = u->sq_mask + 1;
	l.e->cq_entries = u->cq_mask + 1;
	l.e->sq_head = u->cached_sq_head;
	l.e->cq_tail = u->cached_cq_tail;
	l.e->cq_head = u->cq_head;
	snap->sq_thread = u->sq_thread;
	int r = u->napi ? look_refuse(&l, "polls the network (NAPI)", "switch it off: IORING_UNREGISTER_NAPI")
			: look_map(&l);
	if (r >= 0)
		r = look_calls(&l);
	if (r >= 0)
		r = look_shapes(&l);
	if (r >= 0)
		r = look_provided(&l);
	if (r >= 0)
		r = look_tables(&l);
	if (r >= 0)
		r = look_eventfd(&l);
	if (r >= 0)
		r = look_overflow(&l);
	look_wq(&l);
	if (r >= 0)
		r = look_copy(&l);
	look_release(&l);
	return r;
}
