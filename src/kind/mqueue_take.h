/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of a POSIX message queue that nobody uses meanwhile. */
#pragma once

#include <mqueue.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/arena.h"
#include "base/macros.h"

struct fault;
struct warden;

struct mqueue_message {
	uint32_t priority;
	uint32_t bytes;
	const uint8_t *data; /* in the arena */
};

/* A queue, and what the file of it tells. */
struct mqueue_taken {
	int queue;             /* a descriptor of it for both directions that does not wait */
	uint32_t n;            /* messages in it */
	uint64_t bytes;        /* of all of them */
	uint32_t message_room; /* the longest that it takes */
	struct arena *arena;
	struct warden *warden;
	const struct fault *fault;
};

/*
 * Take all messages out of a queue and put them back, in their order. Who has the queue stands still. LIMIT: they are more than can be
 * kept meanwhile.
 */
must_check int mqueue_take_all(const struct mqueue_taken *t, struct mqueue_message **ret_messages,
			       struct ferry_error *err);

/* What the file of a queue tells. */
struct mqueue_look {
	struct mq_attr attr;
	uint64_t bytes;      /* of all messages in it now */
	uint64_t notify_pid; /* who asked for a notification; 0: nobody */
};

/* queue: any descriptor of it. Negative errno; EINVAL: it is none; EBADMSG: the kernel's text makes no sense. */
must_check int mqueue_look(int queue, struct mqueue_look *ret);

/* For the warden: the worker died, and its descriptor with this number, a memory file, has what was taken out. */
int mqueue_put_back(int worker_pidfd, int memory);
