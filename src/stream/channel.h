/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel carries frames between two ferries: a head (a protobuf message of the room above) and, for bulk data, a
 * payload. doc/protocol describes the bytes. What a channel runs over is behind struct channel_ops, so that a layer
 * that encrypts can be put below without changing anything above.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <ferry/error.h>

#include "base/macros.h"

enum {
	CHANNEL_HEAD_MAX = 64 << 10,
	CHANNEL_DATA_MAX = 16 << 20,
};

/* What moves bytes. Both return a count, 0 at the end of file (read), -EAGAIN when nothing can be moved now, or -errno. */
struct channel_ops {
	ssize_t (*read)(void *context, const struct iovec *iov, int n);
	ssize_t (*write)(void *context, const struct iovec *iov, int n);
	int (*poll_fd)(void *context); /* what to wait on */
	void (*close)(void *context);
};

struct channel;

struct frame {
	const uint8_t *head;
	size_t head_bytes;
	const uint8_t *data;
	size_t data_bytes;
};

struct channel_stats {
	uint64_t sent_bytes, received_bytes; /* with headers */
};

/* A channel over a connected socket, which it takes over (also on failure) and makes non-blocking. */
must_check int channel_from_socket(int fd, struct channel **ret, struct ferry_error *err);
void channel_free(struct channel *c);

/* Longest time in which no byte moves, both directions. */
void channel_set_timeout(struct channel *c, int timeout_ms);

/* Largest payload that is accepted; 0 until somebody raises it, so that a stranger cannot make us allocate. */
void channel_set_data_max(struct channel *c, size_t data_max);

/* A descriptor that ends every wait with INTERRUPTED once it is readable; -1 none. */
void channel_set_interrupt(struct channel *c, int fd);

/* Send one frame whole. PEER_GONE, INTERRUPTED. */
must_check int channel_send(struct channel *c, const struct frame *frame, struct ferry_error *err);

/*
 * Receive one frame; what it points to is the channel's until the next call. PEER_GONE (end of file, reset, -ETIMEDOUT: no
 * answer), PROTOCOL (not our bytes, too long, a wrong checksum), INTERRUPTED.
 */
must_check int channel_receive(struct channel *c, struct frame *ret, struct ferry_error *err);

/* What it waits on, for asking about the connection. */
int channel_fd(const struct channel *c);

/* Whether something waits to be received, be it the end of the connection. */
bool channel_has_input(const struct channel *c);

/* Read and forget what still comes, at most for so long: closing with unread bytes would take our last words away. */
void channel_drain(struct channel *c, int timeout_ms);

struct channel_stats channel_stats(const struct channel *c);

static inline void cleanup_channel_p(struct channel **c)
{
	channel_free(*c);
}

#define _cleanup_channel_ __attribute__((cleanup(cleanup_channel_p)))
