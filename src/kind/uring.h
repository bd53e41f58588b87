/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the kind for io_uring: what is found out about an instance, and how one is made again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "model/kind.h"

struct proc_uring;

/* What only a thread that may use an instance can ask; results of calls with arguments that fail. */
struct uring_answers {
	pid_t tid; /* 0 = no thread got an answer */
	int probe, napi, resize, eventfd, region, restrictions;
	uint32_t workers[2]; /* bounded, unbounded; 0 = the thread has none */
};

/* Of the snapshot, for each instance. */
struct uring_snap {
	FerryUringEntry *entry;
	struct uring_answers told;
	int32_t sq_thread; /* as fdinfo shows it */
};

/* The calls that are asked for each instance, in this order. */
enum uring_ask {
	URING_ASK_PROBE,
	URING_ASK_NAPI,
	URING_ASK_RESIZE,
	URING_ASK_EVENTFD,
	URING_ASK_REGION,
	URING_ASK_RESTRICTIONS,
	URING_ASK_WORKERS,
	URING_ASKS,
};

extern const uint32_t uring_ask_ops[URING_ASKS];

/* An address that every call refuses, after it has looked at what we want to know. */
#define URING_BAD_ADDRESS 8u

/* Descriptors of a frozen task that are instances, ascending. The caller frees *ret. */
must_check int uring_numbers(const struct snap_task *t, int **ret, size_t *ret_n);

/* Fill in the record of an instance that has nothing in flight. */
must_check int uring_look(struct collect *c, const struct snap_file *file, const struct proc_uring *u,
			  struct ferry_error *err);

/* Bytes that are mapped at IORING_OFF_SQ_RING for an instance with such offsets. */
uint64_t uring_rings_bytes(const FerryUringEntry *e);
uint64_t uring_sqes_bytes(const FerryUringEntry *e);

/* In the task: make the instance at number fd. wq: number of the one whose polling thread it shares, -1. */
must_check int uring_make(const struct settle *s, const FerryUringEntry *e, int wq, int fd,
			  struct ferry_error *err);

/* In the task: give it its files; number() tells where the task has one. */
must_check int uring_give_files(const struct settle *s, const FerryUringEntry *e, int fd,
				struct ferry_error *err);
