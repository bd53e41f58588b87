/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns making an io_uring instance in a task that is being restored, and bringing it to its positions. The kernel counts
 * requests taken and completions posted; requests that do nothing (IORING_OP_NOP) move both. The program's own position in
 * the ring of completions only ever moves forward while that happens and ends where the image has it, because the kernel
 * remembers which places it has seen free.
 *
 * A polling thread gets an id of the kernel's choice. One that the image needs for a thread of its own is taken again until
 * another comes.
 *
 * Kernel interface: io_uring_setup(2), io_uring_enter(2), io_uring_register(2), IORING_NOP_INJECT_RESULT (6.11).
 */
#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/uring.h"

enum { PAGE = 4096, WIDE = 2, POLL_IDLE_MS = 10, THREAD_TRIES = 100 };

/* An instance being made. */
struct ring {
	int fd;
	const FerryUringEntry *e;
	struct io_uring_params p;
	char *rings, *sqes;
	uint32_t done; /* requests taken so far */
	struct ferry_error *err;
};

static uint64_t uring_end(uint64_t n)
{
	return align_up(n, PAGE);
}

uint64_t uring_rings_bytes(const FerryUringEntry *e)
{
	uint64_t cqe = sizeof(struct io_uring_cqe) * (e->setup & IORING_SETUP_CQE32 ? WIDE : 1);
	return uring_end(e->setup & IORING_SETUP_NO_SQARRAY
				 ? e->cqes + e->cq_entries * cqe
				 : e->sq_array + e->sq_entries * (uint64_t)sizeof(uint32_t));
}

uint64_t uring_sqes_bytes(const FerryUringEntry *e)
{
	return uring_end(e->sq_entries * (uint64_t)sizeof(struct io_uring_sqe) *
			 (e->setup & IORING_SETUP_SQE128 ? WIDE : 1));
}

static int ring_failed(const struct ring *r, int code, const char *what)
{
	return error_errno(r->err, FERRY_ERROR_RESTORE_STEP, code, "io_uring of file id %u: %s", r->e->id,
			   what);
}

static uint32_t *ring_word(const struct ring *r, uint32_t offset)
{
	return (uint32_t *)(r->rings + offset);
}

static struct io_uring_sqe *ring_sqe(const struct ring *r, uint32_t i)
{
	uint64_t width = sizeof(struct io_uring_sqe) * (r->e->setup & IORING_SETUP_SQE128 ? WIDE : 1);
	return (struct io_uring_sqe *)(r->sqes + (i & (r->e->sq_entries - 1)) * width);
}

/* -------------------------------------------------------------------------- making */

/* Whether a thread of ours, a polling thread beside ourselves, has an id that the image needs. */
static bool ring_thread_collides(const struct plan *p)
{
	bool collides = false;
	_cleanup_closedir_ DIR *dir = opendir("/proc/self/task");
	for (struct dirent *d; dir && (d = readdir(dir)) && !collides;) {
		pid_t tid = (pid_t)strtol(d->d_name, NULL, 10);
		for (size_t i = 0; i < p->n_tasks && tid > 0 && tid != getpid(); i++) {
			vec_foreach(th, &p->tasks[i].threads)
				collides |= th->tid == tid;
		}
	}
	return collides;
}

static int ring_setup(struct ring *r, int wq)
{
	uint32_t setup = r->e->setup | IORING_SETUP_CQSIZE | (wq >= 0 ? IORING_SETUP_ATTACH_WQ : 0);
	r->p = (struct io_uring_params){
		.flags = setup,
		.cq_entries = r->e->cq_entries,
		.sq_thread_idle = POLL_IDLE_MS,
		.wq_fd = wq >= 0 ? (uint32_t)wq : 0,
	};
	int fd = (int)syscall(SYS_io_uring_setup, r->e->sq_entries, &r->p);
	return fd < 0 ? -errno : fd;
}

/* Who makes an instance: its polling thread keeps these credentials. */
struct ring_maker {
	uid_t uid;
	gid_t gid, groups[NGROUPS_MAX];
	int n_groups;
};

static bool ring_is_maker(const struct ring_maker *m, const CredsEntry *creds)
{
	return creds->euid == m->uid && creds->egid == m->gid && creds->n_groups == (size_t)m->n_groups &&
	       (!m->n_groups || !memcmp(creds->groups, m->groups, creds->n_groups * sizeof(gid_t)));
}

static int ring_setup_as(struct ring *r, const struct settle *s, int wq)
{
	const CredsEntry *creds = s->task->threads.v[0].core->thread_core->creds;
	struct ring_maker us = {.uid = geteuid(), .gid = getegid()};
	int fd = -EPERM;
	us.n_groups = getgroups(NGROUPS_MAX, us.groups);
	if (us.n_groups < 0)
		return -errno;
	/* An ordinary user is the one already, and may not even set the groups that it has. */
	if (!(r->e->setup & IORING_SETUP_SQPOLL) || !creds || ring_is_maker(&us, creds))
		return ring_setup(r, wq);
	if (!setgroups(creds->n_groups, creds->groups) && !syscall(SYS_setresgid, -1, creds->egid, -1) &&
	    !syscall(SYS_setresuid, -1, creds->euid, -1))
		fd = ring_setup(r, wq);
	if (syscall(SYS_setresuid, -1, us.uid, -1) < 0 || syscall(SYS_setresgid, -1, us.gid, -1) < 0 ||
	    setgroups((size_t)us.n_groups, us.groups) < 0)
		_exit(1); /* nothing that follows would be right */
	return fd;
}

static int ring_make(struct ring *r, const struct settle *s, int wq)
{
	int unwanted[THREAD_TRIES], n = 0, fd = -EAGAIN;
	while (n < THREAD_TRIES) {
		fd = ring_setup_as(r, s, wq);
		if (fd < 0 || !(r->e->setup & IORING_SETUP_SQPOLL) || wq >= 0 ||
		    !ring_thread_collides(s->plan))
			break;
		unwanted[n++] = fd;
		fd = -EAGAIN;
	}
	while (n)
		close(unwanted[--n]);
	if (fd == -EINVAL || fd == -ENOSYS) {
		error_errno(r->err, FERRY_ERROR_KERNEL_FEATURE, -fd,
			    "making an io_uring of %u requests with flags %#x", r->e->sq_entries,
			    r->e->setup);
		error_hint(r->err, "this kernel lacks one of these flags");
		return fd;
	}
	if (fd < 0)
		return ring_failed(r, -fd, "making it");
	r->fd = fd;
	return 0;
}

static int ring_map(struct ring *r)
{
	const FerryUringEntry *e = r->e;
	if (r->p.sq_entries != e->sq_entries || r->p.cq_entries != e->cq_entries ||
	    r->p.cq_off.cqes != e->cqes ||
	    (!(e->setup & IORING_SETUP_NO_SQARRAY) && r->p.sq_off.array != e->sq_array)) {
		error_set(r->err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP,
			  "io_uring of file id %u: this kernel lays rings out in another way", e->id);
		error_hint(r->err,
			   "the program keeps addresses of its parts; restore it on a kernel like the first");
		return -ENOTSUP;
	}
	r->rings = mmap(NULL, e->rings.len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, e->sqes.len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
	return r->rings == MAP_FAILED || r->sqes == MAP_FAILED ? ring_failed(r, errno, "mapping it") : 0;
}

/* -------------------------------------------------------------------------- positions */

/* Let the kernel take n requests that are in the ring. */
static int ring_enter(struct ring *r, uint32_t n)
{
	bool polled = r->e->setup & IORING_SETUP_SQPOLL;
	uint32_t *head = ring_word(r, r->p.sq_off.head), *tail = ring_word(r, r->p.sq_off.tail);
	uint32_t until = *tail + n;
	unsigned flags = polled ? IORING_ENTER_SQ_WAKEUP : 0;
	if (r->e->setup & (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_IOPOLL))
		flags |= IORING_ENTER_GETEVENTS;
	__atomic_store_n(tail, until, __ATOMIC_RELEASE);
	for (;;) {
		long taken = syscall(SYS_io_uring_enter, r->fd, n, 0, flags, NULL, 0);
		if (taken < 0 && errno != EINTR && errno != EAGAIN)
			return ring_failed(r, errno, "bringing it to its position");
		if (__atomic_load_n(head, __ATOMIC_ACQUIRE) == until)
			break;
		sched_yield();
	}
	r->done += n;
	return 0;
}

/* n requests that do nothing; take: with their completions. */
static int ring_advance(struct ring *r, uint32_t n, bool take)
{
	uint32_t *cq_head = ring_word(r, r->p.cq_off.head), *cq_tail = ring_word(r, r->p.cq_off.tail);
	for (uint32_t batch; n; n -= batch) {
		batch = MIN(n, r->e->sq_entries);
		uint32_t until = *cq_tail + batch;
		int ret = ring_enter(r, batch);
		if (ret < 0)
			return ret;
		while (__atomic_load_n(cq_tail, __ATOMIC_ACQUIRE) != until)
			sched_yield(); /* the polling thread posts them a moment later */
		if (take)
			__atomic_store_n(cq_head, until, __ATOMIC_RELEASE);
	}
	return 0;
}

/* Completions that find no room. */
static int ring_overflow(struct ring *r)
{
	for (size_t i = 0; i < r->e->n_overflow; i++) {
		struct io_uring_sqe *sqe = ring_sqe(r, r->done);
		*sqe = (struct io_uring_sqe){
			.opcode = IORING_OP_NOP,
			.rw_flags = (int)IORING_NOP_INJECT_RESULT,
			.len = (uint32_t)r->e->overflow[i]->res,
			.user_data = r->e->overflow[i]->user_data,
		};
		int ret = ring_enter(r, 1);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static void ring_prepare(struct ring *r)
{
	for (uint32_t i = 0; i < r->e->sq_entries; i++) {
		*ring_sqe(r, i) = (struct io_uring_sqe){.opcode = IORING_OP_NOP};
		if (!(r->e->setup & IORING_SETUP_NO_SQARRAY))
			ring_word(r, r->p.sq_off.array)[i] = i;
	}
}

/* All but the word in which the kernel says whether its thread sleeps, and whether completions found no room. */
static void ring_fill(struct ring *r)
{
	const char *from = (const char *)r->e->rings.data;
	uint32_t flags = r->p.sq_off.flags, after = flags + (uint32_t)sizeof(uint32_t);
	memcpy(r->sqes, r->e->sqes.data, r->e->sqes.len);
	memcpy(r->rings + after, from + after, r->e->rings.len - after);
	memcpy(r->rings, from, flags);
}

/* What the copy of the rings says is what the positions say. */
static bool ring_agrees(const struct ring *r)
{
	const char *from = (const char *)r->e->rings.data;
	const struct {
		uint32_t offset, value;
	} words[] = {
		{r->p.sq_off.ring_mask, r->e->sq_entries - 1},
		{r->p.cq_off.ring_mask, r->e->cq_entries - 1},
		{r->p.sq_off.head, r->e->sq_head},
		{r->p.cq_off.head, r->e->cq_head},
		{r->p.cq_off.tail, r->e->cq_tail},
	};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (memcmp(from + words[i].offset, &words[i].value, sizeof(uint32_t)) != 0)
			return false;
	return true;
}

static int ring_position(struct ring *r)
{
	if (!ring_agrees(r))
		return error_set(r->err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "io_uring of file id %u: its rings contradict its positions", r->e->id);
	if (r->e->setup & IORING_SETUP_R_DISABLED && r->e->sq_head)
		return error_set(r->err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "io_uring of file id %u: it is disabled and has taken requests", r->e->id);
	ring_prepare(r);
	int ret = ring_advance(r, r->e->cq_head, true);
	if (ret >= 0)
		ret = ring_advance(r, r->e->cq_tail - r->e->cq_head, false);
	if (ret >= 0)
		ret = ring_overflow(r);
	if (ret >= 0)
		ring_fill(r);
	return ret;
}

int uring_make(const struct settle *s, const FerryUringEntry *e, int wq, int fd, struct ferry_error *err)
{
	struct ring r = {.fd = -1, .e = e, .rings = MAP_FAILED, .sqes = MAP_FAILED, .err = err};
	int ret = ring_make(&r, s, wq);
	if (ret >= 0)
		ret = ring_map(&r);
	if (ret >= 0)
		ret = ring_position(&r);
	if (ret >= 0 && dup3(r.fd, fd, O_CLOEXEC) < 0)
		ret = ring_failed(&r, errno, "giving it its number");
	/* What is ours of it goes with our memory. */
	if (r.fd >= 0)
		close(r.fd);
	return ret;
}

/* -------------------------------------------------------------------------- tables */

/* Where a task that is being restored has a file: under a number of its own, or for the time being. */
static int uring_find(const struct plan_task *t, uint32_t id)
{
	vec_foreach(fd, &t->fds) {
		if (fd->file->entry->id == id)
			return fd->fd;
	}
	vec_foreach(temp, &t->temps) {
		if (temp->file && temp->file->entry->id == id)
			return temp->number;
	}
	return -1;
}

int uring_give_files(const struct settle *s, const FerryUringEntry *e, int fd, struct ferry_error *err)
{
	struct ring r = {.fd = fd, .e = e, .err = err};
	if (e->has_eventfd_id) {
		int number = uring_find(s->task, e->eventfd_id);
		if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_EVENTFD, &number, 1) < 0)
			return ring_failed(&r, errno, "registering its eventfd");
	}
	if (!e->has_file_slots)
		return 0;
	_cleanup_free_ int *fds = malloc(e->file_slots * sizeof(*fds));
	if (!fds)
		return error_memory(err);
	for (uint32_t i = 0; i < e->file_slots; i++)
		fds[i] = -1;
	for (size_t i = 0; i < e->n_files; i++)
		fds[e->files[i]->slot] = uring_find(s->task, e->files[i]->file_id);
	if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_FILES, fds, e->file_slots) < 0)
		return ring_failed(&r, errno, "registering its files");
	return 0;
}
