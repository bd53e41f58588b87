/* SPDX-License-Identifier: Apache-2.0 */
/* io_uring by its system calls alone: a ring with its mappings, requests that are put in, completions that are taken. */
#pragma once

#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP (1u << 14)
#endif
#ifndef IORING_SETUP_NO_SQARRAY
#define IORING_SETUP_NO_SQARRAY (1u << 16)
#endif

struct ring {
	int fd;
	int enter_fd;         /* what io_uring_enter() gets */
	unsigned enter_flags; /* IORING_ENTER_REGISTERED_RING, or 0 */
	struct io_uring_params p;
	char *rings, *sqes;
	size_t rings_bytes, sqes_bytes;
	uint32_t sqe_bytes, cqe_bytes;
	uint32_t tail; /* our own, as a library keeps it */
};

static inline uint32_t *ring_word(const struct ring *r, uint32_t offset)
{
	return (uint32_t *)(r->rings + offset);
}

static inline int ring_register(const struct ring *r, unsigned op, const void *arg, unsigned n)
{
	return (int)syscall(SYS_io_uring_register, r->fd, op, arg, n);
}

/* Flags that the kernel lacks are a skip. */
static inline void ring_make_with(struct ring *r, unsigned entries, struct io_uring_params p)
{
	*r = (struct ring){.p = p};
	r->fd = (int)syscall(SYS_io_uring_setup, entries, &r->p);
	if (r->fd < 0)
		program_lacks("io_uring_setup");
	r->enter_fd = r->fd;
	r->sqe_bytes = p.flags & IORING_SETUP_SQE128 ? 128 : 64;
	r->cqe_bytes = p.flags & IORING_SETUP_CQE32 ? 32 : 16;
	r->rings_bytes = p.flags & IORING_SETUP_NO_SQARRAY
				 ? r->p.cq_off.cqes + r->p.cq_entries * (size_t)r->cqe_bytes
				 : r->p.sq_off.array + r->p.sq_entries * sizeof(uint32_t);
	r->sqes_bytes = r->p.sq_entries * (size_t)r->sqe_bytes;
	r->rings = mmap(NULL, r->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
			IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, r->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
		       IORING_OFF_SQES);
	if (r->rings == MAP_FAILED || r->sqes == MAP_FAILED)
		program_die("mapping a ring");
}

static inline void ring_make(struct ring *r, unsigned entries, unsigned flags)
{
	ring_make_with(r, entries, (struct io_uring_params){.flags = flags});
}

/* The place of the next request, all zero. */
static inline struct io_uring_sqe *ring_sqe(struct ring *r)
{
	uint32_t index = r->tail & (r->p.sq_entries - 1);
	struct io_uring_sqe *sqe = (struct io_uring_sqe *)(r->sqes + index * (size_t)r->sqe_bytes);

	memset(sqe, 0, r->sqe_bytes);
	if (!(r->p.flags & IORING_SETUP_NO_SQARRAY))
		ring_word(r, r->p.sq_off.array)[index] = index;
	r->tail++;
	return sqe;
}

static inline struct io_uring_sqe *ring_put(struct ring *r, uint8_t op, int fd, const void *buffer, size_t n,
					    uint64_t at, uint64_t data)
{
	struct io_uring_sqe *sqe = ring_sqe(r);

	sqe->opcode = op;
	sqe->fd = fd;
	sqe->addr = (uintptr_t)buffer;
	sqe->len = (uint32_t)n;
	sqe->off = at;
	sqe->user_data = data;
	return sqe;
}

/* Show the kernel what was put in. */
static inline void ring_publish(struct ring *r)
{
	__atomic_store_n(ring_word(r, r->p.sq_off.tail), r->tail, __ATOMIC_RELEASE);
}

static inline long ring_enter(struct ring *r, unsigned submit, unsigned wait)
{
	unsigned flags = r->enter_flags;

	if (wait || r->p.flags & IORING_SETUP_DEFER_TASKRUN)
		flags |= IORING_ENTER_GETEVENTS;
	if (r->p.flags & IORING_SETUP_SQPOLL) {
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (*ring_word(r, r->p.sq_off.flags) & IORING_SQ_NEED_WAKEUP)
			flags |= IORING_ENTER_SQ_WAKEUP;
	}
	return syscall(SYS_io_uring_enter, r->enter_fd, submit, wait, flags, NULL, 0);
}

/* Submit everything that was put in, and wait for so many completions. */
static inline long ring_submit(struct ring *r, unsigned wait)
{
	uint32_t there = r->tail - *ring_word(r, r->p.sq_off.tail);

	ring_publish(r);
	return ring_enter(r, there, wait);
}

static inline uint32_t ring_waiting(const struct ring *r)
{
	return __atomic_load_n(ring_word(r, r->p.cq_off.tail), __ATOMIC_ACQUIRE) -
	       *ring_word(r, r->p.cq_off.head);
}

static inline const struct io_uring_cqe *ring_cqe(const struct ring *r, uint32_t position)
{
	return (const struct io_uring_cqe *)(r->rings + r->p.cq_off.cqes +
					     (position & (r->p.cq_entries - 1)) * (size_t)r->cqe_bytes);
}

/* The next completion, within ten seconds. */
static inline bool ring_take(struct ring *r, struct io_uring_cqe *ret)
{
	uint32_t *head = ring_word(r, r->p.cq_off.head);

	for (int i = 0; i < 1000 && !ring_waiting(r); i++) {
		ring_enter(r, 0, 0);
		sleep_ms(i ? 10 : 0);
	}
	if (!ring_waiting(r))
		return false;
	memcpy(ret, ring_cqe(r, *head), sizeof(*ret));
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return true;
}

/* One request that is submitted and taken; its result, INT_MIN when it goes wrong on the way. */
static inline int ring_one(struct ring *r, uint64_t data)
{
	struct io_uring_cqe cqe;

	if (ring_submit(r, 0) < 0 || !ring_take(r, &cqe) || cqe.user_data != data)
		return INT32_MIN;
	return cqe.res;
}

/* Let the ring go round: requests that do nothing. */
static inline void ring_advance(struct ring *r, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		ring_put(r, IORING_OP_NOP, -1, NULL, 0, 0, 7);
		if (ring_one(r, 7) != 0)
			program_die("a request that does nothing");
	}
}

/* A write and a read of it, so often that the ring goes round. */
static inline void ring_work(struct program *p, struct ring *r, int fd, unsigned times)
{
	static unsigned char buffer[4096];

	for (unsigned i = 0; i < times; i++) {
		pattern_fill(buffer, sizeof(buffer), i + 1);
		ring_put(r, IORING_OP_WRITE, fd, buffer, sizeof(buffer), 0, 2 * i + 1000);
		expect_same(p, "result of a write", ring_one(r, 2 * i + 1000), sizeof(buffer));
		memset(buffer, 0, sizeof(buffer));
		ring_put(r, IORING_OP_READ, fd, buffer, sizeof(buffer), 0, 2 * i + 1001);
		expect_same(p, "result of a read", ring_one(r, 2 * i + 1001), sizeof(buffer));
		expect(p, pattern_differs(buffer, sizeof(buffer), i + 1) < 0, "what was read differs");
	}
	memset(buffer, 0, sizeof(buffer));
}

static inline int ring_file(const struct program *p, int flags)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/data", p->folder);
	return open(path, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
}

/* Positions as the program sees them, and as the kernel keeps them to itself. */
static inline void ring_verify_positions(struct program *p, const struct ring *r, uint32_t sq_head,
					 uint32_t cq_head, uint32_t cq_tail)
{
	expect_same(p, "requests taken", *ring_word(r, r->p.sq_off.head), sq_head);
	expect_same(p, "requests put in", *ring_word(r, r->p.sq_off.tail), r->tail);
	expect_same(p, "completions taken", *ring_word(r, r->p.cq_off.head), cq_head);
	expect_same(p, "completions", *ring_word(r, r->p.cq_off.tail), cq_tail);
	expect_same(p, "requests taken, in fdinfo", fdinfo_number(r->fd, "CachedSqHead: %llu"), sq_head);
	expect_same(p, "completions, in fdinfo", fdinfo_number(r->fd, "CachedCqTail: %llu"), cq_tail);
	expect_same(p, "the mask of requests", *ring_word(r, r->p.sq_off.ring_mask), r->p.sq_entries - 1);
	expect_same(p, "the mask of completions", *ring_word(r, r->p.cq_off.ring_mask), r->p.cq_entries - 1);
}
