/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of Linux AIO, which libc does not wrap, and the ring as the kernel shares it. */
#pragma once

#include "program.h"

#include <linux/aio_abi.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* What a context's address points to; fs/aio.c. */
struct aio_ring {
	uint32_t id, nr, head, tail;
	uint32_t magic, compat_features, incompat_features, header_length;
	struct io_event events[];
};

enum { AIO_RING_MAGIC = 0xa10a10a1 };

static inline struct aio_ring *aio_ring(aio_context_t ctx)
{
	return (struct aio_ring *)(uintptr_t)ctx;
}

static inline aio_context_t aio_make(unsigned nr)
{
	aio_context_t ctx = 0;

	must(syscall(SYS_io_setup, nr, &ctx));
	return ctx;
}

static inline long aio_submit(aio_context_t ctx, struct iocb *cb)
{
	return syscall(SYS_io_submit, ctx, 1, &cb);
}

/* One read or write; returns the result of io_submit. */
static inline long aio_io(aio_context_t ctx, int op, int fd, void *buffer, size_t n, long long at,
			  uint64_t data)
{
	struct iocb cb = {.aio_lio_opcode = (uint16_t)op,
			  .aio_fildes = (uint32_t)fd,
			  .aio_buf = (uintptr_t)buffer,
			  .aio_nbytes = n,
			  .aio_offset = at,
			  .aio_data = data};

	return aio_submit(ctx, &cb);
}

static inline long aio_take(aio_context_t ctx, long min, long max, struct io_event *events)
{
	struct timespec limit = {.tv_sec = 10};

	return syscall(SYS_io_getevents, ctx, min, max, events, &limit);
}

/* Let the ring go round so often that its position is where the caller wants it, with nothing waiting. */
static inline void aio_advance(aio_context_t ctx, int fd, unsigned times)
{
	struct io_event event;

	for (unsigned i = 0; i < times; i++)
		if (aio_io(ctx, IOCB_CMD_PREAD, fd, NULL, 0, 0, i) != 1 || aio_take(ctx, 1, 1, &event) != 1)
			program_die("aio_advance");
}
